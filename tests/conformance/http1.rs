//! RFC 9110 and 9112: request lines, fields, bodies and connections, over raw sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::stage::{Backend, HOST, Stage};

/// How long after the last byte nothing more is expected of a proxy that keeps the connection.
const SILENCE: Duration = Duration::from_millis(300);
/// How long the first byte may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What must come of the bytes that are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// The backend's answer.
    Served,
    /// As many answers of the backend's on one connection.
    ServedTimes(usize),
    /// An answer of the proxy's with this status, an end of the connection, and nothing at the backend.
    Refused(u16),
    /// One of several statuses; 200 is the backend's answer, all others are the proxy's.
    RefusedWith(&'static [u16]),
    /// An answer of the proxy's with this status, on a connection that may go on.
    Answered(u16),
    /// The connection ends without a further answer of the backend's: part of the body has gone there already.
    CutOff,
}

use Expect::{Answered, CutOff, Refused, RefusedWith, Served, ServedTimes};

struct Case {
    /// The section of the RFC, and what is tried.
    what: &'static str,
    bytes: Vec<u8>,
    expect: Expect,
}

fn case(what: &'static str, bytes: impl Into<Vec<u8>>, expect: Expect) -> Case {
    Case { what, bytes: bytes.into(), expect }
}

/// A request with this line and these further lines, each without its end.
fn request(line: &str, fields: &[&str]) -> String {
    let mut text = format!("{line}\r\nHost: {HOST}\r\n");
    fields.iter().for_each(|field| text += &format!("{field}\r\n"));
    text + "\r\n"
}

fn get(fields: &[&str]) -> String {
    request("GET / HTTP/1.1", fields)
}

fn post(fields: &[&str], body: &str) -> String {
    request("POST / HTTP/1.1", fields) + body
}

fn chunked(body: &str) -> String {
    post(&["Transfer-Encoding: chunked"], body)
}

fn request_lines() -> Vec<Case> {
    let bare = |line: &str| format!("{line}\r\nHost: {HOST}\r\n\r\n");
    vec![
        case("9112 3: a request", get(&[]), Served),
        case("9112 3.2.2: a target in absolute form", bare("GET http://plain.example.com/ HTTP/1.1"), Served),
        case(
            "9112 3.2.2: it counts, and Host does not",
            format!("GET http://{HOST}/ HTTP/1.1\r\nHost: nobody.example.com\r\n\r\n"),
            Served,
        ),
        case("9112 3.2.4: OPTIONS of the whole server", bare("OPTIONS * HTTP/1.1"), Served),
        case("9112 3.2.4: a star for another method", bare("GET * HTTP/1.1"), RefusedWith(&[400, 404])),
        case(
            "9112 3.2.3: CONNECT",
            format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n"),
            RefusedWith(&[400, 405, 501]),
        ),
        case("9110 9.3.8: TRACE", bare("TRACE / HTTP/1.1"), Answered(405)),
        case("9110 9.1: a method that nobody knows", bare("BREW / HTTP/1.1"), Served),
        case("9110 9.1: a method that is no token", bare("BR(EW / HTTP/1.1"), Refused(400)),
        case("9110 9.3.2: HEAD has no body", bare("HEAD / HTTP/1.1"), Served),
        case("9112 2.2: an empty line before the request", format!("\r\n{}", get(&[])), Served),
        case("9112 3: two spaces", bare("GET  / HTTP/1.1"), Refused(400)),
        case("9112 3: a tab for a space", bare("GET\t/\tHTTP/1.1"), Refused(400)),
        case("9112 3: no target", bare("GET HTTP/1.1"), Refused(400)),
        case("9112 3: a space in the target", bare("GET /a b HTTP/1.1"), Refused(400)),
        case("9112 3: no version", bare("GET /"), Refused(400)),
        case("9112 2.3: a version of HTTP that is none", bare("GET / HTTP/1,1"), Refused(400)),
        case("9112 2.3: the version in lower case", bare("GET / http/1.1"), Refused(400)),
        case("9112 2.3: another protocol", bare("GET / ICE/1.1"), Refused(400)),
        case("9112 2.3: HTTP/3.0", bare("GET / HTTP/3.0"), RefusedWith(&[400, 505])),
        case("9112 3.2: a fragment in the target", bare("GET /#part HTTP/1.1"), RefusedWith(&[400, 200])),
        case("9110 4.1: a control character in the target", bare("GET /\u{1} HTTP/1.1"), Refused(400)),
        case(
            "TLS on the plain port",
            b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n".to_vec(),
            Refused(400),
        ),
    ]
}

