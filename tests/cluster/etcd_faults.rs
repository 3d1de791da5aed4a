//! Members of etcd die, and servers lose etcd or each other.

use std::time::{Duration, Instant};

use crate::etcd::{Etcd, Version, free_port};
use crate::failover::time_until_applies_work;
use crate::programs::{caddy, free_address, wait_until};
use crate::relay::Relay;
use crate::support::{Cluster, Replica, Traffic, host};

fn proxies(cluster: &Cluster) -> Vec<std::net::SocketAddr> {
    cluster.replicas.iter().map(|replica| replica.server.http).collect()
}

fn of_three_members_each_may_die(version: Version) {
    let mut cluster = Cluster::on(Etcd::cluster(version), 2);
    let shop = cluster.replicas[cluster.follower()].service("shop");
    shop.sidecar.wait_for_log("live:");
    wait_until("all servers serve it", || cluster.all_serve(&host("shop"), "shop"));
    let traffic = Traffic::start(proxies(&cluster), "shop");
    for member in 0..3 {
        cluster.etcd[member].kill();
        let taken = time_until_applies_work(&cluster, 0, Instant::now());
        println!("{version:?} without member {member}: applies work after {taken:?}");
        cluster.etcd[member].restart();
    }
    cluster.wait_until_settled();
    assert!(traffic.end() > 0);
}

#[test]
fn of_three_members_of_etcd_3_4_each_may_die() {
    of_three_members_each_may_die(Version::V3_4);
}

#[test]
fn of_three_members_of_etcd_3_5_each_may_die() {
    of_three_members_each_may_die(Version::V3_5);
}

#[test]
fn a_follower_without_etcd_still_takes_sidecars() {
    let etcd = Etcd::start(Version::V3_5);
    let way = Relay::start(([127, 0, 0, 1], etcd.client_port).into());
    let first = Replica::start(std::slice::from_ref(&etcd));
    wait_until("the first leads", || first.role().as_deref() == Some("leader"));
    let second = Replica::start_at(&format!("http://{}", way.address));
    let cluster = Cluster { etcd: vec![etcd], replicas: vec![first, second] };
    cluster.wait_until_settled();
    let backend = free_address();
    let _application = caddy(backend, "shop");
    let mut client = cluster.replicas[1].client();
    client.register("shop", backend);
    wait_until("all servers serve it", || cluster.all_serve(&host("shop"), "shop"));
    let traffic = Traffic::start(proxies(&cluster), "shop");
    way.stall(true);
    // The leader is there, and takes what is said to it.
    assert_eq!(client.ask("OPTIONS_SET||ALL|timeout|5s").as_deref(), Some("OPTIONS_OK"));
    assert_eq!(client.ask("CONFIG_APPLY|").as_deref(), Some("OK"));
    way.stall(false);
    way.cut();
    cluster.wait_until_settled();
    assert!(traffic.end() > 0);
}

#[test]
fn everything_that_dies_at_once_comes_back_as_it_was() {
    let mut cluster = Cluster::start(2);
    let backend = free_address();
    let _application = caddy(backend, "shop");
    let id = cluster.replicas[0].client().register("shop", backend);
    wait_until("all servers serve it", || cluster.all_serve(&host("shop"), "shop"));
    cluster.replicas.iter_mut().for_each(|replica| replica.server.program.kill());
    cluster.etcd[0].restart();
    cluster.replicas.iter_mut().for_each(|replica| replica.server.restart());
    wait_until("all servers serve it again", || cluster.all_serve(&host("shop"), "shop"));
    cluster.wait_until_settled();
    let mut client = cluster.replicas[1].client();
    assert_eq!(client.ask(&format!("RECONNECT|{id}")).as_deref(), Some("OK"));
}

#[test]
fn a_server_that_starts_without_etcd_is_not_ready_and_says_503() {
    let port = free_port();
    let lone = Replica::start_at(&format!("http://127.0.0.1:{port}"));
    let ready = crate::programs::get(lone.admin, "localhost", "/readyz").unwrap();
    assert_eq!((ready.status, ready.body.trim_end()), (503, "etcd was not read yet"));
    let answer = crate::programs::get(lone.server.http, "shop.example.com", "/").unwrap();
    assert_eq!(answer.status, 503, "{}", answer.body);
    assert!(answer.head.to_lowercase().contains("retry-after"), "{}", answer.head);
    let _etcd = Etcd::start_on(Version::V3_5, port);
    wait_until("it is ready", || {
        crate::programs::get(lone.admin, "localhost", "/readyz").is_some_and(|answer| answer.status == 200)
    });
    let answer = crate::programs::get(lone.server.http, "shop.example.com", "/").unwrap();
    assert_eq!(answer.status, 404);
}

#[test]
fn two_of_three_members_are_gone_and_come_back() {
    let mut cluster = Cluster::on(Etcd::cluster(Version::V3_5), 2);
    let shop = cluster.replicas[cluster.follower()].service("shop");
    shop.sidecar.wait_for_log("live:");
    wait_until("all servers serve it", || cluster.all_serve(&host("shop"), "shop"));
    let traffic = Traffic::start(proxies(&cluster), "shop");
    (1..3).for_each(|member| cluster.etcd[member].kill());
    let mut client = cluster.replicas[0].client();
    client.send("REGISTER|late|late|0|{}");
    let asked = Instant::now();
    wait_until("nobody can prove that he leads", || asked.elapsed() > Duration::from_secs(5));
    (1..3).for_each(|member| cluster.etcd[member].start_again());
    let taken = time_until_applies_work(&cluster, 0, Instant::now());
    println!("with a majority again: applies work after {taken:?}");
    cluster.wait_until_settled();
    assert!(traffic.end() > 0);
}
