//! Stories about replicas: a leader, and followers that hear what it commits (docs/internals/cluster.md).

use crate::server::registry::persist::{SavedState, StoreChange};
use crate::server::registry::{EndReason, SessionNo, StoreRevision, Term};

use super::*;

const A: &str = "10.2.2.7";
const B: &str = "10.2.2.8";
const WEB: &str = "http://10.2.2.7:80";
const WEB2: &str = "http://10.2.2.8:80";

/// Replicas of one registry and the store that they share. Whoever leads is asked, and all others hear of it.
struct Cluster {
    all: Vec<World>,
    leader: usize,
    revision: u64,
    store: SavedState,
    /// How many of the leader's changes the others have heard.
    heard: usize,
}

impl Cluster {
    fn new(size: usize) -> Self {
        Self::with(size, |_| {})
    }

    fn with(size: usize, change: impl Fn(&mut RegistryConfig)) -> Self {
        let all = (0..size).map(|_| World::with(&change)).collect();
        let mut cluster = Cluster { all, leader: 0, revision: 1, store: SavedState::default(), heard: 0 };
        let start = cluster.all[0].now;
        for (at, world) in cluster.all.iter_mut().enumerate() {
            world.now = start;
            let role = if at == 0 { Input::Lead(Term(1)) } else { Input::Follow(Some(Term(1))) };
            world.input(role);
            world.history.clear();
        }
        cluster
    }

    fn leader(&mut self) -> &mut World {
        &mut self.all[self.leader]
    }

    /// The followers hear what the leader has committed, one revision for each change.
    fn spread(&mut self) {
        let changes = self.all[self.leader].history[self.heard..].to_vec();
        self.heard += changes.len();
        for change in changes {
            self.store.apply(&change);
            self.revision += 1;
            for at in (0..self.all.len()).filter(|at| *at != self.leader) {
                let revision = StoreRevision(self.revision);
                self.all[at].input(Input::Replicated(revision, vec![change.clone()]));
            }
        }
    }

    fn after(&mut self, time: Duration) {
        self.all.iter_mut().for_each(|world| world.after(time));
        self.spread();
    }

    /// The leader is gone without a word. `next` leads.
    fn fail_over(&mut self, next: usize) -> World {
        self.spread();
        let dead = std::mem::replace(&mut self.all[self.leader], World::new());
        self.all[self.leader].now = dead.now;
        for at in (0..self.all.len()).filter(|at| *at != self.leader) {
            self.all[at].input(Input::Follow(None));
        }
        self.promote(next);
        dead
    }

    fn promote(&mut self, next: usize) {
        self.revision += 1;
        let term = Term(self.revision);
        self.leader = next;
        self.heard = self.all[next].history.len();
        self.all[next].input(Input::Lead(term));
        for at in (0..self.all.len()).filter(|at| *at != next) {
            self.all[at].input(Input::Follow(Some(term)));
        }
        self.spread();
    }

    /// What all replicas have, which is the same. Whether members answer is each one's own finding.
    fn pool(&mut self, domain: &str) -> Vec<String> {
        self.spread();
        let all: Vec<_> = self.all.iter().map(|world| world.shown()).collect();
        assert!(all.windows(2).all(|two| two[0] == two[1]), "all replicas have the same table: {all:#?}");
        self.all[0].pool(domain)
    }
}

#[test]
fn what_a_leader_holds_is_served_by_all_replicas() {
    let mut cluster = Cluster::new(3);
    let (conn, _) = cluster.leader().live("web", "web-1", A, "a.de", WEB);
    assert_eq!(cluster.pool("a.de"), ["10.2.2.7:80"]);
    assert!(cluster.all.iter().all(|world| world.serving("a.de") == ["10.2.2.7:80"]));
    cluster.leader().do_all(conn, &[&format!("ROUTE_ADD||b.de|/|{WEB}|3"), "OPTIONS_SET||ALL|timeout|5s"]);
    cluster.leader().do_all(conn, &["CONFIG_APPLY|"]);
    assert_eq!(cluster.pool("b.de"), ["10.2.2.7:80"]);
    cluster.leader().do_all(conn, &["ROUTE_REMOVE||r1", "CONFIG_APPLY|"]);
    assert_eq!(cluster.pool("a.de"), [""; 0]);
    cluster.leader().say(conn, "CLIENT_SHUTDOWN|");
    assert_eq!(cluster.pool("b.de"), [""; 0]);
}

