//! SEMANTICS section 6: a member that leaves gets less and less, and finishes what it has.

use crate::support::{Backend, Client, Session, get, server, soon, until};

const ASK: &str = "GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n";
const UPGRADE: &str =
    "GET / HTTP/1.1\r\nHost: a.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[tokio::test]
async fn what_is_in_flight_is_counted_exactly_and_finishes_even_after_the_shutdown() {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let mut session = Session::live(&server, "shop", "shop-1", "a.example.com", &backend).await;
    backend.slow(true);
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = Client::connect(&server).await.unwrap();
        client.send(ASK).await.unwrap();
        clients.push(client);
    }
    until(async || backend.requests() == 5).await;
    assert!(session.ask("DRAIN_START||10s").await.starts_with("DRAIN_OK|"));
    assert_eq!(session.drain_status("in_flight").await, 5.0);
    assert_eq!(session.drain_status("traffic_percent").await, 0.0, "it has no sibling");
    assert!(session.drain_status("remaining_seconds").await > 0.0);
    assert_eq!(session.ask("CLIENT_SHUTDOWN|").await, "SHUTDOWN_OK");
    backend.slow(false);
    for mut client in clients {
        assert_eq!(soon(client.answer()).await.unwrap().body, "web 0");
    }
}

/// Connections to `backend` that have begun something and wait for its end.
async fn waiting(server: &registry_sidecar::server::Server, backend: &Backend, count: usize) -> Vec<Client> {
    let before = backend.requests();
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = Client::connect(server).await.unwrap();
        client.send(ASK).await.unwrap();
        clients.push(client);
    }
    until(async || backend.requests() == before + count).await;
    clients
}

#[tokio::test]
async fn who_is_gone_is_in_flight_no_more_and_who_became_a_websocket_is_counted_apart() {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let mut session = Session::live(&server, "shop", "shop-1", "a.example.com", &backend).await;
    let mut upgraded = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(&server).await.unwrap();
        client.send(UPGRADE).await.unwrap();
        assert_eq!(soon(client.answer()).await.unwrap().status, 101);
        upgraded.push(client);
    }
    backend.slow(true);
    let mut clients = waiting(&server, &backend, 7).await;
    let mut post = Client::connect(&server).await.unwrap();
    post.send("POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: 9\r\n\r\nnot all").await.unwrap();
    // Nobody but the proxy knows when half an upload has arrived; one that comes during a drain would wait.
    until(async || {
        assert!(session.ask("DRAIN_START||1h").await.starts_with("DRAIN_OK|"));
        session.counts().await == (8.0, 3.0) || session.ask("DRAIN_CANCEL|").await != "DRAIN_OK"
    })
    .await;
    for left in (0..7).rev() {
        drop(clients.pop());
        until(async || session.counts().await == (1.0 + f64::from(left), 3.0)).await;
        assert!(session.drain_status("remaining_seconds").await > 0.0, "somebody is in flight");
    }
    upgraded.pop();
    until(async || session.counts().await == (1.0, 2.0)).await;
    drop(post);
    until(async || session.counts().await == (0.0, 2.0)).await;
    assert_eq!(session.drain_status("remaining_seconds").await, 0.0, "websockets are not waited for");
    drop(upgraded);
    until(async || session.counts().await == (0.0, 0.0)).await;
}

#[tokio::test]
async fn a_drained_member_gets_less_and_less_until_its_sibling_has_everything() {
    let server = server(&[]).await;
    let (one, two) = (Backend::new("one").await, Backend::new("two").await);
    let mut first = Session::live(&server, "shop", "shop-1", "a.example.com", &one).await;
    let _second = Session::live(&server, "shop", "shop-2", "a.example.com", &two).await;
    until(async || get(&server, "a.example.com").await.body == "two 0").await;
    // A request keeps the drain from being over early.
    one.slow(true);
    two.slow(true);
    let mut waiting = Vec::new();
    while one.requests() == 0 {
        let mut client = Client::connect(&server).await.unwrap();
        client.send(ASK).await.unwrap();
        waiting.push(client);
        let sent = waiting.len();
        until(async || one.requests() + two.requests() >= sent).await;
    }
    two.slow(false);
    assert!(first.ask("DRAIN_START||1s").await.starts_with("DRAIN_OK|"));
    soon(async {
        while first.drain_status("traffic_percent").await > 0.0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    let before = one.requests();
    for _ in 0..50 {
        assert_eq!(get(&server, "a.example.com").await.body, "two 0");
    }
    assert_eq!(one.requests(), before);
    assert_eq!(first.ask("DRAIN_CANCEL|").await, "DRAIN_OK");
    one.slow(false);
    until(async || get(&server, "a.example.com").await.body == "one 0").await;
}

#[tokio::test]
async fn requests_that_come_during_a_drain_wait_for_the_successor() {
    let server = server(&[]).await;
    let backend = Backend::new("old").await;
    let mut session = Session::live(&server, "shop", "shop-1", "a.example.com", &backend).await;
    assert!(session.ask("DRAIN_START||0s").await.starts_with("DRAIN_OK|"));
    assert_eq!(session.drain_status("remaining_seconds").await, 0.0);
    let mut client = Client::connect(&server).await.unwrap();
    client.send(ASK).await.unwrap();
    let next = Backend::new("new").await;
    let _next = Session::live(&server, "shop", "shop-2", "a.example.com", &next).await;
    assert_eq!(soon(client.answer()).await.unwrap().body, "new 0");
}

#[tokio::test]
async fn a_websocket_is_not_waited_for_and_ends_with_1001_at_the_shutdown() {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let mut session = Session::live(&server, "shop", "shop-1", "a.example.com", &backend).await;
    let mut client = Client::connect(&server).await.unwrap();
    client.send(UPGRADE).await.unwrap();
    assert_eq!(soon(client.answer()).await.unwrap().status, 101);
    assert!(session.ask("DRAIN_START||10s").await.starts_with("DRAIN_OK|"));
    assert_eq!(session.drain_status("in_flight").await, 0.0);
    assert_eq!(session.drain_status("upgraded").await, 1.0);
    assert_eq!(session.drain_status("remaining_seconds").await, 0.0);
    // A frame from the client, which the backend sends back as its own: cut in the middle, then whole.
    client.send("\u{1}\u{5}he").await.unwrap();
    assert_eq!(client.exactly(4).await, b"\x01\x05he");
    client.send("llo").await.unwrap();
    assert_eq!(client.exactly(3).await, b"llo");
    assert_eq!(session.ask("CLIENT_SHUTDOWN|").await, "SHUTDOWN_OK");
    assert_eq!(client.rest().await, [0x88, 0x02, 0x03, 0xe9]);
    until(async || backend.farewell() == [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9]).await;
}

#[tokio::test]
async fn a_websocket_in_the_middle_of_a_frame_hears_no_close_in_it() {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let mut session = Session::live(&server, "shop", "shop-1", "a.example.com", &backend).await;
    let mut client = Client::connect(&server).await.unwrap();
    client.send(UPGRADE).await.unwrap();
    assert_eq!(soon(client.answer()).await.unwrap().status, 101);
    client.send("\u{1}\u{5}he").await.unwrap();
    assert_eq!(client.exactly(4).await, b"\x01\x05he");
    assert_eq!(session.ask("CLIENT_SHUTDOWN|").await, "SHUTDOWN_OK");
    assert_eq!(client.rest().await, b"");
}
