//! A real server with a STATE_FILE: what it has answered `OK` to is there after SIGKILL, and served at once.
//!
//! `KILLS=500 cargo test --test state_file -- --nocapture` kills it more often, `SEED=n` at the same moments. `FLIPS=n`
//! damages more files, and `REGISTRY_SERVER=PATH` shows them to another build, one whose panics abort say.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failed assumption ends the test")]

#[path = "support/line.rs"]
mod line;
#[path = "support/programs.rs"]
mod programs;

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use line::Line;
use programs::{Program, Server, caddy, free_address, get, status, wait_until};

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");
/// How many clients apply at once.
const CLIENTS: usize = 4;
/// Within what a restarted server answers requests for restored routes, from its start as a process.
const AT_ONCE: Duration = Duration::from_millis(100);

/// A client whose every apply adds a pair of routes and removes the one before: half an apply would show.
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
}

impl Client {
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
        }
    }

    fn took_effect(&mut self) {
        self.pair = self.sent.take().unwrap();
        self.acknowledged += 1;
    }

    /// What is served must be what was acknowledged, or that and the apply whose answer was lost, whole. The
    /// session says the same.
    fn check(&mut self, server: &Server) {
        let serves = |domain: &String| match status(server.http, domain, "/") {
            200 => true,
            404 => false,
            other => panic!("{domain}: {other}"),
        };
        let pair = |apply: u64| {
            let pair = self.domains(apply).each_ref().map(serves);
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
        let mut line = Line::open(server.registry).unwrap();
        let id = self.id.as_ref().unwrap();
        assert_eq!(line.ask(&format!("RECONNECT|{id}")).unwrap(), "OK");
        let info = line.ask("SESSION_INFO|").unwrap();
        assert!(info.contains(&format!("\"revision\":{}", self.acknowledged)), "{info}");
    }
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
    let _caddy = caddy(backend, "still here");
    let mut server = Server::start(SERVER, &[("STATE_FILE", file.to_str().unwrap())]);
    let mut clients: Vec<Client> = (0..CLIENTS)
        .map(|number| Client { number, backend, id: None, acknowledged: 0, pair: vec![], sent: None })
        .collect();
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
        let started = Instant::now();
        server.restart();
        if let Some([old, new]) = known {
            let serves = |domains: &[String; 2]| status(server.http, &domains[0], "/") == 200;
            assert!(serves(&old) || serves(&new), "nobody is back, and the routes are not either");
            times.push(started.elapsed());
        }
        clients.iter_mut().for_each(|client| client.check(&server));
    }
    let applies: u64 = clients.iter().map(|client| client.acknowledged).sum();
    times.sort_unstable();
    let (least, usual, most) = (times[0], times[times.len() / 2], times[times.len() - 1]);
    println!("{applies} applies; served after {usual:?}, from {least:?} to {most:?}");
    assert!(applies > 0);
    // The machine of a test has other things to do as well: the usual case counts.
    assert!(usual < AT_ONCE, "served after {times:?}");
}

#[test]
fn maintenance_is_in_force_again_with_the_first_request_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registry.redb");
    let (backend, page) = (free_address(), free_address());
    let (_backend, _page) = (caddy(backend, "still here"), caddy(page, "we are working on it"));
    let mut server = Server::start(SERVER, &[("STATE_FILE", file.to_str().unwrap())]);
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
    if !Path::new("/usr/bin/strace").exists() {
        println!("NOT RUN: there is no strace here");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let (registry, http) = (free_address(), free_address());
    // -D: the server is our child, so that it is what is killed.
    let calls = "trace=fsync,fdatasync,write,writev,sendto,sendmsg";
    let arguments = ["-D", "-f", "-e", calls, "-o", trace.to_str().unwrap(), SERVER];
    let env = [
        ("REGISTRY_LISTEN", registry.to_string()),
        ("HTTP_LISTEN", http.to_string()),
        ("STATE_FILE", folder.path().join("registry.redb").display().to_string()),
    ];
    let mut server = Program::start("strace", "/usr/bin/strace", &arguments, &env);
    wait_until("the server listens", || TcpStream::connect(registry).is_ok());
    let mut line = Line::open(registry).unwrap();
    line.ask("REGISTER|web|web-1|0|").unwrap();
    line.ask("ROUTE_ADD||a.de|/|http://127.0.0.1:9|0").unwrap();
    assert_eq!(line.ask("CONFIG_APPLY|").unwrap(), "OK");
    server.kill();
    let read = || std::fs::read_to_string(&trace).unwrap_or_default();
    wait_until("the trace is complete", || read().contains("killed by SIGKILL"));

    let lines: Vec<String> = read().lines().map(str::to_owned).collect();
    let said = |text: &str| lines.iter().position(|line| line.contains(text)).expect(text);
    let (staged, answered) = (said("\"ROUTE_OK|r1\\n\""), said("\"OK\\n\""));
    let is_synced =
        |line: &String| (line.contains("fdatasync") || line.contains("fsync")) && line.ends_with("= 0");
    let synced = lines[staged..answered].iter().any(is_synced);
    assert!(synced, "no sync between the command and its answer:\n{}", lines[staged..=answered].join("\n"));
}

/// What a server says that cannot use its file. It ends with 1.
fn refusal(file: &Path) -> String {
    let (registry, http) = (free_address().to_string(), free_address().to_string());
    let env =
        [("REGISTRY_LISTEN", registry), ("HTTP_LISTEN", http), ("STATE_FILE", file.display().to_string())];
    let mut server = Program::start("server", SERVER, &[], &env);
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

/// A file that holds many sessions, and what an export says of it.
fn state_of_many(folder: &Path) -> (PathBuf, Vec<u8>) {
    let file = folder.join("good.redb");
    let mut server = Server::start(SERVER, &[("STATE_FILE", file.to_str().unwrap())]);
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
    let server = std::env::var("REGISTRY_SERVER").unwrap_or_else(|_| SERVER.to_owned());
    Command::new(server).arg("export").env_clear().env("STATE_FILE", file).output().unwrap()
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
        if words.contains("damaged, or no state file") {
            let is_copy = |entry: std::io::Result<std::fs::DirEntry>| {
                let path = entry.unwrap().path();
                path.to_string_lossy().contains(".corrupt-") && std::fs::read(path).unwrap() == damaged
            };
            assert!(std::fs::read_dir(here.path()).unwrap().any(is_copy), "flip {flip} at {at}: no copy");
        } else {
            assert!(
                words.contains("format") || words.contains("does not know"),
                "flip {flip} at {at}: {words}"
            );
        }
    }
    println!("{refused} refused, {read} read in spite of it");
    assert!(refused > flips / 4, "{refused} refused, {read} read");
}
