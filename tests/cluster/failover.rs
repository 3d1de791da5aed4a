//! Servers die, stop, freeze and lose etcd.

use std::time::{Duration, Instant};

use crate::etcd::{Etcd, Version};
use crate::programs::{caddy, free_address, wait_until};
use crate::support::{Client, Cluster, Replica, TTL, Traffic, host};

/// How long a machine that is busy with other tests may take beyond what is promised.
const SLACK: Duration = Duration::from_secs(5);

/// How long it takes until a server takes an apply again.
pub(crate) fn time_until_applies_work(cluster: &Cluster, at: usize, begun: Instant) -> Duration {
    let backend = free_address();
    wait_until("an apply works", || {
        let mut client = Client::connect(cluster.replicas[at].server.registry);
        let registered = client.ask("REGISTER|probe|probe|0|{}");
        if !registered.is_some_and(|answer| answer.starts_with("ACK|")) {
            return false;
        }
        client.ask(&format!("ROUTE_ADD||probe.example.com|/|http://{backend}|0"));
        client.ask("CONFIG_APPLY|").as_deref() == Some("OK")
    });
    begun.elapsed()
}

#[test]
fn a_leader_that_is_killed_costs_no_request_at_the_others() {
    let mut cluster = Cluster::start(3);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let shop = cluster.replicas[follower].service("shop");
    shop.sidecar.wait_for_log("live:");
    wait_until("all servers serve it", || cluster.all_serve(&host("shop"), "shop"));
    let others = cluster.replicas.iter().enumerate().filter(|(place, _)| *place != leader);
    let traffic = Traffic::start(others.map(|(_, replica)| replica.server.http).collect(), "shop");
    let begun = Instant::now();
    cluster.replicas[leader].server.program.kill();
    let taken = time_until_applies_work(&cluster, follower, begun);
    println!("killed: applies work after {taken:?}");
    assert!(taken < TTL + Duration::from_secs(1) + SLACK, "{taken:?}");
    assert!(traffic.end() > 0);
    let log = shop.sidecar.log().join("\n");
    assert!(!log.contains("lost"), "the sidecar noticed something:\n{log}");
}

#[test]
fn a_leader_that_stops_is_followed_at_once() {
    let mut cluster = Cluster::start(2);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let shop = cluster.replicas[follower].service("shop");
    shop.sidecar.wait_for_log("live:");
    let traffic = Traffic::start(vec![cluster.replicas[follower].server.http], "shop");
    let begun = Instant::now();
    cluster.replicas[leader].server.program.signal("TERM");
    let taken = time_until_applies_work(&cluster, follower, begun);
    println!("stopped: applies work after {taken:?}");
    assert!(cluster.replicas[leader].server.program.wait().success());
    assert!(taken < TTL, "no lease had to end: {taken:?}");
    traffic.end();
}

#[test]
fn a_follower_that_is_killed_costs_its_sidecars_a_reconnect() {
    let mut cluster = Cluster::start(2);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let backend = free_address();
    let _application = caddy(backend, "shop");
    let mut client = cluster.replicas[follower].client();
    let id = client.register("shop", backend);
    wait_until("all servers serve it", || cluster.all_serve(&host("shop"), "shop"));
    let traffic = Traffic::start(vec![cluster.replicas[leader].server.http], "shop");
    cluster.replicas[follower].server.program.kill();
    let mut client = cluster.replicas[leader].client();
    assert_eq!(client.ask(&format!("RECONNECT|{id}")).as_deref(), Some("OK"));
    assert_eq!(client.ask("CONFIG_APPLY|").as_deref(), Some("OK"));
    traffic.end();
}

#[test]
fn a_frozen_leader_that_wakes_up_serves_no_stale_write() {
    let cluster = Cluster::start(2);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let backend = free_address();
    let _application = caddy(backend, "shop");
    let mut client = cluster.replicas[leader].client();
    client.register("shop", backend);
    let route = format!("ROUTE_ADD||late.example.com|/|http://{backend}|0");
    assert_eq!(client.ask(&route).as_deref(), Some("ROUTE_OK|r2"));
    cluster.replicas[leader].server.program.signal("STOP");
    client.send("CONFIG_APPLY|");
    let begun = Instant::now();
    let taken = time_until_applies_work(&cluster, follower, begun);
    println!("frozen: applies work after {taken:?}");
    wait_until("three leases", || begun.elapsed() > 3 * TTL);
    cluster.replicas[leader].server.program.signal("CONT");
    let answer = client.line();
    assert!(
        matches!(answer.as_deref(), None | Some("ERROR|store unavailable")),
        "a leader of yesterday has answered {answer:?}"
    );
    cluster.wait_until_settled();
    assert!(!cluster.all_serve("late.example.com", "shop"));
    wait_until("all servers serve what was applied", || cluster.all_serve(&host("shop"), "shop"));
}

#[test]
fn etcd_is_away_and_back() {
    let mut cluster = Cluster::on(vec![Etcd::start(Version::V3_5)], 2);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let shop = cluster.replicas[follower].service("shop");
    shop.sidecar.wait_for_log("live:");
    wait_until("all servers serve it", || cluster.all_serve(&host("shop"), "shop"));
    let backend = free_address();
    let mut clients = [leader, follower].map(|place| cluster.replicas[place].client());
    for (number, client) in clients.iter_mut().enumerate() {
        client.register(["one", "two"][number], backend);
    }
    let traffic =
        Traffic::start(cluster.replicas.iter().map(|replica| replica.server.http).collect(), "shop");
    cluster.etcd[0].kill();
    let away = Instant::now();
    wait_until("longer than several leases", || away.elapsed() > 3 * TTL);
    let in_trouble = |replica: &Replica| !replica.cluster_status().unwrap()["trouble"].is_null();
    assert!(cluster.replicas.iter().all(in_trouble));
    for client in &mut clients {
        let asked = Instant::now();
        client.send("ROUTE_ADD||late.example.com|/|http://127.0.0.1:9|0");
        let answer = client.line();
        assert_eq!(answer.as_deref(), Some("ERROR|store unavailable"), "after {:?}", asked.elapsed());
        assert!(asked.elapsed() < Duration::from_secs(5) + SLACK, "{:?}", asked.elapsed());
    }
    cluster.etcd[0].start_again();
    cluster.wait_until_settled();
    let taken = time_until_applies_work(&cluster, follower, Instant::now());
    println!("etcd is back: applies work after {taken:?}");
    for client in &mut clients {
        let answer = client.ask("ROUTE_ADD||late.example.com|/|http://127.0.0.1:9|0");
        assert_eq!(answer.as_deref(), Some("ROUTE_OK|r2"), "on the same connection");
    }
    assert!(traffic.end() > 0);
}
