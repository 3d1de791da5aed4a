//! What reaches the backend, and what comes back.

use std::sync::atomic::Ordering;

use crate::support::{Backend, Peer, Stage, field, member, member_with, ok, until};

#[tokio::test]
async fn a_request_reaches_the_backend_of_its_host_and_path() {
    let (web, api) = (Backend::saying("web").await, Backend::saying("api").await);
    let stage = Stage::new();
    stage.route("example.com", "/", vec![member(1, &web.url())]);
    stage.route("*.example.com", "/api", vec![member(2, &api.url())]);
    assert_eq!(stage.get("example.com", "/").await.body, "web");
    assert_eq!(stage.get("EXAMPLE.com:80", "/x?y=z").await.body, "web");
    assert_eq!(stage.get("a.example.com", "/api/x").await.body, "api");
    assert_eq!(stage.get("a.example.com", "/x").await.status(), 404);
    assert!(api.last_head().starts_with("GET /api/x HTTP/1.1\r\n"), "the route's path is not stripped");
}

#[tokio::test]
async fn the_path_is_matched_normalised_and_forwarded_raw() {
    let (web, api) = (Backend::saying("web").await, Backend::saying("api").await);
    let stage = Stage::before(&web);
    stage.route("example.com", "/api", vec![member(2, &api.url())]);
    assert_eq!(stage.get("example.com", "/%61pi/./x//y?q=%2e").await.body, "api");
    assert!(api.last_head().starts_with("GET /%61pi/./x//y?q=%2e HTTP/1.1\r\n"));
    assert_eq!(stage.get("example.com", "/api/../x").await.body, "web");
    assert_eq!(stage.get("example.com", "/api/..%2fx").await.status(), 400);
}

#[tokio::test]
async fn two_spellings_of_one_path_are_one_path() {
    let backend = Backend::saying("cheese").await;
    let stage = Stage::new();
    for path in ["/k%c3%A4se", "/a%5b%7Cb"] {
        stage.route("example.com", path, vec![member(1, &backend.url())]);
    }
    for path in ["/k%C3%A4se", "/k%c3%a4se/x", "/k\u{e4}se", "/%6b%c3%A4se", "/a%5B|b", "/a%5b%7cb"] {
        assert_eq!(stage.get("example.com", path).await.body, "cheese", "{path}");
        let head = backend.last_head();
        assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "forwarded as it was sent: {head}");
    }
    for path in ["/k%C3%A4s", "/k%25C3%25A4se", "/k%E4se"] {
        assert_eq!(stage.get("example.com", path).await.status(), 404, "{path}");
    }
}

#[tokio::test]
async fn a_backends_base_path_is_put_before_the_requests_path() {
    let backend = Backend::saying("web").await;
    let stage = Stage::new();
    stage.route("example.com", "/app", vec![member(1, &format!("{}/base/", backend.url()))]);
    stage.get("example.com", "/app/x?y").await;
    assert!(backend.last_head().starts_with("GET /base/app/x?y HTTP/1.1\r\n"), "{}", backend.last_head());
}

#[tokio::test]
async fn the_backend_sees_the_clients_host_or_its_own() {
    let backend = Backend::saying("web").await;
    let stage = Stage::before(&backend);
    stage.route("own.example", "/", vec![member_with(2, &backend.url(), |s| s.preserve_host = false)]);
    stage.get("Example.com:8080", "/").await;
    assert_eq!(field(&backend.last_head(), "host"), Some("Example.com:8080"));
    stage.get("own.example", "/").await;
    assert_eq!(field(&backend.last_head(), "host"), Some(backend.addr.to_string().as_str()));
    assert_eq!(field(&backend.last_head(), "x-forwarded-host"), Some("own.example"));
}

