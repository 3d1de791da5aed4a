//! Replicas over real etcd of both versions, each with a stand-in for its registry.

mod cable;
#[path = "../../../../../nodes/tests/support/etcd.rs"]
mod etcd;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use registry_nodes::{Config, Credentials};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::server::registry::persist::{SavedState, StoreChange};
use crate::server::registry::{EndReason, SessionNo, StoreRevision, Term, Tx};
use crate::server::store::etcd::{
    Cluster, Feed, LeaderInfo, RELAY, Settings, SharedStore, TransferError, export_cluster, import_cluster,
    start,
};
use crate::server::store::tests::{Story, applied, contract};
use crate::server::store::{Decision, Store};

use super::images::many;
use cable::Cable;
use etcd::{Etcd, Version, wait_at_most, wait_for};

/// As short as etcd grants it.
const TTL: Duration = Duration::from_secs(2);
/// What a busy machine adds to a bound.
const SLACK: Duration = Duration::from_secs(3);

/// A replica with a registry that does nothing but remember. When it is dropped, it is killed.
struct Replica {
    runtime: Option<Runtime>,
    cluster: Cluster,
    view: Arc<Mutex<View>>,
    orders: mpsc::UnboundedSender<Order>,
}

/// What its registry knows.
#[derive(Debug, Default, Clone)]
struct View {
    state: SavedState,
    revision: StoreRevision,
    term: Option<Term>,
    /// Whom it follows.
    leader: Option<LeaderInfo>,
    has_loaded: bool,
    /// How many times it was told everything.
    loads: usize,
    is_unreachable: bool,
    decisions: BTreeMap<Tx, Decision>,
    /// How many times it was told of changes.
    told: usize,
}

enum Order {
    Commit(Tx, StoreChange),
    /// Take no turn any more.
    Hang,
    /// Drop the store, as a server that stops.
    Stop,
}

impl Replica {
    fn start(etcd: &Etcd, name: &str) -> Replica {
        Replica::start_with(etcd, name, TTL, None)
    }

    fn start_with(etcd: &Etcd, name: &str, ttl: Duration, credentials: Option<Credentials>) -> Replica {
        Replica::start_over(etcd, name, ttl, credentials, None)
    }

    fn start_over(
        etcd: &Etcd,
        name: &str,
        ttl: Duration,
        credentials: Option<Credentials>,
        copy: Option<PathBuf>,
    ) -> Replica {
        Replica::start_at(etcd.endpoint(), name, ttl, credentials, copy)
    }

    fn start_at(
        endpoint: String,
        name: &str,
        ttl: Duration,
        credentials: Option<Credentials>,
        copy: Option<PathBuf>,
    ) -> Replica {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut config = Config::new([endpoint]);
        config.base_path = "/cluster".parse().unwrap();
        config.timeout = Duration::from_secs(2);
        config.credentials = credentials;
        let presence = BTreeMap::from([(RELAY.to_owned(), format!("{name}:82"))]);
        let settings = Settings {
            etcd: config,
            replica: name.to_owned(),
            ttl,
            boot_id: "boot".to_owned(),
            alive: Duration::from_secs(30),
            presence,
            copy,
        };
        let (store, cluster, feed) = runtime.block_on(async { start(settings) }).unwrap();
        let view = Arc::new(Mutex::new(View::default()));
        let (orders, taken) = mpsc::unbounded_channel();
        runtime.spawn(registry(store, feed, taken, view.clone()));
        Replica { runtime: Some(runtime), cluster, view, orders }
    }

    fn view(&self) -> View {
        self.view.lock().unwrap().clone()
    }

    fn leads(&self) -> bool {
        self.view().term.is_some()
    }

    fn commit(&self, tx: u64, change: StoreChange) {
        self.order(Order::Commit(Tx(tx), change));
    }

    fn order(&self, order: Order) {
        assert!(self.orders.send(order).is_ok());
    }

    fn decision(&self, tx: u64) -> Option<Decision> {
        self.view().decisions.get(&Tx(tx)).copied()
    }

