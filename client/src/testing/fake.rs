//! A registry that behaves, unless it is told not to: the connections around [`State`].

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::BytesMut;
use futures_core::Stream;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::codec::{Encoder, FramedRead};

use super::state::{FakeRoute, State};
use crate::connect::{ConnectError, Connector, Endpoint};
use crate::protocol::{Domain, EventKind, Line, LineCodec, MAX_LINE, Push, ServerLine};

/// A registry in this process. What it does until it is told otherwise: it accepts every session and every route,
/// reaches every maintenance page at once, and has nothing in flight. It ends when it is dropped.
#[derive(Debug)]
pub struct FakeRegistry {
    inner: Arc<Inner>,
}

/// Connects to a [`FakeRegistry`] without a socket, for [`Client::start_with`](crate::Client::start_with); refused
/// when that is gone.
#[derive(Debug, Clone)]
pub struct FakeConnector {
    registry: Weak<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    listeners: Mutex<JoinSet<()>>,
    connections: Mutex<JoinSet<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    is_silent: watch::Sender<bool>,
    /// How many commands were answered, so that a test can wait for a change.
    changes: watch::Sender<u64>,
    events: broadcast::Sender<(EventKind, serde_json::Value)>,
}

/// How many events may wait for a connection.
const MAX_EVENTS: usize = 64;
/// How many bytes may be on the way in memory.
const IN_FLIGHT_BYTES: usize = 64 * 1024;

impl Default for FakeRegistry {
    fn default() -> Self {
        FakeRegistry::new()
    }
}

impl FakeRegistry {
    /// A registry that [`FakeRegistry::connector`] leads to. With it tests can run in tokio's paused time.
    pub fn new() -> Self {
        let shared = Shared {
            state: Mutex::default(),
            is_silent: watch::Sender::new(false),
            changes: watch::Sender::new(0),
            events: broadcast::channel(MAX_EVENTS).0,
        };
        let inner =
            Inner { shared: Arc::new(shared), listeners: Mutex::default(), connections: Mutex::default() };
        FakeRegistry { inner: Arc::new(inner) }
    }

    /// Leads to it without a socket.
    pub fn connector(&self) -> FakeConnector {
        FakeConnector { registry: Arc::downgrade(&self.inner) }
    }

    /// Listens on a free port of the loopback interface as well, for a program that connects by itself.
    ///
    /// # Errors
    /// The system's.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn listen(&self) -> io::Result<Endpoint> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let registry = Arc::downgrade(&self.inner);
        locked(&self.inner.listeners).spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Some(registry) = registry.upgrade() else { return };
                registry.serve(stream);
            }
        });
        Ok(Endpoint::new(address.ip().to_string(), address.port()))
    }

    /// The routes in force, by session and id.
    pub fn routes(&self) -> Vec<FakeRoute> {
        self.state().routes()
    }

    /// Waits until the routes in force are as `wanted` says, and returns them.
    ///
    /// # Panics
    /// Where they are not within `limit`.
    pub async fn wait_for_routes(
        &self,
        limit: Duration,
        wanted: impl Fn(&[FakeRoute]) -> bool,
    ) -> Vec<FakeRoute> {
        let mut changes = self.inner.shared.changes.subscribe();
        let found = async {
            loop {
                let routes = self.routes();
                if wanted(&routes) {
                    return routes;
                }
                // Its sender is ours.
                let _ = changes.changed().await;
            }
        };
        let found = timeout(limit, found).await;
        found.unwrap_or_else(|_| panic!("not within {limit:?}; there are {:#?}", self.routes()))
    }

    /// Every line that clients have sent so far, without ids and tokens.
    pub fn lines(&self) -> Vec<String> {
        self.state().lines.clone()
    }

    /// Refuses routes that claim `domain` from now on, as one that belongs to the service `owner`.
    pub fn refuse_domain(&self, domain: Domain, owner: &str) {
        self.state().take(domain, owner);
    }

    /// Accepts routes that claim `domain` again.
    pub fn accept_domain(&self, domain: &Domain) {
        self.state().free(domain);
    }

    /// Says that so many requests are in flight, to whoever drains.
    pub fn set_in_flight(&self, count: u64) {
        self.state().in_flight = count;
    }

    /// Breaks every connection. The sessions stay, so that clients can resume them.
    pub fn disconnect(&self) {
        locked(&self.inner.connections).abort_all();
    }

    /// Restarts without its state: breaks every connection and forgets every session.
    pub fn restart(&self) {
        self.state().forget_sessions();
        self.disconnect();
        self.inner.shared.changes.send_modify(|changes| *changes += 1);
    }

    /// Reads on and answers nothing, as a host does that hangs; `false` ends that.
    pub fn set_silent(&self, is_silent: bool) {
        self.inner.shared.is_silent.send_replace(is_silent);
    }

    /// Sends an event to every session that has subscribed to its kind.
    pub fn publish(&self, kind: EventKind, data: serde_json::Value) {
        // Nobody may be connected.
        let _ = self.inner.shared.events.send((kind, data));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.inner.shared.state)
    }
}

impl Inner {
    fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let mut connections = locked(&self.connections);
        while connections.try_join_next().is_some() {}
        connections.spawn(Arc::clone(&self.shared).serve(stream));
    }
}

impl Shared {
    async fn serve(self: Arc<Self>, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let (reader, mut writer) = tokio::io::split(stream);
        let mut lines = FramedRead::new(reader, LineCodec::new(MAX_LINE));
        let (mut events, mut own) = (self.events.subscribe(), None);
        loop {
            let answers = tokio::select! {
                line = next_line(&mut lines) => {
                    let Some(Ok(Line::Text(line))) = line else { return };
                    if *self.is_silent.borrow() {
                        continue;
                    }
                    locked(&self.state).answer(&line, &mut own)
                }
                Ok((kind, data)) = events.recv() => {
                    let is_subscribed = |session| locked(&self.state).is_subscribed(session, kind);
                    match own.as_ref().is_some_and(is_subscribed) {
                        true => vec![ServerLine::Push(Push::Event(kind, data))],
                        false => continue,
                    }
                }
            };
            self.changes.send_modify(|changes| *changes += 1);
            let mut bytes = BytesMut::new();
            for answer in answers {
                LineCodec::new(MAX_LINE).encode(answer.encode().as_str(), &mut bytes).unwrap();
            }
            if writer.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }
}

impl Connector for FakeConnector {
    type Stream = DuplexStream;

    async fn connect(&self, _: u32) -> Result<(DuplexStream, SocketAddr), ConnectError> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 81));
        let registry = self.registry.upgrade().ok_or(ConnectError::Refused { address })?;
        let (ours, theirs) = tokio::io::duplex(IN_FLIGHT_BYTES);
        registry.serve(theirs);
        Ok((ours, address))
    }
}

async fn next_line<R: AsyncRead + Unpin>(
    lines: &mut FramedRead<R, LineCodec>,
) -> Option<Result<Line, io::Error>> {
    poll_fn(|context| Pin::new(&mut *lines).poll_next(context)).await
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
