//! The task that owns the registry: it passes inputs in and carries the effects out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use registry_client::protocol::report::BackendReport;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::server::live_table::LiveTable;
use crate::server::registry::persist::SavedState;
use crate::server::registry::{ConnId, DrainShare, Effect, Input, LogEvent, Now, Registry, TestId, Tx};
use crate::server::routing::MemberId;
use crate::server::store::{Decision, Store};

use super::message::Message;
use super::outgoing::PeerSender;
use super::{ExternalInputs, ProbeResults, Prober, log};

/// How many messages are taken at once.
const BATCH: usize = 256;
/// How many BACKEND_TESTs run at once. A test runs on when its peer has left.
const TESTS: usize = 1024;
/// How often other replicas are told what is left of drains.
const SHOW_DRAINS: Duration = Duration::from_millis(200);
/// How long a BACKEND_TEST may take (PROTOCOL section 1).
const TEST_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct RegistryTask {
    registry: Registry,
    table: Arc<LiveTable>,
    store: Box<dyn Store>,
    prober: Arc<dyn Prober>,
    /// The sending ends of all connections. Dropping one closes the connection when its lines are written.
    connections: HashMap<ConnId, PeerSender>,
    /// Members whose ejection has changed.
    ejections: broadcast::Receiver<MemberId>,
    tests: JoinSet<(TestId, Result<BackendReport, String>)>,
    /// How many sessions there are, for [`RegistryHandle::sessions`](super::RegistryHandle::sessions).
    sessions: watch::Sender<usize>,
    /// What is left to do for sessions that are being drained, where somebody wants to know.
    drains: watch::Sender<Vec<DrainShare>>,
    /// What operators are told of what happens.
    events: broadcast::Sender<LogEvent>,
    /// Inputs that carrying out effects has led to. They come before any other.
    outcomes: VecDeque<Input>,
}

impl RegistryTask {
    pub(super) fn new(
        registry: Registry,
        table: Arc<LiveTable>,
        store: Box<dyn Store>,
        prober: Arc<dyn Prober>,
        sessions: watch::Sender<usize>,
        drains: watch::Sender<Vec<DrainShare>>,
        events: broadcast::Sender<LogEvent>,
    ) -> Self {
        let (connections, tests, outcomes) = (HashMap::new(), JoinSet::new(), VecDeque::new());
        let ejections = table.ejections();
        RegistryTask {
            registry,
            table,
            store,
            prober,
            connections,
            ejections,
            tests,
            sessions,
            drains,
            events,
            outcomes,
        }
    }

    /// Restores what the store held. To be called before [`RegistryTask::run`].
    pub(super) fn restore(&mut self, saved: SavedState) {
        self.registry.restore(now(), saved);
        let unreachable = self.perform();
        self.outcomes.extend(unreachable);
    }

    /// Runs until it is stopped and all connections have ended.
    pub(super) async fn run(
        mut self,
        mut messages: mpsc::Receiver<Message>,
        mut results: ProbeResults,
        mut external: ExternalInputs,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut stopping = false;
        let mut show_drains = interval(SHOW_DRAINS);
        show_drains.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                Some(input) = external.recv() => self.turn(input),
                member = self.ejections.recv() => {
                    // Changes that were missed are made up for by the member's next one.
                    if let Ok(member) = member {
                        self.turn(Input::Ejection(member));
                    }
                }
                Some(Ok((test, result))) = self.tests.join_next() => self.turn(Input::Tested(test, result)),
                (tx, decision) = std::future::poll_fn(|cx| self.store.poll_decision(cx)) => {
                    self.turn(decision_input(tx, decision));
                }
                () = sleep_until(deadline) => self.turn(Input::Tick),
                _ = show_drains.tick(), if self.drains.receiver_count() > 0 => self.show_drains(),
                _ = stop.wait_for(|stop| *stop), if !stopping => {
                    stopping = true;
                    self.turn(Input::Stop);
                }
            }
        }
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Opened(conn, peer, outlet) => {
                self.connections.insert(conn, PeerSender::new(outlet));
                self.turn(Input::Opened(conn, peer));
            }
            Message::Announced(conn, peer, session, outlet) => {
                self.connections.insert(conn, PeerSender::new(outlet));
                self.turn(Input::Announced(conn, peer, session));
            }
            Message::Line(conn, line) => self.turn(Input::Line(conn, line)),
            Message::Lines(conn, lines) => {
                lines.into_iter().for_each(|line| self.turn(Input::Line(conn, line)))
            }
            Message::Closed(conn) => {
                self.connections.remove(&conn);
                self.turn(Input::Closed(conn));
            }
            // An operator who does not wait any more is told nothing.
            Message::Overview(most, answer) => drop(answer.send(self.registry.overview(now(), most))),
            Message::Input(input) => {
                // Connections are the leader's. Nobody is told that this one leads no more: they are not closed.
                if matches!(*input, Input::Follow(_)) {
                    self.connections.clear();
                }
                let is_load = matches!(*input, Input::Loaded(..));
                self.turn(*input);
                if is_load {
                    self.table.loaded();
                }
            }
        }
    }

    /// Tells the leader's replica, if there is one, what is left of drains here.
    fn show_drains(&self) {
        let drains = self.registry.drains();
        self.drains.send_if_modified(|shown| {
            let is_news = *shown != drains;
            *shown = drains;
            is_news
        });
    }

    /// Passes an input in, carries the effects out, and passes in what that has led to.
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

    /// Carries out the effects. Returns the inputs for connections that could not be reached.
    fn perform(&mut self) -> Vec<Input> {
        let mut unreachable = Vec::new();
        for effect in self.registry.effects() {
            match effect {
                Effect::Send(conn, line) => {
                    unreachable.extend(deliver(&mut self.connections, conn, |sender| sender.send(line)));
                }
                Effect::Bound(conn, keepalive) => {
                    unreachable.extend(deliver(&mut self.connections, conn, |sender| sender.bind(keepalive)));
                }
                Effect::Unbound(conn) => {
                    unreachable.extend(deliver(&mut self.connections, conn, |sender| sender.unbind()));
                }
                Effect::Event(to, event) => {
                    let line: Arc<str> = event.encode().into();
                    for conn in to {
                        unreachable
                            .extend(deliver(&mut self.connections, conn, |sender| sender.offer(&line)));
                    }
                }
                Effect::Close(conn) => {
                    self.connections.remove(&conn);
                }
                Effect::Commit(tx, change) => {
                    if let Poll::Ready(decision) = self.store.commit(tx, change) {
                        self.outcomes.push_back(decision_input(tx, decision));
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
                Effect::Log(event) => {
                    log::write(&event);
                    if self.events.receiver_count() > 0 {
                        // Fails only if nobody listens.
                        let _ = self.events.send(event);
                    }
                }
            }
        }
        unreachable
    }
}

/// Sends something to a connection. If it cannot be reached it is dropped, and the input about that is returned.
fn deliver(
    connections: &mut HashMap<ConnId, PeerSender>,
    conn: ConnId,
    say: impl FnOnce(&mut PeerSender) -> bool,
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

fn decision_input(tx: Tx, decision: Decision) -> Input {
    match decision {
        Decision::Committed => Input::Committed(tx),
        Decision::Rejected => Input::Rejected(tx),
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
