//! What the registry's connections cost, through sockets.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::SERVER;
use super::load::CONNECTIONS;
use super::programs::Server;
use super::usage::{cpu_time, memory_kb};

const PING_TIME: Duration = Duration::from_secs(3);
const PING_ROUNDS: usize = 5;
/// Enough to make what the server has anyway small.
const SESSIONS: usize = 5_000;
const ROUTES: usize = 500;

/// PINGs a second over 64 connections with one PING outstanding each. The load generator has a thread of its own
/// in another process; with two cores it and the server have one each.
pub(crate) fn ping() {
    let server = Server::start(SERVER, &[("LOG_LEVEL", "error")]);
    let mut rounds: Vec<(f64, f64, f64)> = (0..PING_ROUNDS)
        .map(|_| {
            let (server_before, own_before) = (cpu_time(server.program.id()), cpu_time(std::process::id()));
            let begun = Instant::now();
            let count = pings(server.registry) as f64;
            let took = begun.elapsed().as_secs_f64();
            let cores = |pid: u32, before: Duration| (cpu_time(pid) - before).as_secs_f64() / took;
            let ours = cores(server.program.id(), server_before);
            // The server is among what this process has started.
            (count / took, ours, cores(std::process::id(), own_before) - ours)
        })
        .collect();
    rounds.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (rate, ours, generators) = rounds[PING_ROUNDS / 2];
    println!(
        "ping: {rate:.0} a second ({:.0} to {:.0}); the server uses {ours:.2} cores, {:.2} µs a PING; the load generator {generators:.2}",
        rounds[0].0,
        rounds[PING_ROUNDS - 1].0,
        ours / rate * 1e6
    );
}

fn pings(registry: SocketAddr) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut all = tokio::task::JoinSet::new();
        for number in 0..CONNECTIONS {
            all.spawn(ping_one(registry, number));
        }
        all.join_all().await.into_iter().sum()
    })
}

async fn ping_one(registry: SocketAddr, number: u32) -> usize {
    let mut stream = tokio::net::TcpStream::connect(registry).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut buffer, mut count) = ([0; 256], 0);
    let register = format!("REGISTER|load|load-{number}|0|{{}}\n");
    stream.write_all(register.as_bytes()).await.unwrap();
    let read = stream.read(&mut buffer).await.unwrap();
    assert!(buffer[..read].starts_with(b"ACK|"));
    let end = Instant::now() + PING_TIME;
    while Instant::now() < end {
        stream.write_all(b"PING|\n").await.unwrap();
        let read = stream.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..read], b"PONG\n");
        count += 1;
    }
    count
}

/// Resident memory that comes with sessions which are connected, and with routes.
pub(crate) fn memory() {
    let server = Server::start(
        SERVER,
        &[("LOG_LEVEL", "error"), ("MAX_SESSIONS", "100000"), ("MAX_ROUTES_PER_SESSION", "100000")],
    );
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
        let mut reply = String::new();
        self.0.read_line(&mut reply).unwrap();
        assert!(reply.starts_with(expected), "{line}: {reply}");
    }
}
