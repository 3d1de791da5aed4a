//! What the registry's core costs, without sockets, and what a STATE_FILE adds: `cargo bench --bench registry`.
//!
//! Nothing here fails for being slow; it prints medians for docs/internals/performance.md. The long ones are CPU times,
//! which a machine that others use too does not stretch.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for people")]
#![allow(missing_docs, reason = "a program, not a library")]

#[path = "processes/usage.rs"]
#[allow(dead_code, reason = "made for processes")]
mod usage;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use registry_client::protocol::{Command, Reply, ServerLine};
use registry_sidecar::server::registry::{ConnId, Effect, Input, Now, Registry, RegistryConfig};
use registry_sidecar::server::store::{Decision, FileStore, Store};

/// The server's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // The CPU's clock is read at its ticks: one of these would be one or two of them.
    let thousand = median(7, || (0..10).map(|_| sessions(1_000)).sum::<Duration>() / 10);
    let ten_thousand = median(7, || sessions(10_000));
    println!("1,000 sessions that register, add a route and apply: {thousand:?}");
    println!("10,000 of them: {ten_thousand:?}, {:.1} times as long", ratio(ten_thousand, thousand));
    let kept = median(3, || sessions_kept(10_000));
    println!("10,000 of them with a STATE_FILE: {kept:?}, {:.1} times as long", ratio(kept, ten_thousand));
    let (mut all, mut one) = (Vec::new(), Vec::new());
    for _ in 0..7 {
        let (all_took, one_took) = routes(100_000);
        all.push(all_took);
        one.push(one_took);
    }
    println!("100,000 routes in one apply: {:?}", middle(all));
    println!("one route applied beside them: {:?}", middle(one));
}

/// The core with a store that takes everything at once.
struct World {
    registry: Registry,
    now: Now,
    connections: u64,
    last_reply: Option<ServerLine>,
}

impl World {
    fn new() -> World {
        let mut config = RegistryConfig::default();
        config.limits.routes = usize::MAX;
        config.limits.staged_bytes = usize::MAX;
        config.limits.sessions = usize::MAX;
        config.limits.connections = usize::MAX;
        let mut counter = 0u128;
        let random = move || {
            counter += 1;
            Some(counter)
        };
        let now = Now { mono: Instant::now(), wall: SystemTime::now() };
        World { registry: Registry::new(config, Box::new(random)), now, connections: 0, last_reply: None }
    }

    fn connect(&mut self) -> ConnId {
        self.connections += 1;
        let conn = ConnId(self.connections);
        self.input(Input::Opened(conn, "127.0.0.1".parse().unwrap()));
        conn
    }

    fn say(&mut self, conn: ConnId, line: &str) {
        self.input(Input::Line(conn, Command::parse(line)));
    }

    fn apply(&mut self, conn: ConnId) {
        self.say(conn, "CONFIG_APPLY|");
        assert_eq!(self.last_reply, Some(ServerLine::Reply(Reply::Ok)));
    }

    fn input(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            self.registry.handle(self.now, input);
            for effect in self.registry.effects() {
                match effect {
                    Effect::Commit(tx, _) => inputs.push(Input::Committed(tx)),
                    Effect::Send(_, line) => self.last_reply = Some(line),
                    _ => {}
                }
            }
        }
    }
}

fn sessions(count: usize) -> Duration {
    let mut world = World::new();
    let begun = cpu_time();
    for number in 0..count {
        let conn = world.connect();
        world.say(conn, &format!("REGISTER|web|web-{number}|0|{{}}"));
        world.say(conn, &format!("ROUTE_ADD||s{number}.example.com|/|http://10.0.0.1:8080|10"));
        world.apply(conn);
    }
    cpu_time() - begun
}

/// How long this thread has run so far, to a few milliseconds.
fn cpu_time() -> Duration {
    usage::thread_time(Path::new("/proc/thread-self"))
}

/// The same by clients of their own, each of which waits for the disk: as many as there are share one wait.
fn sessions_kept(count: usize) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registry.redb");
    let mut store = FileStore::open(&file, "boot", Duration::from_secs(300)).unwrap();
    store.take_saved();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut world = World::new();
    let begun = Instant::now();
    let mut open = 0;
    for number in 0..count {
        let conn = world.connect();
        world.say(conn, &format!("REGISTER|web|web-{number}|0|{{}}"));
        world.say(conn, &format!("ROUTE_ADD||s{number}.example.com|/|http://10.0.0.1:8080|10"));
        world.registry.handle(world.now, Input::Line(conn, Command::parse("CONFIG_APPLY|")));
        for effect in world.registry.effects() {
            if let Effect::Commit(tx, change) = effect {
                assert!(store.commit(tx, change).is_pending());
                open += 1;
            }
        }
    }
    while open > 0 {
        let (tx, verdict) = runtime.block_on(std::future::poll_fn(|cx| store.poll_decision(cx)));
        assert_eq!(verdict, Decision::Committed);
        world.input(Input::Committed(tx));
        assert_eq!(world.last_reply, Some(ServerLine::Reply(Reply::Ok)));
        open -= 1;
    }
    begun.elapsed()
}

/// How long one apply of `count` routes takes, and then one of a single further route.
fn routes(count: usize) -> (Duration, Duration) {
    let mut world = World::new();
    let big = world.connect();
    world.say(big, "REGISTER|big|big-1|0|{}");
    for number in 0..count {
        world.say(big, &format!("ROUTE_ADD||d{number}.example.com|/|http://10.0.0.1:8080|10"));
    }
    let begun = cpu_time();
    world.apply(big);
    let all = cpu_time() - begun;
    let small = world.connect();
    world.say(small, "REGISTER|small|small-1|0|{}");
    world.say(small, "ROUTE_ADD||one.example.com|/|http://10.0.0.2:8080|10");
    let begun = Instant::now();
    world.apply(small);
    (all, begun.elapsed())
}

fn median(runs: usize, run: impl Fn() -> Duration) -> Duration {
    middle((0..runs).map(|_| run()).collect())
}

fn middle(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn ratio(a: Duration, b: Duration) -> f64 {
    a.as_secs_f64() / b.as_secs_f64()
}
