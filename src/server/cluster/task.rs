//! The task between the connections of this server's clients and the leader: it carries out what the router decides.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::frame::ToLeader;
use super::role::Role;
use super::router::{Effect, Input, Router};
use super::shared::{Shared, server_stops};
use super::upstream::{Event, Upstream};
use crate::server::listener::{Message, PeerSender};
use crate::server::registry::{ConnId, Keepalive};

/// How many messages of connections are taken at once.
const BATCH: usize = 256;
/// With so many messages that wait for the leader, connections wait.
const MOST_OUTBOUND: usize = 4096;
/// How long a stop waits to tell the leader that the clients are gone.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A client's connection, as the router's decisions reach it.
struct Peer {
    sender: PeerSender,
    /// Lets it answer PINGs for the session that is bound to it.
    keepalive: Option<Arc<Keepalive>>,
}

pub(super) struct RouterTask {
    router: Router,
    shared: Arc<Shared>,
    peers: HashMap<ConnId, Peer>,
    /// What waits to be told the leader, in order.
    outbound: VecDeque<ToLeader>,
    to_leader: Option<mpsc::Sender<ToLeader>>,
}

impl RouterTask {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        RouterTask {
            router: Router::default(),
            shared,
            peers: HashMap::new(),
            outbound: VecDeque::new(),
            to_leader: None,
        }
    }

    /// Runs until all connections have ended, which those do that the server stops.
    pub(super) async fn run(
        mut self,
        mut connections: mpsc::Receiver<Message>,
        mut roles: watch::Receiver<Role>,
    ) {
        let stops = server_stops(self.shared.stopped.clone());
        tokio::pin!(stops);
        let mut batch = Vec::with_capacity(BATCH);
        let mut stopping = false;
        let mut upstream = Upstream::to(&roles.borrow_and_update().clone(), &self.shared);
        loop {
            let deadline = self.router.next_deadline().map(Instant::from_std);
            tokio::select! {
                count = connections.recv_many(&mut batch, BATCH), if self.outbound.len() < MOST_OUTBOUND => {
                    if count == 0 {
                        break;
                    }
                    batch.drain(..).for_each(|message| self.on_message(message));
                }
                Ok(()) = roles.changed() => {
                    self.lost();
                    upstream = Upstream::to(&roles.borrow_and_update().clone(), &self.shared);
                }
                event = upstream.next() => self.on_event(event),
                Ok(permit) = room(self.to_leader.clone()), if !self.outbound.is_empty() => {
                    if let Some(message) = self.outbound.pop_front() {
                        permit.send(message);
                    }
                }
                () = sleep_until(deadline) => self.turn(Input::Tick),
                () = &mut stops, if !stopping => {
                    stopping = true;
                    self.turn(Input::Stop);
                }
            }
        }
        let last_words = async {
            for message in std::mem::take(&mut self.outbound) {
                let Some(leader) = &self.to_leader else { return };
                if leader.send(message).await.is_err() {
                    return;
                }
            }
        };
        // The leader finds out by itself otherwise.
        let _ = timeout(LAST_WORDS, last_words).await;
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Opened(conn, peer, outlet) => {
                let peer_state = Peer { sender: PeerSender::new(outlet), keepalive: None };
                self.peers.insert(conn, peer_state);
                self.turn(Input::Opened(conn, peer));
            }
            Message::Line(conn, line) => self.turn(Input::Lines(conn, vec![line])),
            Message::Lines(conn, lines) => self.turn(Input::Lines(conn, lines)),
            Message::Closed(conn) => {
                self.drop_peer(conn);
                self.turn(Input::Closed(conn));
            }
            // Connections say nothing else.
            Message::Announced(..) | Message::Input(_) | Message::Overview(..) => {}
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Reached(leader) => {
                self.to_leader = Some(leader);
                self.turn(Input::Reached);
            }
            Event::Said(said) => self.turn(Input::FromLeader(said)),
            Event::Lost => self.lost(),
        }
    }

    /// What was not told yet is of connections that the router closes, or tells the next leader of anew.
    fn lost(&mut self) {
        self.to_leader = None;
        self.outbound.clear();
        self.turn(Input::Lost);
    }

    /// Passes an input in, carries the effects out, and passes in what that has led to.
    fn turn(&mut self, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.router.handle(Instant::now().into_std(), input);
            for effect in self.router.effects().collect::<Vec<_>>() {
                inputs.extend(self.perform(effect).map(Input::Closed));
            }
        }
    }

    /// Carries an effect out. Returns the connection if it could not be reached.
    fn perform(&mut self, effect: Effect) -> Option<ConnId> {
        let (conn, is_sent) = match effect {
            Effect::Tell(message) => {
                self.outbound.push_back(message);
                return None;
            }
            Effect::Send(conn, line) => (conn, self.peers.get(&conn)?.sender.send(*line)),
            Effect::Event(conn, line) => (conn, self.peers.get_mut(&conn)?.sender.offer(&line)),
            Effect::Bound(conn, session) => {
                let peer = self.peers.get_mut(&conn)?;
                let keepalive = Keepalive::start(session);
                if let Some(former) = peer.keepalive.replace(Arc::clone(&keepalive)) {
                    former.stop();
                }
                (conn, peer.sender.bind(keepalive))
            }
            Effect::Unbound(conn) => {
                if let Some(keepalive) = self.peers.get_mut(&conn)?.keepalive.take() {
                    keepalive.stop();
                }
                return None;
            }
            Effect::Close(conn) => {
                self.drop_peer(conn);
                return None;
            }
        };
        if is_sent {
            return None;
        }
        self.drop_peer(conn);
        Some(conn)
    }

    /// Closes the connection when its lines are written.
    fn drop_peer(&mut self, conn: ConnId) {
        if let Some(Peer { keepalive: Some(keepalive), .. }) = self.peers.remove(&conn) {
            keepalive.stop();
        }
    }
}

/// Room for a message to the leader. Pending for ever without one.
async fn room(
    leader: Option<mpsc::Sender<ToLeader>>,
) -> Result<mpsc::OwnedPermit<ToLeader>, mpsc::error::SendError<()>> {
    match leader {
        Some(leader) => leader.reserve_owned().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
