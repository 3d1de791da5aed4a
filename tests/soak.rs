//! The real binaries under mixed traffic while sidecars and backends are killed, stopped and started, other clients come
//! and go, and in the first quarter the server is killed as well: no request is lost that the design does not give up,
//! and what the processes hold does not grow.
//!
//! | requests fail | and are |
//! |---|---|
//! | between the server's death and its listening again | counted apart |
//! | at a backend that dies with them, if they are no GET or HEAD or their response has begun | counted apart |
//! | otherwise | lost |
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
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use programs::{Program, Server, free_address, get, status, wait_until};
use traffic::{Deeds, Traffic};

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
        match events {
            // By chance neither might happen in a short run.
            0 => world.kill_backend(),
            4 => world.kill_server(),
            _ => world.something_happens(begun.elapsed() < time / 4),
        }
        events += 1;
        samples.push((begun.elapsed(), world.memory()));
    }
    let seen = traffic.stop();
    let (judged, deeds) = (seen.judge(&world.deeds), &world.deeds);
    let (outages, deaths) = (deeds.outages.len(), deeds.deaths.len());
    println!("{} requests were answered, {events} events; lost: {:?}", seen.answered, judged.lost);
    let away: Vec<_> = deeds.outages.iter().map(|(from, to)| to.duration_since(*from).as_millis()).collect();
    println!("the server was killed {outages} times and away for {away:?} ms: {} failed", judged.in_outages);
    println!("{deaths} backends were killed: {} failed that nobody could repeat", judged.in_flight);
    assert!(judged.lost.is_empty(), "seed {seed}: {:?}", judged.lost);
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
    /// The backend of each, and that of the steady one.
    backends: Vec<Option<Program>>,
    ports: Vec<u16>,
    admin: SocketAddr,
    deeds: Deeds,
    /// A sidecar that nothing is done to.
    steady: Program,
    /// Clients that speak to the registry themselves.
    guests: Vec<Guest>,
    guest_count: u64,
    folder: tempfile::TempDir,
}

/// An instance of which something is away.
enum Away {
    Sidecar(usize),
    Backend(usize),
}

impl World {
    fn new(seed: u64) -> World {
        let folder = tempfile::tempdir().unwrap();
        let (admin, state) = (free_address(), folder.path().join("registry.redb"));
        let server = Server::start(
            SERVER,
            &[
                ("SESSION_GRACE", "4s"),
                ("ADMIN_LISTEN", &admin.to_string()),
                ("LOG_LEVEL", "warn"),
                ("HOLD", "30s"),
                ("STATE_FILE", state.to_str().unwrap()),
            ],
        );
        let ports: Vec<u16> = (0..=INSTANCES).map(|_| free_address().port()).collect();
        let backends = ports.iter().map(|port| Some(backend(*port))).collect();
        let socket = folder.path().join("steady").display().to_string();
        let env = [("SERVICE_NAME", "blog"), ("INSTANCE_NAME", "blog-1"), ("DOMAINS", "blog.example.com")];
        let mut env = server.sidecar_env(ports[INSTANCES], &env);
        env.push(("SIDECAR_CONTROL_SOCKET", socket));
        let steady = Program::start("steady", SIDECAR, &[], &env);
        let mut world = World {
            server,
            random: fastrand::Rng::with_seed(seed),
            sidecars: (0..INSTANCES).map(|_| None).collect(),
            backends,
            ports,
            admin,
            deeds: Deeds::default(),
            steady,
            guests: Vec::new(),
            guest_count: 0,
            folder,
        };
        (0..INSTANCES).for_each(|number| world.start(number));
        world.steady.wait_for_log("live");
        world
    }

    fn start(&mut self, number: usize) {
        let name = format!("shop-{number}");
        let mut env = self.server.sidecar_env(self.ports[number], &[("INSTANCE_NAME", &name)]);
        env.push(("SIDECAR_CONTROL_SOCKET", self.folder.path().join(&name).display().to_string()));
        let sidecar = Program::start("sidecar", SIDECAR, &[], &env);
        sidecar.wait_for_log("live");
        self.sidecars[number] = Some(sidecar);
    }

