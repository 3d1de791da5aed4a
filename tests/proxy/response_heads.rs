//! Heads of responses that are not as RFC 9112 has them, or very long.

use std::sync::Arc;

use futures_util::future::join;
use tokio::sync::Barrier;

use crate::support::{Backend, Peer, Response, Stage, ok, soon};

const POST: &str = "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 2\r\n\r\nhi";

#[tokio::test]
async fn blanks_behind_a_name_and_folds_are_mended() {
    for (line, name, value) in [
        ("X-Foo : bar", "x-foo", "bar"),
        ("X-Foo \t : bar", "x-foo", "bar"),
        ("X-Foo: one\r\n two", "x-foo", "one two"),
        ("X-Foo: one\r\n\ttwo\r\n three", "x-foo", "one two three"),
        ("X-Foo :\r\n bar", "x-foo", "bar"),
    ] {
        let backend =
            Backend::answering(format!("HTTP/1.1 200 OK\r\n{line}\r\nContent-Length : 2\r\n\r\nhi")).await;
        let response = Stage::before(&backend).get("example.com", "/").await;
        let words: Vec<_> = response.field(name).unwrap_or_default().split_whitespace().collect();
        assert_eq!(
            (words.join(" ").as_str(), response.body.as_str()),
            (value, "hi"),
            "{line:?}: {}",
            response.head
        );
        assert!(!response.head.contains(" :") && !response.head.contains("\r\n "), "{}", response.head);
    }
}

#[tokio::test]
async fn what_is_no_header_line_is_refused_and_the_page_names_it() {
    for (response, words) in [
        ("HTTP/1.1 200 OK\r\n X-Foo: bar\r\nContent-Length: 2\r\n\r\nhi", "header line"),
        ("HTTP/1.1 200 OK\r\nX Foo: bar\r\nContent-Length: 2\r\n\r\nhi", "header line"),
        ("HTTP/1.1 200 OK\r\n: bar\r\nContent-Length: 2\r\n\r\nhi", "header line"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi!", "Content-Length"),
        ("HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nhi", "Content-Length"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "Transfer-Encoding"),
        ("HTTP/1.1 20 OK\r\n\r\n", "status"),
        ("HTTP/3.0 200 OK\r\n\r\n", "HTTP/1.1"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1"),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "protocol"),
    ] {
        let backend = Backend::answering(response).await;
        let page = Stage::before(&backend).get("example.com", "/").await;
        assert_eq!(page.status(), 502, "{response:?}");
        assert!(page.body.contains("is no HTTP") && page.body.contains(words), "{response:?}: {}", page.body);
    }
}

fn long(lines: usize) -> String {
    let more: String = (2..=lines).map(|number| format!("X-Line: {number}\r\n")).collect();
    ok("hi").replacen("\r\n", &format!("\r\n{more}"), 1)
}

fn lines(response: &Response) -> usize {
    response.head.to_ascii_lowercase().matches("x-line: ").count()
}

#[tokio::test]
async fn a_head_of_a_thousand_lines_arrives_and_one_of_more_is_named() {
    for count in [100, 101, 500, 1_000] {
        let backend = Backend::answering(long(count)).await;
        let stage = Stage::of_one_worker(&backend.url());
        for _ in 0..2 {
            let response = stage.get("example.com", "/").await;
            assert_eq!((response.status(), lines(&response)), (200, count - 1), "{count} lines");
        }
        assert_eq!(backend.accepts(), if count > 100 { 2 } else { 1 }, "{count} lines: the second is kept");
    }
    let backend = Backend::answering(long(1_001)).await;
    let page = Stage::of_one_worker(&backend.url()).get("example.com", "/").await;
    assert_eq!(page.status(), 502);
    assert!(page.body.contains("1,000 lines"), "{}", page.body);
}

#[tokio::test]
async fn a_request_that_cannot_be_repeated_is_told_once_why_it_has_no_answer() {
    let backend = Backend::new(|mut peer: Peer| async move {
        while peer.head().await.is_some() {
            peer.exactly(2).await;
            let _ = peer.try_send(long(200)).await;
        }
    })
    .await;
    let stage = Stage::of_one_worker(&backend.url());
    let page = stage.raw(POST).await;
    assert_eq!(page.status(), 502);
    assert!(page.body.contains("lines"), "{}", page.body);
    let response = stage.raw(POST).await;
    assert_eq!((response.status(), lines(&response)), (200, 199));
}

#[tokio::test]
async fn interim_responses_are_not_passed_on_and_not_taken_for_the_answer() {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";
    for interim in
        [early, &early.repeat(3), "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 102 Processing\r\n\r\n"]
    {
        let backend = Backend::answering(format!("{interim}{}", ok("hi"))).await;
        let stage = Stage::of_one_worker(&backend.url());
        for _ in 0..2 {
            let response = stage.get("example.com", "/").await;
            assert_eq!(
                (response.status(), response.body.as_str()),
                (200, "hi"),
                "{interim:?}: {}",
                response.head
            );
            assert_eq!(response.field("link"), None, "{interim:?}");
        }
        assert_eq!(backend.accepts(), 1, "{interim:?}: the connection is kept");
    }
}

#[tokio::test]
async fn connections_from_before_the_first_long_head_get_no_more_requests() {
    let two = Arc::new(Barrier::new(2));
    let backend = Backend::new(move |mut peer: Peer| {
        let two = Arc::clone(&two);
        async move {
            while let Some(head) = peer.head().await {
                if head.starts_with("POST") {
                    peer.exactly(2).await;
                }
                if !head.contains("/long ") {
                    soon(two.wait()).await;
                }
                let _ = peer.try_send(if head.contains("/long") { long(200) } else { ok("hi") }).await;
            }
        }
    })
    .await;
    let stage = Stage::of_one_worker(&backend.url());
    let both = soon(join(stage.get("example.com", "/"), stage.get("example.com", "/"))).await;
    assert_eq!((both.0.status(), both.1.status(), backend.accepts()), (200, 200, 2), "two are kept");
    assert_eq!(stage.get("example.com", "/long").await.status(), 200);
    let post = POST.replacen("/ ", "/long-both ", 1);
    let both = soon(join(stage.raw(&post), stage.raw(&post))).await;
    assert_eq!((both.0.status(), both.1.status()), (200, 200));
}
