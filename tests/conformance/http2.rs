//! RFC 9113 and RFC 7541: frames, streams, flow control and header blocks, as bytes over TLS.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::frames::*;
use crate::stage::{Backend, HOST, Proxy, Stage, TLS_HOST, client_config};

const NO_ERROR: u32 = 0;
const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const REFUSED: u32 = 7;
const COMPRESSION: u32 = 9;

/// The codes for what cannot be read. The h2 crate says PROTOCOL_ERROR of all of it; the connection ends all the same.
const UNREADABLE_FRAME: &[u32] = &[FRAME_SIZE, PROTOCOL];
const UNREADABLE_BLOCK: &[u32] = &[COMPRESSION, PROTOCOL];

/// How long our answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// A peer that says nothing is only noted.
const PATIENCE_WITH_PEERS: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
enum Expect {
    /// A PING behind it is answered, and nothing is reset.
    Goes,
    /// The request on stream 1 is answered by the backend.
    Served,
    /// The connection ends, with GOAWAY and one of these codes if it says anything.
    Ends(&'static [u32]),
    /// The stream is reset with one of these codes, or the connection ends with it, or the request is refused with 400.
    Resets(&'static [u32]),
    /// The body's first frame on stream 1 has this length.
    Data(usize),
}

use Expect::{Data, Ends, Goes, Resets, Served};

type Case = (&'static str, Frames, Expect);

fn frames() -> Frames {
    Frames::new()
}

fn get() -> Frames {
    frames().get(1, TLS_HOST)
}

fn post() -> Frames {
    frames().post(1, TLS_HOST)
}

/// A request with these fields besides.
fn with(fields: &[(&str, &str)]) -> Frames {
    let all = [(":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", TLS_HOST)];
    let block = [block(&all), block(fields)].concat();
    frames().headers(END_STREAM, 1, &block)
}

/// A request with nothing but these fields.
fn only(fields: &[(&str, &str)]) -> Frames {
    frames().headers(END_STREAM, 1, &block(fields))
}

fn whole_frames() -> Vec<Case> {
    let half = &request("GET", TLS_HOST)[..10];
    let rest = &request("GET", TLS_HOST)[10..];
    vec![
        ("9113 3.4: a request", get(), Served),
        (
            "9113 4.1: a frame of a kind that nobody knows",
            frames().frame(0xee, 0, 0, b"12345678").ping(),
            Goes,
        ),
        ("9113 4.1: flags that nobody knows", frames().frame(PING, 0xf6, 0, b"are you?"), Goes),
        ("9113 4.1: the reserved bit", frames().frame(PING, 0, 0x8000_0000, b"are you?"), Goes),
        (
            "9113 4.2: DATA longer than a frame may be",
            post().frame(DATA, END_STREAM, 1, &[0; 16_385]),
            Resets(UNREADABLE_FRAME),
        ),
        (
            "9113 4.2: HEADERS longer than a frame may be",
            frames().headers(END_STREAM, 1, &[0; 16_385]),
            Ends(UNREADABLE_FRAME),
        ),
        ("9113 4.3: a block that is none", frames().headers(END_STREAM, 1, &[0x40]), Ends(UNREADABLE_BLOCK)),
        (
            "9113 4.3: another frame within a block",
            frames().frame(HEADERS, END_STREAM, 1, half).ping().frame(CONTINUATION, END_HEADERS, 1, rest),
            Ends(&[PROTOCOL]),
        ),
        (
            "9113 4.3: another stream within a block",
            frames().frame(HEADERS, END_STREAM, 1, half).get(3, TLS_HOST),
            Ends(&[PROTOCOL]),
        ),
        (
            "9113 5.5: a frame that nobody knows within a block",
            frames().frame(HEADERS, END_STREAM, 1, half).frame(0xee, 0, 0, b"12345678"),
            Ends(&[PROTOCOL]),
        ),
        (
            "9113 6.10: a block in two frames",
            frames().frame(HEADERS, END_STREAM, 1, half).frame(CONTINUATION, END_HEADERS, 1, rest),
            Served,
        ),
        (
            "9113 6.10: a block with an empty frame in it",
            frames().frame(HEADERS, END_STREAM, 1, half).frame(CONTINUATION, 0, 1, &[]).frame(
                CONTINUATION,
                END_HEADERS,
                1,
                rest,
            ),
            Served,
        ),
        (
            "9113 6.10: CONTINUATION of nothing",
            frames().frame(CONTINUATION, END_HEADERS, 1, rest),
            Ends(&[PROTOCOL]),
        ),
        (
            "9113 6.10: CONTINUATION of a whole block",
            get().frame(CONTINUATION, END_HEADERS, 1, rest),
            Ends(&[PROTOCOL, STREAM_CLOSED]),
        ),
        (
            "9113 6.10: CONTINUATION on no stream",
            frames().frame(HEADERS, END_STREAM, 1, half).frame(CONTINUATION, END_HEADERS, 0, rest),
            Ends(&[PROTOCOL]),
        ),
        (
            "9113 8.4: a client's push",
            get().frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82]),
            Ends(&[PROTOCOL]),
        ),
    ]
}

fn streams() -> Vec<Case> {
    let many = (0..400_u32).fold(frames(), |frames, no| frames.post(2 * no + 1, TLS_HOST));
    vec![
        ("9113 5.1: DATA on an idle stream", frames().frame(DATA, END_STREAM, 1, b"x"), Ends(&[PROTOCOL])),
        ("9113 5.1: RST_STREAM of an idle stream", frames().reset(1), Ends(&[PROTOCOL])),
        ("9113 5.1: WINDOW_UPDATE of an idle stream", frames().window(1, 1), Ends(&[PROTOCOL])),
        (
            "9113 5.1: DATA behind the end",
            get().frame(DATA, END_STREAM, 1, b"x"),
            Resets(&[STREAM_CLOSED, PROTOCOL]),
        ),
        (
            "9113 5.1: HEADERS behind the end",
            get().headers(END_STREAM, 1, &block(&[("x", "y")])),
            Resets(&[STREAM_CLOSED, PROTOCOL]),
        ),
        ("9113 5.1: DATA behind a reset", post().reset(1).frame(DATA, END_STREAM, 1, b"x").ping(), Goes),
        ("9113 5.1: WINDOW_UPDATE behind the end", get().window(1, 1), Served),
        (
            "9113 5.1: PRIORITY of an idle stream",
            frames().frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 9]).ping(),
            Goes,
        ),
        ("9113 5.1.1: an even stream", frames().get(2, TLS_HOST), Ends(&[PROTOCOL])),
        (
            "9113 5.1.1: a stream before the last",
            frames().get(5, TLS_HOST).get(3, TLS_HOST),
            Ends(&[PROTOCOL, STREAM_CLOSED]),
        ),
        ("9113 5.1.2: more streams than there may be", many, Resets(&[REFUSED, PROTOCOL])),
        (
            "9113 8.1: a second HEADERS that is no end",
            post().headers(0, 1, &block(&[("x", "y")])),
            Resets(&[PROTOCOL]),
        ),
        (
            "9113 8.1: trailers",
            post().frame(DATA, 0, 1, b"x").headers(END_STREAM, 1, &block(&[("x-sum", "1")])),
            Served,
        ),
        ("9113 6.4: RST_STREAM of the connection", frames().reset(0), Ends(&[PROTOCOL])),
        ("9113 6.4: a short RST_STREAM", post().frame(RST_STREAM, 0, 1, &[0, 0, 8]), Ends(UNREADABLE_FRAME)),
        (
            "9113 7: a code that nobody knows in RST_STREAM",
            post().frame(RST_STREAM, 0, 1, &[0, 0, 0, 99]).ping(),
            Goes,
        ),
        (
            "9113 6.3: PRIORITY of the connection",
            frames().frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 9]),
            Ends(&[PROTOCOL]),
        ),
        ("9113 6.3: a short PRIORITY", post().frame(PRIORITY, 0, 1, &[0, 0, 0, 9]), Resets(UNREADABLE_FRAME)),
        ("9113 6.1: DATA on no stream", frames().frame(DATA, END_STREAM, 0, b"x"), Ends(&[PROTOCOL])),
        (
            "9113 6.1: more padding than there is",
            post().frame(DATA, END_STREAM | PADDED, 1, &[9, 0]),
            Ends(&[PROTOCOL]),
        ),
        ("9113 6.1: padding", post().frame(DATA, END_STREAM | PADDED, 1, &[2, b'x', 0, 0]), Served),
        ("9113 6.2: HEADERS on no stream", frames().get(0, TLS_HOST), Ends(&[PROTOCOL])),
        (
            "9113 6.2: more padding than there is",
            frames().headers(END_STREAM | PADDED, 1, &[&[255][..], &request("GET", TLS_HOST)[..40]].concat()),
            Ends(&[PROTOCOL]),
        ),
        (
            "9113 6.2: a priority, which says nothing any more",
            frames().headers(
                END_STREAM | WITH_PRIORITY,
                1,
                &[&[0, 0, 0, 0, 9][..], &request("GET", TLS_HOST)].concat(),
            ),
            Served,
        ),
    ]
}