    fn commits(&self, tx: u64, change: StoreChange) {
        self.commit(tx, change);
        wait_for("the decision", || self.decision(tx).is_some());
        assert_eq!(self.decision(tx), Some(Decision::Committed));
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A registry that makes the changes that are committed, or that it is told of.
async fn registry(
    store: SharedStore,
    mut feed: mpsc::Receiver<Feed>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    view: Arc<Mutex<View>>,
) {
    let (mut store, mut open) = (Some(store), BTreeMap::new());
    loop {
        tokio::select! {
            Some(told) = feed.recv() => view.lock().unwrap().hears(told),
            Some(order) = orders.recv() => match order {
                Order::Commit(tx, change) => {
                    open.insert(tx, change.clone());
                    if let Some(store) = &mut store {
                        assert!(store.commit(tx, change).is_pending());
                    }
                }
                Order::Hang => std::future::pending().await,
                Order::Stop => store = None,
            },
            (tx, decision) = decision(&mut store) => {
                let mut view = view.lock().unwrap();
                let change: StoreChange = open.remove(&tx).unwrap();
                assert!(view.decisions.insert(tx, decision).is_none(), "{tx:?} is decided twice");
                // What it was told of as a follower it has made already; to make it twice is the same.
                if decision == Decision::Committed {
                    view.state.apply(&change);
                }
            }
        }
    }
}

async fn decision(store: &mut Option<SharedStore>) -> (Tx, Decision) {
    match store {
        Some(store) => std::future::poll_fn(|cx| store.poll_decision(cx)).await,
        None => std::future::pending().await,
    }
}

impl View {
    fn hears(&mut self, feed: Feed) {
        match feed {
            Feed::Loaded(revision, state) => {
                assert!(self.term.is_none(), "a leader knows what it has committed");
                (self.state, self.revision, self.has_loaded) = (*state, revision, true);
                self.loads += 1;
            }
            Feed::Changed(revision, changes) => {
                assert!(self.has_loaded && self.term.is_none() && revision > self.revision);
                changes.iter().for_each(|change| self.state.apply(change));
                (self.revision, self.told) = (revision, self.told + 1);
            }
            Feed::Lead(term) => {
                assert!(self.has_loaded && self.term.is_none());
                (self.term, self.leader) = (Some(term), None);
            }
            Feed::Follow(leader) => (self.term, self.leader) = (None, leader),
            Feed::Unreachable(_) => self.is_unreachable = true,
            Feed::Back => self.is_unreachable = false,
        }
    }
}

fn wait_for_leader<'r>(replicas: &[&'r Replica]) -> &'r Replica {
    wait_for("a leader", || replicas.iter().any(|replica| replica.leads()));
    replicas.iter().find(|replica| replica.leads()).unwrap()
}

/// A leader and a follower.
fn pair(etcd: &Etcd) -> (Replica, Replica) {
    let leader = Replica::start(etcd, "a");
    wait_for("a leader", || leader.leads());
    let follower = Replica::start(etcd, "b");
    wait_for("the follower", || follower.view().leader.is_some_and(|leader| leader.replica == "a"));
    (leader, follower)
}

fn same_sessions(one: &Replica, other: &Replica) {
    wait_for("both to know the same", || one.view().state.sessions == other.view().state.sessions);
}

fn all_replicas_know_what_the_leader_has_committed(version: Version) {
    let etcd = Etcd::start(version);
    let (leader, follower) = pair(&etcd);
    assert_eq!(follower.view().leader.unwrap().relay.as_deref(), Some("a:82"));
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let (mut story, mut expected, mut tx) = (Story::new(seed), SavedState::default(), 0);
    for _ in 0..12 {
        let changes = story.changes();
        let first = tx;
        for change in changes {
            expected.apply(&change);
            leader.commit(tx, change);
            tx += 1;
        }
        wait_for("decisions", || (first..tx).all(|tx| leader.decision(tx).is_some()));
        assert!((first..tx).all(|tx| leader.decision(tx) == Some(Decision::Committed)));
    }
    wait_for("the follower", || follower.view().state.sessions == expected.sessions);
    assert!(leader.cluster.may_answer() && !follower.cluster.may_answer());
    let fresh = Replica::start(&etcd, "c");
    wait_for("a fresh replica", || fresh.view().state.sessions == expected.sessions);
    assert_eq!(fresh.view().told, 0, "it has loaded all of it");
    wait_for("three that are present", || fresh.cluster.status().replicas.len() == 3);
    assert_eq!(fresh.view().state.cluster_id, leader.view().state.cluster_id);
    // A follower commits nothing.
    follower.commit(0, applied(999, 1, &[]));
    wait_for("a decision", || follower.decision(0) == Some(Decision::Rejected));
}

