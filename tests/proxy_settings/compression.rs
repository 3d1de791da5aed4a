//! The option `compression`: bodies in br, zstd or gzip, that come out as they went in, and as soon.

use std::io::Read;

use super::support::{Backend, Peer};
use super::*;

fn page(extra: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{extra}Content-Length: {length}\r\n\r\n{body}")
}

/// A world whose route compresses.
async fn compressing(backend: &Backend) -> World {
    let mut world = World::before(backend).await;
    world.all_ok(&["OPTIONS_SET||r1|compression|true", "CONFIG_APPLY|"]).await;
    world
}

fn get(accept: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: example.com\r\nAccept-Encoding: {accept}\r\n\r\n")
}

/// One chunk of a chunked body; `None`: it was the last.
async fn chunk(client: &mut Peer) -> Option<Vec<u8>> {
    let mut size = client.exactly(1).await;
    while !size.ends_with("\r\n") {
        size += &client.exactly(1).await;
    }
    let size = usize::from_str_radix(size.trim(), 16).unwrap();
    let data = client.bytes(size + 2).await;
    (size > 0).then(|| data[..size].to_vec())
}

fn decode(coding: &str, bytes: &[u8]) -> String {
    let mut text = String::new();
    match coding {
        "br" => brotli::Decompressor::new(bytes, 4096).read_to_string(&mut text).unwrap(),
        "zstd" => zstd::stream::read::Decoder::new(bytes).unwrap().read_to_string(&mut text).unwrap(),
        "gzip" => flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).unwrap(),
        other => panic!("{other}"),
    };
    text
}

#[tokio::test]
async fn a_page_is_compressed_as_the_client_likes_and_comes_out_as_it_was() {
    let body: String = (0..20_000).map(|n| format!("line {n} of a page\n")).collect();
    let backend = Backend::answering(page("ETag: \"v1\"\r\n", &body)).await;
    let world = compressing(&backend).await;
    for (accept, coding) in
        [("gzip, deflate, br, zstd", "br"), ("gzip;q=0.5, zstd", "zstd"), ("gzip", "gzip")]
    {
        let mut client = world.client().await;
        // Twice on one connection: the first response ends where it says.
        for _ in 0..2 {
            client.send(get(accept)).await;
            let head = client.head().await.unwrap();
            assert_eq!(support::field(&head, "content-encoding"), Some(coding), "{accept}");
            assert_eq!(support::field(&head, "vary"), Some("Accept-Encoding"));
            assert_eq!(support::field(&head, "etag"), Some(format!("W/\"v1~{coding}\"").as_str()));
            assert_eq!(support::field(&head, "content-length"), None);
            let mut bytes = Vec::new();
            while let Some(more) = chunk(&mut client).await {
                bytes.extend(more);
            }
            assert!(bytes.len() * 4 < body.len(), "{coding}: {} of {}", bytes.len(), body.len());
            assert!(decode(coding, &bytes) == body, "{coding}");
        }
    }
}

#[tokio::test]
async fn what_the_backend_has_sent_is_with_the_client_before_there_is_more() {
    let (go, gone) = tokio::sync::watch::channel(false);
    let backend = Backend::new(move |mut peer: Peer| {
        let mut gone = gone.clone();
        async move {
            while peer.head().await.is_some() {
                let head =
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
                peer.send(format!("{head}6\r\nfirst \r\n")).await;
                gone.wait_for(|go| *go).await.unwrap();
                peer.send("6\r\nsecond\r\n0\r\n\r\n").await;
            }
        }
    })
    .await;
    let world = compressing(&backend).await;
    for coding in ["br", "zstd", "gzip"] {
        go.send_replace(false);
        let mut client = world.client().await;
        client.send(get(coding)).await;
        client.head().await.unwrap();
        let first = chunk(&mut client).await.unwrap();
        assert!(!first.is_empty(), "while the backend waits");
        let mut bytes = first;
        go.send_replace(true);
        while let Some(more) = chunk(&mut client).await {
            bytes.extend(more);
        }
        assert_eq!(decode(coding, &bytes), "first second", "{coding}");
    }
}

#[tokio::test]
async fn what_need_not_or_must_not_be_compressed_arrives_as_it_was() {
    let body = "x".repeat(2000);
    for (what, response) in [
        ("tiny", page("", "tiny")),
        ("encoded", page("Content-Encoding: gzip\r\n", &body)),
        ("no-transform", page("Cache-Control: no-transform\r\n", &body)),
        ("an image", page("", &body).replace("text/html", "image/png")),
        ("events", page("", &body).replace("text/html", "text/event-stream")),
        ("a part", page("Content-Range: bytes 0-1999/5000\r\n", &body).replace("200 OK", "206 Partial")),
    ] {
        let backend = Backend::answering(response.clone()).await;
        let world = compressing(&backend).await;
        let found = world.raw(&get("gzip, br")).await;
        let sent = response.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(found.field("content-length"), Some(sent.len().to_string().as_str()), "{what}");
        assert_eq!(found.body, sent, "{what}");
    }
    let backend = Backend::answering(page("", &body)).await;
    let world = World::before(&backend).await;
    assert_eq!(world.raw(&get("gzip, br")).await.body, body, "without the option");
}

#[tokio::test]
async fn a_response_that_breaks_off_is_broken_for_the_client_too() {
    let backend = Backend::new(|mut peer: Peer| async move {
        peer.head().await;
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9999\r\n\r\n";
        peer.send(format!("{head}only this")).await;
    })
    .await;
    let world = compressing(&backend).await;
    let mut client = world.client().await;
    client.send(get("gzip")).await;
    client.head().await.unwrap();
    let rest = client.all().await;
    assert!(!rest.ends_with(b"0\r\n\r\n"), "no end that looks complete: {rest:?}");
}