fn connection() -> Vec<Case> {
    vec![
        (
            "9113 6.5: an acknowledgement with something in it",
            frames().frame(SETTINGS, ACK, 0, &[0; 6]),
            Ends(UNREADABLE_FRAME),
        ),
        ("9113 6.5: SETTINGS of a stream", frames().frame(SETTINGS, 0, 1, &[]), Ends(&[PROTOCOL])),
        ("9113 6.5: half a setting", frames().frame(SETTINGS, 0, 0, &[0, 3, 0]), Ends(UNREADABLE_FRAME)),
        ("9113 6.5.2: ENABLE_PUSH is 2", frames().setting(2, 2), Ends(&[PROTOCOL])),
        (
            "9113 6.5.2: a window of more than 31 bits",
            frames().setting(4, 0x8000_0000),
            Ends(&[FLOW_CONTROL, PROTOCOL]),
        ),
        ("9113 6.5.2: frames below the least", frames().setting(5, 16_383), Ends(&[PROTOCOL])),
        ("9113 6.5.2: frames above the most", frames().setting(5, 16_777_216), Ends(&[PROTOCOL])),
        ("9113 6.5.2: a setting that nobody knows", frames().setting(0xee, 7).ping(), Goes),
        ("9113 6.7: a PING is answered", frames().ping(), Goes),
        ("9113 6.7: an answer that nobody asked for", frames().frame(PING, ACK, 0, b"12345678").ping(), Goes),
        ("9113 6.7: PING of a stream", frames().frame(PING, 0, 1, b"12345678"), Ends(&[PROTOCOL])),
        ("9113 6.7: a short PING", frames().frame(PING, 0, 0, b"1234"), Ends(UNREADABLE_FRAME)),
        ("9113 6.8: GOAWAY of a stream", frames().frame(GOAWAY, 0, 1, &[0; 8]), Ends(&[PROTOCOL])),
        (
            "9113 7: a code that nobody knows in GOAWAY",
            frames().frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 99]).ping(),
            Ends(&[NO_ERROR]),
        ),
        ("9113 6.9: no more window for the connection", frames().window(0, 0), Ends(&[PROTOCOL])),
        ("9113 6.9: no more window for a stream", post().window(1, 0), Resets(&[PROTOCOL])),
        (
            "9113 6.9: a short WINDOW_UPDATE",
            frames().frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1]),
            Ends(UNREADABLE_FRAME),
        ),
        ("9113 6.9.1: more window than 31 bits hold", frames().window(0, 0x7fff_ffff), Ends(&[FLOW_CONTROL])),
        ("9113 6.9.1: the same for a stream", post().window(1, 0x7fff_ffff), Resets(&[FLOW_CONTROL])),
        ("9113 6.9.1: a window of one byte", frames().setting(4, 1).get(1, TLS_HOST), Data(1)),
        (
            "9113 6.9.2: a window that grows later",
            frames().setting(4, 0).get(1, TLS_HOST).setting(4, 1),
            Data(1),
        ),
        (
            "9113 6.5.3: the last of two values counts",
            frames().setting(4, 100).setting(4, 1).get(1, TLS_HOST),
            Data(1),
        ),
    ]
}

