//! Rounds of faults while services compete for claims and every server is asked what it serves: CLUSTER_ROUNDS of them,
//! 20 without it, by the chance of CLUSTER_SEED (`scripts/cluster-soak`). What was seen is checked as a history.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::history::{History, Read, Span, Write};
use crate::programs::{get, wait_until};
use crate::support::{Client, Cluster, TTL, host};

/// After so long every server serves what was acknowledged: a frozen one has slept for two leases, and the machine is busy
/// with other tests.
const BOUND: Duration = Duration::from_secs(10);
/// The claims, and the services that compete for each.
const CLAIMS: [(&str, [&str; 2]); 2] = [("one", ["red", "blue"]), ("two", ["black", "white"])];
/// How many backends a service has.
const SITES: usize = 3;
/// The pause between two things that a service does, and between two questions.
const PAUSE: Duration = Duration::from_millis(150);

/// What all threads share.
struct Field {
    begun: Instant,
    stops: AtomicBool,
    histories: Vec<Mutex<History>>,
    registries: Vec<SocketAddr>,
}

impl Field {
    fn goes_on(&self) -> bool {
        !self.stops.load(Ordering::Relaxed)
    }

    /// Does one thing to a claim, and notes when, unless it was refused.
    fn write(
        &self,
        claim: usize,
        service: &str,
        value: Option<&str>,
        deed: impl FnOnce() -> Option<String>,
    ) -> Answer {
        let asked = self.begun.elapsed();
        let line = deed();
        let answered = match line.as_deref() {
            Some("OK" | "SHUTDOWN_OK") => Some(self.begun.elapsed()),
            None | Some("ERROR|store unavailable") => None,
            Some(_) => return Answer::Refused,
        };
        let span = Span { asked, answered };
        let write = Write { span, service: service.to_owned(), value: value.map(str::to_owned) };
        self.histories[claim].lock().unwrap().writes.push(write);
        if answered.is_some() { Answer::Done } else { Answer::Unknown }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Refused,
    Unknown,
}

/// A backend that answers every request with this text, for as long as the test program runs.
fn site(text: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let text = text.clone();
            std::thread::spawn(move || {
                let mut head = [0; 4096];
                // A probe connects and says nothing.
                if stream.read(&mut head).is_ok_and(|count| count > 0) {
                    let length = text.len();
                    let _ = write!(
                        stream,
                        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
                    );
                }
            });
        }
    });
    address
}

/// A service that has a session, and the route that it applied last.
struct Session {
    client: Client,
    id: String,
    route: Option<String>,
}

struct Competitor {
    field: Arc<Field>,
    claim: usize,
    name: &'static str,
    sites: Vec<(String, SocketAddr)>,
    rng: fastrand::Rng,
}

impl Competitor {
    fn run(mut self) {
        let mut session: Option<Session> = None;
        while self.field.goes_on() {
            std::thread::sleep(PAUSE);
            session = match session.take() {
                None => self.register(),
                Some(session) if self.rng.u8(..4) == 0 => self.leave(session),
                Some(session) => self.apply(session),
            };
        }
    }

    fn connect(&mut self) -> Option<Client> {
        let registry = self.field.registries[self.rng.usize(..self.field.registries.len())];
        Client::try_connect(registry)
    }

    fn register(&mut self) -> Option<Session> {
        let mut client = self.connect()?;
        let answer = client.ask(&format!("REGISTER|{0}|{0}|0|{{}}", self.name))?;
        let id = answer.strip_prefix("ACK|")?.to_owned();
        Some(Session { client, id, route: None })
    }

    /// Comes back to its session by way of any server. Nothing was unanswered.
    fn come_back(&mut self, session: Session) -> Option<Session> {
        let mut client = self.connect()?;
        let is_back = client.ask(&format!("RECONNECT|{}", session.id))? == "OK"
            && client.ask("CONFIG_ROLLBACK|")? == "OK";
        is_back.then_some(Session { client, ..session })
    }

    fn apply(&mut self, mut session: Session) -> Option<Session> {
        let (value, backend) = self.sites[self.rng.usize(..self.sites.len())].clone();
        let add = format!("ROUTE_ADD||{}|/|http://{backend}|0", host(CLAIMS[self.claim].0));
        let Some(added) = session.client.ask(&add) else { return self.come_back(session) };
        let route = added.strip_prefix("ROUTE_OK|")?.to_owned();
        if let Some(former) = session.route.take().filter(|former| *former != route) {
            session.client.ask(&format!("ROUTE_REMOVE||{former}"))?;
        }
        let apply = || session.client.ask("CONFIG_APPLY|");
        match self.field.write(self.claim, self.name, Some(&value), apply) {
            Answer::Done => Some(Session { route: Some(route), ..session }),
            // It begins anew: it does not know what it has.
            Answer::Unknown | Answer::Refused => None,
        }
    }