#[test]
fn a_follower_answers_nobody_and_asks_the_store_for_nothing() {
    let mut cluster = Cluster::new(2);
    cluster.leader().live("web", "web-1", A, "a.de", WEB);
    cluster.spread();
    let conn = cluster.all[1].connect(B);
    assert!(cluster.all[1].closed.contains(&conn));
    cluster.all[1].fails(WEB);
    cluster.all[1].after(seconds(1000));
    assert_eq!(cluster.all[1].read(conn), [""; 0]);
    assert!(cluster.all[1].history.is_empty());
    assert_eq!(cluster.all[1].pool("a.de").len(), 1, "only the leader ends sessions");
}

#[test]
fn a_failover_loses_no_route_and_resets_no_member() {
    let mut cluster = Cluster::new(3);
    let (_, id) = cluster.leader().live("web", "web-1", A, "a.de", WEB);
    cluster.spread();
    cluster.all[1].passes(WEB);
    let member = |world: &World| {
        let claim = world.table.get(&"a.de".parse().unwrap(), &"/".parse().unwrap()).unwrap();
        claim.members.iter().next().unwrap().id
    };
    let before = member(&cluster.all[1]);
    cluster.fail_over(1);
    assert_eq!(cluster.all[1].serving("a.de"), ["10.2.2.7:80"]);
    assert_eq!(member(&cluster.all[1]), before, "the same member, with its counters");
    let conn = cluster.leader().connect(A);
    assert_eq!(cluster.leader().ask(conn, &format!("RECONNECT|{id}")), "OK");
    assert_eq!(cluster.leader().apply(conn, "b.de", WEB), "OK");
    cluster.spread();
    assert_eq!(cluster.all[2].serving("b.de"), ["10.2.2.7:80"]);
}

#[test]
fn a_session_that_lost_only_its_leader_is_expected_back_for_two_minutes_and_then_lost() {
    let mut cluster = Cluster::new(2);
    cluster.leader().live("web", "web-1", A, "a.de", WEB);
    cluster.leader().live("web", "web-2", B, "c.de", WEB2);
    cluster.spread();
    cluster.all[1].passes(WEB);
    cluster.fail_over(1);
    assert_eq!(cluster.all[1].questions(WEB), [""; 0], "it is not asked every second, as a lost one is");
    let (_, _) = cluster.leader().register("shop", "shop-1", A);
    assert_eq!(cluster.all[1].serving("a.de"), ["10.2.2.7:80"], "nobody is suspended meanwhile");
    let conn = cluster.leader().connect("10.2.2.9");
    let taken = cluster.leader().apply_as(conn, "other", "a.de", "http://10.2.2.9:80");
    assert!(taken.contains("belongs to service web"), "{taken}");
    cluster.all[1].after(seconds(121));
    assert_eq!(cluster.all[1].serving("a.de"), [""; 0], "who came to its address meanwhile has it");
    assert_eq!(cluster.all[1].questions(WEB2), ["connect every 1s"], "it is lost now");
    cluster.all[1].passes(WEB2);
    cluster.all[1].after(seconds(290));
    assert_eq!(cluster.all[1].pool("c.de").len(), 1);
    cluster.all[1].after(seconds(20));
    assert_eq!(cluster.all[1].pool("c.de"), [""; 0], "its grace is over");
}

#[test]
fn a_loss_is_told_after_two_seconds_and_a_shorter_one_never() {
    let mut cluster = Cluster::new(2);
    let (conn, id) = cluster.leader().live("web", "web-1", A, "a.de", WEB);
    cluster.spread();
    cluster.all[1].passes(WEB);
    let told = cluster.leader().history.len();
    cluster.leader().hang_up(conn);
    cluster.after(Duration::from_millis(1900));
    let conn = cluster.leader().connect(A);
    assert_eq!(cluster.leader().ask(conn, &format!("RECONNECT|{id}")), "OK");
    cluster.after(seconds(10));
    assert_eq!(cluster.leader().history.len(), told, "nothing is written of it");
    cluster.leader().hang_up(conn);
    cluster.after(seconds(3));
    assert_eq!(cluster.leader().history.len(), told + 1);
    assert_eq!(cluster.all[1].questions(WEB), ["connect every 1s"], "followers ask it as a lost one");
    let conn = cluster.leader().connect(A);
    assert_eq!(cluster.leader().ask(conn, &format!("RECONNECT|{id}")), "OK");
    cluster.after(seconds(1));
    cluster.all[1].passes(WEB);
    assert_eq!(cluster.all[1].questions(WEB), [""; 0], "and not any more when it is back");
}

