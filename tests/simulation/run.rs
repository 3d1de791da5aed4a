//! Seeds and shards: `SEEDS=n` for how many, `SEED=n` for exactly one, and how a failure is shown.

use std::fmt::Write as _;
use std::time::Duration;

use super::cast::{Replica, replicas};
use super::faults::{Counts, Kind, Plan};
use super::oracle::Looks;
use super::server::{GRACE, HOLD};
use super::world::{Event, KEEPALIVE, World};

/// How many seeds there are unless SEEDS says so.
const SEEDS: u64 = 2000;
/// Tests that share them.
const SHARDS: u64 = 8;
/// A shard with so many failures has shown enough.
const MOST_FAILURES: usize = 5;
/// Without a failure, nothing is said; with one, the last of the story.
const SHOWN: usize = 120;

/// What came of a seed.
pub(crate) struct Outcome {
    pub(crate) counts: Counts,
    pub(crate) looks: Looks,
    pub(crate) events: u64,
    pub(crate) failure: Option<String>,
    pub(crate) fault_log: Vec<String>,
    pub(crate) trace: Vec<String>,
}

/// A world in which everything has just been started.
pub(crate) fn begin(seed: u64, plan: Plan, replicas: Vec<Replica>, trace: bool) -> World {
    let mut world = World::new(seed, plan, replicas, trace);
    world.restart_registry();
    for id in 0..world.replicas.len() {
        world.replicas[id].sidecar = world.spawn(id);
    }
    world
}

/// Lives through one seed.
pub(crate) fn live_through(seed: u64, trace: bool) -> Outcome {
    let mut rng = fastrand::Rng::with_seed(seed);
    let plan = Plan::of(&mut rng);
    let mut world = begin(seed, plan, replicas(&mut rng), trace);
    let first = world.between(0, 3_000);
    world.after(first, Event::Strike);
    world.after(Duration::from_secs(1), Event::Audit);
    let healed = world.plan.calm_from + KEEPALIVE + GRACE + world.plan.bound() + HOLD;
    world.run_until(healed);
    if world.failure.is_none()
        && let Err(why) = world.judge()
    {
        world.fail(format!("everything is healed, but: {why}"));
    }
    Outcome {
        counts: world.counts,
        looks: world.oracle.looks,
        events: world.events,
        failure: world.failure,
        fault_log: world.fault_log,
        trace: world.trace.unwrap_or_default(),
    }
}

/// A failure, with all that is needed to find out why.
fn report(seed: u64, failure: &str) -> String {
    let again = live_through(seed, true);
    let mut text = format!("\nseed {seed}: {failure}\n\nwhat went wrong before:\n");
    again.fault_log.iter().for_each(|line| writeln!(text, "{line}").unwrap());
    let skipped = again.trace.len().saturating_sub(SHOWN);
    text.push_str("\nthe last events:\n");
    again.trace[skipped..].iter().for_each(|line| writeln!(text, "{line}").unwrap());
    if again.failure.as_deref() != Some(failure) {
        writeln!(text, "\nthe same seed says something else now: {:?}", again.failure).unwrap();
    }
    write!(text, "\nto see it again: SEED={seed} cargo nextest run --test simulation one_seed").unwrap();
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
    let (mut counts, mut looks) = (Counts::default(), Looks::default());
    let (mut lived, mut events, mut failures) = (0_u64, 0, Vec::new());
    for seed in (0..seeds).filter(|seed| seed % SHARDS == which) {
        let outcome = live_through(seed, false);
        counts.merge(&outcome.counts);
        looks.merge(outcome.looks);
        failures.extend(outcome.failure.map(|failure| (seed, failure)));
        if failures.len() == MOST_FAILURES {
            break;
        }
        lived += 1;
        events += outcome.events;
    }
    if let Some((seed, failure)) = failures.first() {
        failures.iter().for_each(|(seed, failure)| println!("seed {seed}: {failure}"));
        panic!("{}", report(*seed, failure));
    }
    println!("{lived} seeds, {events} events, {counts:?}");
    if lived >= 100 {
        for kind in Kind::ALL {
            assert!(counts.of(kind) > 0, "{kind:?} never happened in {lived} seeds");
        }
        assert!(looks.all_happened(), "a rule never had anything to look at: {looks:?}");
    }
}

macro_rules! shards {
    ($($name:ident $number:literal)*) => {
        $(
            #[test]
            fn $name() {
                shard($number);
            }
        )*
    };
}

shards! {
    whatever_happens_what_is_wanted_is_served_in_the_end_0 0
    whatever_happens_what_is_wanted_is_served_in_the_end_1 1
    whatever_happens_what_is_wanted_is_served_in_the_end_2 2
    whatever_happens_what_is_wanted_is_served_in_the_end_3 3
    whatever_happens_what_is_wanted_is_served_in_the_end_4 4
    whatever_happens_what_is_wanted_is_served_in_the_end_5 5
    whatever_happens_what_is_wanted_is_served_in_the_end_6 6
    whatever_happens_what_is_wanted_is_served_in_the_end_7 7
}

/// SEED names it; any other is lived through twice, and must be the same both times.
#[test]
fn one_seed_is_the_same_story_every_time() {
    let seed = number("SEED").unwrap_or(4711);
    let (one, other) = (live_through(seed, true), live_through(seed, true));
    let differs = one.trace.iter().zip(&other.trace).find(|(one, other)| one != other);
    assert_eq!(differs, None);
    assert_eq!(one.trace.len(), other.trace.len());
    if let Some(failure) = one.failure {
        panic!("{}", report(seed, &failure));
    }
}