fn requests() -> Vec<Case> {
    let [method, scheme, path] = [(":method", "GET"), (":scheme", "https"), (":path", "/")];
    let host = (":authority", TLS_HOST);
    let body_of = |length: &str, parts: &[&[u8]]| {
        let head = [request("POST", TLS_HOST), block(&[("content-length", length)])].concat();
        let frames = frames().headers(0, 1, &head);
        let (last, first) = parts.split_last().unwrap();
        let frames = first.iter().fold(frames, |frames, part| frames.frame(DATA, 0, 1, part));
        frames.frame(DATA, END_STREAM, 1, last)
    };
    vec![
        ("9113 8.2: a name in upper case", with(&[("X-A", "b")]), Resets(&[PROTOCOL])),
        ("9113 8.2.1: LF in a value", with(&[("x-a", "b\nc")]), Resets(&[PROTOCOL])),
        ("9113 8.2.1: NUL in a value", with(&[("x-a", "b\0c")]), Resets(&[PROTOCOL])),
        ("9113 8.2.1: a blank in a name", with(&[("x a", "b")]), Resets(&[PROTOCOL])),
        ("9113 8.2.2: Connection", with(&[("connection", "keep-alive")]), Resets(&[PROTOCOL])),
        ("9113 8.2.2: Transfer-Encoding", with(&[("transfer-encoding", "chunked")]), Resets(&[PROTOCOL])),
        ("9113 8.2.2: TE with something else than trailers", with(&[("te", "gzip")]), Resets(&[PROTOCOL])),
        ("9113 8.2.2: TE with trailers", with(&[("te", "trailers")]), Served),
        ("9113 8.2.3: cookies in pieces", with(&[("cookie", "a=b"), ("cookie", "c=d")]), Served),
        ("9113 8.3: a pseudo field that nobody knows", with(&[(":tea", "b")]), Resets(&[PROTOCOL])),
        ("9113 8.3: a response's pseudo field", with(&[(":status", "200")]), Resets(&[PROTOCOL])),
        (
            "9113 8.3: a pseudo field behind another",
            only(&[("x-a", "b"), method, scheme, path, host]),
            Resets(&[PROTOCOL]),
        ),
        (
            // A server should reset the stream. The h2 crate drops the field, so no backend sees it.
            "9113 8.3: a pseudo field in trailers",
            post().headers(END_STREAM, 1, &block(&[(":method", "GET")])),
            Served,
        ),
        ("9113 8.3.1: no method", only(&[scheme, path, host]), Resets(&[PROTOCOL])),
        ("9113 8.3.1: no scheme", only(&[method, path, host]), Resets(&[PROTOCOL])),
        ("9113 8.3.1: no path", only(&[method, scheme, host]), Resets(&[PROTOCOL])),
        ("9113 8.3.1: an empty path", only(&[method, scheme, (":path", ""), host]), Resets(&[PROTOCOL])),
        ("9113 8.3.1: two methods", only(&[method, method, scheme, path, host]), Resets(&[PROTOCOL])),
        ("9113 8.3.1: two schemes", only(&[method, scheme, scheme, path, host]), Resets(&[PROTOCOL])),
        ("9113 8.3.1: two paths", only(&[method, scheme, path, path, host]), Resets(&[PROTOCOL])),
        (
            "9113 8.3.1: Host in the place of :authority",
            only(&[method, scheme, path, ("host", TLS_HOST)]),
            Served,
        ),
        ("9113 8.3.1: Host beside an equal :authority", with(&[("host", TLS_HOST)]), Served),
        (
            "9113 8.3.1: Host beside another :authority",
            with(&[("host", "other.example.com")]),
            Resets(&[PROTOCOL]),
        ),
        ("9113 8.1.1: a length and its body", body_of("5", &[b"he", b"llo"]), Served),
        ("9113 8.1.1: a body that is too short", body_of("9", &[b"hello"]), Resets(&[PROTOCOL])),
        ("9113 8.1.1: a body that is too long", body_of("3", &[b"hello"]), Resets(&[PROTOCOL])),
        ("9113 8.1.1: a body in parts that is too long", body_of("3", &[b"he", b"llo"]), Resets(&[PROTOCOL])),
    ]
}

