//! The proxy's own pages, and transfers that break.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{Backend, Peer, Stage, field, member, member_with, refusing, soon, until};

#[tokio::test]
async fn each_page_says_what_it_is_and_that_it_is_the_proxy_that_says_it() {
    let (_socket, refused) = refusing();
    let silent = Backend::new(|mut peer: Peer| async move { peer.gone().await }).await;
    let babbling = Backend::answering("220 mail.example ESMTP\r\n\r\n").await;
    let stage = Stage::new();
    let late = member_with(1, &silent.url(), |s| s.timeout = Duration::from_millis(50));
    let mut unusable = member(4, &silent.url());
    unusable.usable = false;
    stage.route("late.example", "/", vec![late]);
    stage.route("refused.example", "/", vec![member(2, &refused)]);
    stage.route("babble.example", "/", vec![member(3, &babbling.url())]);
    stage.route("unusable.example", "/", vec![unusable]);
    stage.route("empty.example", "/", vec![]);
    stage.route("https.example", "/", vec![member(5, "https://127.0.0.1:1")]);
    stage.route("h2c.example", "/", vec![member(6, "h2c://127.0.0.1:1")]);
    for (host, status, words) in [
        ("nobody.example", 404, "No service has registered"),
        ("unusable.example", 503, "none of its instances is usable"),
        ("empty.example", 503, "none of its instances is usable"),
        ("refused.example", 502, "could not be reached"),
        ("babble.example", 502, "is no HTTP"),
        ("https.example", 502, "could not be reached"),
        ("h2c.example", 502, "could not be reached"),
        ("late.example", 504, "did not answer in time"),
    ] {
        let page = stage.get(host, "/").await;
        assert_eq!(page.status(), status, "{host}");
        assert!(page.body.contains(words), "{host}: {}", page.body);
        assert!(page.body.contains("registry-server, the proxy"), "{host}: {}", page.body);
        assert_eq!(page.field("retry-after").is_some(), status == 503, "{host}");
    }
}

#[tokio::test]
async fn a_backend_that_the_policy_forbids_is_not_connected_to() {
    let backend = Backend::saying("secret").await;
    let stage = Stage::new();
    let mut foreign = member(1, &backend.url());
    Arc::make_mut(&mut foreign.terms).peer = "10.2.2.7".parse().unwrap();
    stage.route("loopback.example", "/", vec![foreign]);
    stage.route("self.example", "/", vec![member(2, &format!("http://{}", stage.addr()))]);
    stage.route("metadata.example", "/", vec![member(3, "http://169.254.169.254")]);
    for host in ["loopback.example", "self.example", "metadata.example"] {
        assert_eq!(stage.get(host, "/").await.status(), 502, "{host}");
    }
    assert_eq!(backend.accepts(), 0);
}

#[tokio::test]
async fn a_name_is_resolved_and_judged_by_its_address() {
    let backend = Backend::saying("web").await;
    let url = format!("http://localhost:{}", backend.addr.port());
    let stage = Stage::new();
    stage.route("own.example", "/", vec![member(1, &url)]);
    let mut foreign = member(2, &url);
    Arc::make_mut(&mut foreign.terms).peer = "10.2.2.7".parse().unwrap();
    stage.route("foreign.example", "/", vec![foreign]);
    assert_eq!(stage.get("own.example", "/").await.body, "web");
    assert_eq!(stage.get("foreign.example", "/").await.status(), 502);
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_request_at_the_backend() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let backend = Backend::new(move |mut peer: Peer| {
        let tell = tell.clone();
        async move {
            let head = peer.head().await.unwrap();
            if head.starts_with("POST") {
                peer.exactly(5).await;
            }
            if head.contains(" /body ") {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome").await;
            }
            tell.send("began").unwrap();
            peer.gone().await;
            tell.send("ended").unwrap();
        }
    })
    .await;
    let stage = Stage::new();
    let member = member(1, &backend.url());
    let endpoint = Arc::clone(&member.endpoint);
    stage.route("example.com", "/", vec![member]);
    let (get, post) = ("\r\n", "Content-Length: 5\r\n\r\nhello");
    for (method, path, rest) in
        [("GET", "/waiting", get), ("GET", "/body", get), ("POST", "/waiting", post), ("POST", "/body", post)]
    {
        let mut client = stage.client().await;
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: example.com\r\n{rest}")).await;
        assert_eq!(soon(told.recv()).await, Some("began"));
        assert_eq!(endpoint.load.in_flight.load(Ordering::SeqCst), 1);
        if path == "/body" {
            client.head().await.unwrap();
        }
        drop(client);
        assert_eq!(soon(told.recv()).await, Some("ended"));
        until(|| endpoint.load.in_flight.load(Ordering::SeqCst) == 0).await;
    }
}

#[tokio::test]
async fn a_client_that_breaks_its_upload_off_ends_the_request_at_the_backend() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let backend = Backend::new(move |mut peer: Peer| {
        let tell = tell.clone();
        async move {
            peer.head().await;
            tell.send(peer.exactly(8).await).unwrap();
            tell.send(peer.rest().await.unwrap_or_default()).unwrap();
        }
    })
    .await;
    let stage = Stage::before(&backend);
    let mut client = stage.client().await;
    client
        .send("POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        .await;
    assert_eq!(soon(told.recv()).await.unwrap(), "3\r\none\r\n");
    drop(client);
    assert_eq!(soon(told.recv()).await.unwrap(), "", "half a request must not look like a whole one");
}