#[tokio::test]
async fn the_backend_is_told_who_the_client_is_and_the_client_cannot_lie() {
    let backend = Backend::saying("web").await;
    let stage = Stage::before(&backend);
    stage
        .raw(
            "GET / HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-For: 1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\n\
             Forwarded: for=1.1.1.1\r\nX-Forwarded-Proto: https\r\nCF-Connecting-IP: 1.1.1.1\r\n\
             X_Forwarded_For: 1.1.1.1\r\n\r\n",
        )
        .await;
    let head = backend.last_head();
    assert_eq!(field(&head, "x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(field(&head, "x-real-ip"), Some("127.0.0.1"));
    assert_eq!(field(&head, "x-forwarded-proto"), Some("http"));
    assert_eq!(field(&head, "x-forwarded-host"), Some("example.com"));
    assert_eq!(field(&head, "forwarded"), Some("for=127.0.0.1;host=example.com;proto=http"));
    assert!(!head.contains("1.1.1.1"), "{head}");
}

#[tokio::test]
async fn a_trusted_proxy_may_say_who_the_client_is() {
    let backend = Backend::saying("web").await;
    let stage = Stage::with(|config| config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()]);
    stage.route("example.com", "/", vec![member(1, &backend.url())]);
    stage
        .raw("GET / HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\r\n")
        .await;
    let head = backend.last_head();
    assert_eq!(field(&head, "x-forwarded-for"), Some("203.0.113.9, 127.0.0.1"));
    assert_eq!(field(&head, "x-real-ip"), Some("203.0.113.9"));
    assert_eq!(field(&head, "x-forwarded-proto"), Some("https"));
}

#[tokio::test]
async fn the_scheme_that_a_trusted_proxy_reports_has_one_spelling_for_the_backend() {
    let backend = Backend::saying("web").await;
    let stage = Stage::with(|config| config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()]);
    stage.route("example.com", "/", vec![member(1, &backend.url())]);
    for (said, proto, client) in [
        ("X-Forwarded-Proto: HTTPS", "https", "127.0.0.1"),
        ("X-Forwarded-Proto: wss", "https", "127.0.0.1"),
        ("X-Forwarded-Proto: https,http", "https", "127.0.0.1"),
        ("Forwarded: proto=https", "https", "127.0.0.1"),
        ("Forwarded: for=\"203.0.113.9:40\";Proto=\"HTTPS\"", "https", "203.0.113.9"),
        ("Forwarded: proto=https\r\nX-Forwarded-For: 203.0.113.9", "http", "203.0.113.9"),
        ("Forwarded: proto=https\r\nX-Forwarded-Proto: http", "http", "127.0.0.1"),
    ] {
        stage.raw(&format!("GET / HTTP/1.1\r\nHost: example.com\r\n{said}\r\n\r\n")).await;
        let head = backend.last_head();
        assert_eq!(field(&head, "x-forwarded-proto"), Some(proto), "{said}");
        assert_eq!(field(&head, "x-real-ip"), Some(client), "{said}");
    }
}

#[tokio::test]
async fn a_grpc_request_says_over_http1_too_that_it_accepts_trailers() {
    let backend = Backend::saying("web").await;
    let stage = Stage::before(&backend);
    for (content_type, te) in [("application/grpc+proto", Some("trailers")), ("text/plain", None)] {
        let request = format!(
            "GET / HTTP/1.1\r\nHost: example.com\r\nTE: gzip, trailers\r\nConnection: te\r\nContent-Type: {content_type}\r\n\r\n"
        );
        stage.raw(&request).await;
        let head = backend.last_head();
        assert_eq!(field(&head, "te"), te);
        assert_eq!(field(&head, "connection"), te.map(|_| "te"));
    }
}

