//! A connection to etcd that can be cut, mended and led elsewhere.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

pub(super) struct Cable {
    port: u16,
    state: Arc<Mutex<State>>,
}

struct State {
    leads_to: u16,
    is_cut: bool,
    open: Vec<TcpStream>,
}

impl Cable {
    pub(super) fn to(port: u16) -> Cable {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = Arc::new(Mutex::new(State { leads_to: port, is_cut: false, open: Vec::new() }));
        let cable = Cable { port: listener.local_addr().unwrap().port(), state: state.clone() };
        // It ends with the test.
        thread::spawn(move || listener.incoming().flatten().for_each(|client| connect(client, &state)));
        cable
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Ends all connections, and every new one at once.
    pub(super) fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_cut = true;
        // One that has ended already is as it should be.
        state.open.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }

    pub(super) fn mend(&self) {
        self.state.lock().unwrap().is_cut = false;
    }

    pub(super) fn lead_to(&self, port: u16) {
        self.state.lock().unwrap().leads_to = port;
    }
}

fn connect(client: TcpStream, state: &Mutex<State>) {
    let mut state = state.lock().unwrap();
    if state.is_cut {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", state.leads_to)) else { return };
    for (from, to) in [(&client, &server), (&server, &client)] {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    state.open.extend([client, server]);
}
