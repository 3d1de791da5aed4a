//! The real binaries over a network that fails: a relay between sidecar and registry that cuts, stalls, delays,
//! half-closes and splits; and a peer that sends what no registry does.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

#[path = "support/programs.rs"]
mod programs;
#[path = "support/relay.rs"]
mod relay;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use programs::{Program, Server, caddy, free_address, status, wait_until};
use relay::Relay;

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");
const SIDECAR: &str = env!("CARGO_BIN_EXE_registry-sidecar");
const HOST: &str = "shop.example.com";

/// A server, an application, and a relay between the server and the sidecars to come.
struct Scene {
    server: Server,
    backend: SocketAddr,
    relay: Relay,
    _caddy: Program,
}

impl Scene {
    fn new() -> Self {
        let (server, backend) = (Server::start(SERVER, &[("HOLD", "0s")]), free_address());
        let caddy = caddy(backend, "hello");
        let relay = Relay::start(server.registry);
        Scene { server, backend, relay, _caddy: caddy }
    }

    /// A sidecar behind the relay that notices silence within a second.
    fn sidecar(&self) -> Program {
        let port = self.relay.address.port().to_string();
        let more = [
            ("REGISTRY_PORT", port.as_str()),
            ("SIDECAR_KEEPALIVE_INTERVAL", "400ms"),
            ("SIDECAR_REQUEST_TIMEOUT", "400ms"),
        ];
        Program::start("sidecar", SIDECAR, &[], &self.server.sidecar_env(self.backend.port(), &more))
    }

    fn is_served(&self) -> bool {
        status(self.server.http, HOST, "/") == 200
    }

    /// Waits for `condition`; the route is served at every moment until then.
    fn served_until(&self, what: &str, condition: impl Fn() -> bool) {
        wait_until(what, || {
            assert!(self.is_served(), "the route was away before: {what}");
            condition()
        });
    }
}

fn count(program: &Program, text: &str) -> usize {
    program.log().iter().filter(|line| line.contains(text)).count()
}

#[test]
fn lines_that_arrive_byte_by_byte_are_lines_all_the_same() {
    let scene = Scene::new();
    scene.relay.split();
    let mut sidecar = scene.sidecar();
    sidecar.wait_for_log("live");
    assert!(scene.is_served());
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(!scene.is_served());
}

#[test]
fn a_connection_that_is_cut_behind_any_byte_is_made_again_and_the_route_comes() {
    let scene = Scene::new();
    // A registration with its route is a little over 300 bytes.
    for bytes in (0..400).step_by(23) {
        scene.relay.cut_behind(bytes);
        let before = scene.relay.accepted();
        let mut sidecar = scene.sidecar();
        wait_until("the route is there", || scene.is_served());
        wait_until("it was cut", || scene.relay.accepted() > before + 1);
        sidecar.wait_for_log("live");
        sidecar.signal("TERM");
        assert_eq!(sidecar.wait().code(), Some(0), "cut behind byte {bytes}");
        wait_until("it is gone", || !scene.is_served());
    }
}

#[test]
fn a_route_stays_while_its_connection_is_cut_again_and_again() {
    let scene = Scene::new();
    let sidecar = scene.sidecar();
    sidecar.wait_for_log("live");
    for resumed in 1..=5 {
        scene.relay.cut();
        scene.served_until("the session is resumed", || {
            count(&scene.server.program, "session resumed") >= resumed
        });
    }
}

#[test]
fn a_silent_network_is_noticed_and_the_route_stays() {
    let scene = Scene::new();
    let sidecar = scene.sidecar();
    sidecar.wait_for_log("live");
    scene.relay.stall(true);
    let stalled = Instant::now();
    scene.served_until("it is noticed", || count(&sidecar, "no answer to PING") > 0);
    // 400 ms for the keepalive, 400 ms for the answer; the rest is a busy machine's.
    assert!(stalled.elapsed() < Duration::from_secs(4), "{:?}", stalled.elapsed());
    scene.relay.stall(false);
    scene.served_until("the session is resumed", || count(&scene.server.program, "session resumed") > 0);
}

#[test]
fn a_half_closed_connection_is_made_again_and_the_route_stays() {
    let scene = Scene::new();
    let sidecar = scene.sidecar();
    sidecar.wait_for_log("live");
    let before = scene.relay.accepted();
    scene.relay.half_close();
    scene.served_until("there is another connection", || scene.relay.accepted() > before);
    scene.served_until("the session is resumed", || count(&scene.server.program, "session resumed") > 0);
}

#[test]
fn a_slow_network_delays_the_route_and_the_stop_no_more_than_it_must() {
    let scene = Scene::new();
    scene.relay.delay(Duration::from_millis(100));
    let mut sidecar = scene.sidecar();
    sidecar.wait_for_log("live");
    assert!(scene.is_served());
    let asked = Instant::now();
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(2), "the stop took {:?}", asked.elapsed());
}

