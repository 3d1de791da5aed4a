//! Clients of the registry: many that come, change what they have and go, one with very many routes, and keepalives.

use std::net::SocketAddr;

use super::line::Line;

pub(crate) fn come_and_go(registry: SocketAddr) {
    let mut services: Vec<(Line, String)> = (0..300).map(|number| service(registry, number)).collect();
    for (line, id) in &mut services {
        for _ in 0..200 {
            assert_eq!(line.ask(&format!("PING|{id}")).unwrap(), "PONG");
        }
    }
    many_routes(registry);
    for (number, (mut line, id)) in services.into_iter().enumerate() {
        match number % 3 {
            0 => drop(line.ask(&format!("CLIENT_SHUTDOWN|{id}"))),
            1 => back_again(registry, line, &id),
            _ => drop(line.ask(&format!("DRAIN_START|{id}|1s"))),
        }
    }
}

/// One of many: a route with a check, a few settings, and questions about them.
fn service(registry: SocketAddr, number: usize) -> (Line, String) {
    let mut line = Line::open(registry).unwrap();
    let ack =
        line.ask(&format!("REGISTER|service-{number}|service-{number}-1|0|{{\"version\":\"1\"}}")).unwrap();
    let id = ack.strip_prefix("ACK|").unwrap().to_owned();
    let added =
        format!("ROUTE_ADD|{id}|s{number}.example.com,www.s{number}.example.com|/|http://127.0.0.1:9|0");
    let route = line.ask(&added).unwrap().strip_prefix("ROUTE_OK|").unwrap().to_owned();
    for command in [
        format!("HEALTH_SET|{id}|{route}|/health|30s|5s"),
        format!("OPTIONS_SET|{id}|{route}|timeout|30s"),
        format!("HEADERS_SET|{id}|{route}|X-Service|s{number}"),
        format!("CONFIG_DIFF|{id}"),
        format!("ROUTE_LIST|{id}"),
        format!("SESSION_INFO|{id}"),
        format!("STATS_GET|{id}|{route}"),
        format!("CONFIG_VALIDATE|{id}"),
    ] {
        let answer = line.ask(&command).unwrap();
        assert!(!answer.starts_with("ERROR"), "{command}: {answer}");
    }
    apply(&mut line, &id);
    (line, id)
}

/// Its connection is lost, and it comes back on another.
fn back_again(registry: SocketAddr, lost: Line, id: &str) {
    drop(lost);
    let mut line = Line::open(registry).unwrap();
    assert_eq!(line.ask(&format!("RECONNECT|{id}")).unwrap(), "OK");
}

/// Very many routes in one apply, then single ones beside them.
fn many_routes(registry: SocketAddr) {
    let mut line = Line::open(registry).unwrap();
    let ack = line.ask("REGISTER|many|many-1|0|{}").unwrap();
    let id = ack.strip_prefix("ACK|").unwrap();
    for number in 0..20_000 {
        let added = line.ask(&format!("ROUTE_ADD|{id}|d{number}.example.com|/|http://127.0.0.1:9|10"));
        assert!(added.unwrap().starts_with("ROUTE_OK"));
    }
    apply(&mut line, id);
    for number in 0..200 {
        line.ask(&format!("ROUTE_ADD|{id}|e{number}.example.com|/|http://127.0.0.1:9|10")).unwrap();
        apply(&mut line, id);
    }
    line.ask(&format!("CLIENT_SHUTDOWN|{id}")).unwrap();
}

/// Until it is in force: the disk may be so busy with the build that the store gives up waiting for it.
fn apply(line: &mut Line, id: &str) {
    for _ in 0..20 {
        match line.ask(&format!("CONFIG_APPLY|{id}")).unwrap().as_str() {
            "OK" => return,
            answer => assert_eq!(answer, "ERROR|store unavailable"),
        }
    }
    panic!("the disk takes nothing");
}
