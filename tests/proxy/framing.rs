//! Requests that a careful proxy does not pass on as they are, and responses without a body.

use crate::support::{Backend, Peer, Stage, field, soon};

async fn stage() -> (Stage, Backend) {
    let backend = Backend::saying("web").await;
    (Stage::before(&backend), backend)
}

#[tokio::test]
async fn a_request_must_say_for_which_host_it_is_once() {
    let (stage, backend) = stage().await;
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: example.com\r\nHost: example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: example.com\r\nHost: other.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a@example.com\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET http://u:p@example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
    ] {
        let response = stage.raw(request).await;
        assert_eq!(response.status(), 400, "{request}");
        assert!(response.body.contains("registry-server, the proxy"), "{}", response.body);
    }
    assert_eq!(backend.accepts(), 0);
}

#[tokio::test]
async fn the_authority_of_an_absolute_target_is_the_host() {
    let (stage, backend) = stage().await;
    let response = stage.raw("GET http://example.com/x?y HTTP/1.1\r\nHost: other.example\r\n\r\n").await;
    assert_eq!(response.body, "web");
    let head = backend.last_head();
    assert!(head.starts_with("GET /x?y HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(&head, "host"), Some("example.com"));
}

#[tokio::test]
async fn a_question_about_the_whole_host_is_passed_on() {
    let (stage, backend) = stage().await;
    let response = stage.raw("OPTIONS * HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    assert_eq!(response.status(), 200);
    assert!(backend.last_head().starts_with("OPTIONS * HTTP/1.1\r\n"));
}

#[tokio::test]
async fn tunnels_are_not_made() {
    let (stage, backend) = stage().await;
    let response = stage.raw("CONNECT example.com:80 HTTP/1.1\r\nHost: example.com:80\r\n\r\n").await;
    assert_eq!(response.status(), 405);
    assert_eq!(backend.accepts(), 0);
}

#[tokio::test]
async fn a_request_that_could_be_read_in_two_ways_does_not_reach_a_backend_that_way() {
    let (stage, backend) = stage().await;
    for request in [
        "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: example.com\r\n folded: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: example.com\r\nX: a\rb\r\n\r\n",
        "GE T / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked, Chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding:\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5, 5\r\n\r\nhello",
    ] {
        let response = stage.raw(request).await;
        assert_eq!(response.status(), 400, "{request:?}");
        assert!(response.body.contains("registry-server, the proxy"), "{request:?}: {}", response.body);
    }
    let coded = "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(stage.raw(coded).await.status(), 501);
    assert_eq!(backend.accepts(), 0);
}

#[tokio::test]
async fn lines_that_end_in_a_bare_line_feed_are_passed_on_with_proper_ends() {
    let (stage, backend) = stage().await;
    let response = stage.raw("GET /x HTTP/1.1\nHost: example.com\nX-Kept: 1\n\n").await;
    assert_eq!(response.body, "web");
    let head = backend.last_head();
    assert!(head.starts_with("GET /x HTTP/1.1\r\n") && field(&head, "x-kept") == Some("1"), "{head:?}");
    assert!(!head.replace("\r\n", "").contains('\n'), "{head:?}");
}

#[tokio::test]
async fn a_chunk_whose_size_could_be_read_in_two_ways_is_not_passed_on() {
    for chunks in [
        "zz\r\nhi\r\n0\r\n\r\n",
        "-2\r\nhi\r\n0\r\n\r\n",
        "+2\r\nhi\r\n0\r\n\r\n",
        "0x2\r\nhi\r\n0\r\n\r\n",
        "2\nhi\r\n0\r\n\r\n",
        "2\rhi\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhi",
        "2\r\nhiGET /smuggled HTTP/1.1\r\n",
    ] {
        let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
        let backend = Backend::new(move |mut peer: Peer| {
            let heard = heard.clone();
            async move {
                peer.head().await;
                let _ = heard.send(String::from_utf8_lossy(&peer.all().await).into_owned());
            }
        })
        .await;
        let stage = Stage::before(&backend);
        let head = "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(stage.raw(&format!("{head}{chunks}")).await.status(), 400, "{chunks:?}");
        if backend.accepts() > 0 {
            let body = soon(hears.recv()).await.unwrap();
            assert!(!body.ends_with("0\r\n\r\n") && !body.contains("smuggled"), "{chunks:?} became {body:?}");
        }
    }
}

#[tokio::test]
async fn a_backend_that_answers_before_it_has_read_the_request_is_heard() {
    let backend = Backend::new(|mut peer: Peer| async move {
        peer.head().await;
        peer.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig").await;
        peer.gone().await;
    })
    .await;
    let stage = Stage::before(&backend);
    let mut client = stage.client().await;
    client.send("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1000000\r\n\r\nthe beginning").await;
    let response = client.response().await;
    assert_eq!((response.status(), response.body.as_str()), (413, "big"));
}

#[tokio::test]
async fn a_backend_that_answers_and_closes_with_the_request_half_read_is_heard() {
    let backend = Backend::new(|mut peer: Peer| async move {
        peer.head().await;
        // What it has not read makes its end a reset.
        peer.send("HTTP/1.1 401 No\r\nContent-Length: 4\r\nConnection: close\r\n\r\nno!\n").await;
    })
    .await;
    let stage = Stage::before(&backend);
    for round in 0..20 {
        let mut client = stage.client().await;
        client.send("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 50000000\r\n\r\n").await;
        let mut sent = 0;
        while sent < 50_000_000 && client.try_send([b'x'; 100_000]).await.is_ok() {
            sent += 100_000;
        }
        assert!(sent < 50_000_000, "it is not read to its end for nothing");
        let response = client.response().await;
        assert_eq!((response.status(), response.body.as_str()), (401, "no!\n"), "round {round}");
    }
}

#[tokio::test]
async fn of_two_lengths_only_one_reaches_the_backend_and_the_connection_ends() {
    let backend = Backend::new(|mut peer: Peer| async move {
        let head = peer.head().await.unwrap();
        assert_eq!(field(&head, "transfer-encoding"), Some("chunked"));
        assert_eq!(field(&head, "content-length"), None);
        assert_eq!(peer.exactly(10).await, "2\r\nhi\r\n0\r\n");
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        peer.gone().await;
    })
    .await;
    let stage = Stage::before(&backend);
    let mut client = stage.client().await;
    client
        .send(
            "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n\
             2\r\nhi\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: example.com\r\n\r\n",
        )
        .await;
    assert_eq!(client.response().await.status(), 200);
    assert_eq!(client.rest().await.unwrap_or_default(), "", "what follows is not answered");
}

#[tokio::test]
async fn a_target_is_a_path_or_a_url_and_a_host_is_a_name_with_a_port() {
    let (stage, backend) = stage().await;
    for request in [
        "GET example.com:80 HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "GET example.com HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: example.com:80:80\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: example.com:evil\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: example.com/x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: example.com, other.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
    ] {
        let response = stage.raw(request).await;
        assert_eq!(response.status(), 400, "{request}");
        assert!(response.body.contains("registry-server, the proxy"), "{}", response.body);
    }
    assert_eq!(backend.accepts(), 0);
}

/// `http::Uri` holds no others, and a URL may not: RFC 3986 section 2.
#[tokio::test]
async fn a_byte_that_no_target_may_hold_is_named_on_the_page() {
    let (stage, _backend) = stage().await;
    let mut refused = Vec::new();
    for byte in (0x20..=0xFF).filter(|byte| *byte != b'#') {
        for before in ["GET /a", "GET /a?b=c"] {
            let request = [before.as_bytes(), &[byte], b"d HTTP/1.1\r\nHost: example.com\r\n\r\n"].concat();
            let mut client = stage.client().await;
            client.send(request).await;
            let response = client.response().await;
            if response.status() != 400 {
                continue;
            }
            let written = format!("which a URL writes as %{byte:02X}.");
            assert!(response.body.contains(&written), "{before} and {byte:#x}: {}", response.body);
            refused.push((before.len(), byte));
        }
    }
    assert!(refused.contains(&(6, b'`')) && refused.contains(&(10, b'"')), "{refused:x?}");
    assert!(!refused.contains(&(6, b'{')), "{refused:x?}");
}

#[tokio::test]
async fn seventy_kilobytes_of_headers_arrive_whole() {
    let (stage, backend) = stage().await;
    let (one, many) = ("a".repeat(70_000), "b".repeat(3_500));
    let lines: String = (0..20).map(|n| format!("X-{n}: {many}\r\n")).collect();
    for headers in [format!("Cookie: {one}\r\n"), lines] {
        let response = stage.raw(&format!("GET / HTTP/1.1\r\nHost: example.com\r\n{headers}\r\n")).await;
        assert_eq!(response.body, "web");
        let (head, sent) = (backend.last_head().to_lowercase(), headers.to_lowercase());
        assert!(sent.lines().all(|line| head.contains(line)), "{} bytes arrived", head.len());
    }
}

#[tokio::test]
async fn too_large_a_head_is_refused() {
    let (stage, backend) = stage().await;
    let many = "X: y\r\n".repeat(200);
    let response = stage.raw(&format!("GET / HTTP/1.1\r\nHost: example.com\r\n{many}\r\n")).await;
    assert_eq!(response.status(), 431);
    assert!(response.body.contains("The request's head is too large."), "{}", response.body);
    let long = "x".repeat(1 << 20);
    let mut client = stage.client().await;
    // Either the refusal or the reset comes first, and neither is our business here.
    let _ = client.try_send(format!("GET / HTTP/1.1\r\nHost: example.com\r\nX: {long}")).await;
    client.gone().await;
    assert_eq!(backend.accepts(), 0);
}

#[tokio::test]
async fn a_client_that_does_not_finish_its_head_is_let_go() {
    let stage = Stage::with(|config| config.header_timeout = std::time::Duration::from_millis(100));
    for start in ["", "GET / HTTP/1.1\r\nHost: exam"] {
        let mut client = stage.client().await;
        client.send(start).await;
        client.gone().await;
    }
    // A byte now and then is no more of a head than none.
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nX: ").await;
    soon(async {
        while client.try_send("x").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_answer_to_head_has_the_length_and_no_body() {
    let backend = Backend::answering("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n").await;
    let stage = Stage::before(&backend);
    let mut client = stage.client().await;
    for (host, status) in [("example.com", "200"), ("nobody.example", "404"), ("example.com", "200")] {
        client.send(format!("HEAD / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let head = client.head().await.unwrap();
        assert!(head.contains(status), "{head}");
        assert!(field(&head, "content-length").is_some_and(|length| length != "0"), "{head}");
    }
}

#[tokio::test]
async fn an_answer_to_head_of_unknown_length_stays_so() {
    let backend = Backend::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let stage = Stage::before(&backend);
    let mut client = stage.client().await;
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
        assert_eq!(field(&client.head().await.unwrap(), "content-length"), None);
    }
}

#[tokio::test]
async fn responses_that_have_no_body_get_none() {
    for head in [
        "HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n",
    ] {
        let backend = Backend::answering(head).await;
        let stage = Stage::before(&backend);
        let mut client = stage.client().await;
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
            let response = client.head().await.unwrap();
            assert_eq!(response.lines().next(), head.lines().next());
            assert_eq!(field(&response, "transfer-encoding"), None);
        }
        assert_eq!(backend.accepts(), 1);
    }
}

#[tokio::test]
async fn a_response_that_could_be_read_in_two_ways_is_not_passed_on() {
    for head in [
        "Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: deflate\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi!",
        "Content-Length: 2, 3\r\n\r\nhi!",
    ] {
        let backend = Backend::answering(format!("HTTP/1.1 200 OK\r\n{head}")).await;
        let page = Stage::before(&backend).get("example.com", "/").await;
        assert_eq!(page.status(), 502, "{head:?}");
        assert!(page.body.contains("is no HTTP"), "{head:?}: {}", page.body);
    }
    let both =
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let backend = Backend::answering(both).await;
    let stage = Stage::before(&backend);
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n").await;
    let head = client.head().await.unwrap();
    assert_eq!(field(&head, "content-length"), None, "chunks go before a length: {head}");
    assert_eq!(client.rest().await.unwrap(), "2\r\nhi\r\n0\r\n\r\n");
}

#[tokio::test]
async fn a_length_that_is_there_twice_reaches_the_client_once() {
    for lengths in
        ["Content-Length: 2, 2\r\n", "Content-Length: 2\r\nContent-Length: 2\r\n", "Content-Length: 02\r\n"]
    {
        let backend = Backend::answering(format!("HTTP/1.1 200 OK\r\n{lengths}\r\nhi")).await;
        let stage = Stage::before(&backend);
        let mut client = stage.client().await;
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
            let response = client.response().await;
            assert_eq!(
                response.head.to_lowercase().matches("content-length").count(),
                1,
                "{}",
                response.head
            );
            assert_eq!(response.body, "hi", "{lengths:?}");
        }
        assert_eq!(backend.accepts(), 1);
    }
}

#[tokio::test]
async fn lengths_that_differ_are_no_response_even_where_there_is_no_body() {
    for (method, status) in [("HEAD", "200 OK"), ("GET", "304 Not Modified")] {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n");
        let backend = Backend::answering(head).await;
        let stage = Stage::before(&backend);
        let mut client = stage.client().await;
        client.send(format!("{method} / HTTP/1.1\r\nHost: example.com\r\n\r\n")).await;
        let head = client.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 502 "), "{method} {status}: {head}");
    }
}

#[tokio::test]
async fn a_request_with_trailers_is_the_last_on_its_connection() {
    let backend = Backend::new(|mut peer: Peer| async move {
        while let Some(head) = peer.head().await {
            if field(&head, "transfer-encoding").is_some() {
                while peer.head().await.is_some_and(|line| !line.ends_with("0\r\n\r\n")) {}
            }
            peer.send(crate::support::ok("read")).await;
        }
    })
    .await;
    let stage = Stage::before(&backend);
    let post = "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n";
    let next = "GET /next HTTP/1.1\r\nHost: example.com\r\n\r\n";
    // hyper reads up to the empty line behind the second request, another reader up to the line feed.
    for trailers in ["X: 1\n\n", "X: 1\r\n\r\n", "X: 1\nY: 2\r\n\r\n", "Connection: x\r\n\r\n"] {
        let mut client = stage.client().await;
        client.send(format!("{post}{trailers}{next}")).await;
        let response = client.response().await;
        assert_eq!(response.field("connection"), Some("close"), "{trailers:?}: {}", response.head);
        assert_eq!(client.all().await, b"", "{trailers:?}: nothing of what follows is answered");
    }
    // Without trailers the connection is kept, whether a backend reads the chunks or the proxy drops them.
    let mut client = stage.client().await;
    for _ in 0..2 {
        client.send(format!("{post}\r\n")).await;
        let response = client.response().await;
        assert_eq!((response.body.as_str(), response.field("connection")), ("read", None));
    }
    let mut client = stage.client().await;
    client.send(format!("{post}X: 1\n\n{next}").replace("example.com", "nobody.example")).await;
    assert_eq!(client.response().await.status(), 404);
    assert_eq!(client.all().await, b"", "nobody has read these trailers");
}

#[tokio::test]
async fn trailers_cannot_say_what_only_headers_may_say() {
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let backend = Backend::new(move |mut peer: Peer| {
        let heard = heard.clone();
        async move {
            peer.head().await;
            assert_eq!(peer.exactly(7).await, "2\r\nhi\r\n");
            assert_eq!(peer.exactly(3).await, "0\r\n");
            let _ = heard.send(peer.head().await.unwrap().to_lowercase());
            let names = "X-Sum, X-Private, X-Real-IP, Keep-Alive";
            peer.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: {names}\r\nConnection: X-Private\r\n\r\n"))
                .await;
            peer.send("2\r\nho\r\n0\r\nKeep-Alive: timeout=9\r\nX-Private: 1\r\nX-Real-IP: 1\r\nX-Sum: 2\r\n\r\n").await;
        }
    })
    .await;
    let stage = Stage::before(&backend);
    let mut client = stage.client().await;
    client
        .send(
            "POST / HTTP/1.1\r\nHost: example.com\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nConnection: X-Private\r\n\
             Trailer: X-Sum, X-Forwarded-For, X_Real_IP, Forwarded, Keep-Alive, Connection, X-Private\r\n\r\n\
             2\r\nhi\r\n0\r\nX-Forwarded-For: 1.1.1.1\r\nX_Real_IP: 1.1.1.1\r\nForwarded: for=1.1.1.1\r\n\
             Keep-Alive: 1\r\nConnection: X-Sum\r\nX-Private: 1\r\nX-Sum: 1\r\n\r\n",
        )
        .await;
    assert_eq!(soon(hears.recv()).await.unwrap(), "x-sum: 1\r\n\r\n");
    client.head().await.unwrap();
    assert_eq!(client.exactly(10).await, "2\r\nho\r\n0\r\n");
    assert_eq!(client.head().await.unwrap().to_lowercase(), "x-sum: 2\r\n\r\n");
}

#[tokio::test]
async fn a_request_that_may_not_be_forwarded_is_answered_here() {
    let (stage, backend) = stage().await;
    let options =
        |max: &str| format!("OPTIONS / HTTP/1.1\r\nHost: example.com\r\nMax-Forwards: {max}\r\n\r\n");
    let response = stage.raw(&options("0")).await;
    assert_eq!(response.status(), 200);
    assert!(response.body.contains("Max-Forwards") && response.field("allow").is_some(), "{}", response.head);
    for max in ["", "Max-Forwards: 0\r\n", "Max-Forwards: 5\r\n"] {
        let trace = format!("TRACE / HTTP/1.1\r\nHost: example.com\r\nCookie: secret\r\n{max}\r\n");
        let response = stage.raw(&trace).await;
        assert_eq!(response.status(), 405);
        assert!(!response.body.contains("secret"), "{}", response.body);
    }
    assert_eq!(backend.accepts(), 0);
    assert_eq!(stage.raw(&options("3")).await.body, "web");
    assert_eq!(field(&backend.last_head(), "max-forwards"), Some("2"));
    stage.raw("GET / HTTP/1.1\r\nHost: example.com\r\nMax-Forwards: 0\r\n\r\n").await;
    assert_eq!(field(&backend.last_head(), "max-forwards"), Some("0"), "it is for OPTIONS and TRACE only");
}

#[tokio::test]
async fn a_response_that_requires_an_upgrade_says_which() {
    let response = "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 0\r\n\r\n";
    let page = Stage::before(&Backend::answering(response).await).get("example.com", "/").await;
    assert_eq!(
        (page.status(), page.field("upgrade"), page.field("connection")),
        (426, Some("websocket"), Some("upgrade"))
    );
    let other = response.replace("426 Upgrade Required", "200 OK");
    let page = Stage::before(&Backend::answering(other).await).get("example.com", "/").await;
    assert_eq!((page.status(), page.field("upgrade"), page.field("connection")), (200, None, None));
}

#[tokio::test]
async fn a_response_that_ends_with_its_connection_is_chunked_for_the_client() {
    let backend = Backend::new(|mut peer: Peer| async move {
        peer.head().await;
        peer.send("HTTP/1.0 200 OK\r\n\r\nold").await;
    })
    .await;
    let stage = Stage::before(&backend);
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    assert_eq!(field(&client.head().await.unwrap(), "transfer-encoding"), Some("chunked"));
    assert_eq!(client.exactly(13).await, "3\r\nold\r\n0\r\n\r\n");
}

#[tokio::test]
async fn a_client_of_http_1_0_is_answered_in_its_own_terms() {
    let backend =
        Backend::answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nnew\r\n0\r\n\r\n")
            .await;
    let stage = Stage::before(&backend);
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.0\r\nHost: example.com\r\n\r\n").await;
    let answer = client.rest().await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nnew"), "{answer}");
}

#[tokio::test]
async fn a_client_that_waits_for_100_is_told_to_go_on_only_when_there_is_a_backend() {
    let backend = Backend::new(|mut peer: Peer| async move {
        let head = peer.head().await.unwrap();
        assert_eq!(field(&head, "expect"), None);
        assert_eq!(peer.exactly(5).await, "hello");
        peer.send(crate::support::ok("got it")).await;
        peer.gone().await;
    })
    .await;
    let stage = Stage::before(&backend);
    let head = |host| {
        format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    };
    let mut client = stage.client().await;
    client.send(head("example.com")).await;
    assert_eq!(client.head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello").await;
    assert_eq!(client.response().await.body, "got it");
    assert_eq!(stage.raw(&head("nobody.example")).await.status(), 404);
}

#[tokio::test]
async fn garbage_gets_an_end_and_disturbs_nobody() {
    let (stage, _backend) = stage().await;
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let half = "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n";
    let garbage = [
        "\0\0\0\0\r\n\r\n",
        "\x16\x03\x01\x02\0\x01\0\x01",
        half,
        &format!("{preface}GET / HTTP/1.1\r\n\r\n"),
    ];
    for garbage in garbage {
        let mut client = stage.client().await;
        client.send(garbage).await;
        let _ = soon(client.rest()).await;
    }
    assert_eq!(stage.get("example.com", "/").await.body, "web");
}
