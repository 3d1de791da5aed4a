//! A TCP relay of the tests' own: passes bytes on both ways and keeps what the client sent.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a failed assumption ends the test")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

pub struct Relay {
    pub address: SocketAddr,
    sent: Arc<Mutex<Vec<u8>>>,
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
        let sent = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&sent);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(target) else { continue };
                let (back_from, back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let record = Arc::clone(&record);
                thread::spawn(move || pass(client, server, |bytes| record.lock().unwrap().extend(bytes)));
                thread::spawn(move || pass(back_from, back_to, |_| {}));
            }
        });
        Relay { address, sent }
    }

    /// Everything that clients have sent, as text.
    pub fn sent(&self) -> String {
        String::from_utf8_lossy(&self.sent.lock().unwrap()).into_owned()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut seen: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        seen(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
