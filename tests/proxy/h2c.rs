//! Backends of HTTP/2 that take few requests at once, or refuse some unread, frame by frame.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::sleep;

use crate::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, RST_STREAM, SETTINGS,
    WINDOW_UPDATE,
};
use crate::support::{Response, Stage, soon};

const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
/// How much a client may send before it hears more.
const WINDOW: u32 = 1024 * 1024;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
/// How much of a body the proxy keeps to send it again (SEMANTICS section 2).
const MAX_KEPT: usize = 64 * 1024;

/// How it says that it has not looked at a request.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Refusal {
    Reset,
    GoAway,
    /// Says something else: the request may have been looked at.
    Cancel,
}

#[derive(Debug)]
struct Conduct {
    /// How many streams it takes at once on a connection.
    limit: Option<u32>,
    settings_after: Duration,
    answers_after: Duration,
    /// What it sends on a stream instead of its answer.
    answer: Option<fn(u32) -> Vec<u8>>,
    /// How many interim responses it sends before the answer.
    interim: usize,
    /// How many requests it refuses, and how, once so many bytes of the body have come.
    refusals: usize,
    refusal: Refusal,
    refuses_at: usize,
}

impl Default for Conduct {
    fn default() -> Self {
        let (settings_after, answers_after) = (Duration::ZERO, Duration::ZERO);
        Conduct {
            limit: None,
            interim: 0,
            answer: None,
            settings_after,
            answers_after,
            refusals: 0,
            refusal: Refusal::Reset,
            refuses_at: 0,
        }
    }
}

#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    /// Requests that were refused, by the script or for the limit.
    refused: AtomicUsize,
    over_limit: AtomicUsize,
    /// The bodies of the requests that were answered.
    bodies: Mutex<Vec<Vec<u8>>>,
}

struct Backend {
    addr: SocketAddr,
    seen: Arc<Seen>,
}

impl Backend {
    async fn new(conduct: Conduct) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, seen) = (listener.local_addr().unwrap(), Arc::<Seen>::default());
        let (counted, conduct) = (Arc::clone(&seen), Arc::new(conduct));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, Arc::clone(&conduct), Arc::clone(&counted)));
            }
        });
        Backend { addr, seen }
    }

    fn stage(&self) -> Stage {
        Stage::of_one_worker(&format!("h2c://{}", self.addr))
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    Frames::new().frame(kind, flags, stream, payload).0
}

/// One connection.
struct Connection {
    conduct: Arc<Conduct>,
    seen: Arc<Seen>,
    write: AsyncMutex<OwnedWriteHalf>,
    open: Mutex<Vec<(u32, Vec<u8>)>>,
}

async fn serve(stream: TcpStream, conduct: Arc<Conduct>, seen: Arc<Seen>) {
    let (mut read, write) = stream.into_split();
    let (write, open) = (AsyncMutex::new(write), Mutex::default());
    let connection = Arc::new(Connection { conduct, seen, write, open });
    let mut preface = [0; 24];
    let _ = read.read_exact(&mut preface).await;
    sleep(connection.conduct.settings_after).await;
    let setting = |key: u16, value: u32| [&key.to_be_bytes()[..], &value.to_be_bytes()].concat();
    let mut settings = setting(INITIAL_WINDOW_SIZE, WINDOW);
    settings.extend(connection.conduct.limit.map_or(vec![], |limit| setting(MAX_CONCURRENT_STREAMS, limit)));
    connection.send(frame(SETTINGS, 0, 0, &settings)).await;
    connection.send(frame(WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes())).await;
    while let Some(()) = connection.next_frame(&mut read).await {}
}

impl Connection {
    async fn send(&self, bytes: Vec<u8>) {
        let _ = self.write.lock().await.write_all(&bytes).await;
    }