fn header_blocks() -> Vec<Case> {
    let behind =
        |more: &[u8]| frames().headers(END_STREAM, 1, &[&request("GET", TLS_HOST)[..], more].concat());
    let before =
        |more: &[u8]| frames().headers(END_STREAM, 1, &[more, &request("GET", TLS_HOST)[..]].concat());
    vec![
        ("7541 2.3.3: an index of no table", behind(&[0xff, 0x80, 0x01]), Ends(UNREADABLE_BLOCK)),
        ("7541 6.1: the index 0", behind(&[0x80]), Ends(UNREADABLE_BLOCK)),
        ("7541 4.2: a new size of the table first", before(&[0x20]), Served),
        ("7541 4.2: a new size of the table last", behind(&[0x20]), Ends(UNREADABLE_BLOCK)),
        ("7541 6.3: a table that is too large", before(&[0x3f, 0xe1, 0xff, 0x7f]), Ends(UNREADABLE_BLOCK)),
        (
            "7541 5.1: an integer without an end",
            behind(&[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80]),
            Ends(UNREADABLE_BLOCK),
        ),
        (
            "7541 5.2: padding of Huffman's code longer than 7 bits",
            behind(&[0x00, 0x01, b'x', 0x85, 0xf2, 0xb2, 0x4a, 0xff, 0xff]),
            Ends(UNREADABLE_BLOCK),
        ),
        (
            "7541 5.2: padding of Huffman's code with zeros",
            behind(&[0x00, 0x01, b'x', 0x83, 0xf2, 0xb2, 0x40]),
            Ends(UNREADABLE_BLOCK),
        ),
        (
            "7541 5.2: the end symbol",
            behind(&[0x00, 0x01, b'x', 0x84, 0xff, 0xff, 0xff, 0xff]),
            Ends(UNREADABLE_BLOCK),
        ),
        (
            "7541 5.2: a string longer than the block",
            behind(&[0x00, 0x01, b'x', 0x7f, 0x20]),
            Ends(UNREADABLE_BLOCK),
        ),
    ]
}

