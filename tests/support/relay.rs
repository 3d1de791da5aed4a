//! A TCP relay of the tests' own: passes bytes on both ways, keeps what the client sent, and does to the
//! connections what networks do: cut, stall, delay, half-close, split.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a failed assumption ends the test")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

pub struct Relay {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// What there is, and what goes wrong.
#[derive(Default)]
struct State {
    /// Everything that clients have sent.
    sent: Vec<u8>,
    /// How many connections there ever were.
    accepted: usize,
    /// The two ends of each connection: the client's, the server's.
    links: Vec<(TcpStream, TcpStream)>,
    stalled: bool,
    split: bool,
    delay: Duration,
    /// All connections end behind so many bytes of the clients', once.
    cut_behind: Option<usize>,
}

impl Relay {
    /// Listens on loopback and connects every client to `target`.
    pub fn start(target: SocketAddr) -> Relay {
        Relay::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), target)
    }

    /// The same at an address of one's choice.
    pub fn start_at(listen: SocketAddr, target: SocketAddr) -> Relay {
        let listener = TcpListener::bind(listen).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(target) else { continue };
                accepting.link(client, server);
            }
        });
        Relay { address, shared }
    }

    /// Everything that clients have sent, as text.
    pub fn sent(&self) -> String {
        String::from_utf8_lossy(&self.shared.state.lock().unwrap().sent).into_owned()
    }

    /// How many connections there ever were.
    pub fn accepted(&self) -> usize {
        self.shared.state.lock().unwrap().accepted
    }

    /// Ends every connection, in both directions.
    pub fn cut(&self) {
        self.shared.state.lock().unwrap().cut();
    }

    /// Ends every connection behind so many bytes of the clients', once: the rest of that write is lost.
    pub fn cut_behind(&self, bytes: usize) {
        let mut state = self.shared.state.lock().unwrap();
        state.cut_behind = Some(state.sent.len() + bytes);
    }

    /// Tells every client that the server has nothing more to say, and goes on passing what it sends.
    pub fn half_close(&self) {
        for (client, _) in &self.shared.state.lock().unwrap().links {
            let _ = client.shutdown(Shutdown::Write);
        }
    }

    /// Nothing passes, and nobody is told; or it does again.
    pub fn stall(&self, on: bool) {
        self.shared.state.lock().unwrap().stalled = on;
        self.shared.changed.notify_all();
    }

    /// Every piece is so late.
    pub fn delay(&self, by: Duration) {
        self.shared.state.lock().unwrap().delay = by;
    }

    /// Every byte comes by itself.
    pub fn split(&self) {
        self.shared.state.lock().unwrap().split = true;
    }
}

impl Shared {
    fn link(self: &Arc<Self>, client: TcpStream, server: TcpStream) {
        for stream in [&client, &server] {
            stream.set_nodelay(true).unwrap();
        }
        let ends = || (client.try_clone().unwrap(), server.try_clone().unwrap());
        let mut state = self.state.lock().unwrap();
        state.accepted += 1;
        state.links.push(ends());
        let ((up_from, up_to), (down_to, down_from)) = (ends(), ends());
        let (up, down) = (Arc::clone(self), Arc::clone(self));
        thread::spawn(move || up.pass(up_from, up_to, true));
        thread::spawn(move || down.pass(down_from, down_to, false));
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream, is_up: bool) {
        let mut buffer = [0; 16 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let Some((count, split)) = self.admit(&buffer[..count], is_up) else { break };
            let piece = if split { 1 } else { count.max(1) };
            if !buffer[..count].chunks(piece).all(|piece| to.write_all(piece).is_ok()) {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    }

    /// How much of it may pass when it may, and whether byte by byte. `None`: the connection is cut.
    fn admit(&self, bytes: &[u8], is_up: bool) -> Option<(usize, bool)> {
        let delay = self.state.lock().unwrap().delay;
        // The network's, not the test's: nobody waits for it to be over.
        thread::sleep(delay);
        let state = self.state.lock().unwrap();
        let mut state = self.changed.wait_while(state, |state| state.stalled).unwrap();
        let mut count = bytes.len();
        if is_up {
            let room = state.cut_behind.map_or(usize::MAX, |at| at - state.sent.len());
            count = count.min(room);
            state.sent.extend(&bytes[..count]);
            if count < bytes.len() {
                state.cut_behind = None;
                state.cut();
                return None;
            }
        }
        Some((count, state.split))
    }
}

impl State {
    fn cut(&mut self) {
        for (client, server) in self.links.drain(..) {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }
}
