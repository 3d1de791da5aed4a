//! The real binaries under mixed traffic while sidecars are killed, stopped and started and other clients come and
//! go: no request is lost, and what the processes hold does not grow.
//!
//! `SOAK_SECONDS` says for how long; `scripts/soak` runs it for ten minutes. `SOAK_SEED` repeats a run.
#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed assumption ends the test; it tells what it saw"
)]

#[path = "support/programs.rs"]
mod programs;
#[path = "soak/traffic.rs"]
mod traffic;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use programs::{Program, Server, free_address, status, wait_until};
use traffic::Traffic;

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");
const SIDECAR: &str = env!("CARGO_BIN_EXE_registry-sidecar");
const HOST: &str = "shop.example.com";
/// Instances of the service that must never be away.
const INSTANCES: usize = 3;
/// As long as a run in which everything happens a few times.
const DEFAULT: Duration = Duration::from_secs(30);
/// From one thing that happens to the next, at most.
const PAUSE: Duration = Duration::from_millis(800);
/// What memory may grow by after the warm-up: allocators keep some of what is freed.
const SLACK_KB: u64 = 4 * 1024;

#[test]
fn nothing_is_lost_and_nothing_grows_while_everything_comes_and_goes() {
    let time =
        std::env::var("SOAK_SECONDS").map_or(DEFAULT, |text| Duration::from_secs(text.parse().unwrap()));
    let seed = std::env::var("SOAK_SEED").map_or_else(|_| fastrand::u64(..), |text| text.parse().unwrap());
    println!("{} s, SOAK_SEED={seed}", time.as_secs());
    let mut world = World::new(seed);
    world.settle();
    let before = world.descriptors();
    let traffic = Traffic::start(world.server.http, HOST);
    let begun = Instant::now();
    let (mut samples, mut events) = (Vec::new(), 0);
    while begun.elapsed() < time {
        world.something_happens();
        events += 1;
        samples.push((begun.elapsed(), world.memory()));
    }
    let seen = traffic.stop();
    println!("{} requests were answered, {} events; lost: {:?}", seen.answered, events, seen.lost);
    assert!(seen.lost.is_empty(), "seed {seed}: {:?}", seen.lost);
    assert!(seen.answered > 20 * time.as_secs(), "seed {seed}: only {} requests", seen.answered);
    flat(&samples, time, seed);
    world.settle();
    let after = || world.descriptors();
    wait_until("as many descriptors as before", || {
        after().iter().zip(before).all(|(after, before)| *after <= before)
    });
    println!("descriptors of the server and of a sidecar: {before:?} before, {:?} after", after());
}

/// Memory of both programs: the last quarter of the run holds no more than the second, but for some slack.
fn flat(samples: &[(Duration, [u64; 2])], time: Duration, seed: u64) {
    for (at, name) in ["server", "sidecar"].into_iter().enumerate() {
        let median = |from: u32, to: u32| {
            let within = samples.iter().filter(|(when, _)| *when >= time * from / 8 && *when < time * to / 8);
            let mut within: Vec<u64> = within.map(|(_, memory)| memory[at]).collect();
            within.sort_unstable();
            within[within.len() / 2]
        };
        let (early, late) = (median(2, 4), median(6, 8));
        println!(
            "resident, {name}: {} kB at first, {early} kB in the second quarter, {late} kB in the last",
            samples[0].1[at]
        );
        assert!(
            late <= early + early / 20 + SLACK_KB,
            "seed {seed}: the {name} grows: {early} kB, later {late} kB"
        );
    }
}

struct World {
    server: Server,
    random: fastrand::Rng,
    /// One instance each; `None`: it is away just now.
    sidecars: Vec<Option<Program>>,
    ports: Vec<u16>,
    /// A sidecar that nothing is done to.
    steady: Program,
    /// Clients that speak to the registry themselves.
    guests: Vec<Guest>,
    guest_count: u64,
    sockets: tempfile::TempDir,
}

impl World {
    fn new(seed: u64) -> World {
        let server = Server::start(
            SERVER,
            &[("SESSION_GRACE", "4s"), ("ADMIN_LISTEN", "off"), ("LOG_LEVEL", "warn"), ("HOLD", "30s")],
        );
        let ports: Vec<u16> = (0..=INSTANCES).map(|_| traffic::backend()).collect();
        let sockets = tempfile::tempdir().unwrap();
        let socket = sockets.path().join("steady").display().to_string();
        let env = [("SERVICE_NAME", "blog"), ("INSTANCE_NAME", "blog-1"), ("DOMAINS", "blog.example.com")];
        let mut env = server.sidecar_env(ports[INSTANCES], &env);
        env.push(("SIDECAR_CONTROL_SOCKET", socket));
        let steady = Program::start("steady", SIDECAR, &[], &env);
        let random = fastrand::Rng::with_seed(seed);
        let (sidecars, guests) = ((0..INSTANCES).map(|_| None).collect(), Vec::new());
        let mut world = World { server, random, sidecars, ports, steady, guests, guest_count: 0, sockets };
        (0..INSTANCES).for_each(|number| world.start(number));
        world.steady.wait_for_log("live");
        world
    }

