//! The model of the operators' page: what it says, how it reaches those who follow, and what they may change.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

#[path = "live/support.rs"]
mod live;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "proxy/support.rs"]
mod support;

use std::time::{Duration, Instant};

use live::{Follower, Session, TOKEN, ask, order, server, view_with};
use serde_json::{Value, json};
use support::{Backend, Peer, soon};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

fn service<'a>(view: &'a Value, name: &str) -> Option<&'a Value> {
    view["services"].as_array()?.iter().find(|service| service["name"] == name)
}

/// Whether a service's only member is in this condition, for this reason.
fn is_member(view: &Value, name: &str, condition: &str, why: &str) -> bool {
    service(view, name).is_some_and(|service| {
        let member = &service["claims"][0]["members"][0];
        member["condition"] == condition && member["why"].as_str().is_some_and(|text| text.contains(why))
    })
}

#[tokio::test]
async fn every_state_of_a_member_has_its_reason() {
    let server = server(&[("HOLD", "30s")]).await;
    let admin = server.admin_address().unwrap();
    let well = Backend::saying("hello").await;
    let mut web = Session::serving(&server, "web", "web-1", "web.example", &well.url()).await;
    view_with(admin, |view| is_member(view, "web", "up", "in")).await;

    let ill = Backend::answering("HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n").await;
    let mut shop = Session::serving(&server, "shop", "shop-1", "shop.example", &ill.url()).await;
    shop.ok("HEALTH_SET||r1|/health|100ms|1s").await;
    shop.ok("CONFIG_APPLY|").await;
    view_with(admin, |view| is_member(view, "shop", "down", "out: check answered 404")).await;

    // Somebody waits for it.
    let mut client = Peer::connect(server.http_address()).await;
    client.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    view_with(admin, |view| {
        let claim = service(view, "shop").map(|shop| &shop["claims"][0]);
        let why = claim.and_then(|claim| claim["why"].as_str()).unwrap_or_default();
        claim.is_some_and(|claim| claim["condition"] == "held") && why.contains("1 wait")
    })
    .await;

    web.ok("DRAIN_START||1m").await;
    let drained = view_with(admin, |view| is_member(view, "web", "draining", "0 in flight")).await;
    assert!(service(&drained, "web").unwrap()["sessions"][0]["drain"]["ends"].is_string(), "{drained:#}");
    web.ok("DRAIN_CANCEL|").await;
    web.ok("MAINT_ENTER||ALL|").await;
    let shut =
        view_with(admin, |view| is_member(view, "web", "maintenance", "people see the proxy's page")).await;
    let session = &service(&shut, "web").unwrap()["sessions"][0];
    assert_eq!((&session["maintenance"]["routes"], &session["why"]), (&json!(1), &json!("in maintenance")));
    web.ok("MAINT_EXIT||ALL").await;
    view_with(admin, |view| is_member(view, "web", "up", "in")).await;

    drop(web);
    let lost = view_with(admin, |view| is_member(view, "web", "degraded", "its session is lost")).await;
    let session = &service(&lost, "web").unwrap()["sessions"][0];
    assert!(session["grace_ends"].is_string(), "{session:#}");
    drop(well);
    view_with(admin, |view| is_member(view, "web", "down", "")).await;
    let texts = view_with(admin, |view| view["events"].to_string().contains("lost its connection")).await;
    assert!(texts["events"].to_string().contains("web-1 registered from 127.0.0.1"), "{texts:#}");
}

