//! The same stories through a real listener: sockets from 127.0.0.1 to 127.0.0.4 instead of inputs, a store and a
//! prober of the test's behind it. Time is the machine's, so that stories in which it has to pass are for the core.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use registry_client::protocol::BackendUrl;
use registry_client::protocol::report::BackendReport;
use registry_sidecar::server::listener::{ListenerConfig, Prober, RegistryHandle, RegistryServer};
use registry_sidecar::server::live_table::LiveTable;
use registry_sidecar::server::registry::{StoreChange, Tx};
use registry_sidecar::server::routing::{Probe, ProbeFailure, Table};
use registry_sidecar::server::store::{Decision, Store};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::compare::Clock;
use super::duel::Core;
use super::model::{ClaimView, Out, Rules};
use super::steps::{Answer, PEERS, Step, StoreMode};
use super::world::{self, Said};

/// How long anything may take that happens at once.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct TcpWorld {
    runtime: Runtime,
    server: Option<RegistryHandle>,
    address: SocketAddr,
    table: Arc<LiveTable>,
    asked: Arc<Asked>,
    results: mpsc::Sender<(Probe, Result<(), ProbeFailure>)>,
    refuses: Arc<AtomicBool>,
    peers: BTreeMap<usize, BufReader<TcpStream>>,
    /// Read already, when it was found out whether the connection was let in.
    early: Vec<(usize, String)>,
    /// A connection without a session: what it is answered shows that all before is done.
    control: BufReader<TcpStream>,
    started: (Instant, SystemTime),
}

/// What the registry wants probed. Backends that are tested are well.
#[derive(Default)]
struct Asked(Mutex<Vec<Probe>>);

impl Prober for Asked {
    fn watch(&self, probe: Probe) {
        self.0.lock().unwrap().push(probe);
    }

    fn forget(&self, probe: &Probe) {
        self.0.lock().unwrap().retain(|other| other != probe);
    }

    fn test(&self, _url: BackendUrl, _peer: IpAddr) -> BoxFuture<'static, Result<BackendReport, String>> {
        let report =
            BackendReport { reachable: true, response_time_ms: 1.0, status_code: 204, tls_valid: false };
        async move { Ok(report) }.boxed()
    }
}

struct TestStore(Arc<AtomicBool>);

impl Store for TestStore {
    fn commit(&mut self, _tx: Tx, _change: StoreChange) -> Poll<Decision> {
        let refuses = self.0.load(Ordering::SeqCst);
        Poll::Ready(if refuses { Decision::Rejected } else { Decision::Committed })
    }

    fn poll_decision(&mut self, _cx: &mut Context<'_>) -> Poll<(Tx, Decision)> {
        Poll::Pending
    }
}

/// What of a story can be told over TCP: nothing in which time passes, or a drain could end by itself.
pub(crate) fn tellable(story: Vec<Step>) -> Vec<Step> {
    let patient = |line: &String| line.replace("|500ms", "|10s");
    let tellable = |step: Step| match step {
        Step::Wait(_) | Step::StoreAnswers(_) | Step::Test(_) | Step::Store(StoreMode::Waits) => None,
        Step::Say(place, lines) => Some(Step::Say(place, lines.iter().map(patient).collect())),
        other => Some(other),
    };
    story.into_iter().filter_map(tellable).collect()
}

fn loopback(index: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, (index % PEERS.len()) as u8 + 1))
}

fn connect(address: SocketAddr, from: IpAddr) -> BufReader<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_tcp_nodelay(true).unwrap();
    BufReader::new(socket.into())
}

fn write(peer: &mut BufReader<TcpStream>, line: &str) {
    // A peer that was closed is read from next, which shows it.
    let _ = peer.get_mut().write_all(format!("{line}\n").as_bytes());
}

/// The next line; `None` at the end.
fn read(peer: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    match peer.read_line(&mut line) {
        Ok(0) => None,
        Ok(_) => Some(line.trim_end_matches('\n').to_owned()),
        Err(error) => panic!("nothing came: {error}"),
    }
}

