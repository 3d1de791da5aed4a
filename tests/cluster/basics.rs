//! Any server takes sidecars, and every server serves them.

use std::time::Instant;

use crate::programs::{caddy, free_address, get, wait_until};
use crate::support::{Cluster, host};

#[test]
fn what_is_registered_at_any_server_is_served_by_all() {
    let cluster = Cluster::start(2);
    let (leader, follower) = (cluster.leader(), cluster.follower());
    let one = cluster.replicas[leader].service("one");
    let two = cluster.replicas[follower].service("two");
    one.sidecar.wait_for_log("live:");
    two.sidecar.wait_for_log("live:");
    for name in ["one", "two"] {
        wait_until("all servers serve it", || cluster.all_serve(&host(name), name));
    }
}

#[test]
fn a_claim_has_one_owner_whichever_servers_are_asked() {
    let cluster = Cluster::start(2);
    let backend = free_address();
    let _application = caddy(backend, "shop");
    let mut clients: Vec<_> = cluster.replicas.iter().map(|replica| replica.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let answer = client.ask(&format!("REGISTER|shop-{number}|i|0|{{}}")).unwrap();
        assert!(answer.starts_with("ACK|"), "{answer}");
        let route = format!("ROUTE_ADD||shop.example.com|/|http://{backend}|0");
        assert_eq!(client.ask(&route).as_deref(), Some("ROUTE_OK|r1"));
    }
    clients.iter_mut().for_each(|client| client.send("CONFIG_APPLY|"));
    let answers: Vec<String> = clients.iter_mut().map(|client| client.line().unwrap()).collect();
    assert_eq!(answers.iter().filter(|answer| *answer == "OK").count(), 1, "{answers:?}");
    assert!(answers.iter().any(|answer| answer.contains("belongs to service")), "{answers:?}");
    wait_until("all servers serve it", || cluster.all_serve("shop.example.com", "shop"));
}

#[test]
fn a_session_moves_from_one_server_to_another() {
    let cluster = Cluster::start(2);
    let backend = free_address();
    let _application = caddy(backend, "shop");
    let mut here = cluster.replicas[cluster.follower()].client();
    let id = here.register("shop", backend);
    assert_eq!(here.ask("PING|").as_deref(), Some("PONG"));
    let mut there = cluster.replicas[cluster.leader()].client();
    assert_eq!(there.ask(&format!("RECONNECT|{id}")).as_deref(), Some("OK"));
    assert_eq!(there.ask("PING|").as_deref(), Some("PONG"));
    wait_until("the first connection has lost its session", || {
        here.ask("PING|").is_some_and(|answer| answer.starts_with("ERROR|no session"))
    });
    let info = there.ask("SESSION_INFO|").unwrap();
    assert!(info.starts_with("SESSION_OK|"), "{info}");
}

#[test]
fn an_apply_here_is_soon_in_force_there() {
    let cluster = Cluster::start(2);
    let backend = free_address();
    let _application = caddy(backend, "shop");
    let mut client = cluster.replicas[cluster.leader()].client();
    client.register("shop", backend);
    let other = &cluster.replicas[cluster.follower()];
    let begun = Instant::now();
    wait_until("the other server routes it", || {
        get(other.server.http, &host("shop"), "/").is_some_and(|answer| answer.status == 200)
    });
    assert!(begun.elapsed().as_secs() < 2, "{:?}", begun.elapsed());
}
