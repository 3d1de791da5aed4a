//! The handle: cheap to clone, safe from any task.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};

use super::connect::{Connector, Endpoint, TcpConnector, local_address_towards};
use super::driver::{Ask, Core, Driver, Inputs};
use super::error::{CallError, RouteError, Stopped};
use super::event::{EVENT_BUFFER, Event, EventStream, Phase, Status};
use super::intent::{
    Goal, Intent, MaintenanceAction, MaintenanceRequest, MaintenanceTarget, Route, RouteKey, Routes, Wanted,
};
use super::session::{Session, Timing};
use crate::protocol::{BackendUrl, Host, Metadata, Scheme};

/// How to reach a registry, and how patiently.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientConfig {
    /// The registry.
    pub endpoint: Endpoint,
    /// From one PING to the next (30 s). A silent peer is noticed within this and `request_timeout`.
    pub keepalive_interval: Duration,
    /// How long a command may wait for its reply (10 s).
    pub request_timeout: Duration,
    /// How long the resolution of the name may take, and then each address (5 s).
    pub connect_timeout: Duration,
    /// The least delay before a new attempt, and exactly the first (100 ms).
    pub reconnect_min: Duration,
    /// The greatest delay before a new attempt (10 s).
    pub reconnect_max: Duration,
    /// Makes the jitter of the delays repeatable; `None`: chosen at random.
    pub seed: Option<u64>,
}

/// A session with one registry that is kept alive, and an intent that is kept true there.
///
/// Clones are handles to the same session. Changes of the intent take effect at once when there is a session,
/// and as soon as there is one otherwise; nobody needs to know which. When [`Client::shutdown`] is called, or
/// the last clone is dropped, the client leaves in order and its task ends.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    goal: watch::Sender<Goal>,
    leave: watch::Sender<bool>,
    asks: mpsc::Sender<Ask>,
    status: watch::Receiver<Status>,
    events: broadcast::WeakSender<Arc<Event>>,
}

/// How many questions may wait for the task.
const MAX_ASKS: usize = 16;

impl ClientConfig {
    /// The registry at `endpoint`, with the times given above.
    pub fn new(endpoint: Endpoint) -> Self {
        ClientConfig {
            endpoint,
            keepalive_interval: Duration::from_secs(30),
            request_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            reconnect_min: Duration::from_millis(100),
            reconnect_max: Duration::from_secs(10),
            seed: None,
        }
    }
}

