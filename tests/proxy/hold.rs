//! Requests that wait for a member, and clients that do not wait for so long.

use std::time::{Duration, Instant};

use registry_sidecar::server::proxy::{AccessFormat, AccessLog};
use registry_sidecar::server::routing::Hold;
use serde_json::Value;

use crate::support::{Backend, Output, Peer, Stage, field, member, ok, until};

fn an_hour() -> Hold {
    let hour = Duration::from_secs(3600);
    let mut hold = Hold::default();
    hold.set_until(Some(Instant::now() + hour));
    hold
}

const GET: &str = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 60000\r\n\r\n";

/// What a client may have sent when it goes, and what of that nobody reads while it waits.
fn requests() -> Vec<(&'static str, String)> {
    vec![
        ("a request", GET.to_owned()),
        ("with a further one", GET.repeat(2)),
        ("with a body to come", POST.to_owned()),
        ("with half a body", format!("{POST}{}", "x".repeat(30_000))),
        ("with a whole body", format!("{POST}{}", "x".repeat(60_000))),
        ("with a whole body and a further one", format!("{POST}{}{GET}", "x".repeat(60_000))),
    ]
}

#[tokio::test]
async fn a_client_that_goes_away_while_it_waits_leaves_its_place_and_its_memory() {
    let output = Output::default();
    let log = AccessLog::to(output.clone(), AccessFormat::Json).unwrap();
    let stage = Stage::with(|config| config.access_log = Some(log));
    let hold = an_hour();
    stage.held("example.com", &hold);
    let mut gone = 0;
    for (what, request) in requests() {
        for reset in [false, true] {
            let mut client = stage.client().await;
            client.send(&request).await;
            until(|| hold.waiting() == 1).await;
            if reset {
                client.reset();
            } else {
                drop(client);
            }
            until(|| hold.waiting() == 0 && stage.proxy.load().connections() == 0).await;
            gone += 1;
            let lines = output.lines(gone).await;
            let line: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
            assert_eq!((&line["status"], &line["outcome"]), (&499.into(), &"cancelled".into()), "{what}");
        }
    }
}

#[tokio::test]
async fn a_body_that_comes_while_its_request_waits_arrives_whole() {
    let backend = Backend::new(|mut peer: Peer| async move {
        let length = field(&peer.head().await.unwrap(), "content-length").unwrap().parse().unwrap();
        let body = peer.exactly(length).await;
        assert!(body.starts_with("piece 0 ") && body.ends_with("the end"), "{body}");
        peer.send(ok(&body.len().to_string())).await;
        peer.gone().await;
    })
    .await;
    let stage = Stage::new();
    let hold = an_hour();
    stage.held("example.com", &hold);
    let body: String = (0..2000).map(|n| format!("piece {n} ")).chain(["the end".to_owned()]).collect();
    let mut client = stage.client().await;
    client
        .send(format!("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: {}\r\n\r\n", body.len()))
        .await;
    until(|| hold.waiting() == 1).await;
    for piece in body.as_bytes().chunks(4000) {
        client.send(piece).await;
    }
    assert_eq!(hold.waiting(), 1, "it is still there");
    stage.route("example.com", "/", vec![member(1, &backend.url())]);
    assert_eq!(client.response().await.body, body.len().to_string());
    assert_eq!(hold.waiting(), 0);
}

#[tokio::test]
async fn a_client_that_waited_may_ask_again_on_its_connection() {
    let backend = Backend::saying("web").await;
    let stage = Stage::new();
    let hold = an_hour();
    let mut client = stage.client().await;
    for _ in 0..3 {
        stage.held("example.com", &hold);
        client.send(GET).await;
        until(|| hold.waiting() == 1).await;
        stage.route("example.com", "/", vec![member(1, &backend.url())]);
        assert_eq!(client.response().await.body, "web");
    }
    drop(client);
    until(|| stage.proxy.load().connections() == 0).await;
}

/// An instance comes at last and is stopped at once: its member closes before the table shows that.
#[tokio::test]
async fn who_has_waited_long_waits_for_the_table_to_show_that_a_member_has_closed() {
    let backend = Backend::saying("web").await;
    let stage = Stage::new();
    let hold = an_hour();
    stage.held("example.com", &hold);
    let mut client = stage.client().await;
    client.send(GET).await;
    until(|| hold.waiting() == 1).await;
    // Longer than any table takes to show it.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let closed = member(1, &backend.url());
    closed.load.close();
    stage.route("example.com", "/", vec![closed]);
    // Nothing tells that the request has seen it; without this the test passes, but shows nothing.
    tokio::time::sleep(Duration::from_millis(100)).await;
    stage.held("example.com", &hold);
    stage.route("example.com", "/", vec![member(2, &backend.url())]);
    assert_eq!(client.response().await.body, "web");
}

#[tokio::test]
async fn a_member_that_stays_closed_in_the_table_is_waited_for_a_second() {
    let stage = Stage::new();
    let closed = member(1, "http://127.0.0.1:9");
    closed.load.close();
    stage.route("example.com", "/", vec![closed]);
    let begun = Instant::now();
    assert_eq!(stage.get("example.com", "/").await.status(), 503);
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}
