//! A thousand sidecars lose one registry: what it hears of them while it is away, and when it is back.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::cast::{Replica, replica};
use super::faults::{Kind, Plan};
use super::run::begin;
use super::world::World;

const SIDECARS: usize = 1000;
const BUCKET: Duration = Duration::from_millis(100);

fn herd() -> Vec<Replica> {
    let address = |at: usize| Ipv4Addr::from(0x0a03_0000 + u32::try_from(at).unwrap());
    (0..SIDECARS).map(|at| replica(at, 0, address(at))).collect()
}

fn live(world: &World) -> usize {
    world.server.table.claims().filter(|claim| claim.has_usable()).count()
}

/// How many attempts there were in each tenth of a second from `begin` on.
fn buckets(dials: &[Duration], begin: Duration, end: Duration) -> Vec<usize> {
    let count = ((end - begin).as_millis() / BUCKET.as_millis()) as usize;
    let mut buckets = vec![0; count];
    for at in dials.iter().filter(|at| **at >= begin && **at < end) {
        let bucket = ((*at - begin).as_millis() / BUCKET.as_millis()) as usize;
        if let Some(bucket) = buckets.get_mut(bucket) {
            *bucket += 1;
        }
    }
    buckets
}

/// The figures are in docs/internals/performance.md.
#[test]
fn a_thousand_sidecars_come_back_spread_as_the_back_off_says() {
    let mut world = begin(7, Plan::calm(), herd(), false);
    world.oracle.is_blind = true;
    world.run_until(Duration::from_secs(15));
    assert_eq!(live(&world), SIDECARS);
    world.dials.clear();
    let lost = world.now;
    world.kill_registry(Kind::RegistryAmnesia);
    world.run_until(lost + Duration::from_secs(60));

    // The first retry is everybody's at the same moment, as it is for each alone.
    let first = buckets(&world.dials, lost + BUCKET, lost + 2 * BUCKET)[0];
    assert!(first >= SIDECARS, "{first} first retries");
    // From the ninth on the delays are drawn from all of 0.1 s to 10 s.
    let late = buckets(&world.dials, lost + Duration::from_secs(30), lost + Duration::from_secs(60));
    let (sum, peak) = (late.iter().sum::<usize>(), *late.iter().max().unwrap());
    let mean = sum as f64 / late.len() as f64;
    println!("away for 30 s: {:.0} attempts a second, at most {peak} in 100 ms", mean * 10.0);
    assert!((16.0..25.0).contains(&mean), "{mean} attempts in 100 ms");
    assert!((peak as f64) < 2.5 * mean, "a wave of {peak} in 100 ms, {mean} on average");

    world.dials.clear();
    world.restart_registry();
    let back = world.now;
    let mut reached = Vec::new();
    for share in [SIDECARS / 2, SIDECARS * 95 / 100, SIDECARS] {
        while live(&world) < share {
            world.run_until(world.now + Duration::from_millis(10));
            assert!(world.now < back + Duration::from_secs(11), "{} of {SIDECARS} are back", live(&world));
        }
        reached.push(world.now - back);
    }
    let peak = buckets(&world.dials, back, back + Duration::from_secs(10)).into_iter().max().unwrap();
    println!(
        "back: half of them after {:?}, 95 % after {:?}, all after {:?}",
        reached[0], reached[1], reached[2]
    );
    println!("at most {peak} of them in 100 ms");
    assert!(peak < SIDECARS / 10, "{peak} at once");
    assert_eq!(world.failure, None);
}