impl Client {
    /// Starts a client over TCP on the current tokio runtime (either kind) and returns at once. The stream has
    /// every event from the first on.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(config: ClientConfig, intent: Intent) -> (Client, EventStream) {
        let connector = TcpConnector::new(config.endpoint.clone(), config.connect_timeout);
        Client::start_with(connector, config, intent)
    }

    /// The same over whatever `connector` connects to; the configured endpoint is only the name in events.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start_with<C: Connector>(
        connector: C,
        config: ClientConfig,
        intent: Intent,
    ) -> (Client, EventStream) {
        let timing = Timing {
            keepalive_interval: config.keepalive_interval,
            request_timeout: config.request_timeout,
            reconnect_min: config.reconnect_min,
            reconnect_max: config.reconnect_max,
        };
        let seed = config.seed.unwrap_or_else(|| fastrand::u64(..));
        let (goal, goal_seen) = watch::channel(intent.goal());
        let now = tokio::time::Instant::now().into_std();
        let session = Session::new(config.endpoint.name(), timing, intent, seed, now);
        let (leave, leave_seen) = watch::channel(false);
        let (asks, asked) = mpsc::channel(MAX_ASKS);
        let (events, listener) = broadcast::channel(EVENT_BUFFER);
        let (status_shown, status) = watch::channel(session.status());
        let weak_events = events.downgrade();
        let inputs = Inputs { goal: goal_seen, leave: leave_seen, asks: asked, left: false };
        let core = Core::new(session, events, status_shown);
        tokio::spawn(Driver { connector, core, inputs }.run());
        let shared = Shared { goal, leave, asks, status, events: weak_events };
        (Client { shared: Arc::new(shared) }, EventStream::new(listener))
    }

    /// The events from now on; nothing but `None` when the client has stopped.
    pub fn events(&self) -> EventStream {
        match self.shared.events.upgrade() {
            Some(events) => EventStream::new(events.subscribe()),
            None => EventStream::new(broadcast::channel(1).1),
        }
    }

    /// Where it stands.
    pub fn status(&self) -> Status {
        self.shared.status.borrow().clone()
    }

    /// Where it stands, and every change of it (the latest; those between may be skipped).
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.shared.status.clone()
    }

    /// The routes that are wanted.
    pub fn routes(&self) -> Routes {
        self.shared.goal.borrow().routes.clone()
    }

    /// These routes are wanted from now on and no others. Never waits.
    ///
    /// # Errors
    /// [`Stopped`]
    pub fn set_routes(&self, routes: Routes) -> Result<(), Stopped> {
        self.change(|wanted| {
            *wanted = routes;
            Ok::<_, Stopped>(())
        })
    }

    /// One more route is wanted from now on. Never waits.
    ///
    /// # Errors
    /// [`RouteError::Exists`], [`RouteError::Stopped`]
    pub fn add_route(&self, key: impl Into<RouteKey>, route: Route) -> Result<(), RouteError> {
        let key = key.into();
        self.change(|wanted| match wanted.contains_key(&key) {
            true => Err(RouteError::Exists(key)),
            false => {
                wanted.insert(key, route);
                Ok(())
            }
        })
    }

    /// Another route is wanted under this key from now on. Where the registry is this project's own there is no
    /// moment without one (SEMANTICS section 8). Never waits.
    ///
    /// # Errors
    /// [`RouteError::Unknown`], [`RouteError::Stopped`]
    pub fn update_route(&self, key: impl Into<RouteKey>, route: Route) -> Result<(), RouteError> {
        let key = key.into();
        self.change(|wanted| match wanted.get_mut(&key) {
            None => Err(RouteError::Unknown(key)),
            Some(old) => {
                *old = route;
                Ok(())
            }
        })
    }

    /// The route is not wanted any longer. Never waits.
    ///
    /// # Errors
    /// [`RouteError::Unknown`], [`RouteError::Stopped`]
    pub fn remove_route(&self, key: impl Into<RouteKey>) -> Result<(), RouteError> {
        let key = key.into();
        self.change(|wanted| match wanted.remove(&key) {
            None => Err(RouteError::Unknown(key)),
            Some(_) => Ok(()),
        })
    }

    /// Waits until everything that is wanted now is in force ([`Status::live`]).
    ///
    /// Cancel safe. It may wait for ever: a registry may be away, or refuse a route.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn wait_live(&self) -> Result<(), Stopped> {
        let change = self.shared.goal.borrow().change;
        let mut status = self.shared.status.clone();
        let live = |status: &Status| status.live && status.intent >= change;
        let reached = status.wait_for(|status| live(status) || status.phase == Phase::Stopped).await;
        reached.is_ok_and(|status| live(&status)).then_some(()).ok_or(Stopped)
    }

    /// Registers although another process has taken our name (see [`Event::Replaced`]): that one is replaced
    /// in turn. Without effect unless the client is dormant.
    ///
    /// Cancel safe: a dropped call has either asked or not.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn take_over(&self) -> Result<(), Stopped> {
        self.ask(Ask::TakeOver).await
    }

    /// What of the routes people are to see from now on. Never waits.
    ///
    /// # Errors
    /// [`Stopped`]
    pub fn set_visibility(&self, visibility: Wanted) -> Result<(), Stopped> {
        self.alter(|goal| {
            goal.visibility = visibility;
            Ok::<_, Stopped>(())
        })
    }

    /// The URL of the maintenance page for [`Wanted::Maintenance`], as the proxy reaches it. Never waits.
    ///
    /// # Errors
    /// [`Stopped`]
    pub fn set_maintenance_page(&self, page: Option<BackendUrl>) -> Result<(), Stopped> {
        self.alter(|goal| {
            goal.page = page;
            Ok::<_, Stopped>(())
        })
    }

    /// The URL of the maintenance page as it is wanted now.
    pub fn maintenance_page(&self) -> Option<BackendUrl> {
        self.shared.goal.borrow().page.clone()
    }

    /// Maintenance of `target` is wanted from now on, in this session and every later one, whether there is a
    /// connection or not. `page` is the page's URL as the proxy reaches it; `None`: the proxy's own. Of several
    /// requests about a route the last counts; [`Wanted::Maintenance`] goes before all of them. What becomes of
    /// it is told as events (PROTOCOL section 6). Never waits.
    ///
    /// # Errors
    /// [`Stopped`]
    pub fn maintenance_enter(
        &self,
        target: MaintenanceTarget,
        page: Option<BackendUrl>,
    ) -> Result<(), Stopped> {
        self.maintain(MaintenanceRequest { target, action: MaintenanceAction::Enter(page) })
    }

    /// Maintenance of `target` is wanted no longer; of `All`: of nothing. Never waits.
    ///
    /// # Errors
    /// [`Stopped`]
    pub fn maintenance_exit(&self, target: MaintenanceTarget) -> Result<(), Stopped> {
        self.maintain(MaintenanceRequest { target, action: MaintenanceAction::Exit })
    }

    fn maintain(&self, request: MaintenanceRequest) -> Result<(), Stopped> {
        self.alter(|goal| {
            goal.request(request);
            Ok::<_, Stopped>(())
        })
    }

    /// These metadata go with the next REGISTER: a token may have changed. The present session keeps its own.
    /// Never waits.
    ///
    /// # Errors
    /// [`Stopped`]
    pub fn set_metadata(&self, metadata: Metadata) -> Result<(), Stopped> {
        self.alter(|goal| {
            goal.metadata = metadata;
            Ok::<_, Stopped>(())
        })
    }

    /// Our own address on the way to the registry, as the kernel would route it now; `None` before the first
    /// connection, and where there is no way.
    pub fn local_ip(&self) -> Option<IpAddr> {
        let peer = self.shared.status.borrow().last_peer?;
        local_address_towards(peer).ok()
    }

    /// `http://<our address>:port/`, for an application beside this client; `None` as [`Client::local_ip`] says.
    pub fn build_backend_url(&self, port: u16) -> Option<BackendUrl> {
        self.local_ip().map(|ip| BackendUrl::new(Scheme::Http, Host::Ip(ip), port))
    }

    /// The application has moved: every route and every maintenance page that lead to the address `old` lead to
    /// `new` from now on. Where the registry is this project's own there is no moment without a route
    /// (SEMANTICS section 8). Tells [`Event::IpChanged`]. Never waits.
    ///
    /// # Errors
    /// [`Stopped`]
    pub fn change_address(&self, old: IpAddr, new: IpAddr) -> Result<(), Stopped> {
        self.announce(Event::IpChanged { old, new });
        self.alter(|goal| {
            let backends = goal.routes.values_mut().map(|route| &mut route.backend);
            let pages = goal.maintenance.iter_mut().filter_map(|asked| match &mut asked.request.action {
                MaintenanceAction::Enter(page) => page.as_mut(),
                _ => None,
            });
            backends.chain(&mut goal.page).chain(pages).for_each(|url| url.follow(old, new));
            Ok::<_, Stopped>(())
        })
    }

    /// Leaves in order: CLIENT_SHUTDOWN, and its answer or the end of the connection for at most 500 ms; at once
    /// where there is no session. Afterwards the client has stopped, for all its clones.
    ///
    /// Dropping the call does not stop the leaving. Calling it again waits for the same end.
    pub async fn shutdown(&self) {
        self.shared.leave.send_replace(true);
        let mut status = self.shared.status.clone();
        // The sender goes when the task has ended.
        while status.changed().await.is_ok() {}
    }

    fn change<E: From<Stopped>>(&self, change: impl FnOnce(&mut Routes) -> Result<(), E>) -> Result<(), E> {
        self.alter(|goal| change(&mut goal.routes))
    }

    fn alter<E: From<Stopped>>(&self, change: impl FnOnce(&mut Goal) -> Result<(), E>) -> Result<(), E> {
        if self.shared.goal.is_closed() {
            return Err(Stopped.into());
        }
        let mut result = Ok(());
        self.shared.goal.send_if_modified(|goal| {
            result = change(goal);
            goal.change += u64::from(result.is_ok());
            result.is_ok()
        });
        result
    }

    pub(super) async fn ask(&self, ask: Ask) -> Result<(), Stopped> {
        self.shared.asks.send(ask).await.map_err(|_| Stopped)
    }

    pub(super) fn try_ask(&self, ask: Ask) -> Result<(), CallError> {
        self.shared.asks.try_send(ask).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CallError::TooMany,
            mpsc::error::TrySendError::Closed(_) => CallError::Stopped,
        })
    }

    /// An event that the session does not know of.
    pub(super) fn announce(&self, event: Event) {
        if let Some(events) = self.shared.events.upgrade() {
            // Nobody listens: that is their business.
            drop(events.send(Arc::new(event)));
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("phase", &self.shared.status.borrow().phase).finish_non_exhaustive()
    }
}