#[test]
fn a_lost_session_keeps_what_is_left_of_its_grace_and_a_flapping_leader_does_not_keep_it() {
    let mut cluster = Cluster::new(3);
    let (conn, _) = cluster.leader().live("web", "web-1", A, "a.de", WEB);
    cluster.leader().hang_up(conn);
    cluster.after(seconds(250));
    cluster.fail_over(1);
    // 50 s are left, so it gets the least time: two minutes.
    cluster.after(seconds(100));
    assert_eq!(cluster.all[1].pool("a.de").len(), 1);
    // Time without a leader does not count.
    cluster.all[1].input(Input::Follow(None));
    cluster.all[2].input(Input::Follow(None));
    cluster.all.iter_mut().for_each(|world| world.after(seconds(500)));
    cluster.promote(2);
    cluster.after(seconds(15));
    assert_eq!(cluster.all[2].pool("a.de").len(), 1, "20 s were left, and the further leader adds none");
    cluster.after(seconds(10));
    assert_eq!(cluster.all[2].pool("a.de"), [""; 0]);
}

#[test]
fn time_in_which_a_leader_can_answer_nobody_counts_for_nobody() {
    let mut cluster = Cluster::new(2);
    let (conn, _) = cluster.leader().live("web", "web-1", A, "a.de", WEB);
    cluster.leader().hang_up(conn);
    cluster.after(seconds(200));
    cluster.leader().input(Input::Answers(false));
    cluster.after(seconds(1000));
    assert_eq!(cluster.leader().pool("a.de").len(), 1);
    cluster.leader().input(Input::Answers(true));
    cluster.after(seconds(95));
    assert_eq!(cluster.pool("a.de").len(), 1, "100 s of its grace were left");
    cluster.after(seconds(10));
    assert_eq!(cluster.pool("a.de"), [""; 0]);
}

#[test]
fn who_had_no_chance_to_come_back_gets_one_of_each_leader() {
    let mut cluster = Cluster::new(3);
    let (conn, _) = cluster.leader().live("web", "web-1", A, "a.de", WEB);
    cluster.leader().hang_up(conn);
    cluster.after(seconds(250));
    cluster.fail_over(1);
    // The leader can say nothing and dies, and nobody is told when that began.
    cluster.after(seconds(100));
    cluster.leader().input(Input::Answers(false));
    cluster.all.iter_mut().for_each(|world| world.after(seconds(500)));
    cluster.fail_over(2);
    cluster.after(seconds(8));
    assert_eq!(cluster.all[2].pool("a.de").len(), 1);
    cluster.after(seconds(5));
    assert_eq!(cluster.all[2].pool("a.de"), [""; 0]);
}

#[test]
fn an_address_that_was_taken_is_nobodys_at_any_replica() {
    let mut cluster = Cluster::new(3);
    let (conn, _) = cluster.leader().live("web", "web-1", A, "a.de", WEB);
    cluster.spread();
    for at in 1..3 {
        cluster.all[at].passes(WEB);
    }
    cluster.leader().hang_up(conn);
    cluster.leader().register("shop", "shop-1", A);
    cluster.after(seconds(3));
    for world in &cluster.all {
        assert_eq!(world.serving("a.de"), [""; 0]);
    }
    cluster.fail_over(1);
    cluster.all[1].passes(WEB);
    assert_eq!(cluster.all[1].serving("a.de"), [""; 0], "nor under the next leader");
    let store = cluster.store.clone();
    let mut late = World::with(|config| config.boot_id = "this boot".to_owned());
    late.now = cluster.all[1].now;
    late.input(Input::Follow(Some(Term(9))));
    late.input(Input::Loaded(StoreRevision(99), Box::new(store)));
    late.passes(WEB);
    assert_eq!(late.serving("a.de"), [""; 0], "nor at a replica that has just started");
}

#[test]
fn a_successor_takes_over_at_all_replicas_when_the_leader_has_seen_it_answer() {
    let mut cluster = Cluster::new(2);
    cluster.leader().live("web", "web-1", A, "a.de", WEB);
    cluster.spread();
    cluster.all[1].passes(WEB);
    let (conn, _) = cluster.leader().register("web", "web-1", A);
    assert_eq!(cluster.leader().apply(conn, "a.de", "http://10.2.2.7:81"), "OK");
    cluster.spread();
    assert_eq!(
        cluster.all[1].serving("a.de"),
        ["10.2.2.7:80"],
        "the old one serves until the new one answers"
    );
    cluster.leader().passes("http://10.2.2.7:81");
    assert_eq!(cluster.pool("a.de"), ["10.2.2.7:81"]);
    assert_eq!(cluster.all[1].serving("a.de"), ["10.2.2.7:81"], "without a gap");
    let ended =
        |change: &StoreChange| matches!(change, StoreChange::Ended(SessionNo(1), EndReason::Superseded));
    assert!(cluster.all[0].history.iter().any(ended));
}