fn fields() -> Vec<Case> {
    let without_host = |fields: &str| format!("GET / HTTP/1.1\r\n{fields}\r\n");
    vec![
        case("9112 3.2: no Host", without_host(""), Answered(400)),
        case("9112 3.2: two Hosts", get(&["Host: other.example.com"]), Answered(400)),
        case("9112 3.2: the same Host twice", get(&[&format!("Host: {HOST}")]), Answered(400)),
        case("9112 3.2: a Host that is none", without_host("Host: a b\r\n"), Answered(400)),
        case("9110 7.2: a user in Host", without_host(&format!("Host: me@{HOST}\r\n")), Answered(400)),
        case("9110 4.2.3: Host in capitals", without_host("Host: PLAIN.Example.COM\r\n"), Served),
        case("9110 7.2: Host with a port", without_host(&format!("Host: {HOST}:8080\r\n")), Served),
        case("9112 5.1: a blank before the colon", get(&["X-A : b"]), Refused(400)),
        case("9112 5.2: a folded line", get(&["X-A: b", " c"]), Refused(400)),
        case(
            "9112 5.2: a folded first line",
            without_host(&format!(" X: y\r\nHost: {HOST}\r\n")),
            Refused(400),
        ),
        case("9112 5: a line without a colon", get(&["X-A"]), Refused(400)),
        case("9110 5.1: a name that is no token", get(&["X(A): b"]), Refused(400)),
        case("9110 5.1: no name", get(&[": b"]), Refused(400)),
        case("9110 5.5: NUL in a value", get(&["X-A: b\0c"]), Refused(400)),
        case("9110 5.5: a bare CR in a value", get(&["X-A: b\rc"]), Refused(400)),
        case("9110 5.5: bytes above 127 in a value", get(&["X-A: ä"]), Served),
        case("9110 5.5: an empty value", get(&["X-A:"]), Served),
        case("9110 5.5: blanks around a value", get(&["X-A: \t b \t"]), Served),
        case("9112 2.2: lines that end with LF alone", get(&[]).replace('\r', ""), RefusedWith(&[200, 400])),
        case("6585 5: a field of 600 KiB", get(&[&format!("X-A: {}", "b".repeat(600_000))]), Refused(431)),
        case("6585 5: a thousand fields", get(&["X-A: b"; 1000]), RefusedWith(&[200, 431])),
        case(
            "9110 15.5.15: a target of 600 KiB",
            format!("GET /{} HTTP/1.1\r\nHost: {HOST}\r\n\r\n", "a".repeat(600_000)),
            RefusedWith(&[414, 431]),
        ),
        case(
            "9110 10.1.1: an expectation that nobody knows",
            get(&["Expect: tea"]),
            RefusedWith(&[200, 417]),
        ),
        case(
            "9110 7.8: an upgrade that nobody offers",
            get(&["Upgrade: TLS/1.3", "Connection: upgrade"]),
            Served,
        ),
        case(
            "9113 3.1: an upgrade to HTTP/2, which is no more",
            get(&["Upgrade: h2c", "HTTP2-Settings: AAMAAABk", "Connection: Upgrade, HTTP2-Settings"]),
            Served,
        ),
    ]
}

fn lengths() -> Vec<Case> {
    let length = |value: &str| post(&[&format!("Content-Length: {value}")], "hello");
    vec![
        case("9112 6.2: a body of a length", length("5"), Served),
        case("9110 8.6: a sign", length("+5"), Refused(400)),
        case("9110 8.6: less than nothing", length("-5"), Refused(400)),
        case("9110 8.6: a hexadecimal number", length("0x5"), Refused(400)),
        case("9110 8.6: a fraction", length("5.0"), Refused(400)),
        case("9110 8.6: no number", length("five"), Refused(400)),
        case("9110 8.6: nothing", length(""), Refused(400)),
        case("9110 8.6: a blank within", length("5 5"), Refused(400)),
        case("9110 8.6: more than 64 bits hold", length("18446744073709551621"), Refused(400)),
        case("9112 6.3: two values", length("5, 6"), Refused(400)),
        case("9112 6.3: two lines", post(&["Content-Length: 5", "Content-Length: 6"], "hello"), Refused(400)),
        case("9112 6.3: the same twice", length("5, 5"), RefusedWith(&[200, 400])),
        case(
            "9112 6.3: the same in two lines",
            post(&["Content-Length: 5", "Content-Length: 5"], "hello"),
            RefusedWith(&[200, 400]),
        ),
        case(
            "9112 6.1: both kinds of length",
            post(&["Content-Length: 5", "Transfer-Encoding: chunked"], "5\r\nhello\r\n0\r\n\r\n"),
            RefusedWith(&[200, 400]),
        ),
        case(
            "9112 6.1: both kinds, the other way round",
            post(&["Transfer-Encoding: chunked", "Content-Length: 5"], "5\r\nhello\r\n0\r\n\r\n"),
            RefusedWith(&[200, 400]),
        ),
    ]
}

