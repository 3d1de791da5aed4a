//! CLUSTER_LISTEN: the port at which replicas connect to the leader, and what it does for each of them.

use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Duration, MissedTickBehavior, interval, sleep};
use tracing::{debug, info, warn};

use super::frame::{FromLeader, ToLeader};
use super::link::{LinkError, LinkReader, LinkWriter, admit};
use super::relayed::{RelayedConnections, from_leader};
use super::shared::{Shared, server_stops};
use crate::server::listener::{RelayQueue, ToReplica};
use crate::server::registry::{ConnId, Term};

/// How many messages may wait for a replica. One that reads so little is given up.
pub(super) const QUEUE: usize = 65_536;
/// How many messages are taken at once.
const BATCH: usize = 256;
/// How many replicas and strangers may be connected at once.
const MAX_LINKS: usize = 64;
/// The pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts replicas until this is dropped.
pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(MAX_LINKS));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    tokio::select! {
                        () = serve(stream, Arc::clone(&shared)) => {}
                        () = server_stops(shared.stopped.clone()) => {}
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept a connection of another server");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let from = stream.peer_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string());
    let mut leads = shared.leads.clone();
    // Who cannot prove that it leads takes nobody, because it could say nothing.
    let term = (*leads.borrow_and_update()).filter(|term| shared.may_speak(*term));
    let epoch = term.map(|term| term.0);
    let admitted = admit(stream, &shared.secrets, &shared.name, epoch, shared.silence()).await;
    let (parties, reader, writer) = match (admitted, term) {
        (Ok((parties, reader, writer)), Some(term)) => ((parties, term), reader, writer),
        (Ok(_), None) => return,
        (Err(error), _) => return debug!(%from, %error, "another server was not let in"),
    };
    let (parties, term) = parties;
    info!(replica = parties.replica, %from, "a server relays its clients' commands to us");
    shared.came_back(&parties.replica).await;
    let (queue, messages, is_full) = RelayQueue::new(QUEUE);
    let mut connections = RelayedConnections::new(
        &parties.replica,
        shared.registry.clone(),
        shared.numbers.clone(),
        queue,
        Arc::clone(&shared.allow),
    );
    let error = tokio::select! {
        () = shared.must_be_silent(term) => LinkError::Unproven,
        error = read(reader, &mut connections) => error,
        error = write(writer, messages, &shared, term) => error,
        error = fill_up(is_full) => error,
        // Nothing that the registry said before it heard of its demotion may go out, least of all a Close.
        () = demoted(leads, term) => return,
    };
    info!(replica = parties.replica, %from, %error, "the connection to a server is gone");
    shared.lose(&parties.replica, connections, term);
}

/// Returns when this replica does not lead in `term` any more.
async fn demoted(mut leads: watch::Receiver<Option<Term>>, term: Term) {
    // An error means that the server is gone.
    let _ = leads.wait_for(|leads| *leads != Some(term)).await;
}

async fn read(mut reader: LinkReader, connections: &mut RelayedConnections) -> LinkError {
    loop {
        let said = match reader.next().await {
            Ok(message) => ToLeader::decode(&message),
            Err(error) => return error,
        };
        match said {
            Ok(said) => {
                if connections.pass(said).await.is_err() {
                    return LinkError::Closed;
                }
            }
            Err(unknown) => return unknown.into(),
        }
    }
}

async fn write(
    mut writer: LinkWriter,
    mut messages: mpsc::Receiver<(ConnId, ToReplica)>,
    shared: &Shared,
    term: Term,
) -> LinkError {
    let mut batch = Vec::with_capacity(BATCH);
    let mut alive = interval(shared.heartbeat());
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            count = messages.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    return LinkError::Closed;
                }
            }
            _ = alive.tick() => {
                let revision = shared.revision();
                writer.push(|out| FromLeader::Alive(revision).encode(out));
            }
        }
        if !shared.may_speak(term) {
            return LinkError::Unproven;
        }
        for message in batch.drain(..) {
            let message = from_leader(message);
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

async fn fill_up(mut is_full: watch::Receiver<bool>) -> LinkError {
    let is_full = is_full.wait_for(|full| *full).await.is_ok();
    if is_full {
        return LinkError::Full;
    }
    // The queue is held as long as the connections are.
    std::future::pending().await
}
