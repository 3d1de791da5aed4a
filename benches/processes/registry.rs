//! What the registry's connections cost, through sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::load::CONNECTIONS;
use super::programs::{Program, Server, free_address, wait_until};
use super::server_binary;
use super::usage::{cpu_time, memory_kb, run_time};

const PING_TIME: Duration = Duration::from_secs(3);
const PING_ROUNDS: usize = 5;
/// Enough to make what the server has anyway small.
const SESSIONS: usize = 5_000;
const ROUTES: usize = 500;
const ROUTES_AT_ONCE: usize = 100_000;
const APPLIES: usize = 7;

/// PINGs a second over 64 connections with one PING outstanding each. The load generator has a thread of its own
/// in another process; with two cores it and the server have one each. Beside us, if there is a Go to build it with,
/// the least server that answers a PING.
pub(crate) fn ping() {
    let server = Server::start(server_binary(), &[("LOG_LEVEL", "error")]);
    let (temporary, address) = (tempfile::tempdir().unwrap(), free_address());
    let peer = least_go_server(temporary.path(), address);
    let mut all = vec![("ours", server.registry, server.program.id(), Vec::new())];
    all.extend(peer.as_ref().map(|peer| ("go", address, peer.id(), Vec::new())));
    for _ in 0..PING_ROUNDS {
        for (_, address, pid, turns) in &mut all {
            let (before, begun) = (cpu_time(*pid), Instant::now());
            let count = pings(*address) as f64;
            let cores = (cpu_time(*pid) - before).as_secs_f64() / begun.elapsed().as_secs_f64();
            turns.push((count / begun.elapsed().as_secs_f64(), cores));
        }
    }
    for (name, _, _, turns) in &mut all {
        turns.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (rate, cores) = turns[PING_ROUNDS / 2];
        println!(
            "ping, {name}: {rate:.0} a second ({:.0} to {:.0}), {cores:.2} cores, {:.2} µs a PING",
            turns[0].0,
            turns[PING_ROUNDS - 1].0,
            cores / rate * 1e6
        );
    }
}

fn least_go_server(dir: &Path, address: SocketAddr) -> Option<Program> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/ping.go");
    let binary = dir.join("ping");
    let built = Command::new("go").arg("build").arg("-o").arg(&binary).arg(source).status();
    if !built.is_ok_and(|status| status.success()) {
        println!("ping: there is no Go to compare with");
        return None;
    }
    let program = Program::start("go", binary.to_str().unwrap(), &[&address.to_string()], &[]);
    wait_until("it listens", || TcpStream::connect(address).is_ok());
    Some(program)
}

/// As little work as goes: no waiting for what is ready, because whose turn it is nearly always has its answer.
fn pings(registry: SocketAddr) -> usize {
    let mut peers: Vec<(TcpStream, String)> =
        (0..CONNECTIONS).map(|number| pinger(registry, number)).collect();
    for (stream, ping) in &mut peers {
        stream.write_all(ping.as_bytes()).unwrap();
    }
    let (mut buffer, mut count) = ([0; 256], 0);
    let end = Instant::now() + PING_TIME;
    while Instant::now() < end {
        for (stream, ping) in &mut peers {
            let read = stream.read(&mut buffer).unwrap();
            assert_eq!(&buffer[..read], b"PONG\n");
            stream.write_all(ping.as_bytes()).unwrap();
            count += 1;
        }
    }
    count
}

/// A connection with a session, and what keeps that alive.
fn pinger(registry: SocketAddr, number: u32) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(registry).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(format!("REGISTER|load|load-{number}|0|{{}}\n").as_bytes()).unwrap();
    let mut reply = String::new();
    BufReader::with_capacity(256, &stream).read_line(&mut reply).unwrap();
    let id = reply.trim_end().strip_prefix("ACK|").unwrap();
    (stream, format!("PING|{id}\n"))
}

/// What a server does for one apply of very many routes: CPU time from the question to the answer.
pub(crate) fn apply() {
    let mut times: Vec<Duration> = (0..APPLIES).map(|_| apply_all()).collect();
    times.sort();
    println!(
        "apply: {:.0} ms of CPU for {ROUTES_AT_ONCE} routes ({:.0} to {:.0})",
        millis(times[APPLIES / 2]),
        millis(times[0]),
        millis(times[APPLIES - 1])
    );
}

fn apply_all() -> Duration {
    let env =
        [("LOG_LEVEL", "error"), ("MAX_ROUTES_PER_SESSION", "100000"), ("MAX_STAGED_BYTES", "100000000")];
    let server = Server::start(server_binary(), &env);
    let mut peer = Peer::register(server.registry, 0);
    let numbers: Vec<usize> = (0..ROUTES_AT_ONCE).collect();
    for some in numbers.chunks(500) {
        let lines = some.iter().map(|n| format!("ROUTE_ADD||d{n}.example.com|/|http://127.0.0.1:8080|10\n"));
        peer.0.get_mut().write_all(lines.collect::<String>().as_bytes()).unwrap();
        some.iter().for_each(|_| peer.expect("ROUTE_OK"));
    }
    let before = run_time(server.program.id());
    peer.say("CONFIG_APPLY|", "OK");
    run_time(server.program.id()) - before
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Resident memory that comes with sessions which are connected, and with routes.
pub(crate) fn memory() {
    let env = [
        ("LOG_LEVEL", "error"),
        ("MAX_SESSIONS", "100000"),
        ("MAX_ROUTES_PER_SESSION", "100000"),
        // Else it grows in steps of 2 MiB.
        ("MIMALLOC_ALLOW_THP", "0"),
    ];
    let server = Server::start(server_binary(), &env);
    let anonymous = || memory_kb(server.program.id(), "RssAnon:") as f64 * 1024.0;
    let empty = anonymous();
    let mut sessions: Vec<Peer> =
        (0..SESSIONS).map(|number| Peer::register(server.registry, number)).collect();
    let connected = anonymous();
    println!(
        "memory: {:.1} KiB a connected session, of {SESSIONS}",
        (connected - empty) / SESSIONS as f64 / 1024.0
    );
    let routes = 100 * ROUTES;
    for (number, peer) in sessions.iter_mut().enumerate().take(100) {
        for route in 0..ROUTES {
            peer.say(
                &format!("ROUTE_ADD||d{number}-{route}.example.com|/|http://127.0.0.1:8080|10"),
                "ROUTE_OK",
            );
        }
        peer.say("CONFIG_APPLY|", "OK");
    }
    println!("memory: {:.0} bytes a route, of {routes}", (anonymous() - connected) / routes as f64);
}

struct Peer(BufReader<TcpStream>);

impl Peer {
    fn register(registry: SocketAddr, number: usize) -> Peer {
        let mut peer = Peer(BufReader::with_capacity(256, TcpStream::connect(registry).unwrap()));
        peer.say(&format!("REGISTER|load|load-{number}|0|{{}}"), "ACK");
        peer
    }

    fn say(&mut self, line: &str, expected: &str) {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        self.expect(expected);
    }

    fn expect(&mut self, expected: &str) {
        let mut reply = String::new();
        self.0.read_line(&mut reply).unwrap();
        assert!(reply.starts_with(expected), "{expected}: {reply}");
    }
}
