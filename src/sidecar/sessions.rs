//! The daemon's sessions: one with each registry in REGISTRY_HOST, and with REGISTRY_EACH_ADDRESS one with each
//! address of its names, as the [`Roster`] has it. Each has its own state: one that is down, or a name that does
//! not resolve, delays nothing on the others.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::client::{Client, Endpoint as Registry, Intent, Phase, Resolver, Status, TcpConnector};
use crate::protocol::Host;
use crate::shutdown::Shutdown;

use super::agent::Agent;
use super::company::look_around;
use super::config::{Endpoint, RegistryConfig};
use super::leave::leave;
use super::registration::{CONNECT_TIMEOUT, Registration};
use super::roster::{Change, No, Reason, Roster, Standing};

/// Between two looks at the addresses of a name.
const LOOK: Duration = Duration::from_secs(5);
/// The first pause after a look that found nothing; it doubles up to [`LOOK`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// A look that takes longer is told, and goes on.
const LONG_LOOK: Duration = Duration::from_secs(5);
/// What may wait to be told about the sessions of one name; they wait beyond.
const MAX_NEWS: usize = 16;
/// How long the sessions may take to tell what became of them, once they were left.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// All of them, and what they are to keep true.
pub(super) struct Sessions<R> {
    agent: Agent,
    config: RegistryConfig,
    resolver: R,
    wanted: Mutex<Intent>,
    held: Mutex<BTreeMap<Key, Client>>,
    /// Each session's story has a copy.
    alive: mpsc::Sender<Infallible>,
    ended: mpsc::Receiver<Infallible>,
}

/// The place of the name or address in REGISTRY_HOST, and the number that the roster gave.
type Key = (usize, No);

impl<R: Resolver + Clone> Sessions<R> {
    /// Starts the sessions whose registries need no [`Sessions::run`] to be found.
    pub(super) fn start(config: &RegistryConfig, intent: Intent, agent: Agent, resolver: R) -> Self {
        let (alive, ended) = mpsc::channel(1);
        let sessions = Sessions {
            agent,
            config: config.clone(),
            resolver,
            wanted: Mutex::new(intent),
            held: Mutex::new(BTreeMap::new()),
            alive,
            ended,
        };
        for (index, endpoint) in config.endpoints.iter().enumerate() {
            if !sessions.has_one_each(endpoint) {
                let (registry, resolver) = (registry(endpoint), sessions.resolver.clone());
                let client = sessions.begin((index, 0), registry.clone(), Place::Named(resolver.clone()));
                if matches!(endpoint.host, Host::Name(_)) {
                    tokio::spawn(look_around(client.watch(), registry, resolver));
                }
            }
        }
        sessions
    }

    /// Follows the addresses of the names for as long as it lives. Cancel-safe: the sessions stay as they are.
    pub(super) async fn run(&self) {
        let names = self.config.endpoints.iter().enumerate().filter(|(_, name)| self.has_one_each(name));
        join_all(names.map(|(index, name)| Name::new(self, index, name).follow())).await;
        pending().await
    }

    /// The application is at another address.
    pub(super) fn moved(&self, old: IpAddr, new: IpAddr) {
        let mut wanted = locked(&self.wanted);
        let Intent { routes, maintenance_page, .. } = &mut *wanted;
        let backends = routes.values_mut().map(|route| &mut route.backend);
        backends.chain(maintenance_page).for_each(|url| url.follow(old, new));
        for client in locked(&self.held).values() {
            // One that has stopped has no routes that could follow.
            let _ = client.change_address(old, new);
        }
    }

    /// The routes and the metadata of `intent` are wanted of every session, those to come included.
    pub(super) fn set_intent(&self, intent: Intent) {
        for client in locked(&self.held).values() {
            // One that has stopped wants nothing any more.
            let _ = client.set_metadata(intent.metadata.clone());
            let _ = client.set_routes(intent.routes.clone());
        }
        let mut wanted = locked(&self.wanted);
        (wanted.routes, wanted.metadata) = (intent.routes, intent.metadata);
    }

