//! A cluster on loopback: an etcd, several servers, and services with sidecars.

#![allow(unreachable_pub, clippy::print_stdout, clippy::unwrap_used, reason = "a test is no library")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::etcd::{Etcd, Version};
use crate::programs::{Program, Server, caddy, free_address, get, wait_until};

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");
const SIDECAR: &str = env!("CARGO_BIN_EXE_registry-sidecar");
/// How long a leader that is gone is waited for.
pub const TTL: Duration = Duration::from_secs(2);

/// A server of the cluster.
pub struct Replica {
    pub server: Server,
    pub admin: SocketAddr,
}

/// Servers that share an etcd.
pub struct Cluster {
    pub etcd: Vec<Etcd>,
    pub replicas: Vec<Replica>,
}

impl Cluster {
    /// So many servers and one etcd. Returns when one leads and the others follow it.
    pub fn start(count: usize) -> Cluster {
        Cluster::on(vec![Etcd::start(Version::V3_5)], count)
    }

    /// The same on these members of an etcd.
    pub fn on(etcd: Vec<Etcd>, count: usize) -> Cluster {
        let replicas = (0..count).map(|_| Replica::start(&etcd)).collect();
        let cluster = Cluster { etcd, replicas };
        cluster.wait_until_settled();
        cluster
    }

    /// One leads, and all others are connected to it.
    pub fn wait_until_settled(&self) {
        wait_until("one server leads and the others follow", || {
            let all: Vec<_> = self.replicas.iter().filter_map(Replica::cluster_status).collect();
            let leader = all.iter().find(|status| status["role"] == "leader");
            let leader = leader.map(|leader| leader["replica"].clone());
            all.len() == self.replicas.len()
                && leader.is_some_and(|leader| all.iter().all(|status| status["leader"] == leader))
        });
    }

    /// The place of the leader.
    pub fn leader(&self) -> usize {
        let leads = |replica: &Replica| replica.role().as_deref() == Some("leader");
        self.replicas.iter().position(leads).expect("one leads")
    }

    /// The place of one that follows.
    pub fn follower(&self) -> usize {
        (self.leader() + 1) % self.replicas.len()
    }

    /// Whether a request to every server that lives is answered with this text.
    pub fn all_serve(&self, host: &str, text: &str) -> bool {
        self.replicas.iter().filter(|replica| replica.lives()).all(|replica| replica.serves(host, text))
    }
}

impl Replica {
    pub fn start(etcd: &[Etcd]) -> Replica {
        Replica::start_with(etcd, &[])
    }