fn codings() -> Vec<Case> {
    let coded = |value: &str| post(&[&format!("Transfer-Encoding: {value}")], "5\r\nhello\r\n0\r\n\r\n");
    vec![
        case("9112 7.1: chunks", chunked("5\r\nhello\r\n0\r\n\r\n"), Served),
        case("9112 7.1: several chunks", chunked("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"), Served),
        case("9112 7.1: the coding in capitals", coded("CHUNKED"), Served),
        case("9112 7.1: zeros before a size", chunked("0005\r\nhello\r\n000\r\n\r\n"), Served),
        case("9112 7.1.1: an extension", chunked("5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n"), Served),
        case("9112 7.1.2: a trailer", chunked("5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"), Served),
        case("9112 6.1: chunked twice", coded("chunked, chunked"), Refused(400)),
        case(
            "9112 6.1: chunked in two lines",
            post(&["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], "5\r\nhello\r\n0\r\n\r\n"),
            Refused(400),
        ),
        case("9112 6.1: chunked is not last", coded("chunked, gzip"), Refused(400)),
        case("9112 6.1: a coding that nobody knows", coded("tea"), RefusedWith(&[400, 501])),
        case("9112 6.1: another coding before", coded("gzip, chunked"), RefusedWith(&[400, 501])),
        case("9112 6.1: identity is no coding any more", coded("identity"), RefusedWith(&[400, 501])),
        case("9112 6.1: nearly chunked", coded("xchunked"), RefusedWith(&[400, 501])),
        case("9112 6.1: chunked behind a control character", coded("\u{b}chunked"), Refused(400)),
        case("9112 6.1: chunked in quotes", coded("\"chunked\""), RefusedWith(&[400, 501])),
        case(
            "9112 6.1: chunks in HTTP/1.0",
            chunked("5\r\nhello\r\n0\r\n\r\n").replace("HTTP/1.1", "HTTP/1.0"),
            RefusedWith(&[200, 400]),
        ),
        case("9112 7.1: a size that is none", chunked("zz\r\nhello\r\n0\r\n\r\n"), CutOff),
        case("9112 7.1: a size with a prefix", chunked("0x5\r\nhello\r\n0\r\n\r\n"), CutOff),
        case("9112 7.1: a size with a sign", chunked("-5\r\nhello\r\n0\r\n\r\n"), CutOff),
        case(
            "9112 7.1: a size that nothing holds",
            chunked("10000000000000005\r\nhello\r\n0\r\n\r\n"),
            CutOff,
        ),
        case("9112 7.1: no size", chunked("\r\nhello\r\n0\r\n\r\n"), CutOff),
        case("9112 7.1: more than the size says", chunked("5\r\nhello!!\r\n0\r\n\r\n"), CutOff),
        case("9112 7.1: a blank before the size", chunked(" 5\r\nhello\r\n0\r\n\r\n"), CutOff),
        case("9112 7.1: a size that ends with LF alone", chunked("5\nhello\r\n0\r\n\r\n"), CutOff),
        case(
            "9112 7.1.1: an endless extension",
            chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(100_000))),
            CutOff,
        ),
    ]
}

