//! One worker: accepts connections, serves them, checks their time-outs, and stops.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::TcpListener as StdListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant as StdInstant};

use hyper::service::service_fn;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use crate::server::proxy::client_state::connection_state::ClientConnection;
use crate::server::proxy::context::{ProxyContext, Stopping, WorkerContext};
use crate::server::proxy::downstream::connection::serve;
use crate::server::proxy::downstream::tls::ClientTls;
use crate::server::proxy::exchange;

use super::balance::{Balancer, HandedOver, NewConnection};
use super::listen::{Accepted, Listeners};

/// How long to wait after an accept fails for lack of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a stop waits for the first request of a new connection.
const FIRST_REQUEST_GRACE: Duration = Duration::from_millis(100);
/// The part of a worker's connections that is closed at once for newcomers, and at most how many.
const BATCH: (usize, usize) = (64, 32);
/// How many threads of a worker may block, for name resolution.
const RESOLVER_THREADS: usize = 4;

/// A worker before its thread starts.
pub(super) struct Worker {
    pub(super) number: usize,
    pub(super) proxy: Arc<ProxyContext>,
    pub(super) balancer: Arc<Balancer>,
    /// `None`: plain HTTP only.
    pub(super) tls: Option<ClientTls>,
    pub(super) listeners: Listeners<StdListener>,
    pub(super) inbox: mpsc::Receiver<HandedOver>,
}

impl Worker {
    /// Runs until it has stopped, or the proxy is dropped. Sends the number of connections that were cut off to `end`.
    pub(super) fn run(self, stopping: watch::Receiver<Option<Instant>>, end: mpsc::Sender<usize>) {
        let mut builder = Builder::new_current_thread();
        builder.enable_all().max_blocking_threads(RESOLVER_THREADS);
        let runtime = match builder.build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "a proxy thread could not start");
                return;
            }
        };
        let cut_off = runtime.block_on(self.work(stopping));
        // Tasks that the stop did not wait for end with the runtime, before the stop is reported.
        runtime.shutdown_background();
        match cut_off {
            Ok(cut_off) => {
                let _ = end.try_send(cut_off);
            }
            Err(error) => tracing::error!(%error, "a proxy thread ended"),
        }
    }

    /// Returns how many connections were open at the end.
    async fn work(mut self, mut stopping: watch::Receiver<Option<Instant>>) -> io::Result<usize> {
        let context = Rc::new(WorkerContext::new(self.proxy, self.number));
        let connections = Rc::new(Connections::new(context, self.balancer, self.tls));
        let listeners = self.listeners.into_runtime()?;
        tokio::task::spawn_local(check_idle(Rc::clone(&connections)));
        tokio::task::spawn_local(make_room(Rc::clone(&connections)));
        let deadline = loop {
            let new = tokio::select! {
                biased;
                stop = stopping.wait_for(Option::is_some) => break stop.ok().and_then(|deadline| *deadline),
                Some(handed_over) = self.inbox.recv() => handed_over.into_new(),
                accepted = listeners.accept() => connections.balance(accepted).await,
            };
            let Some(new) = new else { continue };
            tokio::select! {
                biased;
                permit = connections.balancer.permit() => connections.serve(new, permit),
                stop = stopping.wait_for(Option::is_some) => break stop.ok().and_then(|deadline| *deadline),
            }
        };
        // Without a deadline the proxy was dropped.
        if let Some(deadline) = deadline {
            connections.serve_queued(&listeners, &mut self.inbox).await;
            drop(listeners);
            connections.finish(deadline).await;
        }
        Ok(connections.open.take().len())
    }
}