    async fn next_frame(self: &Arc<Self>, read: &mut OwnedReadHalf) -> Option<()> {
        let mut head = [0; 9];
        read.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length];
        read.read_exact(&mut payload).await.ok()?;
        match kind {
            SETTINGS if flags & ACK == 0 => self.send(frame(SETTINGS, ACK, 0, &[])).await,
            HEADERS => {
                let open = {
                    let mut open = self.open.lock().unwrap();
                    open.push((stream, vec![]));
                    open.len()
                };
                if self.conduct.limit.is_some_and(|limit| open > limit as usize) {
                    self.seen.over_limit.fetch_add(1, Ordering::SeqCst);
                    self.reset(stream, REFUSED_STREAM).await;
                }
            }
            DATA => {
                let mut open = self.open.lock().unwrap();
                if let Some((_, body)) = open.iter_mut().find(|(open, _)| *open == stream) {
                    body.extend_from_slice(&payload);
                }
            }
            _ => return Some(()),
        }
        self.react(stream, flags & END_STREAM != 0).await;
        Some(())
    }

    /// Refuses or answers, if it is time.
    async fn react(self: &Arc<Self>, stream: u32, is_end: bool) {
        let body = {
            let open = self.open.lock().unwrap();
            open.iter().find(|(open, _)| *open == stream).map(|(_, body)| body.clone())
        };
        let Some(body) = body else { return };
        let Conduct { refusals, refusal, refuses_at, .. } = *self.conduct;
        if body.len() >= refuses_at && self.seen.refused.load(Ordering::SeqCst) < refusals {
            self.seen.refused.fetch_add(1, Ordering::SeqCst);
            match refusal {
                Refusal::Reset => self.reset(stream, REFUSED_STREAM).await,
                Refusal::Cancel => self.reset(stream, CANCEL).await,
                Refusal::GoAway => {
                    let last = stream.saturating_sub(2).to_be_bytes();
                    self.open.lock().unwrap().retain(|(open, _)| *open != stream);
                    // It reads on: with something unread its close would be a reset.
                    self.send(frame(GOAWAY, 0, 0, &[last, [0; 4]].concat())).await;
                }
            }
        } else if is_end {
            let connection = Arc::clone(self);
            tokio::spawn(async move {
                sleep(connection.conduct.answers_after).await;
                connection.open.lock().unwrap().retain(|(open, _)| *open != stream);
                connection.seen.bodies.lock().unwrap().push(body);
                for _ in 0..connection.conduct.interim {
                    // :status 103, as a literal.
                    let early = [&[0x08, 3][..], b"103"].concat();
                    connection.send(frame(HEADERS, END_HEADERS, stream, &early)).await;
                }
                if let Some(answer) = connection.conduct.answer {
                    return connection.send(answer(stream)).await;
                }
                // :status 200
                connection.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x88])).await;
            });
        }
    }

    async fn reset(&self, stream: u32, reason: u32) {
        self.open.lock().unwrap().retain(|(open, _)| *open != stream);
        self.send(frame(RST_STREAM, 0, stream, &reason.to_be_bytes())).await;
    }
}

async fn post(stage: &Stage, body: &str) -> Response {
    let length = body.len();
    stage
        .raw(&format!("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: {length}\r\n\r\n{body}"))
        .await
}

#[tokio::test]
async fn a_backend_gets_as_many_requests_at_once_as_it_allows_and_none_is_refused() {
    for (limit, requests, connections) in [(1, 6, 2..=6), (3, 9, 2..=3), (10, 300, 2..=8), (100, 40, 1..=1)] {
        for settings_after in [0, 30].map(Duration::from_millis) {
            let answers_after = Duration::from_millis(100);
            let conduct = Conduct { limit: Some(limit), settings_after, answers_after, ..Conduct::default() };
            let backend = Backend::new(conduct).await;
            let stage = backend.stage();
            let all: Vec<_> = (0..requests).map(|_| stage.get("example.com", "/")).collect();
            for response in soon(join_all(all)).await {
                assert_eq!(response.status(), 200, "limit {limit}: {}", response.head);
            }
            assert_eq!(backend.seen.over_limit.load(Ordering::SeqCst), 0, "limit {limit}");
            let made = backend.seen.connections.load(Ordering::SeqCst);
            assert!(connections.contains(&made), "limit {limit}, SETTINGS after {settings_after:?}: {made}");
        }
    }
}

#[tokio::test]
async fn a_backend_that_sends_no_settings_is_given_up() {
    let settings_after = Duration::from_secs(3600);
    let backend = Backend::new(Conduct { settings_after, ..Conduct::default() }).await;
    let stage = backend.stage();
    let all = soon(join_all((0..3).map(|_| stage.get("example.com", "/")))).await;
    assert_eq!(all.iter().map(Response::status).collect::<Vec<_>>(), [502; 3]);
}