#[tokio::test]
async fn whoever_follows_is_told_everything_first_and_then_each_change_within_a_second() {
    let server = server(&[("HOLD", "0s")]).await;
    let admin = server.admin_address().unwrap();
    let backend = Backend::saying("hello").await;
    let _web = Session::serving(&server, "web", "web-1", "web.example", &backend.url()).await;
    let (mut follower, head) = Follower::ask(admin).await;
    assert!(
        head.contains("content-type: text/event-stream") && head.contains("cache-control: no-store"),
        "{head}"
    );
    let all = follower.next("all").await;
    assert_eq!(all["set"]["service:web"]["name"], "web");
    assert_eq!(all["set"]["server"]["readiness"], "ready");

    let shop = Session::serving(&server, "shop", "shop-1", "shop.example", &backend.url()).await;
    let applied = Instant::now();
    let mut seen = false;
    while !seen {
        let change = follower.next("change").await;
        seen = change["set"]["service:shop"]["claims"][0]["domain"] == "shop.example";
        assert!(change["set"]["service:web"].is_null(), "only what changed is sent: {change:#}");
    }
    assert!(applied.elapsed() < Duration::from_secs(1), "{:?}", applied.elapsed());

    let mut shop = shop;
    shop.ok("CLIENT_SHUTDOWN|").await;
    let left = Instant::now();
    while !follower.next("change").await["gone"].as_array().unwrap().contains(&json!("service:shop")) {}
    assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
}

#[tokio::test]
async fn who_follows_is_counted_and_whoever_does_not_read_is_dropped() {
    let server = server(&[]).await;
    let admin = server.admin_address().unwrap();
    let mut followers = Vec::new();
    for _ in 0..32 {
        let (follower, head) = Follower::ask(admin).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        followers.push(follower);
    }
    let (_, head) = Follower::ask(admin).await;
    assert!(head.starts_with("HTTP/1.1 503") && head.contains("retry-after: 10"), "{head}");
    followers.clear();

    // A follower with the smallest window that never reads, while everything changes all the time.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(2048).unwrap();
    let mut deaf = soon(async {
        loop {
            let (_, head) = Follower::ask(admin).await;
            if head.starts_with("HTTP/1.1 200") {
                break;
            }
        }
        socket.connect(admin).await.unwrap()
    })
    .await;
    deaf.write_all(format!("GET /events HTTP/1.1\r\nHost: {admin}\r\n\r\n").as_bytes()).await.unwrap();
    let backend = Backend::saying("hello").await;
    let mut busy = Session::register(&server, "busy", "busy-1").await;
    let (mut reader, _) = Follower::ask(admin).await;
    let domains = |round: usize| {
        let names: Vec<_> =
            (0..60).map(|number| format!("a-long-name-of-a-host-{round}-{number}.example")).collect();
        names.join(",")
    };
    let mut is_dropped = false;
    for round in 0..150 {
        if round > 0 {
            busy.ok(&format!("ROUTE_REMOVE||r{round}")).await;
        }
        busy.ok(&format!("ROUTE_ADD||{}|/|{}|0", domains(round), backend.url())).await;
        busy.ok("CONFIG_APPLY|").await;
        reader.next("change").await;
        // The server has closed it: what was sent is still to be read, and then its end or a reset.
        if server_side_is_closed(&deaf) {
            is_dropped = true;
            break;
        }
    }
    assert!(is_dropped, "the deaf follower is still there");
}

/// Whether the kernel has seen the other end close or reset the connection.
fn server_side_is_closed(stream: &TcpStream) -> bool {
    let socket = socket2::SockRef::from(stream);
    let info = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let local = socket.local_addr().unwrap().as_socket_ipv4().unwrap();
    let port = format!(":{:04X} ", local.port());
    // 01 is ESTABLISHED; the second field is the local address.
    let line = info
        .lines()
        .find(|line| line.split_whitespace().nth(1).is_some_and(|it| format!("{it} ").ends_with(&port)));
    line.is_none_or(|line| line.split_whitespace().nth(3) != Some("01"))
}