/// Closes connections whose time-out has passed, of clients and of the pool. One timer checks all of them.
async fn check_idle(connections: Rc<Connections>) {
    let context = &connections.context;
    let config = &context.proxy.config;
    let shortest = config.header_timeout.min(config.write_timeout);
    let mut ticks = interval((shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let std_now = StdInstant::now();
        context.pool.drop_idle(std_now);
        context.pool.look_for_dead(std_now);
        let now = context.clock.tick();
        for client in connections.open.borrow().values() {
            client.check_timeouts(now);
        }
    }
}

/// Closes some idle clients whenever a newcomer of any worker waits.
async fn make_room(connections: Rc<Connections>) {
    loop {
        connections.balancer.room_wanted(connections.context.number).await;
        let closed = close_idle(&connections);
        connections.balancer.crowd.closed.fetch_add(closed as u64, Ordering::Relaxed);
    }
}

/// First those that never completed a request, then those that have been idle for the longest time. Returns how many.
fn close_idle(connections: &Connections) -> usize {
    let now = connections.context.clock.now();
    let open = connections.open.borrow();
    let mut idle: Vec<_> =
        open.values().filter_map(|client| Some((client.order_of_leaving(now)?, client))).collect();
    let batch = (open.len() / BATCH.0).clamp(1, BATCH.1).min(idle.len());
    if batch < idle.len() {
        idle.select_nth_unstable_by_key(batch, |(order, _)| *order);
    }
    for (_, client) in &idle[..batch] {
        client.make_way();
    }
    batch
}

/// The client connections of a worker.
struct Connections {
    context: Rc<WorkerContext>,
    balancer: Arc<Balancer>,
    tls: Option<ClientTls>,
    open: RefCell<HashMap<u64, Rc<ClientConnection>>>,
    next_id: Cell<u64>,
    /// Notified when a connection is over.
    closed: Notify,
}

impl Connections {
    fn new(context: Rc<WorkerContext>, balancer: Arc<Balancer>, tls: Option<ClientTls>) -> Self {
        Connections {
            context,
            balancer,
            tls,
            open: RefCell::default(),
            next_id: Cell::new(0),
            closed: Notify::new(),
        }
    }

    /// Decides who serves an accepted connection. `None`: another worker, or it failed.
    async fn balance(&self, Accepted { result, is_tls }: Accepted) -> Option<NewConnection> {
        match result {
            Ok(accepted) => self.balancer.balance(accepted, is_tls, self.context.number),
            // The client closed before the accept.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => None,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                sleep(ACCEPT_PAUSE).await;
                None
            }
        }
    }

    /// Serves a connection in a task of its own.
    fn serve(self: &Rc<Self>, new: NewConnection, permit: Option<OwnedSemaphorePermit>) {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let client = Rc::new(ClientConnection::new(Rc::clone(&self.context), new.peer.ip(), new.is_tls));
        self.open.borrow_mut().insert(id, Rc::clone(&client));
        let connections = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let tls = connections.tls.as_ref().filter(|_| client.is_tls);
            let answering = Rc::clone(&client);
            let service = service_fn(move |request| exchange::serve(Rc::clone(&answering), request));
            serve(new.stream, client, tls, service).await;
            connections.open.borrow_mut().remove(&id);
            connections.closed.notify_one();
            drop((new.counted, permit));
        });
    }

    /// Serves clients that were accepted or queued before the stop, as far as MAX_CONNECTIONS allows.
    async fn serve_queued(
        self: &Rc<Self>,
        listeners: &Listeners<TcpListener>,
        inbox: &mut mpsc::Receiver<HandedOver>,
    ) {
        while let Ok(handed_over) = inbox.try_recv() {
            if let (Some(new), Some(permit)) = (handed_over.into_new(), self.balancer.try_permit()) {
                self.serve(new, Some(permit));
            }
        }
        let now = Instant::now();
        while let Ok(Accepted { result: Ok((stream, peer)), is_tls }) =
            timeout_at(now, listeners.accept()).await
        {
            let Some(permit) = self.balancer.try_permit() else { break };
            let Some(counted) = self.balancer.count(self.context.number, peer) else { continue };
            self.serve(NewConnection { stream, peer, is_tls, counted }, Some(permit));
        }
    }

    /// Lets requests end, until there are no connections or the deadline has passed.
    async fn finish(&self, deadline: Instant) {
        self.set_stopping(Stopping::Used);
        let first_requests = deadline.min(Instant::now() + FIRST_REQUEST_GRACE);
        if timeout_at(first_requests, self.all_closed()).await.is_err() {
            self.set_stopping(Stopping::All);
            let _ = timeout_at(deadline, self.all_closed()).await;
        }
    }

    fn set_stopping(&self, stopping: Stopping) {
        self.context.set_stopping(stopping);
        for client in self.open.borrow().values() {
            client.wake();
        }
    }

    async fn all_closed(&self) {
        while !self.open.borrow().is_empty() {
            self.closed.notified().await;
        }
    }
}
