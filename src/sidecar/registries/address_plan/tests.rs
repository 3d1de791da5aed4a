use super::*;

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 2, 2, last], 81))
}

fn look(plan: &mut AddressPlan, lasts: &[u8]) -> Vec<Change> {
    plan.on_resolved(&lasts.iter().map(|last| at(*last)).collect::<Vec<_>>())
}

fn bound(last: u8, cluster: Option<&str>) -> SessionReport {
    SessionReport { bound: true, peer: Some(at(last)), cluster: cluster.map(Into::into), replaced: false }
}

#[test]
fn each_address_gets_one_session_and_a_new_one_its_own() {
    let mut plan = AddressPlan::default();
    assert_eq!(look(&mut plan, &[3, 2]), [Change::Start(1, at(2)), Change::Start(2, at(3))]);
    assert_eq!(look(&mut plan, &[2, 3]), []);
    assert_eq!(look(&mut plan, &[2, 3, 4, 4]), [Change::Start(3, at(4))]);
}

#[test]
fn an_address_that_is_gone_for_good_ends_its_session_and_a_gap_does_not() {
    let mut plan = AddressPlan::default();
    look(&mut plan, &[2, 3]);
    for _ in 0..3 {
        assert_eq!(look(&mut plan, &[2]), []);
        assert_eq!(look(&mut plan, &[2]), []);
        assert_eq!(look(&mut plan, &[2, 3]), []);
    }
    assert_eq!((look(&mut plan, &[2]), look(&mut plan, &[2])), (vec![], vec![]));
    assert_eq!(look(&mut plan, &[2]), [Change::End(2, Reason::Gone)]);
    assert_eq!(look(&mut plan, &[2, 3]), [Change::Start(3, at(3))]);
}

#[test]
fn a_session_that_is_connected_outlives_its_entry_in_the_name_server() {
    let mut plan = AddressPlan::default();
    look(&mut plan, &[2]);
    plan.on_report(1, &bound(2, None));
    for _ in 0..10 {
        assert_eq!(look(&mut plan, &[]), []);
    }
    plan.on_report(1, &SessionReport::default());
    assert_eq!(look(&mut plan, &[]), [Change::End(1, Reason::Gone)]);
}

#[test]
fn two_addresses_of_one_cluster_share_the_newer_session() {
    let mut plan = AddressPlan::default();
    look(&mut plan, &[2, 3, 4]);
    assert_eq!(plan.on_report(1, &bound(2, Some("a"))), []);
    assert_eq!(plan.on_report(3, &bound(4, Some("b"))), []);
    assert_eq!(
        plan.on_report(2, &bound(3, Some("a"))),
        [Change::Move(2, vec![at(2), at(3)]), Change::End(1, Reason::SameCluster(2))]
    );
    // What the ended one still tells is nobody's business, and its address needs no other.
    assert_eq!(plan.on_report(1, &bound(2, Some("a"))), []);
    assert_eq!(look(&mut plan, &[2, 3, 4]), []);
    // One of the two addresses goes; the session stays with the other.
    assert_eq!((look(&mut plan, &[3, 4]), look(&mut plan, &[3, 4])), (vec![], vec![]));
    assert_eq!(look(&mut plan, &[3, 4]), [Change::Move(2, vec![at(3)])]);
}

#[test]
fn two_that_register_in_one_cluster_at_the_same_time_are_one_session_whoever_is_heard_first() {
    let taken = SessionReport { replaced: true, ..SessionReport::default() };
    let merged = [Change::Move(2, vec![at(2), at(3)]), Change::End(1, Reason::SameCluster(2))];
    let mut plan = AddressPlan::default();
    look(&mut plan, &[2, 3]);
    assert_eq!(plan.on_report(1, &taken), []);
    assert_eq!(plan.on_report(2, &bound(3, Some("a"))), merged);

    let mut plan = AddressPlan::default();
    look(&mut plan, &[2, 3]);
    assert_eq!(plan.on_report(2, &bound(3, Some("a"))), []);
    assert_eq!(plan.on_report(1, &taken), merged);
}

#[test]
fn registries_that_name_no_cluster_are_strangers_to_each_other() {
    let mut plan = AddressPlan::default();
    look(&mut plan, &[2, 3]);
    assert_eq!((plan.on_report(1, &bound(2, None)), plan.on_report(2, &bound(3, None))), (vec![], vec![]));
}

#[test]
fn a_registry_that_came_back_without_its_state_leaves_the_session_that_was_shared() {
    let mut plan = AddressPlan::default();
    look(&mut plan, &[2, 3]);
    plan.on_report(1, &bound(2, Some("a")));
    plan.on_report(2, &bound(3, Some("a")));
    assert_eq!(
        plan.on_report(2, &bound(3, Some("new"))),
        [Change::Move(2, vec![at(3)]), Change::Start(3, at(2))]
    );
    // And finds its way back.
    assert_eq!(
        plan.on_report(3, &bound(2, Some("new"))),
        [Change::Move(3, vec![at(2), at(3)]), Change::End(2, Reason::SameCluster(3))]
    );
}

#[test]
fn a_name_with_very_many_addresses_fills_nothing_without_bound() {
    let mut plan = AddressPlan::default();
    let many: Vec<SocketAddr> = (0..100).map(at).collect();
    let changes = plan.on_resolved(&many);
    assert_eq!(changes.len(), 1 + MAX_SESSIONS);
    assert_eq!(changes[0], Change::TooMany(100 - MAX_SESSIONS));
    assert_eq!(changes[1], Change::Start(1, at(0)));
}

/// Whatever is looked up and told in whatever order: no address is in two sessions, none that was just found is
/// in none, and no two sessions are with one cluster.
#[test]
fn the_roster_stays_consistent_under_anything() {
    for seed in 0..200 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut plan = AddressPlan::default();
        let (mut started, mut ended) = (0, 0);
        for _ in 0..200 {
            let mut found = Vec::new();
            let changes = if rng.bool() {
                found = (0..6).filter(|_| rng.bool()).map(at).collect();
                plan.on_resolved(&found)
            } else {
                let no = rng.u32(1..=plan.last.max(1));
                let cluster = rng.choice([None, Some("a"), Some("b"), Some("c")]).flatten();
                let (is_bound, replaced) = (rng.bool(), rng.u8(0..8) == 0);
                let report = SessionReport { bound: is_bound, replaced, ..bound(rng.u8(0..6), cluster) };
                plan.on_report(no, &report)
            };
            started += changes.iter().filter(|change| matches!(change, Change::Start(..))).count();
            ended += changes.iter().filter(|change| matches!(change, Change::End(..))).count();
            let mut all: Vec<SocketAddr> =
                plan.sessions.values().flat_map(|session| session.addresses.keys().copied()).collect();
            assert!(found.iter().all(|address| all.contains(address)), "seed {seed}");
            let count = all.len();
            all.sort();
            all.dedup();
            assert_eq!(all.len(), count, "seed {seed}: an address in two sessions: {plan:?}");
            let mut clusters: Vec<&Arc<str>> =
                plan.sessions.values().filter_map(|session| session.cluster.as_ref()).collect();
            clusters.sort();
            assert!(clusters.windows(2).all(|two| two[0] != two[1]), "seed {seed}: {plan:?}");
            assert!(plan.sessions.values().all(|session| !session.addresses.is_empty()), "seed {seed}");
            assert_eq!(started - ended, plan.sessions.len(), "seed {seed}");
        }
    }
}
