//! Replicas over real connections between them, with what the shared store says scripted.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use registry_client::protocol::BackendUrl;
use registry_client::protocol::report::BackendReport;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::server::listener::{ListenerConfig, Prober, RegistryCore, RegistryHandle};
use crate::server::live_table::LiveTable;
use crate::server::registry::{Input, Term};
use crate::server::routing::{Probe, ProbeFailure};
use crate::server::store::MemoryStore;

const PATIENCE: Duration = Duration::from_secs(20);
const SECRET: &str = "correct-horse-battery-staple";

struct NoBackends;

impl Prober for NoBackends {
    fn watch(&self, _: Probe) {}

    fn forget(&self, _: &Probe) {}

    fn test(&self, _: BackendUrl, _: IpAddr) -> BoxFuture<'static, Result<BackendReport, String>> {
        std::future::ready(Err("there are no backends".to_owned())).boxed()
    }
}

/// A replica without a store.
struct Node {
    name: String,
    registry: SocketAddr,
    relay: SocketAddr,
    news: mpsc::Sender<News>,
    may_answer: Arc<AtomicBool>,
    status: StatusReader,
    handle: RegistryHandle,
    _view: watch::Sender<StoreView>,
    _results: mpsc::Sender<(Probe, Result<(), ProbeFailure>)>,
    _inputs: mpsc::Sender<Input>,
}

impl Node {
    async fn start(name: &str, secret: &str) -> Node {
        let port = || TcpListener::bind("127.0.0.1:0");
        let (registry, relay) = (port().await.unwrap(), port().await.unwrap());
        let (registry_address, relay_address) = (registry.local_addr().unwrap(), relay.local_addr().unwrap());
        let settings = ReplicaSettings {
            name: name.to_owned(),
            secret: Secret::new(secret),
            previous_secret: None,
            ttl: Duration::from_secs(2),
            allow: vec!["127.0.0.0/8".parse().unwrap()],
        };
        let (news, heard) = mpsc::channel(8);
        let (view, shown) = watch::channel(StoreView::default());
        let may_answer = Arc::new(AtomicBool::new(true));
        let proof = Arc::clone(&may_answer);
        let proof: Proof = Arc::new(move || proof.load(Ordering::Relaxed));
        let (replica, status) = Replica::new(settings, relay, StoreEnds { news: heard, view: shown, proof });
        let ((probes, results), (inputs, external)) = (mpsc::channel(1), mpsc::channel(1));
        let core = RegistryCore::start(
            ListenerConfig::default(),
            Arc::new(LiveTable::default()),
            Box::new(MemoryStore),
            Arc::new(NoBackends),
            results,
            external,
        );
        let handle = core.unwrap().listen_through(registry, |core, stopped| replica.start(core, stopped));
        Node {
            name: name.to_owned(),
            registry: registry_address,
            relay: relay_address,
            news,
            may_answer,
            status,
            handle: handle.unwrap(),
            _view: view,
            _results: probes,
            _inputs: inputs,
        }
    }

    async fn lead(&self, term: u64) {
        self.news.send(News::Lead(Term(term))).await.unwrap();
    }

    async fn follow(&self, leader: &Node, term: u64) {
        let leader =
            Leader { name: leader.name.clone(), address: leader.relay.to_string(), term: Term(term) };
        self.news.send(News::Follow(Some(leader))).await.unwrap();
    }

    async fn is_leaderless(&self) {
        self.news.send(News::Follow(None)).await.unwrap();
    }

    async fn client(&self) -> Client {
        Client(BufReader::new(TcpStream::connect(self.registry).await.unwrap()))
    }
}

/// A leader and one that follows it.
async fn pair() -> (Node, Node) {
    let (leader, follower) = (Node::start("a", SECRET).await, Node::start("b", SECRET).await);
    leader.lead(7).await;
    follower.follow(&leader, 7).await;
    (leader, follower)
}

struct Client(BufReader<TcpStream>);

impl Client {
    async fn send(&mut self, line: &str) {
        self.0.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// The next line; empty where the server has closed the connection.
    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.0.read_line(&mut line)).await.expect("a line in time").unwrap();
        line.trim_end().to_owned()
    }

    async fn ask(&mut self, line: &str) -> String {
        self.send(line).await;
        self.line().await
    }

    async fn register(&mut self) -> String {
        let reply = self.ask("REGISTER|shop|one|0|{}").await;
        reply.strip_prefix("ACK|").unwrap_or_else(|| panic!("{reply}")).to_owned()
    }
}