#[tokio::test]
async fn a_backend_that_breaks_off_breaks_the_clients_transfer() {
    for head in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
        for reset in [false, true] {
            let backend = Backend::new(move |mut peer: Peer| async move {
                peer.head().await;
                peer.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n4\r\nsome\r\n")).await;
                // The client must have it before the reset, which would overtake it.
                tokio::time::sleep(Duration::from_millis(50)).await;
                if reset {
                    peer.reset();
                }
            })
            .await;
            let stage = Stage::before(&backend);
            let mut client = stage.client().await;
            client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
            assert!(client.head().await.unwrap().contains(" 200 "));
            assert_eq!(client.exactly(9).await, "4\r\nsome\r\n");
            let rest = client.rest().await.unwrap_or_default();
            assert_eq!(rest, "", "the transfer ends without its end ({head}, reset {reset})");
        }
    }
}

#[tokio::test]
async fn a_client_that_could_not_tell_a_short_response_from_a_whole_one_is_reset() {
    let backend = Backend::new(|mut peer: Peer| async move {
        peer.head().await;
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome\r\n").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    })
    .await;
    let stage = Stage::before(&backend);
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.0\r\nHost: example.com\r\n\r\n").await;
    assert!(client.head().await.unwrap().contains(" 200 "));
    assert_eq!(client.exactly(4).await, "some");
    assert!(client.rest().await.is_err(), "an orderly close would say that this was all");
}

#[tokio::test]
async fn a_backend_that_falls_silent_is_given_up() {
    let backend = Backend::new(|mut peer: Peer| async move {
        peer.head().await;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome").await;
        peer.gone().await;
    })
    .await;
    let stage = Stage::new();
    let member = member_with(1, &backend.url(), |s| s.timeout = Duration::from_millis(80));
    stage.route("example.com", "/", vec![member]);
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    assert!(client.head().await.unwrap().contains(" 200 "));
    assert_eq!(client.rest().await.unwrap_or("some".into()), "some");
}

#[tokio::test]
async fn the_time_out_is_none_for_a_response_that_keeps_coming() {
    let backend = Backend::new(|mut peer: Peer| async move {
        peer.head().await;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").await;
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(40)).await;
            peer.send("x").await;
        }
        peer.gone().await;
    })
    .await;
    let stage = Stage::new();
    let member = member_with(1, &backend.url(), |s| s.timeout = Duration::from_millis(200));
    stage.route("example.com", "/", vec![member]);
    assert_eq!(stage.get("example.com", "/").await.body, "xxxxxxxxxx");
}

#[tokio::test]
async fn the_time_out_of_a_request_counts_from_its_last_piece() {
    let backend = Backend::new(|mut peer: Peer| async move {
        let head = peer.head().await.unwrap();
        let length: usize = field(&head, "content-length").unwrap().parse().unwrap();
        peer.exactly(length).await;
        peer.send(crate::support::ok("all of it")).await;
        peer.gone().await;
    })
    .await;
    let stage = Stage::new();
    let member = member_with(1, &backend.url(), |s| s.timeout = Duration::from_millis(200));
    stage.route("example.com", "/", vec![member]);
    let mut client = stage.client().await;
    client.send("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 10\r\n\r\n").await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(40)).await;
        client.send("x").await;
    }
    assert_eq!(client.response().await.body, "all of it");
    client.send("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 10\r\n\r\nx").await;
    assert_eq!(client.response().await.status(), 408, "it is the client that is late");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_let_go_and_its_request_ended() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let backend = Backend::new(move |mut peer: Peer| {
        let tell = tell.clone();
        async move {
            peer.head().await;
            // More than fits anywhere between here and the client.
            let sent = peer.try_send(crate::support::ok(&"x".repeat(50_000_000))).await;
            tell.send(sent.is_err()).unwrap();
        }
    })
    .await;
    let stage = Stage::with(|config| config.write_timeout = Duration::from_millis(200));
    let member = member(1, &backend.url());
    let endpoint = Arc::clone(&member.endpoint);
    stage.route("example.com", "/", vec![member]);
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    assert_eq!(soon(told.recv()).await, Some(true), "the backend is not kept waiting");
    until(|| endpoint.load.in_flight.load(Ordering::SeqCst) == 0 && stage.proxy.load().connections() == 0)
        .await;
}

#[tokio::test]
async fn an_upload_that_the_backend_does_not_take_ends_with_the_time_out_whoever_is_gone() {
    let backend = Backend::new(|mut peer: Peer| async move {
        peer.head().await;
        // It reads nothing more, and stays.
        std::future::pending::<()>().await;
    })
    .await;
    let stage = Stage::new();
    let member = member_with(1, &backend.url(), |s| s.timeout = Duration::from_millis(300));
    let endpoint = Arc::clone(&member.endpoint);
    stage.route("example.com", "/", vec![member]);
    let mut client = stage.client().await;
    client.send("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 100000000\r\n\r\n").await;
    until(|| endpoint.load.in_flight.load(Ordering::SeqCst) == 1).await;
    // Until nothing fits anywhere any more.
    let full = Duration::from_millis(100);
    while tokio::time::timeout(full, client.try_send([b'x'; 100_000])).await.is_ok_and(|sent| sent.is_ok()) {}
    drop(client);
    until(|| endpoint.load.in_flight.load(Ordering::SeqCst) == 0).await;
}
