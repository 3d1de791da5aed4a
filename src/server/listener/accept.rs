//! Accepting connections: who may connect, and the options of their sockets.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

use crate::server::registry::ConnId;

use super::connection::Connection;
use super::message::Message;

/// Both ends find a dead peer within a minute (PROTOCOL section 1).
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// For how many addresses it is remembered that the log has a warning about them.
const MAX_WARNED: usize = 1024;
/// The pause after an accept that failed, for want of file descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Decides who may connect, and starts a task for each connection.
pub(super) struct Acceptor {
    allow: Vec<IpNet>,
    queue: usize,
    /// Addresses that the log has a warning about, so that each gets one however often it connects.
    warned: HashSet<IpAddr>,
}

impl Acceptor {
    /// Admits peers from these networks. At most `queue` commands of a connection wait in the registry.
    pub(super) fn new(allow: Vec<IpNet>, queue: usize) -> Self {
        Acceptor { allow, queue, warned: HashSet::new() }
    }

    pub(super) async fn accept(
        mut self,
        listener: TcpListener,
        inbox: mpsc::Sender<Message>,
        mut stop: watch::Receiver<bool>,
    ) {
        let (warnings, mut warned) = mpsc::channel::<IpAddr>(16);
        let mut last = 0;
        loop {
            let accepted = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                Some(peer) = warned.recv() => {
                    if self.is_first_warning(peer) {
                        tracing::warn!(%peer, "this peer speaks HTTP to the registry's port: is it meant for the proxy?");
                    }
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let peer = peer.ip().to_canonical();
                    if self.admits(peer) {
                        last += 1;
                        let connection = Connection::new(ConnId(last), peer, self.queue, warnings.clone());
                        prepare(&stream);
                        tokio::spawn(connection.run(stream, inbox.clone()));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admits(&mut self, peer: IpAddr) -> bool {
        let admitted = self.allow.iter().any(|net| net.contains(&peer));
        if !admitted && self.is_first_warning(peer) {
            tracing::warn!(%peer, "refused: not in REGISTRY_ALLOW");
        }
        admitted
    }

    /// Whether this is the first warning about an address, as far as is remembered.
    fn is_first_warning(&mut self, peer: IpAddr) -> bool {
        if self.warned.len() >= MAX_WARNED {
            self.warned.clear();
        }
        self.warned.insert(peer)
    }
}

/// Sets the socket's options: the system finds peers that have vanished, and lines are sent at once.
fn prepare(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    let socket = SockRef::from(stream);
    let set = socket
        .set_tcp_keepalive(&keepalive)
        .and_then(|()| socket.set_tcp_user_timeout(Some(USER_TIMEOUT)))
        .and_then(|()| socket.set_tcp_nodelay(true));
    if let Err(error) = set {
        tracing::debug!(%error, "cannot set the options of a connection");
    }
}