/// A connection on which HTTP/2 is spoken, its preface and settings sent.
struct Peer {
    stream: StreamOwned<ClientConnection, TcpStream>,
    received: Vec<u8>,
}

impl Peer {
    fn connect(proxy: &Proxy, config: &Arc<ClientConfig>, opening: &[u8]) -> Peer {
        let tcp = TcpStream::connect(proxy.https).unwrap();
        tcp.set_nodelay(true).unwrap();
        let patience = if proxy.name == "ours" { PATIENCE } else { PATIENCE_WITH_PEERS };
        tcp.set_read_timeout(Some(patience)).unwrap();
        let name = ServerName::try_from(TLS_HOST).unwrap();
        let tls = ClientConnection::new(Arc::clone(config), name).unwrap();
        let mut stream = StreamOwned::new(tls, tcp);
        stream.write_all(opening).unwrap();
        stream.flush().unwrap();
        Peer { stream, received: Vec::new() }
    }

    fn send(&mut self, frames: &Frames) {
        // Who is refused may be gone.
        let _ = self.stream.write_all(&frames.0);
        let _ = self.stream.flush();
    }

    /// What comes next; `None` if nothing comes.
    fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(event) = next(&mut self.received) {
                if event.is_some() {
                    return event;
                }
            }
            let mut part = [0; 16_384];
            match self.stream.read(&mut part) {
                Ok(0) => return Some(Event::End),
                Ok(length) => self.received.extend_from_slice(&part[..length]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return None;
                }
                Err(_) => return Some(Event::End),
            }
        }
    }
}