#[tokio::test]
async fn what_a_backend_has_not_looked_at_is_sent_again_with_its_body() {
    let half = MAX_KEPT / 2;
    for refusal in [Refusal::Reset, Refusal::GoAway] {
        for (length, refuses_at) in [(0, 0), (2, 0), (2, 2), (half, 0), (half, half), (MAX_KEPT, MAX_KEPT)] {
            for refusals in 1..=3 {
                let backend =
                    Backend::new(Conduct { refusals, refusal, refuses_at, ..Conduct::default() }).await;
                let body: String = (0..length).map(|at| char::from(b'a' + (at / 7 % 26) as u8)).collect();
                let response = post(&backend.stage(), &body).await;
                let what =
                    format!("{refusal:?} {refusals} times after {refuses_at} of {length}: {}", response.head);
                assert_eq!(response.status(), 200, "{what}");
                let bodies = backend.seen.bodies.lock().unwrap();
                assert!(*bodies == [body.into_bytes()], "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_request_is_sent_no_more_than_four_times_and_never_again_when_it_may_have_been_looked_at() {
    let longer = MAX_KEPT + 1;
    for (refusal, refuses_at, sent) in
        [(Refusal::Reset, 0, 4), (Refusal::Cancel, 0, 1), (Refusal::Reset, longer, 1)]
    {
        let length = if refuses_at == 0 { 2 } else { longer };
        let backend = Backend::new(Conduct { refusals: 9, refusal, refuses_at, ..Conduct::default() }).await;
        let response = post(&backend.stage(), &"a".repeat(length)).await;
        assert_eq!(response.status(), 502, "{refusal:?}: {}", response.head);
        assert_eq!(backend.seen.refused.load(Ordering::SeqCst), sent, "{refusal:?} after {refuses_at}");
    }
}

#[tokio::test]
async fn interim_responses_are_not_taken_for_the_answer() {
    for interim in [1, 3] {
        let backend = Backend::new(Conduct { interim, ..Conduct::default() }).await;
        let response = post(&backend.stage(), "hi").await;
        assert_eq!(response.status(), 200, "{interim}: {}", response.head);
    }
}

/// A header field as a literal that enters no table.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let mut length = vec![0x7f];
        let mut more = text.len().checked_sub(0x7f);
        if more.is_none() {
            length = vec![text.len() as u8];
        }
        while let Some(rest) = more {
            length.push((rest % 128) as u8 | if rest >= 128 { 0x80 } else { 0 });
            more = (rest >= 128).then_some(rest / 128);
        }
        [&length, text.as_bytes()].concat()
    };
    [vec![0], text(name), text(value)].concat()
}

#[tokio::test]
async fn a_response_of_http2_that_is_malformed_is_named() {
    let answers: [fn(u32) -> Vec<u8>; 5] = [
        |stream| frame(DATA, END_STREAM, stream, b"no head"),
        |stream| {
            frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                stream,
                &[&[0x88][..], &literal("X-Upper", "1")].concat(),
            )
        },
        |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0xff; 9]),
        |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &literal("x-no-status", "1")),
        |stream| {
            let large: Vec<u8> = (0..7).flat_map(|_| literal("x-large", &"a".repeat(10_000))).collect();
            let parts: Vec<_> = large.chunks(16_000).collect();
            let mut frames = frame(HEADERS, END_STREAM, stream, &[0x88]);
            for (number, part) in parts.iter().enumerate() {
                let flags = if number + 1 == parts.len() { END_HEADERS } else { 0 };
                frames.extend(frame(CONTINUATION, flags, stream, part));
            }
            frames
        },
    ];
    for (number, answer) in answers.into_iter().enumerate() {
        let backend = Backend::new(Conduct { answer: Some(answer), ..Conduct::default() }).await;
        let stage = backend.stage();
        for page in [post(&stage, "hi").await, stage.get("example.com", "/").await] {
            assert_eq!(page.status(), 502, "{number}");
            assert!(
                page.body.contains("is no HTTP") && page.body.contains("HTTP/2"),
                "{number}: {}",
                page.body
            );
        }
    }
}
