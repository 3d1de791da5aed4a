//! A real server with a STATE_FILE: what it has answered `OK` to is there after SIGKILL, and served at once.
//!
//! `KILLS=500 cargo test --test state_file -- --nocapture` kills it more often, `SEED=n` at the same moments. `FLIPS=n`
//! damages more files. `REGISTRY_SERVER=PATH` does all that to another build, one whose panics abort say.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failed assumption ends the test")]

#[path = "support/line.rs"]
mod line;
#[path = "support/programs.rs"]
mod programs;
#[path = "support/traced.rs"]
mod traced;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use line::Line;
use programs::{Program, Server, caddy, free_address, get, status};
use traced::Traced;

static SERVER: LazyLock<String> = LazyLock::new(|| {
    std::env::var("REGISTRY_SERVER").unwrap_or_else(|_| env!("CARGO_BIN_EXE_registry-server").to_owned())
});
/// How many clients apply at once.
const CLIENTS: usize = 4;
/// Within what a restarted server answers requests for restored routes, from its start as a process. What we, it and the
/// backend wait for a core that other programs have does not count.
const AT_ONCE: Duration = Duration::from_millis(100);

/// A client whose every apply adds a pair of routes and removes the one before: half an apply would show. Every other
/// pair's first route then enters maintenance.
#[derive(Clone)]
struct Client {
    number: usize,
    backend: SocketAddr,
    id: Option<String>,
    /// The last apply that was answered `OK`, and the ids of its pair.
    acknowledged: u64,
    pair: Vec<String>,
    /// The pair of an apply that was sent and not answered.
    sent: Option<Vec<String>>,
    /// The maintenance of the pair.
    maintenance: Maintenance,
}

#[derive(Clone, Copy, PartialEq)]
enum Maintenance {
    No,
    /// Asked for and not acknowledged.
    Sent,
    In,
}

/// What people see of a domain.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shown {
    Backend,
    Page,
    Nothing,
}

fn shown(server: &Server, domain: &str) -> Shown {
    let answer = get(server.http, domain, "/").unwrap_or_else(|| panic!("{domain}: no answer"));
    match answer.status {
        200 => Shown::Backend,
        503 if answer.head.contains("x-maintenance-mode: true") => Shown::Page,
        404 => Shown::Nothing,
        other => panic!("{domain}: {other}"),
    }
}

impl Client {
    fn new(number: usize, backend: SocketAddr) -> Client {
        let (sent, maintenance) = (None, Maintenance::No);
        Client { number, backend, id: None, acknowledged: 0, pair: Vec::new(), sent, maintenance }
    }

    fn domains(&self, apply: u64) -> [String; 2] {
        ["a", "b"].map(|side| format!("{side}{apply}.c{}.example.com", self.number))
    }

    /// Applies until the server is gone.
    fn run(mut self, registry: SocketAddr) -> Client {
        let Some(mut line) = Line::open(registry) else { return self };
        let _ = self.work(&mut line);
        self
    }

    fn work(&mut self, line: &mut Line) -> Option<()> {
        if self.acknowledged == 0 && self.sent.is_none() {
            let reply = line.ask(&format!("REGISTER|s{0}|s{0}-1|0|", self.number))?;
            self.id = Some(reply.strip_prefix("ACK|").expect(&reply).to_owned());
        } else {
            let id = self.id.as_ref().unwrap();
            assert_eq!(line.ask(&format!("RECONNECT|{id}"))?, "OK");
        }
        loop {
            let mut added = Vec::new();
            for domain in self.domains(self.acknowledged + 1) {
                let reply = line.ask(&format!("ROUTE_ADD||{domain}|/|http://{}|0", self.backend))?;
                added.push(reply.strip_prefix("ROUTE_OK|").expect(&reply).to_owned());
            }
            for before in &self.pair {
                assert_eq!(line.ask(&format!("ROUTE_REMOVE||{before}"))?, "ROUTE_OK");
            }
            self.sent = Some(added);
            assert_eq!(line.ask("CONFIG_APPLY|")?, "OK");
            self.took_effect();
            if self.acknowledged.is_multiple_of(2) {
                self.maintenance = Maintenance::Sent;
                let route = &self.pair[0];
                assert_eq!(line.ask(&format!("MAINT_ENTER||{route}"))?, "ACK");
                self.maintenance = Maintenance::In;
                assert_eq!(line.read()?, format!("MAINT_OK|{route}"));
            }
        }
    }

    fn took_effect(&mut self) {
        self.pair = self.sent.take().unwrap();
        self.acknowledged += 1;
        self.maintenance = Maintenance::No;
    }