/// Whether what came is what must come. `None`: that is not certain yet.
fn judge(expect: Expect, event: &Event) -> Option<bool> {
    match (expect, event) {
        (_, Event::SettingsAck) => None,
        (Goes, Event::Pong) | (Ends(_) | Resets(_), Event::End) => Some(true),
        (Served, Event::Status(1, status)) => Some(*status == 200),
        (Data(length), Event::Data(1, given)) => Some(length == *given),
        (Data(_), Event::Status(1, 200)) => None,
        (Ends(codes) | Resets(codes), Event::GoAway(code)) => Some(codes.contains(code)),
        (Resets(codes), Event::Reset(_, code)) => Some(codes.contains(code)),
        (Resets(_), Event::Status(_, 400)) => Some(true),
        // Another stream's, or one that was whole before the fault.
        (Ends(_), Event::Status(..) | Event::Data(..) | Event::Reset(..) | Event::Pong) => None,
        (Goes, Event::Status(..) | Event::Data(..) | Event::Reset(..)) => None,
        (Resets(_), Event::Status(_, 200) | Event::Data(..)) => None,
        _ => Some(false),
    }
}

fn try_case(proxy: &Proxy, config: &Arc<ClientConfig>, (_, sent, expect): &Case) -> Result<(), String> {
    let opening = [PREFACE, &Frames::new().frame(SETTINGS, 0, 0, &[]).0].concat();
    let mut peer = Peer::connect(proxy, config, &opening);
    peer.send(sent);
    let mut events = Vec::new();
    loop {
        let Some(event) = peer.next() else { return Err(format!("then nothing more, behind {events:?}")) };
        events.push(event);
        match judge(*expect, events.last().unwrap()) {
            Some(true) => return Ok(()),
            Some(false) => return Err(format!("{events:?}")),
            None => {}
        }
    }
}

#[test]
fn http_2_is_spoken_as_its_specification_says() {
    let backend = Backend::start();
    let stage = Stage::before(backend.address);
    let config = client_config(&stage.authority, b"h2");
    let (mut wrong, mut count) = (Vec::new(), 0);
    for case in [whole_frames(), streams(), connection(), requests(), header_blocks()].into_iter().flatten() {
        count += 1;
        if let Err(why) = try_case(&stage.ours, &config, &case) {
            wrong.push(format!("{}\n    expected {:?}, got {why}", case.0, case.2));
        }
        for peer in &stage.peers {
            if let Err(why) = try_case(peer, &config, &case) {
                println!("{:<8} {}: {:.150}", peer.name, case.0, why);
            }
        }
    }
    println!("{count} cases of HTTP/2, {} of them wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_no_preface_ends_the_connection() {
    let backend = Backend::start();
    let stage = Stage::before(backend.address);
    let config = client_config(&stage.authority, b"h2");
    let mut peer = Peer::connect(&stage.ours, &config, b"GET / HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let came = std::iter::from_fn(|| peer.next()).take_while(|event| *event != Event::End);
    assert!(came.last().is_none_or(|event| event == Event::GoAway(PROTOCOL)));
}

/// A client that knows that the server speaks HTTP/2 begins with it, without TLS. Others are asked no more than before.
#[test]
fn http_2_is_spoken_without_tls_too_however_its_preface_is_cut() {
    let backend = Backend::start();
    let stage = Stage::before(backend.address);
    let opening = [PREFACE, &frames().frame(SETTINGS, 0, 0, &[]).get(1, HOST).0].concat();
    for size in [1, 2, 3, 23, 24, 25, opening.len()] {
        let mut stream = TcpStream::connect(stage.ours.http).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        opening.chunks(size).for_each(|piece| stream.write_all(piece).unwrap());
        let (mut received, mut part) = (Vec::new(), [0; 1024]);
        let status = loop {
            match next(&mut received) {
                Some(Some(Event::Status(1, status))) => break status,
                Some(_) => continue,
                None => {}
            }
            let length = stream.read(&mut part).unwrap();
            assert!(length > 0, "in pieces of {size}: the connection ended");
            received.extend_from_slice(&part[..length]);
        };
        assert_eq!(status, 200, "in pieces of {size}");
    }
}