    fn start(&mut self, number: usize) {
        let name = format!("shop-{number}");
        let mut env = self.server.sidecar_env(self.ports[number], &[("INSTANCE_NAME", &name)]);
        env.push(("SIDECAR_CONTROL_SOCKET", self.sockets.path().join(&name).display().to_string()));
        let sidecar = Program::start("sidecar", SIDECAR, &[], &env);
        sidecar.wait_for_log("live");
        self.sidecars[number] = Some(sidecar);
    }

    /// Everybody who belongs there is there, and nobody else.
    fn settle(&mut self) {
        self.guests.clear();
        for number in 0..INSTANCES {
            if self.sidecars[number].is_none() {
                self.start(number);
            }
        }
        wait_until("both services answer", || {
            [HOST, "blog.example.com"].iter().all(|host| status(self.server.http, host, "/small") == 200)
        });
    }

    /// Sidecars of at most one instance are away at a time, so that there is always somebody to ask.
    fn something_happens(&mut self) {
        std::thread::sleep(PAUSE.mul_f64(self.random.f64()));
        let away = self.sidecars.iter().position(Option::is_none);
        match (self.random.u8(..8), away) {
            (0..2, Some(number)) => self.start(number),
            (0, None) => {
                // Its session is lost; its backend answers the probe and serves.
                let number = self.random.usize(..INSTANCES);
                self.sidecars[number].take().unwrap().kill();
            }
            (1, None) => {
                let number = self.random.usize(..INSTANCES);
                let mut sidecar = self.sidecars[number].take().unwrap();
                sidecar.signal("TERM");
                assert!(sidecar.wait().success());
            }
            (2..5, _) if self.guests.len() < 20 => {
                self.guest_count += 1;
                // Who comes takes the name of one that has left, or is lost.
                let is_free = |name: &usize| self.guests.iter().all(|guest| guest.name != *name);
                let name = (0..).find(is_free).unwrap();
                self.guests.push(Guest::arrive(&self.server, name, self.guest_count));
            }
            (5..7, _) if !self.guests.is_empty() => {
                let at = self.random.usize(..self.guests.len());
                let leaves_in_order = self.random.bool();
                self.guests.swap_remove(at).leave(leaves_in_order);
            }
            _ => self.guests.iter_mut().for_each(Guest::change),
        }
    }

    /// What is resident of the server, and of a sidecar that lives as long.
    fn memory(&self) -> [u64; 2] {
        [self.server.program.id(), self.steady.id()].map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        })
    }

    fn descriptors(&self) -> [usize; 2] {
        [self.server.program.id(), self.steady.id()]
            .map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())
    }
}

/// A client of the registry with routes that nobody asks for.
struct Guest {
    stream: BufReader<TcpStream>,
    name: usize,
    number: u64,
    routes: usize,
}

impl Guest {
    fn arrive(server: &Server, name: usize, number: u64) -> Guest {
        let stream = TcpStream::connect(server.registry).unwrap();
        stream.set_read_timeout(Some(programs::PATIENCE)).unwrap();
        let mut guest = Guest { stream: BufReader::new(stream), name, number, routes: 0 };
        guest.say(&format!("REGISTER|guest|guest-{name}|0|{{}}"), "ACK|");
        guest.change();
        guest
    }

    fn change(&mut self) {
        let Guest { number, routes, .. } = *self;
        let add = format!(
            "ROUTE_ADD||g{number}-{routes}.example.com|/|http://127.0.0.1:{}|10",
            free_address().port()
        );
        self.say(&add, "ROUTE_OK");
        if routes > 2 {
            self.say(&format!("ROUTE_REMOVE||r{}", routes - 2), "ROUTE_OK");
        }
        self.say("OPTIONS_SET||ALL|compression|true", "OPTIONS_OK");
        self.say("CONFIG_APPLY|", "OK");
        self.say("PING|", "PONG");
        self.routes += 1;
    }

    fn leave(mut self, in_order: bool) {
        if in_order {
            self.say("CLIENT_SHUTDOWN|", "SHUTDOWN_OK");
        }
    }

    fn say(&mut self, line: &str, expected: &str) {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut reply = String::new();
        self.stream.read_line(&mut reply).unwrap();
        assert!(reply.starts_with(expected), "{line}: {reply}");
    }
}