/// Listens where a registry should, and sends the same to everybody who connects. It keeps the times at which
/// somebody did.
struct BadPeer {
    address: SocketAddr,
    connected: Arc<Mutex<Vec<Instant>>>,
}

impl BadPeer {
    fn start(send: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (connected, send) = (Arc::new(Mutex::new(Vec::new())), Arc::new(send));
        let times = Arc::clone(&connected);
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                times.lock().unwrap().push(Instant::now());
                let send = Arc::clone(&send);
                thread::spawn(move || {
                    // It waits for the client's first words, as a registry does.
                    let _ = stream.read(&mut [0; 1024]);
                    send(&mut stream);
                });
            }
        });
        BadPeer { address, connected }
    }

    fn sidecar(&self) -> Program {
        let env = [
            ("REGISTRY_HOST", self.address.ip().to_string()),
            ("REGISTRY_PORT", self.address.port().to_string()),
            ("SERVICE_NAME", "shop".to_owned()),
            ("INSTANCE_NAME", "shop-1".to_owned()),
            ("DOMAINS", HOST.to_owned()),
            ("BACKEND_HOST", "127.0.0.1".to_owned()),
            ("WAIT_FOR_PORT", "false".to_owned()),
            ("SIDECAR_REQUEST_TIMEOUT", "500ms".to_owned()),
            ("PORT", "80".to_owned()),
        ];
        Program::start("sidecar", SIDECAR, &[], &env)
    }

    /// The pauses between the attempts so far.
    fn pauses(&self) -> Vec<Duration> {
        self.connected.lock().unwrap().windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

/// How much more memory than one without a registry a sidecar may ever have had resident. A line may take 1 MiB,
/// a buffer that grows twice that and what it grew from; much of the rest is code that the other does not run.
const MEMORY: usize = 16 * 1024 * 1024;

fn assert_small(sidecar: &Program) {
    let nobody = BadPeer { address: free_address(), connected: Arc::default() };
    let other = nobody.sidecar();
    other.wait_for_log("refused");
    let (peak, usual) = (peak_memory(sidecar), peak_memory(&other));
    assert!(peak < usual + MEMORY, "{peak} bytes resident, {usual} without a registry");
}

/// The most memory that a process ever had resident, in bytes.
fn peak_memory(program: &Program) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<usize>().unwrap() * 1024
}

/// Whoever sends this is named in the log, tried again with growing pauses, and costs no memory.
fn bears(words: &str, send: impl Fn(&mut TcpStream) + Send + Sync + 'static) {
    let peer = BadPeer::start(send);
    let mut sidecar = peer.sidecar();
    sidecar.wait_for_log(words);
    wait_until("it is tried again", || peer.pauses().len() >= 4);
    let pauses = peer.pauses();
    assert!(pauses.iter().all(|pause| *pause >= Duration::from_millis(95)), "a hot loop: {pauses:?}");
    assert_small(&sidecar);
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(0));
}

#[test]
fn garbage_is_borne() {
    bears("no registry", |stream| drop(stream.write_all(b"220 mail.example.com ESMTP ready\r\n")));
}

#[test]
fn binary_is_borne() {
    bears("no registry", |stream| {
        let bytes: Vec<u8> = (0..4096_u32).map(|at| (at * 7 + 128) as u8).collect();
        drop(stream.write_all(&bytes));
    });
}

#[test]
fn a_line_of_2_mib_is_borne() {
    bears("longer than 1048576 bytes", |stream| {
        drop(stream.write_all(&[vec![b'x'; 2 * 1024 * 1024], vec![b'\n']].concat()));
    });
}

#[test]
fn a_reply_that_fits_no_question_is_borne() {
    bears("unexpected answer", |stream| drop(stream.write_all(b"PONG\nROUTE_OK|r1\nOK\n")));
}

#[test]
fn an_endless_stream_is_borne() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let peer = BadPeer::start(move |stream| {
        let chunk = vec![b'x'; 64 * 1024];
        while stream.write_all(&chunk).is_ok() {
            count.fetch_add(chunk.len(), Ordering::Relaxed);
        }
    });
    let mut sidecar = peer.sidecar();
    // It never becomes a line; the question's deadline ends it.
    wait_until("it is connected", || !peer.connected.lock().unwrap().is_empty());
    sidecar.wait_for_log("no answer to REGISTER");
    wait_until("it was sent more than it may keep", || sent.load(Ordering::Relaxed) > 4 * MEMORY);
    assert_small(&sidecar);
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(0));
}

#[test]
fn endless_lines_that_nobody_asked_for_are_borne() {
    bears("unexpected answer", |stream| {
        let chunk = b"OK\n".repeat(20_000);
        while stream.write_all(&chunk).is_ok() {}
    });
}