/// The contract of every store, with the store itself.
fn it_keeps_the_contract_of_a_store(version: Version) {
    let etcd = Etcd::start(version);
    let runtime = Runtime::new().unwrap();
    let expected = runtime.block_on(async {
        let mut config = Config::new([etcd.endpoint()]);
        config.base_path = "/cluster".parse().unwrap();
        let settings = Settings {
            etcd: config,
            replica: "a".to_owned(),
            ttl: Duration::from_secs(30),
            boot_id: "boot".to_owned(),
            alive: Duration::from_secs(30),
            presence: BTreeMap::new(),
            copy: None,
        };
        let (mut store, _cluster, mut feed) = start(settings).unwrap();
        while !matches!(feed.recv().await.unwrap(), Feed::Lead(_)) {}
        let expected = contract::holds_what_it_has_committed(&mut store, fastrand::u64(..)).await;
        let end = store.take_end().unwrap();
        drop(store);
        let _ = end.await;
        expected
    });
    assert!(!etcd.exists("/cluster/@servers/leader/key"), "it has given up its leadership");
    let replica = Replica::start(&etcd, "b");
    wait_for("what it held", || replica.view().state.sessions == expected.sessions);
}

fn a_leader_that_is_killed_has_a_successor_a_ttl_later(version: Version) {
    let etcd = Etcd::start(version);
    let (leader, follower) = pair(&etcd);
    leader.commits(0, applied(1, 1, &[(1, Some("a.de"))]));
    let term = leader.view().term.unwrap();
    let state = leader.view().state.sessions;
    drop(leader);
    let taken = wait_at_most(TTL + SLACK, || follower.leads()).expect("a successor in time");
    println!("{taken:?} after the kill");
    assert!(follower.view().term.unwrap() > term);
    assert_eq!(follower.view().state.sessions, state);
    follower.commits(0, applied(2, 1, &[(1, Some("b.de"))]));
}

fn a_leader_that_stops_has_a_successor_at_once(version: Version) {
    let etcd = Etcd::start(version);
    let long = Duration::from_secs(60);
    let leader = Replica::start_with(&etcd, "a", long, None);
    wait_for("a leader", || leader.leads());
    let follower = Replica::start_with(&etcd, "b", long, None);
    wait_for("the follower", || follower.view().leader.is_some());
    for tx in 0..20 {
        leader.commit(tx, applied(tx + 1, 1, &[(1, Some("a.de"))]));
    }
    leader.order(Order::Stop);
    let begun = Instant::now();
    wait_for("a successor", || follower.leads());
    println!("{:?} after the stop", begun.elapsed());
    assert!(begun.elapsed() < SLACK);
    assert_eq!(follower.view().state.sessions.len(), 20, "what waited was written");
    wait_for("its presence to go", || follower.cluster.status().replicas.len() == 1);
}

fn a_leader_whose_registry_hangs_loses_its_leadership(version: Version) {
    let etcd = Etcd::start(version);
    let (leader, follower) = pair(&etcd);
    leader.order(Order::Hang);
    wait_for("a successor", || follower.leads());
    assert!(!leader.cluster.may_answer());
    follower.commits(0, applied(1, 1, &[]));
}