    /// What is served must be what was acknowledged, or that and the apply whose answer was lost, whole. The
    /// session says the same.
    fn check(&mut self, server: &Server) {
        let pair = |apply: u64| {
            let pair = self.domains(apply).each_ref().map(|domain| shown(server, domain) != Shown::Nothing);
            assert_eq!(pair[0], pair[1], "half of apply {apply} of client {}", self.number);
            pair[0]
        };
        let (old, new) = (self.acknowledged > 0 && pair(self.acknowledged), pair(self.acknowledged + 1));
        let is_lost = self.acknowledged > 0 && !old && !new;
        assert!(!is_lost, "apply {} of client {} is lost", self.acknowledged, self.number);
        assert!(!(old && new), "apply {} is there, and what it removed", self.acknowledged + 1);
        if new {
            assert!(self.sent.is_some(), "nobody asked for apply {}", self.acknowledged + 1);
            self.took_effect();
        }
        self.sent = None;
        if self.acknowledged == 0 {
            return;
        }
        self.check_maintenance(server);
        let mut line = Line::open(server.registry).unwrap();
        let id = self.id.as_ref().unwrap();
        assert_eq!(line.ask(&format!("RECONNECT|{id}")).unwrap(), "OK");
        let info = line.ask("SESSION_INFO|").unwrap();
        assert!(info.contains(&format!("\"revision\":{}", self.acknowledged)), "{info}");
    }

    /// What was acknowledged is in force, what was not may be.
    fn check_maintenance(&mut self, server: &Server) {
        let [first, second] = self.domains(self.acknowledged).each_ref().map(|domain| shown(server, domain));
        let who = format!("apply {} of client {}", self.acknowledged, self.number);
        assert_eq!(second, Shown::Backend, "{who}");
        match self.maintenance {
            Maintenance::No => assert_eq!(first, Shown::Backend, "{who}"),
            Maintenance::In => assert_eq!(first, Shown::Page, "{who}"),
            Maintenance::Sent if first == Shown::Page => self.maintenance = Maintenance::In,
            Maintenance::Sent => self.maintenance = Maintenance::No,
        }
    }
}

/// For how long that thread of a process has waited for a core that has waited longest: they wait at the same time.
fn waited(process: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    threads.map(|thread| thread_waited(&thread.path())).max().unwrap_or_default()
}

fn thread_waited(thread: &Path) -> Duration {
    let text = std::fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
    let nanoseconds = text.split_whitespace().nth(1).and_then(|text| text.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_server_that_is_killed_at_any_moment_has_every_acknowledged_apply_and_none_half() {
    let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..));
    let kills = number("KILLS").unwrap_or(40);
    println!("SEED={seed} KILLS={kills}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registry.redb");
    let backend = free_address();
    let caddy = caddy(backend, "still here");
    let mut server = Server::start(&SERVER, &[("STATE_FILE", file.to_str().unwrap())]);
    let mut clients: Vec<Client> = (0..CLIENTS).map(|number| Client::new(number, backend)).collect();
    let mut times = Vec::new();
    for _ in 0..kills {
        let registry = server.registry;
        let running: Vec<_> =
            clients.drain(..).map(|client| thread::spawn(move || client.run(registry))).collect();
        // The moment is what is random here; nothing is waited for.
        thread::sleep(Duration::from_micros(random.u64(..60_000)));
        server.program.kill();
        clients.extend(running.into_iter().map(|client| client.join().unwrap()));
        let known = clients.iter().find(|client| client.acknowledged > 0);
        let known =
            known.map(|client| [client.acknowledged, client.acknowledged + 1].map(|n| client.domains(n)));
        let others = || thread_waited(Path::new("/proc/thread-self")) + waited(caddy.id());
        let (started, before) = (Instant::now(), others());
        server.restart();
        if let Some([old, new]) = known {
            let serves = |domains: &[String; 2]| status(server.http, &domains[1], "/") == 200;
            assert!(serves(&old) || serves(&new), "nobody is back, and the routes are not either");
            let time = started.elapsed();
            times.push(time.saturating_sub(others().saturating_sub(before) + waited(server.program.id())));
        }
        clients.iter_mut().for_each(|client| client.check(&server));
    }
    let applies: u64 = clients.iter().map(|client| client.acknowledged).sum();
    times.sort_unstable();
    let (least, usual, most) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    println!("{applies} applies; served after {usual:?}, from {least:?} to {most:?}");
    assert!(applies > 0);
    // Some of what the machine has to do besides cannot be told apart: the usual case counts.
    assert!(usual < AT_ONCE, "served after {times:?}");
}

