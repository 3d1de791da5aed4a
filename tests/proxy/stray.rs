//! Backends that send more than the response: the rest is nobody's answer.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Backend, Peer, Stage, ok};

const HEAD: &str = "HEAD / HTTP/1.1\r\nHost: example.com\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 2\r\n\r\nhi";

/// A response, what comes behind it, and the request that it answers.
const STRAYS: [(&str, &str, &str); 8] = [
    (HEAD, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\n\r\n"),
    (HEAD, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", "body"),
    (GET, "HTTP/1.1 204 No Content\r\n\r\n", "0\r\n\r\n"),
    (GET, "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n", "body"),
    (GET, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "\r\n\r\n"),
    (
        GET,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "2\r\nno\r\n0\r\n\r\n",
    ),
    (
        GET,
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n",
    ),
    (POST, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "garbage without an end"),
];

/// Sends a first response with something behind it on its first connection, and `right` on every other.
async fn backend(response: &'static str, stray: &'static str, with_next: bool) -> Backend {
    let connections = AtomicUsize::new(0);
    Backend::new(move |mut peer: Peer| {
        let number = connections.fetch_add(1, Ordering::SeqCst);
        async move {
            while let Some(head) = peer.head().await {
                if head.starts_with("POST") {
                    peer.exactly(2).await;
                }
                if number > 0 {
                    peer.send(ok("right")).await;
                    continue;
                }
                if with_next {
                    peer.send(response).await;
                    // The next request has come before the stray bytes go out.
                    if peer.head().await.is_some() {
                        peer.send(stray).await;
                    }
                } else {
                    peer.send(format!("{response}{stray}")).await;
                }
                peer.gone().await;
            }
        }
    })
    .await
}

/// Waits for the head of the answer, which is good.
async fn answer_to(stage: &Stage, request: &str) {
    let mut client = stage.client().await;
    client.send(request).await;
    let head = client.head().await.unwrap();
    assert!(["200", "204", "304"].contains(&&head[9..12]), "{request}: {head}");
}

#[tokio::test]
async fn what_comes_behind_a_response_answers_no_other_request() {
    for (first, response, stray) in STRAYS {
        for second in [GET, POST] {
            let backend = backend(response, stray, false).await;
            let stage = Stage::of_one_worker(&backend.url());
            answer_to(&stage, first).await;
            assert_eq!(stage.raw(second).await.body, "right", "behind {response:?} came {stray:?}");
        }
    }
}

/// The proxy cannot know what comes behind the next request, but may ask again on another connection.
#[tokio::test]
async fn a_request_that_can_be_repeated_is_asked_again_when_its_connection_brings_garbage() {
    let is_garbage = |stray: &str| !stray.starts_with("HTTP/") && !stray.trim().is_empty();
    for (first, response, stray) in STRAYS.into_iter().filter(|(_, _, stray)| is_garbage(stray)) {
        let backend = backend(response, stray, true).await;
        let stage = Stage::of_one_worker(&backend.url());
        answer_to(&stage, first).await;
        let second = stage.raw(GET).await;
        assert_eq!(second.body, "right", "behind {response:?} came {stray:?}");
    }
}