impl TcpWorld {
    pub(crate) fn new(rules: &Rules) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut registry = world::config(rules);
        // The control connection is one more.
        registry.limits.connections += 1;
        let config = ListenerConfig { registry, ..ListenerConfig::default() };
        let (table, asked) = (Arc::new(LiveTable::default()), Arc::new(Asked::default()));
        let (results, found) = mpsc::channel(1);
        let refuses = Arc::new(AtomicBool::default());
        let store = Box::new(TestStore(refuses.clone()));
        let server = runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (_, news) = mpsc::channel(1);
            RegistryServer::start(listener, config, table.clone(), store, asked.clone(), found, news).unwrap()
        });
        let address = server.address();
        let control = connect(address, loopback(0));
        let started = (Instant::now(), SystemTime::now());
        let (peers, early) = (BTreeMap::new(), Vec::new());
        let mut world = TcpWorld {
            runtime,
            server: Some(server),
            address,
            table,
            asked,
            results,
            refuses,
            peers,
            early,
            control,
            started,
        };
        world.wait_until_done();
        world
    }

    /// Everything that the registry was given before is done when this is answered.
    fn wait_until_done(&mut self) {
        write(&mut self.control, "PING|");
        assert_eq!(read(&mut self.control).as_deref(), Some("ERROR|no session"));
    }
}

impl Core for TcpWorld {
    fn peer(&self, index: usize) -> IpAddr {
        loopback(index)
    }

    fn clock(&self) -> Clock {
        Clock { epoch: self.started.1, tolerance_ms: 30_000.0 }
    }

    fn ends_tests_itself(&self) -> bool {
        true
    }

    fn open(&mut self, conn: usize, peer: IpAddr) {
        let mut stream = connect(self.address, peer);
        // No command at all, so that nothing comes of it but the proof of having been let in.
        write(&mut stream, "IN");
        let first = read(&mut stream).expect("a line, whether it is let in or not");
        if first != "ERROR|unknown command: IN" {
            self.early.push((conn, first));
        }
        self.peers.insert(conn, stream);
    }

    fn close(&mut self, conn: usize) {
        let Some(mut peer) = self.peers.remove(&conn) else { return };
        peer.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
        // The server closes its side when it has told the registry.
        while read(&mut peer).is_some() {}
        self.wait_until_done();
    }

    fn line(&mut self, conn: usize, line: &str) {
        if let Some(peer) = self.peers.get_mut(&conn) {
            write(peer, line);
        }
    }

    fn probed(&mut self, probe: &Probe, answer: Answer) {
        self.runtime.block_on(self.results.send((probe.clone(), world::result_of(answer)))).unwrap();
        // Taken as soon as there is room for another; and done when the next is answered.
        drop(self.runtime.block_on(self.results.reserve()).unwrap());
        self.wait_until_done();
    }

    fn set_store(&mut self, mode: StoreMode) {
        self.refuses.store(mode == StoreMode::Refuses, Ordering::SeqCst);
    }

    fn store_answers(&mut self, _holds: bool) {
        unreachable!("it never waits");
    }

    fn test_ends(&mut self, _result: Result<u16, &str>) -> Option<u64> {
        None
    }

    fn advance(&mut self, _to_ms: u64) {
        unreachable!("no time passes");
    }

    fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stop());
        }
    }

    /// Reads as many lines as are foreseen, no more: what comes too much is in the way of the next.
    fn take_said(&mut self, foreseen: &[Out]) -> Vec<Said> {
        let mut said = Vec::new();
        for out in foreseen {
            let (Out::Line(conn, _) | Out::Close(conn) | Out::Event(conn, ..)) = out;
            let early = self.early.iter().position(|(of, _)| of == conn);
            let line = match (early, self.peers.get_mut(conn)) {
                (Some(at), _) => Some(self.early.remove(at).1),
                (None, Some(peer)) => read(peer),
                (None, None) => continue,
            };
            said.push(match line {
                Some(line) => Said::Line(*conn, line),
                None => {
                    self.peers.remove(conn);
                    Said::Close(*conn)
                }
            });
        }
        said
    }

    fn claims(&self) -> Vec<ClaimView> {
        let (table, now) = (self.table.load(), Instant::now());
        table.claims().map(|claim| world::view(claim, self.started.0, now)).collect()
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.load())
    }

    fn watched(&self) -> Vec<Probe> {
        self.asked.0.lock().unwrap().clone()
    }

    fn session_count(&self) -> Option<usize> {
        None
    }
}
