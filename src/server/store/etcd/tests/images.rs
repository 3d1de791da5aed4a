//! What is committed, and what every replica reads of it.

use std::collections::VecDeque;

use crate::server::registry::persist::{SavedState, SessionMarks, StoreChange};
use crate::server::registry::{Delta, EndReason, SessionNo, Term, Tx};
use crate::server::store::etcd::housekeeping::collect;
use crate::server::store::etcd::image::Image;
use crate::server::store::etcd::layout::{Key, Layout, PartsId, READ};
use crate::server::store::etcd::transaction::{Fence, Plan, plan};
use crate::server::store::tests::{Story, applied, maintenance};
use registry_client::protocol::RouteId;

use super::model::Etcd;

pub(super) fn layout() -> Layout {
    Layout::new("/base")
}

/// A leader over a model of etcd, with the image that it has of it.
pub(super) struct Leader {
    pub(super) etcd: Etcd,
    pub(super) image: Image,
    pub(super) term: Term,
    number: u64,
    /// How many revisions the image has seen.
    seen: usize,
}

impl Leader {
    pub(super) fn new() -> Leader {
        let mut etcd = Etcd::default();
        let id = br#"{"format":1,"cluster_id":"c1"}"#;
        etcd.put(&layout().key(&Key::Cluster), id);
        let term = etcd.put(&layout().key(&Key::Leader), br#"{"replica":"a"}"#);
        let image = Image::load(layout(), etcd.revision, etcd.entries());
        let seen = etcd.history.len();
        Leader { etcd, image, term: Term(term as u64), number: 0, seen }
    }

    /// Commits changes, all at once. Returns what the watch makes of each commit.
    pub(super) fn commit(&mut self, changes: Vec<StoreChange>) -> Vec<Vec<StoreChange>> {
        let mut queue: VecDeque<_> = (0..).map(Tx).zip(changes).collect();
        let mut told = Vec::new();
        loop {
            let layout = layout();
            let (number, attempt) = (self.number + 1, self.number + 1);
            let fence = Fence { layout: &layout, term: self.term, number, attempt };
            let Some(planned) = plan(&mut queue, &self.image, fence) else { return told };
            let Plan::Commit(planned) = planned else { panic!("rejected") };
            for part in planned.parts.iter().chain([&planned.commit]) {
                let answer = self.etcd.transact(part).unwrap();
                assert!(answer.succeeded);
            }
            self.number += 1;
            let before = told.len();
            told.extend(self.watch());
            assert!(told.len() <= before + 1, "one revision tells of a commit");
        }
    }

    /// What the image says of the revisions that it has not seen, those left out that are about no session.
    pub(super) fn watch(&mut self) -> Vec<Vec<StoreChange>> {
        let news: Vec<_> = self.etcd.history[self.seen..].to_vec();
        self.seen = self.etcd.history.len();
        let changes = news.iter().map(|revised| self.image.take(revised));
        changes.filter(|changes| !changes.is_empty()).collect()
    }

    fn state(&self) -> SavedState {
        self.image.saved("")
    }

    /// What a replica reads that starts now.
    pub(super) fn loaded(&self) -> Image {
        Image::load(layout(), self.etcd.revision, self.etcd.entries())
    }

    /// Every replica knows the same, whenever it started, and it is what the changes make.
    fn check(&self, expected: &SavedState) {
        assert_eq!(self.state().sessions, expected.sessions);
        assert_eq!(self.loaded().saved("").sessions, expected.sessions, "loaded");
        assert_eq!(self.image.unreadable().len(), 0, "{:?}", self.image.unreadable());
        assert_eq!(self.loaded().unreadable().len(), 0, "{:?}", self.loaded().unreadable());
    }
}

fn marks() -> SessionMarks {
    serde_json::from_str(r#"{"lost":{"at":"2026-11-21T14:00:00Z"},"shared_address":true}"#).unwrap()
}

/// An apply that gives a session so many routes at once.
pub(super) fn many(no: u64, revision: u64, routes: std::ops::Range<u32>) -> StoreChange {
    let domains: Vec<(u32, String)> = routes.map(|id| (id, format!("d{id}.example.com"))).collect();
    let routes: Vec<_> = domains.iter().map(|(id, domain)| (*id, Some(domain.as_str()))).collect();
    applied(no, revision, &routes)
}

#[test]
fn followers_hear_of_the_changes_that_the_leader_committed_and_in_their_order() {
    let mut leader = Leader::new();
    let changes = vec![
        applied(2, 1, &[(1, Some("a.de")), (2, Some("b.de"))]),
        applied(1, 2, &[(1, Some("c.de"))]),
        StoreChange::Ended(SessionNo(7), EndReason::Expired),
    ];
    let told = leader.commit(changes.clone());
    // The session that nobody knows was never there.
    assert_eq!(told, [changes[..2].to_vec()], "one commit");
    let changes = vec![
        StoreChange::Ended(SessionNo(2), EndReason::Superseded),
        StoreChange::Maintenance(vec![(SessionNo(1), maintenance())]),
    ];
    assert_eq!(leader.commit(changes.clone()), [changes]);
    let marked = vec![StoreChange::Marked(vec![(SessionNo(1), marks())])];
    assert_eq!(leader.commit(marked.clone()), [marked]);
    let again = vec![applied(1, 3, &[(1, None)])];
    assert_eq!(leader.commit(again.clone()), [again], "maintenance and marks stay");
    let saved = leader.loaded().saved("");
    assert_eq!((&saved.sessions[0].maintenance, &saved.sessions[0].marks), (&maintenance(), &marks()));
}

#[test]
fn what_changes_one_session_twice_is_two_commits() {
    let mut leader = Leader::new();
    let changes = vec![
        applied(1, 1, &[(1, Some("a.de"))]),
        StoreChange::Maintenance(vec![(SessionNo(1), maintenance())]),
        StoreChange::Ended(SessionNo(1), EndReason::ShutDown),
    ];
    assert_eq!(leader.commit(changes.clone()).concat(), changes);
    leader.check(&SavedState::default());
    let left: Vec<_> = leader.etcd.keys().into_iter().map(str::to_owned).collect();
    assert_eq!(left.len(), 3, "the cluster, its leader and a count: {left:?}");
}

#[test]
fn an_apply_of_very_many_routes_is_one_revision_and_the_next_one_is_small() {
    const ROUTES: u32 = 6_000;
    let mut leader = Leader::new();
    let mut expected = SavedState::default();
    let changes = [
        many(1, 1, 0..10),
        many(1, 2, 5..ROUTES),
        applied(1, 3, &[(7, None), (ROUTES, Some("new.example.com"))]),
        // Nearly all of them go.
        applied(1, 4, &(20..ROUTES).map(|id| (id, None)).collect::<Vec<_>>()),
        applied(1, 5, &(0..20).map(|id| (id, None)).collect::<Vec<_>>()),
    ];
    for change in changes {
        expected.apply(&change);
        let told = leader.commit(vec![change.clone()]);
        let [of_commit] = &told[..] else { panic!("{} revisions", told.len()) };
        let [StoreChange::Applied { delta, .. }] = &of_commit[..] else { panic!() };
        let StoreChange::Applied { delta: wanted, .. } = &change else { unreachable!() };
        let known: Vec<_> = wanted.routes.iter().map(|(id, _)| id).collect();
        let heard: Vec<_> = delta.routes.iter().map(|(id, _)| id).collect();
        // Routes that were not there need not go.
        assert!(
            heard.iter().all(|id| known.contains(id)) || known.len() > 1000,
            "{} of {}",
            heard.len(),
            known.len()
        );
        leader.check(&expected);
    }
    assert!(leader.etcd.keys().len() < 40, "what nobody needs is gone: {}", leader.etcd.keys().len());
}

#[test]
fn parts_that_no_commit_points_to_are_nothing() {
    let mut leader = Leader::new();
    let mut queue = VecDeque::from([(Tx(1), many(1, 1, 0..5000))]);
    let layout = layout();
    let fence = Fence { layout: &layout, term: leader.term, number: 1, attempt: 1 };
    let Some(Plan::Commit(planned)) = plan(&mut queue, &leader.image, fence) else { panic!() };
    for part in &planned.parts {
        leader.etcd.transact(part).unwrap();
    }
    assert!(leader.watch().is_empty());
    leader.check(&SavedState::default());
    assert_eq!(leader.loaded().loose_parts().count(), 1);
    // Whoever leads next writes no commit of that term.
    leader.etcd.put(&layout.key(&Key::Cluster), br#"{"format":1,"cluster_id":"c1"}"#);
    leader.etcd.delete(&layout.key(&Key::Leader));
    leader.etcd.put(&layout.key(&Key::Leader), br#"{"replica":"b"}"#);
    assert!(!leader.etcd.transact(&planned.commit).unwrap().succeeded);
    assert!(!leader.etcd.transact(&planned.parts[0]).unwrap().succeeded);
}

#[test]
fn a_leader_deletes_what_nobody_needs_and_nothing_else() {
    let mut leader = Leader::new();
    leader.commit(vec![many(1, 1, 0..5000), applied(2, 1, &[])]);
    let layout = layout();
    let at = |time: &str| format!(r#"{{"alive_at":"{time}"}}"#);
    for (boot, time) in [("old", "2026-11-20T10:00:00Z"), ("new", "2026-11-21T10:00:00Z")] {
        leader.etcd.put(&layout.key(&Key::Boot(boot.to_owned())), at(time).as_bytes());
    }
    for term in 1..=20 {
        leader.etcd.put(&layout.key(&Key::Commits(Term(1000 + term))), br#"{"changes":[]}"#);
    }
    let loose = PartsId { term: Term(1), attempt: 1 };
    for part in 0..3 {
        leader.etcd.put(&layout.key(&Key::Part(SessionNo(1), loose, part)), b"[]");
    }
    leader.watch();
    let (before, state) = (leader.etcd.keys().len(), leader.loaded().saved("").sessions);
    let now: jiff::Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
    let transactions = collect(&leader.image, &layout, leader.term, now.into());
    for transaction in &transactions {
        assert!(leader.etcd.transact(transaction).unwrap().succeeded);
    }
    // Three parts, a boot, and four of twenty terms. Our own stays.
    assert_eq!(leader.etcd.keys().len(), before - 8);
    assert_eq!(leader.loaded().saved("").sessions, state);
    assert!(leader.loaded().boots().contains_key("new") && leader.loaded().commits().contains(&leader.term));
    assert!(leader.loaded().loose_parts().next().is_none());
    leader.etcd.delete(&layout.key(&Key::Leader));
    assert!(!leader.etcd.transact(&transactions[0]).unwrap().succeeded, "only the leader does that");
}

#[test]
fn maintenance_of_very_many_sessions_is_one_revision() {
    let mut leader = Leader::new();
    let sessions = 1..=500_u64;
    let mut expected = SavedState::default();
    let changes: Vec<_> = sessions.clone().map(|no| applied(no, 1, &[(1, Some("a.de"))])).collect();
    changes.iter().for_each(|change| expected.apply(change));
    assert!(leader.commit(changes).len() < 20, "many changes go with one commit");
    let change = StoreChange::Maintenance(sessions.map(|no| (SessionNo(no), maintenance())).collect());
    expected.apply(&change);
    assert_eq!(leader.commit(vec![change.clone()]), [[change]]);
    leader.check(&expected);
    let too_many = (1..=4000).map(|no| (SessionNo(no), marks())).collect();
    let mut queue = VecDeque::from([(Tx(1), StoreChange::Marked(too_many))]);
    let layout = layout();
    let fence = Fence { layout: &layout, term: leader.term, number: 9, attempt: 9 };
    // Only those that are there count.
    assert!(matches!(plan(&mut queue, &leader.image, fence), Some(Plan::Commit(_))));
}

#[test]
fn what_cannot_be_read_leaves_what_was_read_last_and_says_so() {
    let mut leader = Leader::new();
    let change = applied(1, 1, &[(1, Some("a.de"))]);
    leader.commit(vec![change]);
    let known = leader.state();
    let layout = layout();
    let session_key = layout.key(&Key::Session(SessionNo(1)));
    for (key, value) in [
        (session_key.clone(), r#"{"colour":"blue"}"#),
        (layout.key(&Key::Route(SessionNo(1), RouteId(1))), "["),
        (layout.key(&Key::Maintenance(SessionNo(1))), r#"{"every":1}"#),
        (layout.key(&Key::Marks(SessionNo(1))), "7"),
        (format!("{}colours/blue", layout.root()), "x"),
    ] {
        let before = leader.etcd.clone();
        let seen = leader.seen;
        leader.etcd.put(&key, value.as_bytes());
        assert!(leader.watch().is_empty(), "{key}");
        assert_eq!(leader.image.unreadable().keys().collect::<Vec<_>>(), [&key]);
        assert!(leader.loaded().unreadable().contains_key(&key));
        assert_eq!(leader.state(), known);
        // It is put as it was.
        leader.etcd = before;
        leader.image = leader.loaded();
        leader.seen = seen;
        assert!(leader.image.unreadable().is_empty());
    }
    leader.etcd.put(&layout.key(&Key::Cluster), br#"{"format":2,"cluster_id":"c1"}"#);
    leader.commit_by_another(&session_key);
    assert!(leader.watch().is_empty() && leader.image.is_newer(), "a newer format is not followed");
}

impl Leader {
    fn commit_by_another(&mut self, key: &str) {
        self.etcd.delete(key);
    }
}

#[test]
fn what_an_operator_does_by_hand_is_followed_as_well() {
    let mut leader = Leader::new();
    leader.commit(vec![applied(1, 1, &[(1, Some("a.de")), (2, Some("b.de"))]), applied(2, 1, &[])]);
    let layout = layout();
    leader.etcd.delete(&layout.key(&Key::Route(SessionNo(1), RouteId(2))));
    leader.etcd.delete(&layout.key(&Key::Session(SessionNo(2))));
    let told = leader.watch().concat();
    let [StoreChange::Applied { delta, .. }, StoreChange::Ended(SessionNo(2), _)] = &told[..] else {
        panic!("{told:?}")
    };
    assert_eq!(**delta, Delta { routes: vec![(RouteId(2), None)], defaults: None });
    leader.check(&leader.loaded().saved(""));
}

#[test]
fn a_replica_is_fresh_if_its_boot_is_known_and_any_replica_was_alive() {
    let mut leader = Leader::new();
    let boot = |at: &str| format!(r#"{{"alive_at":"{at}"}}"#);
    leader.etcd.put(&layout().key(&Key::Boot("b1".to_owned())), boot("2026-11-21T14:00:00Z").as_bytes());
    leader.etcd.put(&layout().key(&Key::Boot("b2".to_owned())), boot("2026-11-21T15:00:00Z").as_bytes());
    leader.watch();
    let saved = leader.image.saved("b1");
    let at: jiff::Timestamp = "2026-11-21T15:00:00Z".parse().unwrap();
    assert_eq!((saved.boot_id.as_str(), saved.alive_at), ("b1", Some(at.into())));
    assert_eq!(leader.image.saved("b3").boot_id, "");
    assert_eq!(saved.cluster_id, "c1");
}

/// Random stories: each replica knows what the changes make, whenever it started.
#[test]
fn every_replica_knows_the_same_after_any_story() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(fastrand::u64(..));
    println!("SEED={seed}");
    for number in 0..12 {
        let mut story = Story::new(seed.wrapping_add(number));
        let mut leader = Leader::new();
        let mut expected = SavedState::default();
        for _ in 0..20 {
            let changes = story.changes();
            changes.iter().for_each(|change| expected.apply(change));
            let mut follower = leader.state();
            let told = leader.commit(changes);
            told.iter().flatten().for_each(|change| follower.apply(change));
            assert_eq!(follower.sessions, expected.sessions, "what a follower hears makes the same");
            leader.check(&expected);
        }
    }
}

#[test]
fn every_kind_of_key_is_read() {
    let mut leader = Leader::new();
    leader.commit(vec![many(1, 1, 0..200), StoreChange::Marked(vec![(SessionNo(1), marks())])]);
    for key in leader.etcd.keys() {
        assert!(READ.iter().any(|(folder, _)| key.starts_with(&layout().read(folder))), "{key}");
    }
}