#[test]
fn maintenance_is_in_force_again_with_the_first_request_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registry.redb");
    let (backend, page) = (free_address(), free_address());
    let (_backend, _page) = (caddy(backend, "still here"), caddy(page, "we are working on it"));
    let mut server = Server::start(&SERVER, &[("STATE_FILE", file.to_str().unwrap())]);
    let mut line = Line::open(server.registry).unwrap();
    let id = line.ask("REGISTER|web|web-1|0|").unwrap().replacen("ACK|", "", 1);
    for domain in ["a.example.com", "b.example.com", "c.example.com"] {
        line.ask(&format!("ROUTE_ADD||{domain}|/|http://{backend}|0")).unwrap();
    }
    assert_eq!(line.ask("CONFIG_APPLY|").unwrap(), "OK");
    for (line_sent, verdict) in [
        (format!("MAINT_ENTER||r1|http://{page}"), "MAINT_OK|r1"),
        ("MAINT_ENTER||r2".to_owned(), "MAINT_OK|r2"),
        ("MAINT_ENTER||r3".to_owned(), "MAINT_OK|r3"),
        ("MAINT_EXIT||r3".to_owned(), "MAINT_OK|r3"),
    ] {
        assert_eq!(line.ask(&line_sent).unwrap(), "ACK");
        assert_eq!(line.read().unwrap(), verdict);
    }
    let status_before = line.ask("MAINT_STATUS|").unwrap();
    for _ in 0..3 {
        server.crash_and_restart();
        let people_see = |domain: &str| {
            let answer = get(server.http, domain, "/").unwrap();
            (answer.status, answer.body.trim().to_owned(), answer.head.contains("x-maintenance-mode: true"))
        };
        assert_eq!(people_see("a.example.com"), (200, "we are working on it".to_owned(), false));
        let (status, _, is_maintenance) = people_see("b.example.com");
        assert_eq!((status, is_maintenance), (503, true));
        assert_eq!(people_see("c.example.com"), (200, "still here".to_owned(), false));
    }
    let mut line = Line::open(server.registry).unwrap();
    assert_eq!(line.ask(&format!("RECONNECT|{id}")).unwrap(), "OK");
    assert_eq!(line.ask("MAINT_STATUS|").unwrap(), status_before);
}

/// SIGKILL loses nothing that the kernel was told: only this shows that the disk was waited for.
#[test]
fn an_apply_is_answered_after_the_disk_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registry.redb");
    let calls = ["-s", "65536", "-e", "trace=fsync,fdatasync,pwrite64,write,writev,sendto,sendmsg"];
    let Some(server) = Traced::start(&SERVER, &calls, &[("STATE_FILE", file.to_str().unwrap())]) else {
        return;
    };
    let mut line = Line::open(server.registry).unwrap();
    line.ask("REGISTER|web|web-1|0|").unwrap();
    line.ask("ROUTE_ADD||in-the-trace.example.com|/|http://127.0.0.1:9|0").unwrap();
    assert_eq!(line.ask("CONFIG_APPLY|").unwrap(), "OK");

    let lines: Vec<String> = server.end().lines().map(str::to_owned).collect();
    let first = |from: usize, is: &dyn Fn(&str) -> bool| {
        let at = lines[from..].iter().position(|line| is(line));
        from + at.unwrap_or_else(|| panic!("not in the trace, from line {from} on:\n{}", lines.join("\n")))
    };
    let staged = first(0, &|line| line.contains("\"ROUTE_OK|r1\\n\""));
    let written =
        first(staged, &|line| line.contains("pwrite64(") && line.contains("in-the-trace.example.com"));
    let is_synced =
        |line: &str| (line.contains("fdatasync") || line.contains("fsync")) && line.ends_with("= 0");
    let synced = first(written, &is_synced);
    let answered = first(staged, &|line| line.contains("\"OK\\n\""));
    assert!(synced < answered, "answered before the disk had it:\n{}", lines[staged..=synced].join("\n"));
}

/// What a server says that cannot use its file. It ends with 1.
fn refusal(file: &Path) -> String {
    let (registry, http) = (free_address().to_string(), free_address().to_string());
    let env =
        [("REGISTRY_LISTEN", registry), ("HTTP_LISTEN", http), ("STATE_FILE", file.display().to_string())];
    let mut server = Program::start("server", &SERVER, &[], &env);
    assert_eq!(server.wait().code(), Some(1));
    server.wait_for_log("STATE_FILE=")
}

#[test]
fn a_file_that_cannot_be_used_is_a_clear_error_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let missing: PathBuf = folder.path().join("none/registry.redb");
    let said = refusal(&missing);
    for part in [missing.to_str().unwrap(), "No such file", "runs as user"] {
        assert!(said.contains(part), "{part} is missing: {said}");
    }
    let other = folder.path().join("other.redb");
    std::fs::write(&other, "no database at all, but long enough to be taken for one".repeat(100)).unwrap();
    let said = refusal(&other);
    assert!(said.contains("damaged, or no state file") && said.contains("other.redb.corrupt-"), "{said}");
}

