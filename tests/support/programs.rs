//! Real programs for tests and benches: started with an environment, watched by what they log, never left
//! behind. Every wait is for a condition, with a deadline that fails the test and shows the logs.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a failed assumption ends the test"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long a condition may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running program and what it has logged. Killed when dropped.
pub struct Program {
    name: &'static str,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Starts `path` with nothing in its environment but `env`.
    pub fn start(name: &'static str, path: &str, args: &[&str], env: &[(&str, String)]) -> Program {
        let mut child = Command::new(path)
            .args(args)
            .env_clear()
            .env("HOME", "/nonexistent")
            .envs(env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        let log = Arc::new(Mutex::new(Vec::new()));
        collect(name, child.stdout.take().unwrap(), Arc::clone(&log));
        collect(name, child.stderr.take().unwrap(), Arc::clone(&log));
        Program { name, child, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a line that contains `text`.
    pub fn wait_for_log(&self, text: &str) -> String {
        let found = eventually(|| self.log().into_iter().find(|line| line.contains(text)));
        found.unwrap_or_else(|| panic!("{} never logged {text:?}:\n{}", self.name, self.log().join("\n")))
    }

    /// Sends a signal by name: `TERM`, `KILL`, `STOP`.
    pub fn signal(&self, signal: &str) {
        let status =
            Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let ended = eventually(|| self.child.try_wait().unwrap());
        ended.unwrap_or_else(|| panic!("{} does not end:\n{}", self.name, self.log().join("\n")))
    }

    /// SIGKILL, and gone when it returns; so is what it has started.
    pub fn kill(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let below = descendants(self.child.id());
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in below {
            let _ =
                Command::new("kill").args(["-s", "KILL", &pid.to_string()]).stderr(Stdio::null()).status();
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("[{}]\n{}", self.name, self.log().join("\n"));
        }
    }
}

/// The children of a process, their children, and so on.
fn descendants(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = text.split_whitespace().filter_map(|pid| pid.parse().ok());
    children.flat_map(|child| [vec![child], descendants(child)].concat()).collect()
}

fn collect(_name: &'static str, from: impl Read + Send + 'static, log: Arc<Mutex<Vec<String>>>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            log.lock().unwrap().push(line);
        }
    });
}

/// Asks again and again until there is an answer; `None` when [`PATIENCE`] is over.
pub fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if Instant::now() > deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Fails the test unless `condition` comes true.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    assert!(eventually(|| condition().then_some(())).is_some(), "did not come true: {what}");
}

/// A loopback address whose port is free on all others too. It lies below the ports that the kernel gives to outgoing
/// connections, and each process of tests looks at a place of its own, so that it is still free when a program
/// listens there.
pub fn free_address() -> SocketAddr {
    const PORTS: std::ops::Range<u32> = 10_000..32_000;
    static ASKED: AtomicU32 = AtomicU32::new(0);
    let place = std::process::id().wrapping_mul(64);
    let candidates = std::iter::repeat_with(|| place.wrapping_add(ASKED.fetch_add(1, Ordering::Relaxed)));
    let mut ports = candidates.map(|at| (PORTS.start + at % (PORTS.end - PORTS.start)) as u16);
    let port = ports.find(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok()).unwrap();
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// What a request was answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// One GET on a connection of its own; `None` where there is no answer.
pub fn get(proxy: SocketAddr, host: &str, path: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect_timeout(&proxy, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// The status of one GET; 0 where there is no answer.
pub fn status(proxy: SocketAddr, host: &str, path: &str) -> u16 {
    get(proxy, host, path).map_or(0, |answer| answer.status)
}

/// A registry with its proxy, on ports that stay the same when it is started again.
pub struct Server {
    path: &'static str,
    pub registry: SocketAddr,
    pub http: SocketAddr,
    env: Vec<(&'static str, String)>,
    pub program: Program,
}

impl Server {
    pub fn start(path: &'static str, more: &[(&'static str, &str)]) -> Server {
        let (registry, http) = (free_address(), free_address());
        // Without HOLD and START_HOLD an outage shows at once; `more` overrides.
        let mut env = vec![
            ("REGISTRY_LISTEN", registry.to_string()),
            ("HTTP_LISTEN", http.to_string()),
            ("HOLD", "0s".to_owned()),
            ("START_HOLD", "0s".to_owned()),
            ("ADMIN_LISTEN", "off".to_owned()),
        ];
        env.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
        let program = Program::start("server", path, &[], &env);
        let server = Server { path, registry, http, env, program };
        server.wait_until_it_listens();
        server
    }

    /// SIGKILL, then a new process on the same ports. Returns when it listens.
    pub fn crash_and_restart(&mut self) {
        self.program.kill();
        self.restart();
    }

    /// A new process on the same ports. Returns when it listens.
    pub fn restart(&mut self) {
        self.program = Program::start("server", self.path, &[], &self.env);
        self.wait_until_it_listens();
    }

    fn wait_until_it_listens(&self) {
        wait_until("the server listens", || {
            TcpStream::connect(self.registry).is_ok() && TcpStream::connect(self.http).is_ok()
        });
    }

    /// The sidecar's environment for this server; `more` overrides.
    pub fn sidecar_env(&self, port: u16, more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        let mut env = vec![
            ("REGISTRY_HOST", self.registry.ip().to_string()),
            ("REGISTRY_PORT", self.registry.port().to_string()),
            ("SERVICE_NAME", "shop".to_owned()),
            ("INSTANCE_NAME", "shop-1".to_owned()),
            ("DOMAINS", "shop.example.com".to_owned()),
            ("BACKEND_HOST", "127.0.0.1".to_owned()),
            ("PORT", port.to_string()),
        ];
        for (key, value) in more {
            env.retain(|(known, _)| known != key);
            env.push((key, (*value).to_owned()));
        }
        env
    }
}

/// A web server of somebody else's: caddy, answering every request with `text`.
pub fn caddy(address: SocketAddr, text: &str) -> Program {
    let listen = address.to_string();
    let caddy = Program::start("caddy", "/usr/bin/caddy", &["respond", "--listen", &listen, text], &[]);
    wait_until("caddy listens", || TcpStream::connect(address).is_ok());
    caddy
}