#[test]
fn a_successor_that_answered_where_no_leader_was_takes_over_under_the_next() {
    let mut cluster = Cluster::new(2);
    cluster.leader().live("web", "web-1", A, "a.de", WEB);
    let (conn, _) = cluster.leader().register("web", "web-1", A);
    assert_eq!(cluster.leader().apply(conn, "a.de", "http://10.2.2.7:81"), "OK");
    cluster.spread();
    cluster.all[1].passes(WEB);
    cluster.all[1].passes("http://10.2.2.7:81");
    assert_eq!(cluster.all[1].pool("a.de").len(), 2, "a follower decides nothing");
    cluster.fail_over(1);
    assert_eq!(cluster.all[1].pool("a.de"), ["10.2.2.7:81"]);
}

#[test]
fn a_drain_begins_when_the_store_holds_it_and_outlives_its_leader() {
    let mut cluster = Cluster::new(2);
    let (conn, _) = cluster.leader().live("web", "web-1", A, "a.de", WEB);
    cluster.spread();
    cluster.leader().store_answers = false;
    cluster.leader().say(conn, "DRAIN_START||10s");
    assert_eq!(cluster.leader().read(conn), [""; 0], "it is not answered before");
    assert_eq!(cluster.all[0].serving("a.de").len(), 1);
    cluster.leader().decides(0, true);
    let replies = cluster.leader().read(conn);
    assert!(replies.len() == 1 && replies[0].starts_with("DRAIN_OK|"), "{replies:?}");
    cluster.leader().store_answers = true;
    cluster.spread();
    let drains = |world: &World| {
        let claim = world.table.get(&"a.de".parse().unwrap(), &"/".parse().unwrap()).unwrap();
        claim.members.iter().all(|member| member.terms.drain.is_some())
    };
    assert!(drains(&cluster.all[1]));
    cluster.fail_over(1);
    assert!(drains(&cluster.all[1]));
    cluster.all[1].after(seconds(11));
    assert_eq!(cluster.all[1].serving("a.de"), [""; 0]);
}

#[test]
fn a_refused_drain_is_none() {
    let mut cluster = Cluster::new(1);
    let (conn, _) = cluster.leader().live("web", "web-1", A, "a.de", WEB);
    cluster.leader().store_answers = false;
    cluster.leader().say(conn, "DRAIN_START||0s");
    cluster.leader().decides(0, false);
    assert_eq!(cluster.leader().read(conn), ["ERROR|store unavailable"]);
    assert_eq!(cluster.all[0].serving("a.de").len(), 1);
}

#[test]
fn maintenance_is_everywhere_and_a_page_that_did_not_change_stays() {
    let mut cluster = Cluster::new(2);
    let (conn, _) = cluster.leader().live("web", "web-1", A, "a.de", WEB);
    cluster.spread();
    cluster.leader().say(conn, "MAINT_ENTER||ALL|http://10.2.2.7:9000/");
    cluster.spread();
    let page = |world: &World| {
        let claim = world.table.get(&"a.de".parse().unwrap(), &"/".parse().unwrap()).unwrap().clone();
        claim.maintenance().and_then(|shown| shown.page.as_ref().map(|page| page.id))
    };
    let before = page(&cluster.all[1]);
    assert!(before.is_some());
    let (revision, store) = (StoreRevision(1000), Box::new(cluster.store.clone()));
    cluster.all[1].input(Input::Loaded(revision, store));
    assert_eq!(page(&cluster.all[1]), before);
}