#[tokio::test]
async fn an_operator_drains_cancels_and_enters_maintenance_with_the_token_alone() {
    let server = server(&[]).await;
    let admin = server.admin_address().unwrap();
    let backend = Backend::saying("hello").await;
    let mut one = Session::serving(&server, "web", "web-1", "web.example", &backend.url()).await;
    let _two = Session::serving(&server, "web", "web-2", "web.example", &backend.url()).await;

    let drain = json!({"action": "drain", "service": "web", "duration": "1m", "by": "ann", "reason": "move"});
    let (status, why) = order(admin, "guess", &drain).await;
    assert_eq!((status, why.as_str()), (401, "this is not the ADMIN_TOKEN\n"));
    let view = live::view(admin).await;
    assert!(!is_member(&view, "web", "draining", ""), "{view:#}");

    let (status, done) = order(admin, TOKEN, &drain).await;
    assert_eq!(status, 200, "{done}");
    let results: Value = serde_json::from_str(&done).unwrap();
    assert_eq!(results["results"].as_array().unwrap().len(), 2, "{results:#}");
    let view = view_with(admin, |view| is_member(view, "web", "draining", "of its share")).await;
    let events = view["events"].to_string();
    assert!(events.contains("operator ann from 127.0.0.1: drain for 1m, all instances (move)"), "{events}");
    assert!(events.contains("a wrong ADMIN_TOKEN") && !events.contains("guess"), "{events}");
    assert!(one.ok("DRAIN_STATUS|").await.contains("\"active\":true"), "the session's own client sees it");

    let session = service(&view, "web").unwrap()["sessions"][0]["session"].as_u64().unwrap();
    let (status, done) = order(admin, TOKEN, &json!({"action": "cancel-drain", "session": session})).await;
    assert_eq!(status, 200, "{done}");
    let (status, done) = order(admin, TOKEN, &json!({"action": "cancel-drain", "session": session})).await;
    assert_eq!(status, 409, "there is no drain any more: {done}");
    let (status, _) = order(admin, TOKEN, &json!({"action": "enter-maintenance", "session": session})).await;
    assert_eq!(status, 200);
    view_with(admin, |view| is_member(view, "web", "maintenance", "maintenance")).await;
    let (status, _) = order(admin, TOKEN, &json!({"action": "leave-maintenance", "session": session})).await;
    assert_eq!(status, 200);
    view_with(admin, |view| is_member(view, "web", "up", "in")).await;
    let (status, why) = order(admin, TOKEN, &json!({"action": "drain", "service": "nobody"})).await;
    assert_eq!(status, 404, "{why}");
}

#[tokio::test]
async fn an_operators_request_is_no_sign_of_life_of_a_lost_session() {
    let server = server(&[("SESSION_GRACE", "2s"), ("HOLD", "0s")]).await;
    let admin = server.admin_address().unwrap();
    let backend = Backend::saying("hello").await;
    let session = Session::serving(&server, "web", "web-1", "web.example", &backend.url()).await;
    view_with(admin, |view| is_member(view, "web", "up", "in")).await;
    drop(session);
    let lost = Instant::now();
    while service(&live::view(admin).await, "web").is_some() {
        order(admin, TOKEN, &json!({"action": "drain", "service": "web"})).await;
        assert!(lost.elapsed() < Duration::from_secs(10), "its grace never ends");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn without_a_token_at_the_server_nobody_changes_anything() {
    let server = server(&[("ADMIN_TOKEN", "")]).await;
    let admin = server.admin_address().unwrap();
    let (status, why) = order(admin, "", &json!({"action": "drain", "service": "web"})).await;
    assert_eq!((status, why.contains("ADMIN_TOKEN is not set")), (403, true), "{why}");
    let (head, _) = ask(admin, "GET /actions?action=drain HTTP/1.1", "").await;
    assert!(head.starts_with("HTTP/1.1 405"), "{head}");
}

#[tokio::test]
async fn the_document_may_run_its_own_script_alone_and_is_shown_in_no_frame() {
    let server = server(&[]).await;
    let (head, body) = ask(server.admin_address().unwrap(), "GET / HTTP/1.1", "").await;
    assert!(head.contains("content-type: text/html"), "{head}");
    let policy = head.lines().find_map(|line| line.strip_prefix("content-security-policy: ")).unwrap();
    for part in [
        "default-src 'none'",
        "script-src 'sha256-",
        "style-src 'sha256-",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ] {
        assert!(policy.contains(part), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
    assert!(body.starts_with("<!doctype html>"));
}
