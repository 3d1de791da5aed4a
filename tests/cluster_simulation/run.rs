//! Seeds and shards, and how a failure is shown.

use std::fmt::Write as _;
use std::time::Duration;

use super::faults::{Counts, Kind};
use super::oracle::Looks;
use super::replica::GRACE;
use super::world::{CALM_FROM, World};

/// How many seeds there are unless SEEDS says so.
const SEEDS: u64 = 2_000;
/// Tests that share them.
const SHARDS: u64 = 4;
/// With a failure, the last of the story.
const SHOWN: usize = 120;

/// How long after the last fault everything must be as it should be: two graces, in case a session that lost only its
/// leader is lost itself, and some time to come back.
const HEALED_AFTER: Duration = Duration::from_secs(2 * GRACE.as_secs() + 30);

fn live_through(seed: u64, trace: bool) -> World {
    let mut world = World::new(seed, trace);
    world.run_until(CALM_FROM + HEALED_AFTER);
    if world.failure.is_none()
        && let Err(why) = world.judge_end()
    {
        world.fail(format!("everything is healed, but {why}"));
    }
    world
}

fn report(seed: u64, failure: &str) -> String {
    let trace = live_through(seed, true).trace.unwrap_or_default();
    let mut text = format!("\nseed {seed}: {failure}\n\nthe faults, and the last events:\n");
    let skipped = trace.len().saturating_sub(number("SHOWN").map_or(SHOWN, |shown| shown as usize));
    let faults = trace[..skipped].iter().filter(|line| line.contains("*** "));
    faults.chain(&trace[skipped..]).for_each(|line| writeln!(text, "{line}").unwrap());
    write!(text, "\nto see it again: SEED={seed} cargo nextest run --test cluster_simulation one_seed")
        .unwrap();
    text
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn shard(which: u64) {
    if number("SEED").is_some() {
        return;
    }
    let seeds = number("SEEDS").unwrap_or(SEEDS);
    let (mut counts, mut looks, mut lived) = (Counts::default(), Looks::default(), 0_u64);
    for seed in (0..seeds).filter(|seed| seed % SHARDS == which) {
        let world = live_through(seed, false);
        if let Some(failure) = &world.failure {
            panic!("{}", report(seed, failure));
        }
        counts.merge(&world.counts);
        looks.merge(world.oracle.looks);
        lived += 1;
    }
    println!("{lived} seeds, {counts:?}, {looks:?}");
    if lived >= 50 {
        for kind in Kind::ALL {
            assert!(counts.of(kind) > 0, "{kind:?} never happened in {lived} seeds");
        }
        let Looks { tables, applies, served } = looks;
        assert!(tables.min(applies).min(served) > 0, "a rule never had anything to look at: {looks:?}");
    }
}

#[test]
fn all_replicas_serve_what_is_held_whoever_leads_0() {
    shard(0);
}

#[test]
fn all_replicas_serve_what_is_held_whoever_leads_1() {
    shard(1);
}

#[test]
fn all_replicas_serve_what_is_held_whoever_leads_2() {
    shard(2);
}

#[test]
fn all_replicas_serve_what_is_held_whoever_leads_3() {
    shard(3);
}

/// SEED names it; any other is lived through twice, and must be the same both times.
#[test]
fn one_seed_is_the_same_story_every_time() {
    let seed = number("SEED").unwrap_or(4711);
    let (one, other) = (live_through(seed, true), live_through(seed, true));
    assert_eq!(one.trace, other.trace);
    if let Some(failure) = &one.failure {
        panic!("{}", report(seed, failure));
    }
}
