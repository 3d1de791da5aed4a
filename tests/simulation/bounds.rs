//! Single stories in which one thing goes wrong: the bounds of SEMANTICS section 8 to the millisecond, and how
//! much a registry hears from a client that it refuses.

use std::time::Duration;

use super::cast::{Place, replica, replicas};
use super::faults::{Kind, Plan};
use super::run::begin;
use super::server::{GRACE, Mood};
use super::world::World;

const MILLI: Duration = Duration::from_millis(1);
/// There and back, and what a machine takes.
const SLACK: Duration = Duration::from_millis(5);

/// A world in which every session has held for a while.
fn settled(seed: u64) -> World {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut world = begin(seed, Plan::calm(), replicas(&mut rng), false);
    world.run_until(Duration::from_secs(15));
    assert!(is_served(&world), "seed {seed}");
    world
}

fn is_served(world: &World) -> bool {
    let served = |place: &Place| {
        let claim = world.server.table.get(&place.0, &place.1);
        claim.is_some_and(|claim| claim.has_usable())
    };
    world.replicas.iter().flat_map(|replica| replica.places()).all(|place| served(&place))
}

/// Lets `time` pass.
fn pass(world: &mut World, time: Duration) {
    world.run_until(world.now + time);
    assert_eq!(world.failure, None);
}

#[test]
fn after_an_outage_of_up_to_200_ms_without_state_the_route_is_back_within_250_ms() {
    for seed in 0..300 {
        let mut world = settled(seed);
        world.kill_registry(Kind::RegistryAmnesia);
        let outage = world.between(1, 200);
        pass(&mut world, outage);
        world.restart_registry();
        pass(&mut world, 250 * MILLI);
        assert!(is_served(&world), "seed {seed}: not after an outage of {outage:?}");
    }
}

#[test]
fn a_registry_that_kept_its_state_serves_from_its_first_moment() {
    for seed in 0..100 {
        let mut world = settled(seed);
        world.kill_registry(Kind::RegistryPower);
        let outage = world.between(1, 14_000);
        pass(&mut world, outage);
        world.restart_registry();
        assert!(is_served(&world), "seed {seed}");
    }
}

#[test]
fn a_reset_is_noticed_at_once_and_followed_by_a_retry_within_150_ms() {
    for seed in 0..100 {
        let mut world = settled(seed);
        world.dials.clear();
        let reset = world.now;
        world.kill_registry(Kind::RegistryCrash);
        pass(&mut world, 150 * MILLI);
        let retried = world.dials.iter().filter(|at| **at <= reset + 150 * MILLI).count();
        assert_eq!(retried, world.procs.len(), "seed {seed}");
    }
}

#[test]
fn a_silent_peer_is_noticed_within_keepalive_interval_and_request_timeout() {
    for seed in 0..100 {
        let mut world = settled(seed);
        let silent_from = world.now;
        world.kill_registry(Kind::RegistryPower);
        pass(&mut world, Duration::from_secs(40) + SLACK);
        for sidecar in world.procs.values() {
            let noticed = sidecar.lost_at.expect("it does not notice");
            assert!(noticed <= silent_from + Duration::from_secs(40) + SLACK, "seed {seed}: at {noticed:?}");
        }
    }
}

#[test]
fn a_lost_session_expires_within_a_second_of_its_grace_and_not_before() {
    for seed in 0..50 {
        let mut world = settled(seed);
        let victim = world.replicas[0].sidecar.take().unwrap();
        let places = world.replicas[0].places();
        let instance = world.replicas[0].instance.clone();
        let has_it = |world: &World| {
            let claim = world.server.table.get(&places[0].0, &places[0].1);
            claim.is_some_and(|claim| claim.members.iter().any(|member| member.terms.instance == instance))
        };
        world.kill(victim, false);
        pass(&mut world, GRACE - SLACK);
        assert!(has_it(&world), "seed {seed}: too early");
        pass(&mut world, Duration::from_secs(1) + SLACK);
        assert!(!has_it(&world), "seed {seed}: too late");
    }
}

/// The most lines that one client sent in a minute, in five minutes of being refused.
fn refused_for_five_minutes(seed: u64, refuse: impl FnOnce(&mut World)) -> usize {
    let mut world = settled(seed);
    pass(&mut world, Duration::from_secs(61));
    world.busiest = 0;
    refuse(&mut world);
    pass(&mut world, Duration::from_secs(300));
    world.busiest
}

/// With delays of 0.1 s to 10 s, 5 s on average, there are about 12 tries a minute, and 20 in the first.
const MOST_TRIES: usize = 40;

#[test]
fn a_registry_that_refuses_the_registration_hears_one_line_a_try() {
    let worst = (0..50).map(|seed| {
        refused_for_five_minutes(seed, |world| {
            world.server.refuses = true;
            world.kill_registry(Kind::RegistryAmnesia);
            world.restart_registry();
        })
    });
    let worst = worst.max().unwrap();
    println!("{worst} lines in the worst minute");
    assert!((5..=MOST_TRIES).contains(&worst), "{worst} lines a minute");
}

#[test]
fn a_registry_whose_disk_takes_nothing_hears_few_lines_a_try() {
    let worst = (0..50).map(|seed| {
        refused_for_five_minutes(seed, |world| {
            world.server.mood = Mood::Refuses;
            world.strike_with(Kind::IntentChange, 0);
            world.strike_with(Kind::IntentChange, 0);
        })
    });
    // Two routes with an option and a check each, the apply, the rollback and a question.
    let worst = worst.max().unwrap();
    println!("{worst} lines in the worst minute");
    assert!((5..=MOST_TRIES * 9).contains(&worst), "{worst} lines a minute");
}

#[test]
fn a_claim_that_belongs_to_somebody_else_is_asked_for_now_and_then() {
    let worst = (0..50).map(|seed| {
        refused_for_five_minutes(seed, |world| {
            world.plan.calm_from = Duration::from_secs(3600);
            world.strike_with(Kind::Contest, 0);
        })
    });
    let worst = worst.max().unwrap();
    println!("{worst} lines in the worst minute");
    assert!((5..=MOST_TRIES * 6).contains(&worst), "{worst} lines a minute");
}

#[test]
fn a_name_that_was_taken_is_asked_for_with_one_line_at_a_time_and_nobody_fights() {
    let mut world = begin(1, Plan::calm(), vec![replica(0, 0, [10, 2, 2, 10].into())], false);
    world.run_until(Duration::from_secs(15));
    world.replicas[0].twin = world.spawn(0);
    pass(&mut world, Duration::from_secs(61));
    world.busiest = 0;
    pass(&mut world, Duration::from_secs(300));
    assert!((5..=MOST_TRIES).contains(&world.busiest), "{} lines a minute", world.busiest);
}