/// An application with one resource whose tag is `"v1"`. It compares tags as RFC 9110 says and keeps the conditions that it
/// got; a range gets 206.
async fn versioned() -> Backend {
    let heads: std::sync::Arc<std::sync::Mutex<Vec<String>>> = std::sync::Arc::default();
    let kept = std::sync::Arc::clone(&heads);
    let serve = move |mut peer: Peer| {
        let kept = std::sync::Arc::clone(&kept);
        async move {
            while let Some(head) = peer.head().await {
                kept.lock().unwrap().push(head.clone());
                let has = |name: &str, tag: &str| {
                    support::field(&head, name).is_some_and(|tags| tags.contains(tag))
                };
                let wrong = support::field(&head, "if-match")
                    .is_some_and(|tags| tags != "*" && !tags.starts_with('"'));
                let (status, extra) = match () {
                    () if wrong => ("412 Precondition Failed", ""),
                    () if has("if-none-match", "\"v1\"") => ("304 Not Modified", "ETag: \"v1\"\r\n"),
                    () if has("range", "bytes") => {
                        ("206 Partial Content", "Content-Range: bytes 0-999/2000\r\n")
                    }
                    () => ("200 OK", "ETag: \"v1\"\r\n"),
                };
                let body = if status.starts_with('2') { "x".repeat(1000) } else { String::new() };
                let length = if status.starts_with("304") {
                    String::new()
                } else {
                    format!("Content-Length: {}\r\n", body.len())
                };
                peer.send(format!(
                    "HTTP/1.1 {status}\r\nContent-Type: text/html\r\n{extra}{length}\r\n{body}"
                ))
                .await;
            }
        }
    };
    let mut backend = Backend::new(serve).await;
    backend.heads = heads;
    backend
}

#[tokio::test]
async fn a_client_may_send_back_the_tag_of_a_compressed_response() {
    let backend = versioned().await;
    let world = compressing(&backend).await;
    let respond = async |method: &str, lines: &str| {
        let mut client = world.client().await;
        client.send(format!("{method} / HTTP/1.1\r\nHost: example.com\r\n{lines}\r\n")).await;
        client.head().await.unwrap()
    };
    let status = |head: &str| head.split(' ').nth(1).unwrap().to_owned();
    let page = respond("GET", "Accept-Encoding: br\r\n").await;
    let tag = support::field(&page, "etag").unwrap().to_owned();
    assert_eq!(tag, "W/\"v1~br\"");
    // A WebDAV client saves what it has read.
    for line in
        [format!("If-Match: {tag}\r\n"), format!("If-Match: \"v0\", {tag}\r\n"), "If-Match: *\r\n".to_owned()]
    {
        assert_eq!(status(&respond("PUT", &line).await), "200", "{line}");
    }
    respond("PUT", &format!("If: (<urn:x> [{tag}])\r\n")).await;
    assert_eq!(support::field(&backend.last_head(), "if"), Some("(<urn:x> [\"v1\"])"));
    // A cache asks whether its copy is still good: in the coding that it has, and in others.
    for (accept, expected, etag) in
        [("br", "304", tag.as_str()), ("gzip", "200", "W/\"v1~gzip\""), ("identity", "200", "\"v1\"")]
    {
        let head = respond("GET", &format!("Accept-Encoding: {accept}\r\nIf-None-Match: {tag}\r\n")).await;
        assert_eq!(
            (status(&head).as_str(), support::field(&head, "etag")),
            (expected, Some(etag)),
            "{accept}"
        );
        assert_eq!(support::field(&head, "vary"), Some("Accept-Encoding"), "{head}");
    }
    // The rest of a compressed body is not at the backend.
    let head =
        respond("GET", &format!("Accept-Encoding: br\r\nRange: bytes=9-\r\nIf-Range: {tag}\r\n")).await;
    assert_eq!(status(&head), "200");
    assert_eq!(support::field(&backend.last_head(), "range"), None);
    let head = respond("GET", "Accept-Encoding: br\r\nRange: bytes=0-\r\nIf-Range: \"v1\"\r\n").await;
    assert_eq!((status(&head).as_str(), support::field(&head, "vary")), ("206", Some("Accept-Encoding")));
}

#[tokio::test]
async fn an_answer_to_head_says_what_one_to_get_would() {
    let body = "x".repeat(2000);
    let backend = Backend::new(move |mut peer: Peer| {
        let body = body.clone();
        async move {
            while let Some(head) = peer.head().await {
                let whole = page("ETag: \"v1\"\r\n", &body);
                let end = if head.starts_with("HEAD") { whole.len() - body.len() } else { whole.len() };
                peer.send(&whole[..end]).await;
            }
        }
    })
    .await;
    let world = compressing(&backend).await;
    let mut client = world.client().await;
    for accept in ["gzip", "identity"] {
        client.send(get(accept).replace("GET", "HEAD")).await;
        let head = client.head().await.unwrap();
        client.send(get(accept)).await;
        let whole = client.head().await.unwrap();
        for name in ["content-encoding", "content-length", "etag", "vary", "content-type"] {
            assert_eq!(support::field(&head, name), support::field(&whole, name), "{accept}: {name}");
        }
        match support::field(&whole, "content-length") {
            Some(length) => drop(client.bytes(length.parse().unwrap()).await),
            None => while chunk(&mut client).await.is_some() {},
        }
    }
}