#[tokio::test]
async fn what_is_between_neighbours_is_not_passed_on() {
    let backend = Backend::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Secret, keep-alive\r\nX-Secret: 1\r\n\
         Keep-Alive: timeout=5\r\nX-Kept: 1\r\n\r\n",
    )
    .await;
    let stage = Stage::before(&backend);
    let response = stage
        .raw(
            "GET / HTTP/1.1\r\nHost: example.com\r\nConnection: keep-alive, X-Private, Host\r\nX-Private: 1\r\n\
             Keep-Alive: 5\r\nProxy-Authorization: x\r\nTE: gzip\r\nUpgrade: h2c\r\nX-Kept: 1\r\n\r\n",
        )
        .await;
    let head = backend.last_head();
    for gone in ["connection", "x-private", "keep-alive", "proxy-authorization", "te", "upgrade"] {
        assert_eq!(field(&head, gone), None, "{gone} in {head}");
    }
    assert_eq!(field(&head, "x-kept"), Some("1"));
    assert_eq!(field(&head, "host"), Some("example.com"));
    for gone in ["connection", "x-secret", "keep-alive"] {
        assert_eq!(response.field(gone), None, "{gone} in {}", response.head);
    }
    assert_eq!(response.field("x-kept"), Some("1"));
}

#[tokio::test]
async fn connections_are_kept_alive_on_both_sides() {
    let backend = Backend::saying("web").await;
    let stage = Stage::of_one_worker(&backend.url());
    let mut client = stage.client().await;
    for _ in 0..20 {
        client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
        assert_eq!(client.response().await.body, "web");
    }
    for _ in 0..20 {
        assert_eq!(stage.get("example.com", "/").await.body, "web");
    }
    assert_eq!(backend.accepts(), 1);
}

#[tokio::test]
async fn a_response_arrives_piece_by_piece_as_the_backend_sends_it() {
    let (go, wait) = tokio::sync::mpsc::unbounded_channel::<()>();
    let wait = std::sync::Arc::new(tokio::sync::Mutex::new(wait));
    let backend = Backend::new(move |mut peer| {
        let wait = std::sync::Arc::clone(&wait);
        async move {
            peer.head().await;
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            for piece in ["one", "two"] {
                peer.send(format!("3\r\n{piece}\r\n")).await;
                wait.lock().await.recv().await;
            }
            peer.send("0\r\n\r\n").await;
        }
    })
    .await;
    let stage = Stage::before(&backend);
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    assert_eq!(field(&client.head().await.unwrap(), "transfer-encoding"), Some("chunked"));
    // Each piece is here before the backend is allowed to send the next.
    assert_eq!(client.exactly(8).await, "3\r\none\r\n");
    go.send(()).unwrap();
    assert_eq!(client.exactly(8).await, "3\r\ntwo\r\n");
    go.send(()).unwrap();
    assert_eq!(client.exactly(5).await, "0\r\n\r\n");
}

/// Reads a chunked body's next piece.
async fn chunk(peer: &mut Peer) -> String {
    let mut size = String::new();
    while !size.ends_with("\r\n") {
        size.push_str(&peer.exactly(1).await);
    }
    let size = usize::from_str_radix(size.trim(), 16).unwrap();
    let piece = peer.exactly(size).await;
    peer.exactly(2).await;
    piece
}