    /// Everybody who belongs there is there, and nobody else.
    fn settle(&mut self) {
        self.guests.clear();
        while let Some(away) = self.away() {
            self.bring_back(&away);
        }
        wait_until("both services answer", || {
            [HOST, "blog.example.com"].iter().all(|host| status(self.server.http, host, "/small") == 200)
        });
    }

    fn away(&self) -> Option<Away> {
        let sidecar = self.sidecars.iter().position(Option::is_none).map(Away::Sidecar);
        sidecar.or_else(|| self.backends.iter().position(Option::is_none).map(Away::Backend))
    }

    fn bring_back(&mut self, away: &Away) {
        match away {
            Away::Sidecar(number) => self.start(*number),
            Away::Backend(number) => self.backends[*number] = Some(backend(self.ports[*number])),
        }
    }

    /// Whether requests may go to every instance: then one may be disturbed, and there is always somebody to ask.
    fn is_whole(&self) -> bool {
        let Some(page) = get(self.admin, "localhost", "/status") else { return false };
        let status: serde_json::Value = serde_json::from_str(&page.body).unwrap();
        let claims = status["claims"].as_array().unwrap();
        let shop = claims.iter().find(|claim| claim["domain"] == HOST);
        let members = shop.and_then(|shop| shop["members"].as_array());
        let serves = |member: &&serde_json::Value| member["usable"] == true && member["ejected"] == false;
        members.is_some_and(|members| members.iter().filter(serves).count() == INSTANCES)
    }

    fn kill_backend(&mut self) {
        let number = self.random.usize(..INSTANCES);
        let mut backend = self.backends[number].take().unwrap();
        let before = Instant::now();
        backend.kill();
        self.deeds.deaths.push((before, Instant::now()));
    }

    /// Guests go with it; sidecars come back by themselves.
    fn kill_server(&mut self) {
        self.guests.clear();
        let before = Instant::now();
        self.server.crash_and_restart();
        self.deeds.outages.push((before, Instant::now()));
    }

    fn something_happens(&mut self, may_kill_server: bool) {
        std::thread::sleep(PAUSE.mul_f64(self.random.f64()));
        let event = self.random.u8(..10);
        if event < 3 {
            match self.away() {
                Some(away) => self.bring_back(&away),
                None if self.is_whole() => self.disturb(event),
                None => {}
            }
            return;
        }
        match event {
            3 if may_kill_server => self.kill_server(),
            4..7 if self.guests.len() < 20 => {
                self.guest_count += 1;
                // Who comes takes the name of one that has left, or is lost.
                let is_free = |name: &usize| self.guests.iter().all(|guest| guest.name != *name);
                let name = (0..).find(is_free).unwrap();
                self.guests.push(Guest::arrive(&self.server, name, self.guest_count));
            }
            7..9 if !self.guests.is_empty() => {
                let at = self.random.usize(..self.guests.len());
                let leaves_in_order = self.random.bool();
                self.guests.swap_remove(at).leave(leaves_in_order);
            }
            _ => self.guests.iter_mut().for_each(Guest::change),
        }
    }

    fn disturb(&mut self, how: u8) {
        let number = self.random.usize(..INSTANCES);
        match how {
            // Its session is lost; its backend answers the probe and serves.
            0 => self.sidecars[number].take().unwrap().kill(),
            1 => {
                let mut sidecar = self.sidecars[number].take().unwrap();
                sidecar.signal("TERM");
                assert!(sidecar.wait().success());
            }
            _ => self.kill_backend(),
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

/// A backend as a process of its own: this program, with nothing to do but [`serve_until_killed`].
fn backend(port: u16) -> Program {
    let address = format!("127.0.0.1:{port}");
    let this = std::env::current_exe().unwrap();
    let arguments = ["--ignored", "--exact", "serve_until_killed"];
    let env = [("SOAK_BACKEND", address.clone())];
    let program = Program::start("backend", this.to_str().unwrap(), &arguments, &env);
    wait_until("the backend listens", || TcpStream::connect(&address).is_ok());
    program
}

#[test]
#[ignore = "a backend of the other test, which starts it"]
fn serve_until_killed() {
    traffic::backend(&std::env::var("SOAK_BACKEND").unwrap()).unwrap();
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
