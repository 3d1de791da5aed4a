//! Gathers what people are shown, and sends changes to those who follow.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::{Mutex, Notify, broadcast, mpsc};
use tokio::time::{MissedTickBehavior, interval};

use crate::server::admin::snapshot::Sources;
use crate::server::proxy::CertificateEvent;

use super::build::Gathered;
use super::changes::Parts;
use super::history::History;
use super::journal::{self, Entry, Journal, Level};
use super::view::{Traffic, View};

/// How many may follow at once; further ones are refused.
const MAX_FOLLOWERS: usize = 32;
/// How many messages may wait for a follower. One that is further behind is dropped, and asks for everything again.
const MAX_WAITING: usize = 16;
/// How often changes are looked for while somebody follows.
const LOOK: Duration = Duration::from_millis(500);
/// How often followers hear something even if nothing changes, so that both ends notice a dead connection.
const BEAT: Duration = Duration::from_secs(15);
/// How many sessions the registry is asked for.
const MAX_SESSIONS: usize = 5000;

/// What people are shown, and those who follow it.
#[derive(Debug)]
pub(in crate::server::admin) struct Hub {
    sources: Arc<Sources>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    history: History,
    journal: Journal,
    followers: Vec<Follower>,
    /// What the followers know.
    told: Parts,
}

#[derive(Debug)]
struct Follower {
    messages: mpsc::Sender<Bytes>,
    /// Closes the follower's connection.
    close: Arc<Notify>,
}

/// What a follower hears.
pub(in crate::server::admin) type Subscription = mpsc::Receiver<Bytes>;

impl Hub {
    pub(in crate::server::admin) fn new(sources: Arc<Sources>) -> Self {
        Hub { sources, state: Mutex::default() }
    }

    /// The model as it is now.
    pub(in crate::server::admin) async fn view(&self) -> View {
        let gathered = self.gather().await;
        let state = self.state.lock().await;
        gathered.view(&state.history, &state.journal)
    }

    /// Everything as it is now, and then what changes. `close` is notified when the follower does not keep up. `None`: too
    /// many follow already.
    pub(in crate::server::admin) async fn follow(&self, close: Arc<Notify>) -> Option<Subscription> {
        let gathered = self.gather().await;
        let mut state = self.state.lock().await;
        state.followers.retain(|follower| !follower.messages.is_closed());
        if state.followers.len() >= MAX_FOLLOWERS {
            return None;
        }
        state.tell(&gathered);
        let (messages, subscription) = mpsc::channel(MAX_WAITING);
        let follower = Follower { messages, close };
        follower.tell(&Bytes::from(state.told.all()));
        state.followers.push(follower);
        Some(subscription)
    }

    /// Notes something that happened.
    pub(in crate::server::admin) async fn note(&self, entry: Entry) {
        self.state.lock().await.journal.push(SystemTime::now(), entry);
    }

    /// Runs for as long as it is polled.
    pub(in crate::server::admin) async fn run(&self) {
        let mut events = self.sources.desk.events();
        let mut certificates = self.sources.certificates.as_ref().map(|all| all.subscribe());
        let mut look = ticks(LOOK);
        let mut beat = ticks(BEAT);
        let mut step = ticks(Duration::from_secs(Traffic::STEP_SECONDS));
        let mut stepped = Instant::now();
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => if let Some(entry) = journal::of_registry(&event) {
                        self.note(entry).await;
                    },
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        let text = format!("{missed} events came too fast to be noted");
                        self.note(Entry { level: Level::Info, service: None, text }).await;
                    }
                    // The registry has stopped.
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                Some(event) = next(&mut certificates) => self.note(of_certificate(&event)).await,
                _ = step.tick() => {
                    let counts = self.sources.metrics.read();
                    let time = stepped.elapsed();
                    stepped = Instant::now();
                    self.state.lock().await.history.step(counts, time);
                }
                _ = look.tick() => self.look().await,
                _ = beat.tick() => self.state.lock().await.send(&Bytes::from_static(b": still here\n\n")),
            }
        }
    }

    /// Tells followers what has changed, if there are any.
    async fn look(&self) {
        {
            let mut state = self.state.lock().await;
            state.followers.retain(|follower| !follower.messages.is_closed());
            if state.followers.is_empty() {
                state.told = Parts::default();
                return;
            }
        }
        let gathered = self.gather().await;
        self.state.lock().await.tell(&gathered);
    }

    async fn gather(&self) -> Gathered {
        let sources = &self.sources;
        Gathered {
            overview: sources.desk.overview(MAX_SESSIONS).await.unwrap_or_default(),
            certificates: sources.certificates.as_ref().map(|all| all.list()).unwrap_or_default(),
            snapshot: sources.snapshot(),
            wall: SystemTime::now(),
            readiness: sources.readiness(),
            actions: sources.token.is_some(),
        }
    }
}

impl State {
    fn tell(&mut self, gathered: &Gathered) {
        let parts = Parts::of(gathered.view(&self.history, &self.journal));
        if let Some(change) = parts.since(&self.told) {
            self.send(&Bytes::from(change));
        }
        self.told = parts;
    }

    fn send(&mut self, message: &Bytes) {
        self.followers.retain(|follower| follower.tell(message));
    }
}

impl Follower {
    /// Returns false if the follower is gone or too far behind, which closes its connection.
    fn tell(&self, message: &Bytes) -> bool {
        let is_told = self.messages.try_send(message.clone()).is_ok();
        if !is_told {
            self.close.notify_one();
        }
        is_told
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The next event about certificates. Events that came too fast are not noted.
async fn next(events: &mut Option<broadcast::Receiver<CertificateEvent>>) -> Option<CertificateEvent> {
    match events {
        None => std::future::pending().await,
        Some(receiver) => match receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            Err(broadcast::error::RecvError::Closed) => {
                *events = None;
                None
            }
        },
    }
}

fn of_certificate(event: &CertificateEvent) -> Entry {
    let action = if event.renewed { "renewed" } else { "loaded" };
    let text = format!("certificate {} {action}: {}", event.pair, event.names.join(" "));
    Entry { level: Level::Info, service: None, text }
}
