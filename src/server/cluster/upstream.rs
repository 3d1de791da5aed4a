//! The way to whoever leads: into this server's own registry, or over a link to another server.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use super::frame::{FromLeader, ToLeader};
use super::handshake::Parties;
use super::leader_end::QUEUE;
use super::link::{LinkError, LinkReader, LinkWriter, dial};
use super::relayed::{RelayedConnections, from_leader};
use super::role::{Leader, Role};
use super::shared::Shared;
use crate::server::listener::RelayQueue;
use crate::server::registry::Term;

/// How many messages for the leader may wait. The clients wait with more.
const TO_LEADER: usize = 256;
/// How many of its messages may wait for this server's connections.
const FROM_LEADER: usize = 1024;
/// How many messages are taken at once.
const BATCH: usize = 256;
/// The pauses between attempts to connect to the leader.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What happens on the way to the leader.
#[derive(Debug)]
pub(super) enum Event {
    /// It can be told things.
    Reached(mpsc::Sender<ToLeader>),
    /// It says something.
    Said(FromLeader),
    /// It cannot be told things any more, and says nothing to what it was told.
    Lost,
}

/// The way to one leader. Nothing more comes from it when it is dropped.
pub(super) struct Upstream {
    events: mpsc::Receiver<Event>,
    task: Option<JoinHandle<()>>,
}

impl Upstream {
    /// The way to whoever leads.
    pub(super) fn to(role: &Role, shared: &Arc<Shared>) -> Self {
        let (sender, events) = mpsc::channel(FROM_LEADER);
        let shared = Arc::clone(shared);
        let task = match role.clone() {
            Role::Leaderless => None,
            Role::Leading(term) => Some(tokio::spawn(lead(term, shared, sender))),
            Role::Following(leader) => Some(tokio::spawn(follow(leader, shared, sender))),
        };
        Upstream { events, task }
    }

    /// What happens next; pending for ever where nobody leads. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Passes what this server's clients say to this server's registry, and back, as long as it leads.
async fn lead(term: Term, shared: Arc<Shared>, events: mpsc::Sender<Event>) {
    while *shared.leads.borrow() == Some(term) {
        if shared.may_speak(term) {
            shared.came_back(&shared.name).await;
            let connections = speak(term, &shared, &events).await;
            shared.lose(&shared.name, connections, term);
            if events.send(Event::Lost).await.is_err() {
                return;
            }
        }
        // The proof is late, or there was too much to say.
        sleep(LONGEST_PAUSE / 10).await;
    }
}

/// The same until the proof that we lead is too old, or something breaks.
async fn speak(term: Term, shared: &Shared, events: &mpsc::Sender<Event>) -> RelayedConnections {
    let (to_leader, mut said) = mpsc::channel(TO_LEADER);
    let (queue, mut answers, mut is_full) = RelayQueue::new(QUEUE);
    let mut connections = RelayedConnections::new(
        &shared.name,
        shared.registry.clone(),
        shared.numbers.clone(),
        queue,
        Arc::clone(&shared.allow),
    );
    if events.send(Event::Reached(to_leader)).await.is_err() {
        return connections;
    }
    let inward = async {
        while let Some(said) = said.recv().await {
            if connections.pass(said).await.is_err() {
                return;
            }
        }
    };
    let outward = async {
        let mut batch = Vec::with_capacity(BATCH);
        while answers.recv_many(&mut batch, BATCH).await > 0 {
            if !shared.may_speak(term) {
                return;
            }
            for answer in batch.drain(..) {
                if events.send(Event::Said(from_leader(answer))).await.is_err() {
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
        () = shared.must_be_silent(term) => {}
        _ = is_full.wait_for(|full| *full) => warn!("more is said to our own clients than can be passed on"),
    }
    connections
}

/// Keeps a link to the leader.
async fn follow(leader: Leader, shared: Arc<Shared>, events: mpsc::Sender<Event>) {
    let parties = Parties { epoch: leader.term.0, replica: shared.name.clone(), leader: leader.name.clone() };
    let mut pause = FIRST_PAUSE;
    let mut told = String::new();
    loop {
        let error = match dial(&leader.address, &shared.secrets, &parties, shared.silence()).await {
            Ok((reader, writer)) => {
                info!(leader = leader.name, address = leader.address, "connected to the leader");
                told.clear();
                let begun = Instant::now();
                let error = relay(reader, writer, &shared, &events).await;
                if begun.elapsed() > LONGEST_PAUSE {
                    pause = FIRST_PAUSE;
                }
                if events.send(Event::Lost).await.is_err() {
                    return;
                }
                error
            }
            Err(error) => error,
        };
        let error = error.to_string();
        if told != error {
            warn!(leader = leader.name, address = leader.address, %error, "no connection to the leader");
            told = error;
        }
        sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Relays until the link breaks.
async fn relay(
    reader: LinkReader,
    writer: LinkWriter,
    shared: &Shared,
    events: &mpsc::Sender<Event>,
) -> LinkError {
    let (to_leader, said) = mpsc::channel(TO_LEADER);
    if events.send(Event::Reached(to_leader)).await.is_err() {
        return LinkError::Closed;
    }
    tokio::select! {
        error = read(reader, shared, events) => error,
        error = write(writer, said, shared) => error,
    }
}

async fn read(mut reader: LinkReader, shared: &Shared, events: &mpsc::Sender<Event>) -> LinkError {
    loop {
        let said = match reader.next().await {
            Ok(message) => FromLeader::decode(&message),
            Err(error) => return error,
        };
        match said {
            Ok(FromLeader::Alive(revision)) => shared.revisions.leaders.store(revision, Ordering::Relaxed),
            Ok(said) => {
                if events.send(Event::Said(said)).await.is_err() {
                    return LinkError::Closed;
                }
            }
            Err(unknown) => return unknown.into(),
        }
    }
}

async fn write(mut writer: LinkWriter, mut said: mpsc::Receiver<ToLeader>, shared: &Shared) -> LinkError {
    let mut batch = Vec::with_capacity(BATCH);
    let mut drains = shared.drains.clone();
    drains.mark_changed();
    let mut alive = interval(shared.heartbeat());
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            count = said.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return LinkError::Closed;
                }
            }
            _ = alive.tick() => drop(writer.push(|out| ToLeader::Alive.encode(out))),
            Ok(()) = drains.changed() => batch.push(ToLeader::Drains(drains.borrow_and_update().clone())),
        }
        for message in batch.drain(..) {
            if writer.push(|out| message.encode(out))
                && let Err(error) = writer.flush().await
            {
                return error;
            }
        }
        if let Err(error) = writer.flush().await {
            return error;
        }
    }
}