/// Its commits and its replies need its key, whatever it thinks of itself.
fn a_leader_whose_key_is_gone_commits_nothing(version: Version) {
    let etcd = Etcd::start(version);
    let leader = Replica::start(&etcd, "a");
    wait_for("a leader", || leader.leads());
    leader.commits(0, applied(1, 1, &[(1, Some("a.de"))]));
    let term = leader.view().term.unwrap();
    etcd.ctl(&["del", "/cluster/@servers/leader/key"]);
    for tx in 1..50 {
        leader.commit(tx, applied(tx + 1, 1, &[]));
    }
    wait_for("decisions", || (1..50).all(|tx| leader.decision(tx).is_some()));
    wait_for("it to lead again", || leader.view().term.is_some_and(|new| new > term));
    assert_eq!(leader.view().loads, 2, "after its term it was told what is held");
    let fresh = Replica::start(&etcd, "b");
    same_sessions(&leader, &fresh);
    let committed = (0..50).filter(|tx| leader.decision(*tx) == Some(Decision::Committed)).count();
    assert_eq!(fresh.view().state.sessions.len(), committed, "as many as were told so");
}

fn an_etcd_that_pauses_changes_nothing_but_that_nothing_is_answered(version: Version) {
    let etcd = Etcd::start(version);
    let (leader, follower) = pair(&etcd);
    leader.commits(0, applied(1, 1, &[(1, Some("a.de"))]));
    same_sessions(&leader, &follower);
    etcd.signal("STOP");
    leader.commit(1, applied(2, 1, &[(1, Some("b.de"))]));
    wait_for("its proof to age", || !leader.cluster.may_answer());
    assert_eq!(leader.decision(1), None, "nobody knows");
    assert_eq!(follower.view().state.sessions.len(), 1, "what was known stays");
    etcd.signal("CONT");
    wait_for("a decision", || leader.decision(1).is_some());
    let leader = wait_for_leader(&[&leader, &follower]);
    wait_for("proof", || leader.cluster.may_answer());
    leader.commits(2, applied(3, 1, &[(1, Some("c.de"))]));
    let fresh = Replica::start(&etcd, "c");
    same_sessions(leader, &fresh);
    same_sessions(&follower, &fresh);
}

fn what_was_missed_and_compacted_is_loaded(version: Version) {
    let etcd = Etcd::start(version);
    let cable = Cable::to(etcd.client_port);
    let leader = Replica::start(&etcd, "a");
    wait_for("a leader", || leader.leads());
    let follower = Replica::start_at(cable.endpoint(), "b", TTL, None, None);
    leader.commits(0, applied(1, 1, &[(1, Some("a.de"))]));
    leader.commits(1, applied(2, 1, &[(1, Some("b.de"))]));
    same_sessions(&leader, &follower);
    let loads = follower.view().loads;
    // What it missed is still there.
    cable.cut();
    wait_for("it to notice", || follower.view().is_unreachable);
    leader.commits(2, applied(3, 1, &[(1, Some("c.de"))]));
    assert_eq!(follower.view().state.sessions.len(), 2, "what was known stays");
    cable.mend();
    same_sessions(&leader, &follower);
    wait_for("it to be up to date", || !follower.view().is_unreachable);
    assert_eq!(follower.view().loads, loads, "it goes on where it was");

    cable.cut();
    wait_for("it to notice", || follower.view().is_unreachable);
    leader.commits(3, StoreChange::Ended(SessionNo(1), EndReason::Expired));
    leader.commits(4, applied(4, 1, &[(1, Some("d.de"))]));
    let revision = etcd.field("/cluster/@servers/cluster/id", "Revision").unwrap();
    etcd.ctl(&["compact", &revision]);
    cable.mend();
    same_sessions(&leader, &follower);
    assert_eq!(follower.view().loads, loads + 1);
    leader.commits(5, applied(5, 1, &[]));
    same_sessions(&leader, &follower);
}

