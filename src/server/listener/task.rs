//! The task that owns the registry: turns its crank, and does what it says.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::server::live_table::LiveTable;
use crate::server::registry::persist::Saved;
use crate::server::registry::{ConnId, Effect, Input, Now, Registry, TestId, Tx};
use crate::server::routing::MemberId;
use crate::server::store::{Store, Verdict};
use registry_client::protocol::report::BackendReport;

use super::message::Message;
use super::outgoing::Outlet;
use super::{Notices, ProbeResults, Prober, log};

/// How many messages are taken before what they lead to is done.
const BATCH: usize = 256;
/// How many BACKEND_TESTs run at once. A peer that leaves does not end its own.
const TESTS: usize = 1024;
/// How long one may take (PROTOCOL section 1).
const TEST_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct RegistryTask {
    registry: Registry,
    table: Arc<LiveTable>,
    store: Box<dyn Store>,
    prober: Arc<dyn Prober>,
    /// Where the lines of each connection go. Dropping one closes the connection once they are written.
    connections: HashMap<ConnId, Outlet>,
    /// Members whose ejection has changed.
    ejections: broadcast::Receiver<MemberId>,
    tests: JoinSet<(TestId, Result<BackendReport, String>)>,
    /// How many sessions there are, for whoever wants to know.
    sessions: watch::Sender<usize>,
    /// What came of effects at once, to be told to the registry next.
    outcomes: VecDeque<Input>,
}

impl RegistryTask {
    pub(super) fn new(
        registry: Registry,
        table: Arc<LiveTable>,
        store: Box<dyn Store>,
        prober: Arc<dyn Prober>,
        sessions: watch::Sender<usize>,
    ) -> Self {
        let (connections, tests, outcomes) = (HashMap::new(), JoinSet::new(), VecDeque::new());
        let ejections = table.ejections();
        RegistryTask { registry, table, store, prober, connections, ejections, tests, sessions, outcomes }
    }

    /// Takes up what the store held, before anything else happens.
    pub(super) fn restore(&mut self, saved: Saved) {
        self.registry.restore(now(), saved);
        let unreachable = self.perform();
        self.outcomes.extend(unreachable);
    }

    /// Runs until it is stopped and every connection has been told.
    pub(super) async fn run(
        mut self,
        mut messages: mpsc::Receiver<Message>,
        mut results: ProbeResults,
        mut notices: Notices,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut stopping = false;
        loop {
            let deadline = self.registry.next_deadline().map(Instant::from_std);
            tokio::select! {
                count = messages.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    for message in batch.drain(..) {
                        self.on_message(message);
                    }
                }
                Some((probe, result)) = results.recv() => self.turn(Input::Probed(probe, result)),
                Some(notice) = notices.recv() => self.turn(notice),
                member = self.ejections.recv() => {
                    // Those that were lost in between are known again when they change next.
                    if let Ok(member) = member {
                        self.turn(Input::Ejection(member));
                    }
                }
                Some(Ok((test, result))) = self.tests.join_next() => self.turn(Input::Tested(test, result)),
                (tx, verdict) = std::future::poll_fn(|cx| self.store.poll_verdict(cx)) => {
                    self.turn(told(tx, verdict));
                }
                () = sleep_until(deadline) => self.turn(Input::Tick),
                _ = stop.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    self.turn(Input::Stop);
                }
            }
        }
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Opened(conn, peer, lines) => {
                self.connections.insert(conn, Outlet::new(lines));
                self.turn(Input::Opened(conn, peer));
            }
            Message::Line(conn, line) => self.turn(Input::Line(conn, line)),
            Message::Lines(conn, lines) => {
                lines.into_iter().for_each(|line| self.turn(Input::Line(conn, line)))
            }
            Message::Closed(conn) => {
                self.connections.remove(&conn);
                self.turn(Input::Closed(conn));
            }
        }
    }

    /// Tells the registry what happened, does what it wants, and tells it what came of that.
    fn turn(&mut self, input: Input) {
        let now = now();
        let mut next = Some(input);
        while let Some(input) = next {
            self.registry.handle(now, input);
            let unreachable = self.perform();
            self.outcomes.extend(unreachable);
            next = self.outcomes.pop_front();
        }
        let count = self.registry.session_count();
        self.sessions.send_if_modified(|known| std::mem::replace(known, count) != count);
    }

    /// Does what the registry wants. Returns the connections that take nothing any more.
    fn perform(&mut self) -> Vec<Input> {
        let mut unreachable = Vec::new();
        for effect in self.registry.effects() {
            match effect {
                Effect::Send(conn, line) => {
                    unreachable.extend(tell(&mut self.connections, conn, |outlet| outlet.send(line)));
                }
                Effect::Bound(conn, pulse) => {
                    unreachable.extend(tell(&mut self.connections, conn, |outlet| outlet.bind(pulse)));
                }
                Effect::Event(to, event) => {
                    let line: Arc<str> = event.encode().into();
                    for conn in to {
                        unreachable.extend(tell(&mut self.connections, conn, |outlet| outlet.offer(&line)));
                    }
                }
                Effect::Close(conn) => {
                    self.connections.remove(&conn);
                }
                Effect::Commit(tx, change) => {
                    if let Poll::Ready(verdict) = self.store.commit(tx, change) {
                        self.outcomes.push_back(told(tx, verdict));
                    }
                }
                Effect::Publish(table) => self.table.store(Arc::new(table)),
                Effect::Departure => self.table.announce_departure(),
                Effect::Watch(probe) => self.prober.watch(probe),
                Effect::Forget(probe) => self.prober.forget(&probe),
                Effect::Test { test, url, peer } => {
                    if self.tests.len() >= TESTS {
                        let busy = Err("too many tests at once".to_owned());
                        self.outcomes.push_back(Input::Tested(test, busy));
                        continue;
                    }
                    let answer = tokio::time::timeout(TEST_TIMEOUT, self.prober.test(url, peer));
                    self.tests.spawn(async move {
                        (test, answer.await.unwrap_or_else(|_| Err("no answer in time".to_owned())))
                    });
                }
                Effect::Happened(happening) => log::happened(&happening),
            }
        }
        unreachable
    }
}

/// Tells a connection something. One that takes nothing any more is let go, and what the registry is to hear of that
/// is returned.
fn tell(
    connections: &mut HashMap<ConnId, Outlet>,
    conn: ConnId,
    say: impl FnOnce(&mut Outlet) -> bool,
) -> Option<Input> {
    if say(connections.get_mut(&conn)?) {
        return None;
    }
    connections.remove(&conn);
    Some(Input::Closed(conn))
}

fn now() -> Now {
    Now { mono: Instant::now().into_std(), wall: SystemTime::now() }
}

fn told(tx: Tx, verdict: Verdict) -> Input {
    match verdict {
        Verdict::Committed => Input::Committed(tx),
        Verdict::Rejected => Input::Rejected(tx),
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