    /// Leaves all of them at the same time: each is drained within `limit` where it can be, and then has 500 ms
    /// for its answer.
    pub(super) async fn leave(self, limit: Duration, shutdown: &Shutdown) {
        let Sessions { held, alive, mut ended, .. } = self;
        let clients = std::mem::take(&mut *locked(&held)).into_values();
        join_all(clients.map(|client| leave(client, limit, shutdown.clone()))).await;
        // Whoever left has stopped and tells its last; a registry that was silent is not waited for.
        drop(alive);
        let _ = timeout(LAST_WORDS, ended.recv()).await;
    }

    fn has_one_each(&self, endpoint: &Endpoint) -> bool {
        self.config.each_address && matches!(endpoint.host, Host::Name(_))
    }

    fn begin(&self, key: Key, registry: Registry, place: Place<R>) -> Client {
        let mut intent = locked(&self.wanted).clone();
        intent.visibility = self.agent.wanted();
        intent.maintenance = self.agent.keeper().requests(intent.maintenance_page.as_ref());
        let connector = TcpConnector::new(registry.clone(), CONNECT_TIMEOUT).with_resolver(place);
        let registration = Registration::start(connector, registry, &self.config, intent, self.agent.clone());
        let client = registration.client();
        let alive = self.alive.clone();
        tokio::spawn(async move {
            registration.run().await;
            drop(alive);
        });
        locked(&self.held).insert(key, client.clone());
        self.show();
        client
    }

    /// The session ends, in order where its registry is still there. Nothing waits for that.
    fn end(&self, key: Key) {
        let Some(client) = locked(&self.held).remove(&key) else { return };
        self.show();
        tokio::spawn(async move { client.shutdown().await });
    }

    fn show(&self) {
        self.agent.set_clients(locked(&self.held).values().cloned().collect());
    }
}