/// An etcd that was restored from an older copy begins with an older revision.
fn an_etcd_that_went_back_is_loaded(version: Version) {
    let (before, after) = (Etcd::start(version), Etcd::start(version));
    let cable = Cable::to(before.client_port);
    let replica = Replica::start_at(cable.endpoint(), "a", TTL, None, None);
    wait_for("it to lead", || replica.leads());
    for tx in 0..20 {
        replica.commits(tx, applied(tx + 1, 1, &[]));
    }
    cable.cut();
    wait_for("it to notice", || replica.view().is_unreachable);
    cable.lead_to(after.client_port);
    cable.mend();
    wait_for("it to know nobody", || replica.view().state.sessions.is_empty());
    wait_for("it to lead again", || replica.leads() && replica.cluster.may_answer());
    replica.commits(50, applied(50, 1, &[]));
}

fn a_hundred_thousand_routes_are_one_change(version: Version) {
    const ROUTES: u32 = 100_000;
    let etcd = Etcd::start(version);
    // Long enough for a build without optimisation.
    let long = Duration::from_secs(60);
    let leader = Replica::start_with(&etcd, "a", long, None);
    wait_for("a leader", || leader.leads());
    let follower = Replica::start_with(&etcd, "b", long, None);
    wait_for("the follower", || follower.view().leader.is_some());
    let told = follower.view().told;
    let begun = Instant::now();
    leader.commits(0, many(1, 1, 0..ROUTES));
    println!("{ROUTES} routes are committed after {:?}", begun.elapsed());
    let known = |replica: &Replica| {
        let view = replica.view.lock().unwrap();
        view.state.sessions.first().map_or(0, |saved| saved.routes.len())
    };
    wait_for("the follower", || known(&follower) > 0);
    println!("and known to the follower after {:?}", begun.elapsed());
    assert_eq!(known(&follower), ROUTES as usize);
    assert_eq!(follower.view().told, told + 1);
    let begun = Instant::now();
    let fresh = Replica::start(&etcd, "c");
    wait_for("a fresh replica", || known(&fresh) > 0);
    println!("a fresh replica knows them after {:?}", begun.elapsed());
    assert_eq!(known(&fresh), ROUTES as usize);
    leader.commits(1, applied(1, 2, &[(5, None)]));
    wait_for("the next apply", || known(&follower) == ROUTES as usize - 1);
}

fn an_etcd_that_learns_to_authenticate_is_no_outage(version: Version) {
    let mut etcd = Etcd::start(version);
    let credentials = Credentials { user: "root".to_owned(), password: "secret".to_owned() };
    let leader = Replica::start_with(&etcd, "a", TTL, Some(credentials));
    wait_for("a leader", || leader.leads());
    leader.commits(0, applied(1, 1, &[]));
    etcd.enable_auth("secret");
    leader.commits(1, applied(2, 1, &[]));
    // Whatever was asked for the password changes while the replica runs.
    etcd.ctl(&["user", "add", "other:secret"]);
    leader.commits(2, applied(3, 1, &[]));
    wait_for("the leader to lead on", || leader.leads() && leader.cluster.may_answer());
}

fn a_replica_that_starts_while_etcd_is_away_serves_its_copy(version: Version) {
    let mut etcd = Etcd::start(version);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| Some(folder.path().join(name));
    let leader = Replica::start_over(&etcd, "a", TTL, None, file("a"));
    wait_for("a leader", || leader.leads());
    let follower = Replica::start_over(&etcd, "b", TTL, None, file("b"));
    wait_for("the follower", || follower.view().leader.is_some());
    for tx in 0..5 {
        leader.commits(tx, applied(tx + 1, 1, &[(1, Some("a.de"))]));
    }
    leader.commits(5, StoreChange::Ended(SessionNo(1), EndReason::ShutDown));
    wait_for("the follower", || follower.view().state.sessions.len() == 4);
    let expected = leader.view().state;
    leader.order(Order::Stop);
    follower.order(Order::Stop);
    wait_for("both to stop", || !etcd.exists("/cluster/@servers/leader/key"));
    drop((leader, follower));
    etcd.kill();
    for name in ["a", "b"] {
        let again = Replica::start_over(&etcd, name, TTL, None, file(name));
        wait_for("its copy", || again.view().has_loaded);
        assert_eq!(again.view().state.sessions, expected.sessions, "{name}");
        assert_eq!(again.view().state.cluster_id, expected.cluster_id);
        assert_eq!((again.view().revision, again.leads()), (StoreRevision(0), false));
    }
    let again = Replica::start_over(&etcd, "a", TTL, None, file("a"));
    etcd.start_again();
    wait_for("it to lead", || again.leads());
    again.commits(9, applied(9, 1, &[]));

    // The file of another registry stays as it is.
    let other = Etcd::start(version);
    let stranger = Replica::start_over(&other, "a", TTL, None, file("b"));
    wait_for("it to lead", || stranger.leads());
    stranger.commits(0, applied(77, 1, &[]));
    stranger.order(Order::Stop);
    wait_for("it to stop", || !other.exists("/cluster/@servers/leader/key"));
    drop(stranger);
    let again = Replica::start_over(&etcd, "b", TTL, None, file("b"));
    wait_for("its copy", || again.view().has_loaded);
    assert!(again.view().state.sessions.iter().all(|saved| saved.session.no != 77));
}

