//! Clients of HTTP/2 that do not read what they ask for.

use std::io::Read;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::clients::Secure;
use crate::support::{Backend, Peer, member, member_with, soon, until};

type Sender = http2::SendRequest<Empty<Bytes>>;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// What a connection may hold, and one part for each of its streams.
const CONNECTION: usize = 2 * MIB + 128 * 16 * KIB;

/// Answers each request with so many bytes, as fast as they are taken.
async fn flood(length: usize) -> Backend {
    let body = Bytes::from(text(length));
    Backend::new(move |mut peer: Peer| {
        let body = body.clone();
        async move {
            while peer.head().await.is_some() {
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n"
                );
                if peer.stream_all(&head, &body).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// Text that is compressed to about a third.
fn text(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b"0123456789abcdef"[(state >> 28) as usize % 7]
    })
    .take(length)
    .collect()
}

/// A client whose streams take `window` bytes each until it reads.
async fn client(secure: &Secure, window: u32) -> Sender {
    let io = TokioIo::new(secure.connect("a.example", &["h2"]).await.unwrap());
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(window).initial_connection_window_size(64 << 20);
    let (sender, connection) = builder.handshake(io).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask(sender: &mut Sender, coding: &str) -> Response<Incoming> {
    let request = Request::get("https://a.example/").header("accept-encoding", coding);
    soon(sender.ready()).await.unwrap();
    soon(sender.send_request(request.body(Empty::new()).unwrap())).await.unwrap()
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, hyper::Error> {
    soon(response.into_body().collect()).await.map(|body| body.to_bytes())
}

/// How much of the memory is in use.
fn resident() -> usize {
    let pages: usize =
        std::fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4 * KIB
}

async fn before(backend: &Backend, limit: usize) -> Secure {
    let secure = Secure::with(&[("a", &["a.example"])], |config| config.max_buffered = limit).await;
    secure.stage.route("a.example", "/", vec![member(1, &backend.url())]);
    secure
}

/// Waits until what is held has not grown for a while.
async fn settled(secure: &Secure) -> usize {
    let load = secure.stage.proxy.load();
    let (mut most, mut quiet) = (0, 0);
    while quiet < 20 {
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
        let now = load.buffered();
        quiet = if now > most { 0 } else { quiet + 1 };
        most = most.max(now);
    }
    most
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_reads_nothing_holds_little() {
    const STREAMS: usize = 100;
    let backend = flood(3 * MIB).await;
    let secure = before(&backend, 1 << 30).await;
    let mut sender = client(&secure, 1).await;
    // Connections whose buffers have grown to what hyper reads at most.
    whole(ask(&mut client(&secure, 1 << 20).await, "identity").await).await.unwrap();
    let before = resident();
    let mut unread = Vec::new();
    for _ in 0..STREAMS {
        unread.push(ask(&mut sender, "identity").await);
    }
    let held = settled(&secure).await;
    let grown = resident().saturating_sub(before);
    assert!((STREAMS..=CONNECTION).contains(&held), "{held}");
    // The backends' side of the sockets is this process too, but not in its memory.
    assert!(grown < 40 * MIB, "{} KiB for {} KiB that are counted", grown / KIB, held / KIB);
    drop(unread);
    until(|| secure.stage.proxy.load().buffered() == 0).await;
    assert_eq!(secure.stage.proxy.load().cut_off(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_its_budget_a_connection_is_not_cut_off_and_nothing_of_a_response_is_lost() {
    const LENGTH: usize = MIB + 17;
    let backend = flood(LENGTH).await;
    let secure = before(&backend, 1 << 30).await;
    secure.stage.route(
        "a.example",
        "/",
        vec![member_with(1, &backend.url(), |settings| {
            settings.compression = true;
        })],
    );
    let expected = text(LENGTH);
    for coding in ["identity", "gzip"] {
        let mut sender = client(&secure, 64 * KIB as u32).await;
        let mut unread = Vec::new();
        for _ in 0..60 {
            unread.push(ask(&mut sender, coding).await);
        }
        let held = settled(&secure).await;
        assert!(held > MIB, "{coding}: {held}");
        let reading = unread.into_iter().map(|response| tokio::spawn(whole(response)));
        for body in reading.collect::<Vec<_>>() {
            let body = body.await.unwrap().unwrap();
            let mut plain = Vec::new();
            match coding {
                "gzip" => GzDecoder::new(&body[..]).read_to_end(&mut plain).map(|_| ()).unwrap(),
                _ => plain.extend_from_slice(&body),
            }
            assert!(plain == expected, "{coding}: {} of {LENGTH} bytes", plain.len());
        }
    }
    until(|| secure.stage.proxy.load().buffered() == 0).await;
    assert_eq!(secure.stage.proxy.load().cut_off(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_max_buffered_those_are_cut_off_that_took_nothing_for_the_longest_time() {
    let backend = flood(8 * MIB).await;
    let secure = before(&backend, MIB).await;
    let mut reads = client(&secure, 1 << 20).await;
    let mut stalls = client(&secure, 1).await;
    let mut unread = Vec::new();
    for _ in 0..60 {
        unread.push(ask(&mut stalls, "identity").await);
    }
    let other = client(&secure, 1).await;
    for sender in [&other; 2] {
        let mut sender = sender.clone();
        for _ in 0..20 {
            // Whoever is cut off meanwhile is one of those who do not read.
            let request = Request::get("https://a.example/").body(Empty::new()).unwrap();
            if let Ok(response) = soon(sender.send_request(request)).await {
                unread.push(response);
            }
        }
        let body = whole(ask(&mut reads, "identity").await).await.unwrap();
        assert_eq!(body.len(), 8 * MIB);
    }
    let load = secure.stage.proxy.load();
    until(|| load.cut_off() >= 1).await;
    assert!(load.cut_off() <= 2, "{}", load.cut_off());
    let first = unread.swap_remove(0);
    assert!(whole(first).await.is_err(), "it was cut off");
    until(|| load.buffered() <= MIB).await;
}