fn registry(endpoint: &Endpoint) -> Registry {
    match &endpoint.host {
        Host::Name(name) => Registry::new(name.clone(), endpoint.port),
        Host::Ip(ip) => Registry::new(ip.to_string(), endpoint.port),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a session's registry is.
enum Place<R> {
    /// At any of the addresses of its name.
    Named(R),
    /// At one of these, as long as they are the roster's.
    At(watch::Receiver<Vec<SocketAddr>>),
}

impl<R: Resolver> Resolver for Place<R> {
    async fn resolve(&self, registry: &Registry) -> io::Result<Vec<SocketAddr>> {
        match self {
            Place::Named(resolver) => resolver.resolve(registry).await,
            Place::At(addresses) => Ok(addresses.borrow().clone()),
        }
    }
}

/// A name of which each address is followed.
struct Name<'a, R> {
    sessions: &'a Sessions<R>,
    index: usize,
    registry: Registry,
    roster: Roster,
    seats: BTreeMap<No, Seat>,
    told_of_too_many: bool,
}

/// A session of it.
struct Seat {
    /// Its first, under which it is known.
    address: SocketAddr,
    addresses: watch::Sender<Vec<SocketAddr>>,
}

/// What there is to know about a name.
enum News {
    Found(Vec<SocketAddr>),
    Stands(No, Standing),
}

impl<'a, R: Resolver + Clone> Name<'a, R> {
    fn new(sessions: &'a Sessions<R>, index: usize, endpoint: &Endpoint) -> Self {
        Name {
            sessions,
            index,
            registry: registry(endpoint),
            roster: Roster::default(),
            seats: BTreeMap::new(),
            told_of_too_many: false,
        }
    }

    async fn follow(mut self) {
        let (tell, mut news) = mpsc::channel(MAX_NEWS);
        let mut looking = pin!(look(self.sessions.resolver.clone(), self.registry.clone(), tell.clone()));
        loop {
            let changes = tokio::select! {
                () = &mut looking => return,
                Some(news) = news.recv() => match news {
                    News::Found(addresses) => self.roster.on_look(&addresses),
                    News::Stands(no, standing) => self.roster.on_standing(no, &standing),
                },
            };
            changes.into_iter().for_each(|change| self.carry_out(change, &tell));
        }
    }

    fn carry_out(&mut self, change: Change, tell: &mpsc::Sender<News>) {
        let host = &self.registry.host;
        match change {
            Change::Start(no, address) => {
                info!("{host} has the address {}: a session with it", address.ip());
                let (addresses, place) = watch::channel(vec![address]);
                let registry = Registry::new(address.ip().to_string(), address.port());
                let client = self.sessions.begin((self.index, no), registry, Place::At(place));
                self.seats.insert(no, Seat { address, addresses });
                tokio::spawn(tell_standing(no, client.watch(), tell.clone()));
            }
            Change::Move(no, addresses) => {
                if let Some(seat) = self.seats.get(&no) {
                    debug!("the session with {} goes on with {addresses:?}", seat.address);
                    seat.addresses.send_replace(addresses);
                }
            }
            Change::End(no, reason) => {
                let Some(seat) = self.seats.remove(&no) else { return };
                let address = seat.address.ip();
                match reason {
                    Reason::Gone => info!("{host} no longer has the address {address}: its session ends"),
                    Reason::SameCluster(other) => {
                        let other = self.seats.get(&other).map(|seat| seat.address.ip().to_string());
                        let other = other.unwrap_or_default();
                        info!("{address} and {other} share their state: one session is enough for both");
                    }
                }
                self.sessions.end((self.index, no));
            }
            Change::TooMany(count) if self.told_of_too_many => debug!("{host}: {count} addresses too many"),
            Change::TooMany(count) => {
                self.told_of_too_many = true;
                warn!("{host} has {count} addresses more than there may be sessions: those get none");
            }
        }
    }
}

/// Looks for the addresses of a name for as long as it lives. What stands in the way is told once; a look that
/// hangs is waited for, because another one would hang as well.
async fn look<R: Resolver>(resolver: R, registry: Registry, tell: mpsc::Sender<News>) {
    let (mut pause, mut told) = (FIRST_PAUSE, None);
    loop {
        let mut looking = pin!(resolver.resolve(&registry));
        let in_time = timeout(LONG_LOOK, &mut looking).await;
        if in_time.is_err() && told.is_none() {
            warn!("the name {:?} is not resolved after {LONG_LOOK:?}: is the name server up?", registry.host);
            told = Some("late".to_owned());
        }
        let found = match in_time {
            Ok(found) => found,
            Err(_) => looking.await,
        };
        let trouble = match found {
            Ok(addresses) if !addresses.is_empty() => {
                if tell.send(News::Found(addresses)).await.is_err() {
                    return;
                }
                (pause, told) = (LOOK, None);
                None
            }
            Ok(_) => Some("no address".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        if trouble.is_some() && trouble != told {
            let trouble = trouble.as_deref().unwrap_or_default();
            warn!(
                "the name {:?} does not resolve ({trouble}): is the registry up and on a common network?",
                registry.host
            );
        }
        told = trouble.or(told);
        sleep(pause).await;
        pause = (pause * 2).min(LOOK);
    }
}

/// Tells each change, until the session or the listener has ended.
async fn tell_standing(no: No, mut status: watch::Receiver<Status>, tell: mpsc::Sender<News>) {
    let mut told = None;
    loop {
        let standing = Standing::from(&*status.borrow_and_update());
        if told.as_ref() != Some(&standing) {
            told = Some(standing.clone());
            if tell.send(News::Stands(no, standing)).await.is_err() {
                return;
            }
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

impl From<&Status> for Standing {
    fn from(status: &Status) -> Standing {
        Standing {
            bound: status.bound,
            peer: status.registry.peer,
            cluster: status.cluster_id.clone(),
            replaced: status.phase == Phase::Dormant,
        }
    }
}
