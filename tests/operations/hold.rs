//! SEMANTICS section 6: requests wait for a claim that has lost its last usable member.

use std::time::{Duration, Instant};

use futures_util::future::select_all;

use crate::support::{Backend, Client, Session, get, server, soon, until};

const ASK: &str = "GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: 5\r\n\r\nhello";

/// Waits until nothing can have been answered that is answered at once.
async fn silent(client: &mut Client) {
    let early = tokio::time::timeout(Duration::from_millis(100), client.answer()).await;
    assert!(early.is_err(), "it must wait: {early:?}");
}

#[tokio::test]
async fn requests_wait_for_the_successor_and_are_served_whole() {
    let server = server(&[]).await;
    let first = Backend::new("first").await;
    let mut session = Session::live(&server, "shop", "shop-1", "a.example.com", &first).await;
    let mut kept = Client::connect(&server).await.unwrap();
    kept.send(ASK).await.unwrap();
    assert_eq!(kept.answer().await.unwrap().body, "first 0");
    assert_eq!(session.ask("CLIENT_SHUTDOWN|").await, "SHUTDOWN_OK");
    first.stop().await;
    let mut new = Client::connect(&server).await.unwrap();
    kept.send(POST).await.unwrap();
    new.send(ASK).await.unwrap();
    silent(&mut kept).await;
    silent(&mut new).await;
    let second = Backend::new("second").await;
    let _session = Session::live(&server, "blog", "blog-1", "a.example.com", &second).await;
    assert_eq!(soon(kept.answer()).await.unwrap().body, "second 5");
    assert_eq!(soon(new.answer()).await.unwrap().body, "second 0");
}

#[tokio::test]
async fn a_shorter_route_does_not_take_them_over() {
    let server = server(&[]).await;
    let (all, api) = (Backend::new("all").await, Backend::new("api").await);
    let _all = Session::live(&server, "shop", "shop-1", "a.example.com", &all).await;
    let mut session = Session::register(&server, "api", "api-1").await;
    session.ask(&format!("ROUTE_ADD||a.example.com|/api|{}|0", api.url())).await;
    assert_eq!(session.ask("CONFIG_APPLY|").await, "OK");
    assert_eq!(session.ask("CLIENT_SHUTDOWN|").await, "SHUTDOWN_OK");
    let mut client = Client::connect(&server).await.unwrap();
    client.send("GET /api/x HTTP/1.1\r\nHost: a.example.com\r\n\r\n").await.unwrap();
    silent(&mut client).await;
    assert_eq!(get(&server, "a.example.com").await.body, "all 0");
}

#[tokio::test]
async fn when_the_time_is_over_they_are_told_when_to_come_again() {
    let server = server(&[("HOLD", "300ms")]).await;
    let backend = Backend::new("web").await;
    let mut session = Session::live(&server, "shop", "shop-1", "a.example.com", &backend).await;
    session.ask("CLIENT_SHUTDOWN|").await;
    let begun = Instant::now();
    let answer = get(&server, "a.example.com").await;
    assert_eq!(answer.status, 503);
    assert!(answer.field("retry-after").is_some());
    assert!(begun.elapsed() > Duration::from_millis(100));
    // The request and the claim have the same deadline, and either may be the first to see it.
    until(async || get(&server, "a.example.com").await.status == 404).await;
}

#[tokio::test]
async fn hold_zero_is_off() {
    let server = server(&[("HOLD", "0s")]).await;
    let backend = Backend::new("web").await;
    let mut session = Session::live(&server, "shop", "shop-1", "a.example.com", &backend).await;
    session.ask("CLIENT_SHUTDOWN|").await;
    assert_eq!(get(&server, "a.example.com").await.status, 404);
}

#[tokio::test]
async fn beyond_a_thousand_they_are_answered_at_once_and_one_that_leaves_makes_room() {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let mut session = Session::live(&server, "shop", "shop-1", "a.example.com", &backend).await;
    session.ask("CLIENT_SHUTDOWN|").await;
    let mut waiting = Vec::new();
    for _ in 0..1001 {
        let mut client = Client::connect(&server).await.unwrap();
        client.send(ASK).await.unwrap();
        waiting.push(client);
    }
    let refused = {
        let answers = waiting.iter_mut().map(|client| Box::pin(client.answer()));
        let (answer, refused, _) = soon(select_all(answers)).await;
        assert_eq!(answer.unwrap().status, 503);
        refused
    };
    waiting.remove(refused);
    waiting.pop();
    // The client's going is noticed a moment later.
    soon(async {
        loop {
            let mut client = Client::connect(&server).await.unwrap();
            client.send(ASK).await.unwrap();
            if tokio::time::timeout(Duration::from_millis(200), client.answer()).await.is_err() {
                return waiting.push(client);
            }
        }
    })
    .await;
    let next = Backend::new("next").await;
    let _session = Session::live(&server, "shop", "shop-1", "a.example.com", &next).await;
    for mut client in waiting {
        assert_eq!(soon(client.answer()).await.unwrap().body, "next 0");
    }
}

#[tokio::test]
async fn a_graceful_stop_ends_the_wait() {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let mut session = Session::live(&server, "shop", "shop-1", "a.example.com", &backend).await;
    session.ask("CLIENT_SHUTDOWN|").await;
    let mut client = Client::connect(&server).await.unwrap();
    client.send(ASK).await.unwrap();
    silent(&mut client).await;
    let begun = Instant::now();
    let stop = tokio::spawn(server.stop());
    assert_eq!(soon(client.answer()).await.unwrap().status, 503);
    soon(stop).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
}