fn connections() -> Vec<Case> {
    vec![
        case("9112 9.3: three at once are answered in order", get(&[]).repeat(3), ServedTimes(3)),
        case(
            "9112 9.3.2: and one with a body among them",
            get(&[]) + &post(&["Content-Length: 5"], "hello") + &get(&[]),
            ServedTimes(3),
        ),
        case("9112 9.6: close", get(&["Connection: close"]) + &get(&[]), ServedTimes(1)),
        case(
            "9112 9.6: close, in capitals and among others",
            get(&["Connection: x, CLOSE"]) + &get(&[]),
            ServedTimes(1),
        ),
        case("9112 9.3: HTTP/1.0 is closed", get(&[]).replace("1.1", "1.0") + &get(&[]), ServedTimes(1)),
        case(
            "9112 9.3: HTTP/1.0 is kept when it asks for that",
            get(&["Connection: keep-alive"]).replace("1.1", "1.0").repeat(2),
            ServedTimes(2),
        ),
        case(
            "9112 9.6: nothing is served behind what was refused",
            get(&["X(A): b"]) + &get(&[]),
            Refused(400),
        ),
        case(
            "9112 2.2: an empty line behind a body",
            post(&["Content-Length: 5"], "hello\r\n") + &get(&[]),
            ServedTimes(2),
        ),
        case(
            "9110 10.1.1: the body is asked for",
            post(&["Content-Length: 5", "Expect: 100-continue"], "hello"),
            Served,
        ),
        case("9112 8: half a request", "GET / HTTP/1.1\r\nHost: pl".to_owned(), CutOff),
        case("9112 8: half a body", post(&["Content-Length: 50"], "hello"), CutOff),
        case("9112 8: half a chunk", chunked("50\r\nhello"), CutOff),
    ]
}

/// Everything that comes back, and whether the connection was ended by the other side.
fn exchange(proxy: SocketAddr, bytes: &[u8], shuts: bool) -> (String, bool) {
    let mut stream = TcpStream::connect(proxy).unwrap();
    // Who refuses need not read everything.
    let _ = stream.write_all(bytes);
    if shuts {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let (mut all, mut part) = (Vec::new(), [0; 65536]);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let has_ended = loop {
        match stream.read(&mut part) {
            Ok(0) => break true,
            Ok(length) => all.extend_from_slice(&part[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break false,
            Err(_) => break true,
        }
        stream.set_read_timeout(Some(SILENCE)).unwrap();
    };
    (String::from_utf8_lossy(&all).into_owned(), has_ended)
}

/// The statuses of the final answers, in their order.
fn statuses(text: &str) -> Vec<u16> {
    // A body has no end of line, so the next answer's first line is behind it. HTTP/1.0 is answered as such.
    let of = |line: &str| line[line.find("HTTP/1.")?..].get(9..12)?.parse().ok();
    text.split("\r\n").filter_map(of).filter(|status| *status >= 200).collect()
}

/// What is wrong with the answer, if anything.
fn judge(case: &Case, (text, has_ended): &(String, bool), reached: usize) -> Result<(), String> {
    let statuses = statuses(text);
    let is_right = match case.expect {
        Served => statuses == [200] && reached == 1,
        ServedTimes(times) => statuses == vec![200; times] && reached == times,
        Answered(status) => statuses == [status] && reached == 0,
        Refused(status) => statuses == [status] && *has_ended && reached == 0,
        RefusedWith(some) => match statuses[..] {
            [200] => some.contains(&200) && reached == 1,
            [status] => some.contains(&status) && reached == 0,
            _ => false,
        },
        CutOff => *has_ended && statuses.iter().all(|status| *status == 400 || *status == 408),
    };
    if is_right {
        return Ok(());
    }
    let first = text.lines().next().unwrap_or("nothing");
    Err(format!("{statuses:?}, ended: {has_ended}, at the backend: {reached}; {first:.80}"))
}

#[test]
fn http_1_is_spoken_as_its_specification_says() {
    let backend = Backend::start();
    let stage = Stage::before(backend.address);
    let (mut wrong, mut count) = (Vec::new(), 0);
    for case in [request_lines(), fields(), lengths(), codings(), connections()].into_iter().flatten() {
        count += 1;
        let shuts = case.what.contains(": half a ");
        let judge_at = |proxy: SocketAddr| {
            let before = backend.seen();
            let answer = exchange(proxy, &case.bytes, shuts);
            judge(&case, &answer, backend.seen() - before)
        };
        if let Err(why) = judge_at(stage.ours.http) {
            wrong.push(format!("{}\n    expected {:?}, got {why}", case.what, case.expect));
        }
        for peer in &stage.peers {
            if let Err(why) = judge_at(peer.http) {
                println!("{:<8} {}: {why}", peer.name, case.what);
            }
        }
    }
    println!("{count} cases of HTTP/1, {} of them wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