#[tokio::test]
async fn a_request_arrives_piece_by_piece_as_the_client_sends_it() {
    let (saw, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let backend = Backend::new(move |mut peer| {
        let saw = saw.clone();
        async move {
            let head = peer.head().await.unwrap();
            assert_eq!(field(&head, "transfer-encoding"), Some("chunked"));
            for _ in 0..2 {
                saw.send(chunk(&mut peer).await).unwrap();
            }
            assert_eq!(chunk(&mut peer).await, "");
            peer.send(ok("thanks")).await;
        }
    })
    .await;
    let stage = Stage::before(&backend);
    let mut client = stage.client().await;
    client.send("POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    client.send("3\r\none\r\n").await;
    assert_eq!(crate::support::soon(seen.recv()).await.unwrap(), "one");
    client.send("3\r\ntwo\r\n").await;
    assert_eq!(crate::support::soon(seen.recv()).await.unwrap(), "two");
    client.send("0\r\n\r\n").await;
    assert_eq!(client.response().await.body, "thanks");
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let backend = Backend::new(|mut peer| async move {
        let head = peer.head().await.unwrap();
        assert_eq!(field(&head, "te"), None, "only gRPC needs it");
        assert_eq!(chunk(&mut peer).await, "up");
        assert_eq!(peer.exactly(3).await, "0\r\n");
        let trailers = peer.head().await.unwrap();
        assert!(trailers.to_lowercase().starts_with("x-sum: 1\r\n"), "{trailers}");
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n").await;
        peer.send("4\r\ndown\r\n0\r\nX-Sum: 2\r\n\r\n").await;
    })
    .await;
    let stage = Stage::before(&backend);
    let mut client = stage.client().await;
    client
        .send(
            "POST / HTTP/1.1\r\nHost: example.com\r\nTE: trailers\r\nTrailer: X-Sum\r\n\
             Transfer-Encoding: chunked\r\n\r\n2\r\nup\r\n0\r\nX-Sum: 1\r\n\r\n",
        )
        .await;
    client.head().await.unwrap();
    assert_eq!(client.exactly(9).await, "4\r\ndown\r\n");
    assert_eq!(client.exactly(3).await, "0\r\n");
    assert_eq!(client.head().await.unwrap().to_lowercase(), "x-sum: 2\r\n\r\n");
}

#[tokio::test]
async fn requests_that_follow_one_another_at_once_are_answered_in_order() {
    let (one, two) = (Backend::saying("one").await, Backend::saying("two").await);
    let stage = Stage::new();
    stage.route("one.example", "/", vec![member(1, &one.url())]);
    stage.route("two.example", "/", vec![member(2, &two.url())]);
    let mut client = stage.client().await;
    client
        .send(
            "GET / HTTP/1.1\r\nHost: one.example\r\n\r\nGET / HTTP/1.1\r\nHost: two.example\r\n\r\n\
             GET / HTTP/1.1\r\nHost: one.example\r\n\r\n",
        )
        .await;
    for expected in ["one", "two", "one"] {
        assert_eq!(client.response().await.body, expected);
    }
}

#[tokio::test]
async fn nothing_is_in_flight_when_the_response_is_over() {
    let backend = Backend::saying("web").await;
    let stage = Stage::new();
    let member = member(1, &backend.url());
    let endpoint = std::sync::Arc::clone(&member.endpoint);
    stage.route("example.com", "/", vec![member]);
    stage.get("example.com", "/").await;
    until(|| endpoint.load.in_flight.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn the_proxy_names_itself_only_where_it_has_a_name() {
    let backend =
        Backend::answering("HTTP/1.1 200 OK\r\nVia: 1.0 inner\r\nContent-Length: 2\r\n\r\nhi").await;
    let lines = |head: &str| -> Vec<String> {
        let via = head.lines().filter_map(|line| line.split_once(": "));
        via.filter(|(name, _)| name.eq_ignore_ascii_case("via")).map(|(_, value)| value.to_owned()).collect()
    };
    for (name, request, response) in [
        (None, vec!["1.1 cdn"], vec!["1.0 inner"]),
        (Some("edge"), vec!["1.1 cdn", "1.1 edge"], vec!["1.0 inner", "1.1 edge"]),
    ] {
        let stage = Stage::with(|config| config.via = name.map(|name| name.parse().unwrap()));
        stage.route("example.com", "/", vec![member(1, &backend.url())]);
        let answer = stage.raw("GET / HTTP/1.1\r\nHost: example.com\r\nVia: 1.1 cdn\r\n\r\n").await;
        assert_eq!(
            (lines(&backend.last_head()), lines(&answer.head)),
            (
                request.iter().map(|s| s.to_string()).collect(),
                response.iter().map(|s| s.to_string()).collect()
            )
        );
    }
}