fn what_a_cluster_holds_becomes_another_cluster(version: Version) {
    let etcd = Etcd::start(version);
    let config = |base: &str| {
        let mut config = Config::new([etcd.endpoint()]);
        config.base_path = base.parse().unwrap();
        config
    };
    let runtime = Runtime::new().unwrap();
    let export = |base: &str| runtime.block_on(export_cluster(config(base)));
    assert!(matches!(export("/cluster"), Err(TransferError::Nothing)));
    let leader = Replica::start(&etcd, "a");
    wait_for("a leader", || leader.leads());
    let mut story = Story::new(fastrand::u64(..));
    let changes: Vec<_> = (0..20).flat_map(|_| story.changes()).collect();
    for (tx, change) in (0..).zip(changes) {
        leader.commits(tx, change);
    }
    let json = export("/cluster").unwrap();
    let import = |base: &str, json: &str| runtime.block_on(import_cluster(config(base), json));
    let count = leader.view().state.sessions.len();
    assert_eq!(import("/copy", &json).unwrap(), count);
    let copy = export("/copy").unwrap();
    let sessions = |json: &str| {
        let mut document: serde_json::Value = serde_json::from_str(json).unwrap();
        (document["state"]["sessions"].take(), document["state"]["cluster_id"].take())
    };
    let (ours, theirs) = (sessions(&json), sessions(&copy));
    assert_eq!(ours.0, theirs.0);
    assert_ne!(ours.1, theirs.1, "it is another cluster");
    assert!(matches!(import("/copy", &json), Err(TransferError::NotEmpty(_))));
    assert!(matches!(import("/cluster", "{}"), Err(TransferError::Document(_))));
    let empty = Replica::start(&etcd, "b");
    wait_for("the follower", || empty.view().has_loaded);
    assert!(matches!(import("/cluster", &json), Err(TransferError::NotEmpty(_) | TransferError::Led(_))));
}

macro_rules! stories {
    ($($name:ident)+) => {
        mod etcd_3_4 { $(#[test] fn $name() { super::$name(super::Version::V3_4) })+ }
        mod etcd_3_5 { $(#[test] fn $name() { super::$name(super::Version::V3_5) })+ }
    };
}

stories! {
    all_replicas_know_what_the_leader_has_committed
    it_keeps_the_contract_of_a_store
    a_leader_that_is_killed_has_a_successor_a_ttl_later
    a_leader_that_stops_has_a_successor_at_once
    a_leader_whose_registry_hangs_loses_its_leadership
    a_leader_whose_key_is_gone_commits_nothing
    an_etcd_that_pauses_changes_nothing_but_that_nothing_is_answered
    what_was_missed_and_compacted_is_loaded
    an_etcd_that_went_back_is_loaded
    a_hundred_thousand_routes_are_one_change
    an_etcd_that_learns_to_authenticate_is_no_outage
    a_replica_that_starts_while_etcd_is_away_serves_its_copy
    what_a_cluster_holds_becomes_another_cluster
}