    /// The same with further variables.
    pub fn start_with(etcd: &[Etcd], more: &[(&'static str, &str)]) -> Replica {
        let endpoints = etcd.iter().map(Etcd::endpoint).collect::<Vec<_>>().join(",");
        Replica::start_at_with(&endpoints, more)
    }

    /// A server that reaches etcd at these endpoints.
    pub fn start_at(endpoints: &str) -> Replica {
        Replica::start_at_with(endpoints, &[])
    }

    fn start_at_with(endpoints: &str, more: &[(&'static str, &str)]) -> Replica {
        let (admin, cluster) = (free_address(), free_address());
        let ttl = format!("{}s", TTL.as_secs());
        let (cluster, admin_text) = (cluster.to_string(), admin.to_string());
        let mut environment = vec![
            ("ETCD_ENDPOINTS", endpoints),
            ("CLUSTER_SECRET", "correct-horse-battery-staple"),
            ("CLUSTER_LISTEN", &cluster),
            ("CLUSTER_TTL", &ttl),
            ("ADMIN_LISTEN", &admin_text),
            // Each of them has the same loopback here.
            ("BACKEND_ALLOW", "127.0.0.0/8"),
            ("SESSION_GRACE", "1m"),
        ];
        environment.extend_from_slice(more);
        let server = Server::start(SERVER, &environment);
        Replica { server, admin }
    }

    pub fn cluster_status(&self) -> Option<Value> {
        let answer = get(self.admin, "localhost", "/status")?;
        let status: Value = serde_json::from_str(&answer.body).ok()?;
        Some(status["cluster"].clone())
    }

    pub fn role(&self) -> Option<String> {
        Some(self.cluster_status()?["role"].as_str()?.to_owned())
    }

    pub fn lives(&self) -> bool {
        TcpStream::connect_timeout(&self.server.http, Duration::from_millis(200)).is_ok()
    }

    pub fn serves(&self, host: &str, text: &str) -> bool {
        get(self.server.http, host, "/").is_some_and(|answer| answer.status == 200 && answer.body == text)
    }

    /// A service with a sidecar that registers at this server, answering with its own name.
    pub fn service(&self, name: &'static str) -> Service {
        let address = free_address();
        let application = caddy(address, name);
        let socket = format!("/tmp/cluster-{name}-{}.sock", address.port());
        let host = host(name);
        let environment = self.server.sidecar_env(
            address.port(),
            &[
                ("SERVICE_NAME", name),
                ("INSTANCE_NAME", name),
                ("DOMAINS", &host),
                ("SIDECAR_CONTROL_SOCKET", &socket),
            ],
        );
        let sidecar = Program::start("sidecar", SIDECAR, &[], &environment);
        Service { sidecar, _application: application }
    }

    /// A connection of a client without a library.
    pub fn client(&self) -> Client {
        Client::connect(self.server.registry)
    }
}

/// A web server with its sidecar.
pub struct Service {
    pub sidecar: Program,
    _application: Program,
}

pub fn host(name: &str) -> String {
    format!("{name}.example.com")
}

/// A client that speaks the protocol by hand.
pub struct Client(BufReader<TcpStream>);

impl Client {
    pub fn connect(registry: SocketAddr) -> Client {
        let stream = TcpStream::connect(registry).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        Client(BufReader::new(stream))
    }

    pub fn send(&mut self, line: &str) {
        writeln!(self.0.get_mut(), "{line}").unwrap();
    }

    /// The next line; `None`: the server has closed the connection.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(line.trim_end().to_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    pub fn ask(&mut self, line: &str) -> Option<String> {
        self.send(line);
        self.line()
    }

    /// Registers a service and applies one route of it. Returns the session's id.
    pub fn register(&mut self, service: &str, backend: SocketAddr) -> String {
        let answer = self.ask(&format!("REGISTER|{service}|{service}|0|{{}}")).unwrap();
        let id = answer.strip_prefix("ACK|").unwrap_or_else(|| panic!("{answer}")).to_owned();
        let route = format!("ROUTE_ADD||{}|/|http://{backend}|0", host(service));
        assert_eq!(self.ask(&route).as_deref(), Some("ROUTE_OK|r1"));
        assert_eq!(self.ask("CONFIG_APPLY|").as_deref(), Some("OK"));
        id
    }
}

/// Asks every server again and again whether it serves a service, from now until the end of the test.
pub struct Traffic {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: Option<std::thread::JoinHandle<(u64, Vec<String>)>>,
}

impl Traffic {
    /// To the servers at these addresses, for this service.
    pub fn start(proxies: Vec<SocketAddr>, name: &'static str) -> Traffic {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stopped = std::sync::Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut count, mut failed) = (0, Vec::new());
            let (started, host) = (Instant::now(), host(name));
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                for proxy in &proxies {
                    let answer = get(*proxy, &host, "/");
                    count += 1;
                    if !answer.as_ref().is_some_and(|answer| answer.status == 200 && answer.body == name) {
                        let status = answer.map(|answer| answer.status);
                        failed.push(format!("{proxy} after {:?}: {status:?}", started.elapsed()));
                    }
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            (count, failed)
        });
        Traffic { stop, thread: Some(thread) }
    }

    /// How many requests there were; fails the test if one of them was not answered as it should.
    pub fn end(mut self) -> u64 {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let (count, failed) = self.thread.take().unwrap().join().unwrap();
        assert!(failed.is_empty(), "{} of {count} requests failed: {failed:#?}", failed.len());
        count
    }
}