#[test]
fn an_optional_file_that_cannot_be_used_is_only_warned_about() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registry.redb");
    let locked = Server::start(&SERVER, &[("STATE_FILE", file.to_str().unwrap())]);
    let damaged = folder.path().join("damaged.redb");
    std::fs::write(&damaged, "no database at all, but long enough to be taken for one".repeat(100)).unwrap();
    for (unusable, why) in [
        (folder.path().join("none/registry.redb"), "No such file"),
        (file, "another process has it open"),
        (damaged, "damaged, or no state file"),
    ] {
        let server = Server::start(&SERVER, &[("STATE_FILE", &format!("{}?", unusable.display()))]);
        let said = server.program.wait_for_log("goes on without it");
        assert!(said.contains("WARN") && said.contains(why), "{said}");
    }
    drop(locked);
    let good = folder.path().join("good.redb");
    let _server = Server::start(&SERVER, &[("STATE_FILE", &format!("{}?", good.display()))]);
    assert!(good.exists());
}

/// A file that holds many sessions, and what an export says of it.
fn state_of_many(folder: &Path) -> (PathBuf, Vec<u8>) {
    let file = folder.join("good.redb");
    let mut server = Server::start(&SERVER, &[("STATE_FILE", file.to_str().unwrap())]);
    for number in 0..40 {
        let mut line = Line::open(server.registry).unwrap();
        line.ask(&format!("REGISTER|web|web-{number}|0|")).unwrap();
        for side in ["a", "b"] {
            line.ask(&format!("ROUTE_ADD||{side}{number}.example.com|/|http://127.0.0.1:9|0")).unwrap();
        }
        assert_eq!(line.ask("CONFIG_APPLY|").unwrap(), "OK");
        assert_eq!(line.ask("MAINT_ENTER||r1").unwrap(), "ACK");
    }
    server.program.signal("TERM");
    assert_eq!(server.program.wait().code(), Some(0));
    let export = export(&file);
    assert!(export.status.success());
    (file, export.stdout)
}

fn export(file: &Path) -> Output {
    Command::new(&*SERVER).arg("export").env_clear().env("STATE_FILE", file).output().unwrap()
}

/// Whatever is damaged: what is read is what was written, or there is one clear error, and the file and a copy of it
/// are as they were. redb panics at some of these files.
#[test]
fn a_damaged_file_is_read_as_it_was_or_refused_in_words_with_a_copy() {
    let seed = number("SEED").unwrap_or_else(|| fastrand::u64(..));
    let flips = number("FLIPS").unwrap_or(60);
    println!("SEED={seed} FLIPS={flips}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = tempfile::tempdir().unwrap();
    let (good, said) = state_of_many(folder.path());
    let good = std::fs::read(good).unwrap();
    let (mut refused, mut read) = (0, 0);
    for flip in 0..flips {
        let here = tempfile::tempdir_in(folder.path()).unwrap();
        let file = here.path().join("registry.redb");
        let mut damaged = good.clone();
        let at = match flip % 4 {
            0 => random.usize(..64),
            1 => random.usize(..320),
            _ => random.usize(..damaged.len()),
        };
        if flip % 8 == 7 {
            damaged.truncate(at)
        } else {
            damaged[at] ^= 1 << random.u8(..8)
        }
        std::fs::write(&file, &damaged).unwrap();
        let output = export(&file);
        if output.status.success() {
            read += 1;
            // An empty file is one that was never written.
            assert!(output.stdout == said || damaged.is_empty(), "flip {flip} at {at} changes what is read");
            continue;
        }
        refused += 1;
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "flip {flip} at {at}: {words}");
        assert!(
            words.contains("STATE_FILE=") && words.contains("registry.redb"),
            "flip {flip} at {at}: {words}"
        );
        assert!(std::fs::read(&file).unwrap() == damaged, "flip {flip} at {at}: the file is as it was");
        let name = if words.contains("damaged, or no state file") { ".corrupt-" } else { ".newer-" };
        let is_newer = words.contains("format") || words.contains("does not know");
        assert!(name == ".corrupt-" || is_newer, "flip {flip} at {at}: {words}");
        let is_copy = |entry: std::io::Result<std::fs::DirEntry>| {
            let path = entry.unwrap().path();
            path.to_string_lossy().contains(name) && std::fs::read(path).unwrap() == damaged
        };
        assert!(std::fs::read_dir(here.path()).unwrap().any(is_copy), "flip {flip} at {at}: no copy");
    }
    println!("{refused} refused, {read} read in spite of it");
    assert!(refused > flips / 4, "{refused} refused, {read} read");
}