#[test]
fn a_leader_that_steps_down_serves_what_the_records_say() {
    let mut cluster = Cluster::new(2);
    let (first, _) = cluster.leader().live("web", "web-1", A, "a.de", WEB);
    cluster.spread();
    // What no record has: a session that applied nothing, a stage, a loss of a moment ago, an apply that is on its way.
    cluster.leader().register("shop", "shop-1", B);
    cluster.leader().do_all(first, &[&format!("ROUTE_ADD||b.de|/|{WEB}|0")]);
    cluster.leader().store_answers = false;
    cluster.leader().say(first, "CONFIG_APPLY|");
    cluster.leader().hang_up(first);
    cluster.all[0].input(Input::Follow(None));
    cluster.all[0].commits.clear();
    cluster.promote(1);
    let store = Box::new(cluster.store.clone());
    let revision = StoreRevision(cluster.revision);
    cluster.all[0].input(Input::Loaded(revision, store));
    assert_eq!(cluster.pool("a.de"), ["10.2.2.7:80"]);
    assert_eq!(cluster.all[0].registry.session_count(), 1);
    let wants = cluster.all[0].registry.next_deadline();
    assert_eq!(wants, None, "a follower ends nobody");
    // And it leads again.
    cluster.all[0].store_answers = true;
    cluster.all[1].input(Input::Follow(None));
    cluster.all[0].input(Input::Follow(None));
    cluster.promote(0);
    cluster.leader().live("shop", "shop-2", B, "c.de", WEB2);
    assert_eq!(cluster.pool("c.de"), ["10.2.2.8:80"]);
}

#[test]
fn a_replica_that_missed_changes_comes_to_the_same_by_a_load() {
    for seed in 0..60 {
        println!("SEED={seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut cluster = Cluster::new(3);
        let mut ids = vec!["nobody".to_owned()];
        let mut last = 0;
        for _ in 0..5 {
            super::bounds::steps(cluster.leader(), &mut random, 40, &mut Vec::new(), &mut ids);
            let time = cluster.all[0].now;
            // The third one hears nothing, and is told everything at the end of each round.
            let mut third = cluster.all.pop().unwrap();
            cluster.all.iter_mut().for_each(|world| world.now = time);
            third.now = time;
            cluster.spread();
            last = cluster.revision.max(last + 1);
            third.input(Input::Loaded(StoreRevision(last), Box::new(cluster.store.clone())));
            cluster.all.push(third);
            assert_eq!(cluster.all[1].shown(), cluster.all[2].shown(), "seed {seed}");
        }
    }
}

#[test]
fn a_replica_without_a_table_waits_where_the_records_are_old_and_nobody_leads() {
    let mut cluster = Cluster::new(1);
    cluster.leader().live("web", "web-1", A, "a.de", WEB);
    cluster.spread();
    let saved = SavedState {
        boot_id: "this boot".to_owned(),
        alive_at: Some(cluster.all[0].now.wall),
        ..cluster.store.clone()
    };
    let start = |age: u64, boot: &str, leader: Option<Term>| {
        let mut world = World::with(|config| config.boot_id = boot.to_owned());
        world.now.wall += seconds(age);
        world.input(Input::Follow(leader));
        world.input(Input::Loaded(StoreRevision(9), Box::new(saved.clone())));
        world
    };
    assert_eq!(start(10, "this boot", None).serving("a.de"), ["10.2.2.7:80"]);
    for (age, boot) in [(301, "this boot"), (10, "another boot"), (10, "")] {
        let mut world = start(age, boot, None);
        world.passes(WEB);
        assert_eq!(world.serving("a.de"), [""; 0], "{age} {boot}");
        // Nobody else leads: all sessions are lost, and their members wait for them.
        world.input(Input::Lead(Term(10)));
        world.passes(WEB);
        assert_eq!(world.serving("a.de"), [""; 0], "{age} {boot}");
        let mut world = start(age, boot, None);
        // Somebody leads who knows better.
        world.input(Input::Follow(Some(Term(10))));
        world.passes(WEB);
        assert_eq!(world.serving("a.de"), ["10.2.2.7:80"], "{age} {boot}");
        let mut world = start(age, boot, Some(Term(10)));
        world.passes(WEB);
        assert_eq!(world.serving("a.de"), ["10.2.2.7:80"], "{age} {boot}");
    }
}

#[test]
fn a_change_that_comes_again_changes_nothing() {
    let mut cluster = Cluster::new(2);
    let (conn, _) = cluster.leader().live("web", "web-1", A, "a.de", WEB);
    cluster.leader().do_all(conn, &[&format!("ROUTE_ADD||b.de|/|{WEB}|3"), "CONFIG_APPLY|"]);
    let history = cluster.leader().history.clone();
    cluster.spread();
    let before = cluster.all[1].shown();
    cluster.all[1].input(Input::Replicated(StoreRevision(2), history.clone()));
    cluster.all[1].input(Input::Replicated(StoreRevision(999), history));
    assert_eq!(cluster.all[1].shown(), before);
}