const ROUTE: &str = "ROUTE_ADD||shop.example.com|/|http://127.0.0.1:9|0";

#[tokio::test]
async fn a_command_at_a_follower_is_answered_by_the_leader() {
    let (leader, follower) = pair().await;
    let mut client = follower.client().await;
    let id = client.register().await;
    for line in [ROUTE, "CONFIG_VALIDATE|", "PING|", "CONFIG_APPLY|", "NONSENSE"] {
        client.send(line).await;
    }
    let expected = ["ROUTE_OK|r1", "OK", "PONG", "OK", "ERROR|unknown command: NONSENSE"];
    for line in expected {
        assert_eq!(client.line().await, line);
    }
    // At the leader it is a session like any other.
    let mut other = leader.client().await;
    assert_eq!(other.ask(&format!("RECONNECT|{id}")).await, "OK");
    let mut answers = Vec::new();
    timeout(PATIENCE, async {
        while answers.last().is_none_or(|answer| answer == "PONG") {
            answers.push(client.ask("PING|").await);
        }
    })
    .await
    .expect("it hears that its session is bound elsewhere");
    assert_eq!(answers.last().unwrap(), "ERROR|no session");
    assert_eq!(other.ask("PING|").await, "PONG");
}

#[tokio::test]
async fn a_link_that_breaks_keeps_who_is_idle_and_closes_who_has_a_stage() {
    let (leader, follower) = pair().await;
    let (mut idle, mut staging) = (follower.client().await, follower.client().await);
    idle.register().await;
    assert_eq!(idle.ask(ROUTE).await, "ROUTE_OK|r1");
    assert_eq!(idle.ask("CONFIG_APPLY|").await, "OK");
    staging.ask("REGISTER|other|one|0|{}").await;
    assert_eq!(staging.ask(&ROUTE.replace("shop.", "other.")).await, "ROUTE_OK|r1");
    follower.is_leaderless().await;
    assert_eq!(staging.line().await, "", "what it has staged nobody knows");
    assert_eq!(idle.ask("PING|").await, "PONG", "without a leader too");
    follower.follow(&leader, 7).await;
    let info = idle.ask("SESSION_INFO|").await;
    assert!(info.contains(r#""revision":1"#), "{info}");
}

#[tokio::test]
async fn a_leader_without_a_young_proof_says_nothing() {
    let (leader, follower) = pair().await;
    let (mut here, mut there) = (leader.client().await, follower.client().await);
    here.register().await;
    there.ask("REGISTER|shop|two|0|{}").await;
    leader.may_answer.store(false, Ordering::Relaxed);
    // Closed, or, where the router had noticed before the question came, refused when nobody led in time.
    for reply in [here.ask("CONFIG_VALIDATE|").await, there.ask("CONFIG_VALIDATE|").await] {
        assert!(["", "ERROR|store unavailable"].contains(&reply.as_str()), "{reply}");
    }
    // It leads again, as far as it can prove.
    leader.may_answer.store(true, Ordering::Relaxed);
    leader.client().await.register().await;
    follower.client().await.register().await;
}

#[tokio::test]
async fn a_leader_of_yesterday_is_not_followed_and_a_stranger_not_let_in() {
    let (leader, follower) = pair().await;
    follower.client().await.register().await;
    // Its term is over, and it knows that.
    leader.is_leaderless().await;
    let mut client = follower.client().await;
    client.send("REGISTER|shop|one|0|{}").await;
    assert_eq!(client.line().await, "", "no line, because a reference client would register anew");
    let stranger = Node::start("c", "another-horse-battery-staple").await;
    leader.lead(8).await;
    stranger.follow(&leader, 8).await;
    let mut client = stranger.client().await;
    client.send("REGISTER|shop|one|0|{}").await;
    assert_eq!(client.line().await, "");
}

#[tokio::test]
async fn a_stop_says_so_to_the_clients_of_this_replica_only() {
    let (leader, follower) = pair().await;
    let (mut here, mut there) = (leader.client().await, follower.client().await);
    here.register().await;
    there.ask("REGISTER|shop|two|0|{}").await;
    leader.handle.stop().await;
    assert_eq!(here.line().await, "SHUTDOWN");
    assert_eq!(here.line().await, "");
    assert_eq!(there.ask("PING|").await, "PONG", "it is another replica's client");
    assert_eq!(
        follower.status.read().role,
        Role::Following(Leader { name: "a".to_owned(), address: leader.relay.to_string(), term: Term(7) })
    );
}