    fn leave(&mut self, mut session: Session) -> Option<Session> {
        session.route.as_ref()?;
        let leave = || session.client.ask("CLIENT_SHUTDOWN|");
        self.field.write(self.claim, self.name, None, leave);
        None
    }
}

/// Asks a server again and again what it serves.
fn observe(field: &Field, server: usize, proxy: SocketAddr) {
    while field.goes_on() {
        for (claim, (name, _)) in CLAIMS.iter().enumerate() {
            let asked = field.begun.elapsed();
            let answer = get(proxy, &host(name), "/");
            let answered = field.begun.elapsed();
            let value = match answer.map(|answer| (answer.status, answer.body)) {
                Some((200, body)) => Some(body),
                Some((404, _)) => None,
                // A server that is dead, or waits for a claim, says nothing of it.
                _ => continue,
            };
            let read = Read { asked, answered, server, value };
            field.histories[claim].lock().unwrap().reads.push(read);
        }
        std::thread::sleep(PAUSE);
    }
}

fn number(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// Breaks something, and mends it.
fn strike(cluster: &mut Cluster, rng: &mut fastrand::Rng) -> &'static str {
    let (leader, follower) = (cluster.leader(), cluster.follower());
    match rng.u8(..6) {
        0 => {
            cluster.replicas[leader].server.program.kill();
            cluster.replicas[leader].server.restart();
            "the leader is killed"
        }
        1 => {
            cluster.replicas[follower].server.program.kill();
            cluster.replicas[follower].server.restart();
            "a follower is killed"
        }
        2 => {
            cluster.replicas[leader].server.program.signal("TERM");
            cluster.replicas[leader].server.program.wait();
            cluster.replicas[leader].server.restart();
            "the leader stops"
        }
        3 => {
            let begun = Instant::now();
            cluster.replicas[leader].server.program.signal("STOP");
            wait_until("two leases", || begun.elapsed() > 2 * TTL);
            cluster.replicas[leader].server.program.signal("CONT");
            "the leader is frozen"
        }
        4 => {
            cluster.etcd[0].kill();
            cluster.etcd[0].start_again();
            "etcd is killed"
        }
        _ => {
            for at in [leader, follower] {
                cluster.replicas[at].server.program.kill();
            }
            for at in [leader, follower] {
                cluster.replicas[at].server.restart();
            }
            "the leader and a follower are killed"
        }
    }
}

fn start(cluster: &Cluster, rng: &mut fastrand::Rng) -> (Arc<Field>, Vec<JoinHandle<()>>) {
    let field = Arc::new(Field {
        begun: Instant::now(),
        stops: AtomicBool::new(false),
        histories: CLAIMS.iter().map(|_| Mutex::default()).collect(),
        registries: cluster.replicas.iter().map(|replica| replica.server.registry).collect(),
    });
    let mut threads = Vec::new();
    for (claim, (_, services)) in CLAIMS.iter().enumerate() {
        for name in services {
            let value = |number| format!("{name}-{number}");
            let sites = (0..SITES).map(|number| (value(number), site(value(number)))).collect();
            let competitor = Competitor { field: field.clone(), claim, name, sites, rng: rng.fork() };
            threads.push(std::thread::spawn(|| competitor.run()));
        }
    }
    for (server, replica) in cluster.replicas.iter().enumerate() {
        let (field, proxy) = (field.clone(), replica.server.http);
        threads.push(std::thread::spawn(move || observe(&field, server, proxy)));
    }
    (field, threads)
}

#[test]
fn whatever_dies_what_was_acknowledged_is_served_by_all_and_a_claim_has_one_owner() {
    let seed = number("CLUSTER_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("CLUSTER_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut cluster = Cluster::start(3);
    let (field, threads) = start(&cluster, &mut rng);
    for round in 0..number("CLUSTER_ROUNDS").unwrap_or(20) {
        let what = strike(&mut cluster, &mut rng);
        let mended = Instant::now();
        cluster.wait_until_settled();
        println!("{round}: {what}; one leads and the others follow after {:?}", mended.elapsed());
    }
    field.stops.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    for (claim, (name, _)) in CLAIMS.iter().enumerate() {
        let history = field.histories[claim].lock().unwrap();
        let done = history.writes.iter().filter(|write| write.span.answered.is_some()).count();
        println!("{name}: {} writes, {done} acknowledged, {} reads", history.writes.len(), history.reads.len());
        assert!(done > 0 && !history.reads.is_empty(), "{history:?}");
        history.check(BOUND).unwrap_or_else(|why| panic!("{name}: {why}"));
        let bodies = || -> Vec<_> {
            let serve = |replica: &crate::support::Replica| get(replica.server.http, &host(name), "/");
            cluster.replicas.iter().map(|replica| serve(replica).map(|answer| answer.body)).collect()
        };
        wait_until("all servers serve the same", || bodies().windows(2).all(|two| two[0] == two[1]));
    }
}
