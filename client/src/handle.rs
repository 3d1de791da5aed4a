//! The handle: cheap to clone, safe from any task. What it can do is in `start`, `change`, `wait`, `drain` and `call`.

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Weak};

use tokio::sync::{broadcast, mpsc, watch};

use super::connect::local_address_towards;
use super::driver::TaskRequest;
use super::error::{CallError, Stopped};
use super::event::{Event, EventStream};
use super::intent::Goal;
use super::status::Status;
use crate::protocol::{BackendUrl, Host, Scheme};

/// Keeps a session with one registry alive, and keeps an intent true there.
///
/// Clones are handles to the same session. A change of the intent takes effect at once when there is a session, and as
/// soon as there is one otherwise.
///
/// # The end
/// Await [`Client::shutdown`] before `main` returns: it tells the registry, which then takes the routes away at once.
/// When the last clone is dropped instead, the client's task does the same in the background, for as long as the
/// runtime still runs. If the runtime ends first, nobody tells the registry, which then keeps the routes for its grace
/// period ([SEMANTICS section 4](crate::spec::semantics#4-a-lost-session)).
#[derive(Clone)]
#[must_use = "when the last handle is dropped, the client leaves the registry"]
pub struct Client {
    shared: Arc<Shared>,
}

/// A handle that does not keep the client.
pub(super) struct WeakClient(Weak<Shared>);

/// What a handle holds of the client's task.
pub(super) struct Shared {
    pub(super) goal: watch::Sender<Goal>,
    pub(super) leave: watch::Sender<bool>,
    pub(super) requests: mpsc::Sender<TaskRequest>,
    pub(super) status: watch::Receiver<Status>,
    pub(super) events: broadcast::WeakSender<Arc<Event>>,
}

impl Client {
    pub(super) fn new(shared: Shared) -> Self {
        Client { shared: Arc::new(shared) }
    }

    /// The events from now on. The stream ends (`None`) when the client has stopped.
    pub fn events(&self) -> EventStream {
        match self.shared.events.upgrade() {
            Some(events) => EventStream::new(events.subscribe()),
            None => EventStream::new(broadcast::channel(1).1),
        }
    }

    /// The state of the client.
    pub fn status(&self) -> Status {
        self.shared.status.borrow().clone()
    }

    /// The state of the client and every change of it. A reader that is slow sees only the latest.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.shared.status.clone()
    }

    /// Registers although another process has taken the name (see [`Event::Replaced`]), and so replaces that process in
    /// turn. Has no effect unless this client was replaced.
    ///
    /// Cancel safe: a dropped call has either asked or not.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn take_over(&self) -> Result<(), Stopped> {
        let (done, carried_out) = tokio::sync::oneshot::channel();
        self.ask(TaskRequest::TakeOver(done)).await?;
        carried_out.await.map_err(|_| Stopped)
    }

    /// This host's address on the way to the registry, as the kernel would route it now; `None` before the first
    /// connection, and where there is no way. See [`Client::wait_connected`].
    pub fn local_ip(&self) -> Option<IpAddr> {
        let peer = self.shared.status.borrow().last_peer?;
        local_address_towards(peer).ok()
    }

    /// `http://<local_ip>:port/`, for an application on this host; `None` as [`Client::local_ip`] says.
    pub fn build_backend_url(&self, port: u16) -> Option<BackendUrl> {
        self.local_ip().map(|ip| BackendUrl::new(Scheme::Http, Host::Ip(ip), port))
    }

    /// Tells the client that this host's addresses have changed, which a program that watches its interfaces knows first. A
    /// connection from an address that is gone is given up at once, and a client without a connection tries again at
    /// once. Without this the client finds out within a second of its next command.
    pub fn network_changed(&self) {
        // A full queue means that the task is about to look at its connection anyway; a stopped task has none.
        drop(self.try_ask(TaskRequest::NetworkChanged));
    }

    /// Leaves in order: sends CLIENT_SHUTDOWN and waits at most 500 ms for its answer or the end of the connection.
    /// Ends at once where there is no session. Afterwards the client has stopped, for all its clones, and
    /// [`Status::left`] tells whether the registry has answered.
    ///
    /// Dropping the call does not stop the leaving. Calling it again waits for the same end.
    pub async fn shutdown(&self) {
        self.shared.leave.send_replace(true);
        let mut status = self.shared.status.clone();
        // The sender goes when the task has ended.
        while status.changed().await.is_ok() {}
    }

    pub(super) fn downgrade(&self) -> WeakClient {
        WeakClient(Arc::downgrade(&self.shared))
    }

    pub(super) fn goal(&self) -> watch::Ref<'_, Goal> {
        self.shared.goal.borrow()
    }

    /// Changes the intent, unless `change` fails.
    pub(super) fn alter<T, E: From<Stopped>>(
        &self,
        change: impl FnOnce(&mut Goal) -> Result<T, E>,
    ) -> Result<T, E> {
        self.alter_if(|goal| change(goal).map(|result| (result, true)))
    }

    /// Changes the intent, unless `change` fails or returns that it has changed nothing.
    pub(super) fn alter_if<T, E: From<Stopped>>(
        &self,
        change: impl FnOnce(&mut Goal) -> Result<(T, bool), E>,
    ) -> Result<T, E> {
        if self.shared.goal.is_closed() {
            return Err(Stopped.into());
        }
        let mut result = Err(Stopped.into());
        self.shared.goal.send_if_modified(|goal| {
            let changed = change(goal);
            let has_changed = matches!(changed, Ok((_, true)));
            goal.change += u64::from(has_changed);
            result = changed.map(|(result, _)| result);
            has_changed
        });
        result
    }

    pub(super) async fn ask(&self, ask: TaskRequest) -> Result<(), Stopped> {
        self.shared.requests.send(ask).await.map_err(|_| Stopped)
    }

    pub(super) fn try_ask(&self, ask: TaskRequest) -> Result<(), CallError> {
        self.shared.requests.try_send(ask).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CallError::TooMany,
            mpsc::error::TrySendError::Closed(_) => CallError::Stopped,
        })
    }

    /// Tells the listeners of an event that the session does not know of.
    pub(super) fn announce(&self, event: Event) {
        if let Some(events) = self.shared.events.upgrade() {
            // That nobody listens is no failure.
            drop(events.send(Arc::new(event)));
        }
    }
}

impl WeakClient {
    /// The handle; `None` when the last one is gone.
    pub(super) fn upgrade(&self) -> Option<Client> {
        self.0.upgrade().map(|shared| Client { shared })
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("phase", &self.shared.status.borrow().phase).finish_non_exhaustive()
    }
}
