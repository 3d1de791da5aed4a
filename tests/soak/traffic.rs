//! Clients that ask all the time, and backends that answer.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const CLIENTS: usize = 6;
/// From one request of a client to its next.
const PAUSE: Duration = Duration::from_millis(5);
const BODY: usize = 20_000;

/// What clients saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) answered: u64,
    pub(crate) failed: Vec<Failure>,
}

/// A request that was not answered as it should be.
#[derive(Debug)]
pub(crate) struct Failure {
    /// When it began, or its connection was last used if that was closed meanwhile.
    begun: Instant,
    ended: Instant,
    what: String,
    /// Nobody can repeat it for the client: it is no GET or HEAD, or a part of the response was sent on already.
    is_final: bool,
}

/// What was done to the programs, from when to when.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    /// From the server's death until it listened again.
    pub(crate) outages: Vec<(Instant, Instant)>,
    /// A backend's death.
    pub(crate) deaths: Vec<(Instant, Instant)>,
}

/// Failures by whether the design allows them, and how often each came.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) in_outages: u64,
    /// What was in flight at a backend when it died, and nobody could repeat.
    pub(crate) in_flight: u64,
    pub(crate) lost: BTreeMap<String, u64>,
}

impl Seen {
    pub(crate) fn judge(&self, deeds: &Deeds) -> Judged {
        let mut judged = Judged::default();
        for failure in &self.failed {
            let during = |times: &[(Instant, Instant)]| {
                times.iter().any(|(from, to)| failure.begun <= *to && failure.ended >= *from)
            };
            if during(&deeds.outages) {
                judged.in_outages += 1;
            } else if failure.is_final && during(&deeds.deaths) {
                judged.in_flight += 1;
            } else {
                *judged.lost.entry(failure.what.clone()).or_default() += 1;
            }
        }
        judged
    }
}

/// Clients at work until they are stopped.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Seen>>,
}

impl Traffic {
    pub(crate) fn start(proxy: SocketAddr, host: &'static str) -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |number| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || ask(proxy, host, number, &stop))
        };
        Traffic { clients: (0..CLIENTS).map(client).collect(), stop }
    }

    pub(crate) fn stop(self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        self.clients.into_iter().map(|client| client.join().unwrap()).fold(Seen::default(), |mut all, one| {
            all.answered += one.answered;
            all.failed.extend(one.failed);
            all
        })
    }
}

/// GET of a little and of much, POST and HEAD in turn: half of the clients keep their connections.
fn ask(proxy: SocketAddr, host: &str, number: usize, stop: &AtomicBool) -> Seen {
    let (mut seen, mut kept) = (Seen::default(), None);
    for round in number.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let (method, path, body, expected) = match round % 4 {
            0 => ("GET", "/small", 0, 5),
            1 => ("GET", "/64k", 0, 64 * 1024),
            2 => ("POST", "/count", BODY, BODY.to_string().len()),
            _ => ("HEAD", "/small", 0, 0),
        };
        let mut begun = Instant::now();
        let used = kept.as_ref().map(|kept: &Kept| kept.used);
        let (what, is_broken) = match exchange(proxy, host, (method, path, body), &mut kept) {
            Ok(Outcome::Whole(200, length)) if length == expected => {
                seen.answered += 1;
                (None, false)
            }
            Ok(Outcome::Whole(status, length)) => (Some(format!("{status}, {length} bytes")), false),
            Ok(Outcome::Broken(status, error)) => (Some(format!("{status}, then {error}")), true),
            Err(error) => {
                begun = used.unwrap_or(begun);
                (Some(error.to_string()), false)
            }
        };
        if let Some(what) = what {
            let (what, is_final) = (format!("{method} {path}: {what}"), is_broken || method == "POST");
            seen.failed.push(Failure { begun, ended: Instant::now(), what, is_final });
        }
        if !number.is_multiple_of(2) {
            kept = None;
        }
        thread::sleep(PAUSE);
    }
    seen
}

/// A connection between two requests.
struct Kept {
    stream: BufReader<TcpStream>,
    used: Instant,
}

enum Outcome {
    /// The status, and how much came behind it.
    Whole(u16, usize),
    /// It ended behind the status.
    Broken(u16, io::Error),
}

fn exchange(
    proxy: SocketAddr,
    host: &str,
    (method, path, body): (&str, &str, usize),
    kept: &mut Option<Kept>,
) -> io::Result<Outcome> {
    let mut stream = match kept.take() {
        Some(kept) => kept.stream,
        None => {
            let stream = TcpStream::connect(proxy)?;
            stream.set_read_timeout(Some(super::programs::PATIENCE))?;
            stream.set_nodelay(true)?;
            BufReader::new(stream)
        }
    };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {body}\r\n\r\n");
    stream.get_mut().write_all(&[head.as_bytes(), &vec![b'x'; body]].concat())?;
    let (line, length, stays) = read_head(&mut stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let mut rest = vec![0; if method == "HEAD" { 0 } else { length }];
    if let Err(error) = stream.read_exact(&mut rest) {
        return Ok(Outcome::Broken(status, error));
    }
    if stays {
        *kept = Some(Kept { stream, used: Instant::now() });
    }
    Ok(Outcome::Whole(status, rest.len()))
}

/// The first line, the length that follows, and whether the connection stays. `None`: it is closed.
fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<Option<(String, usize, bool)>> {
    let (mut first, mut length, mut stays) = (None, 0, true);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(text) = line.strip_prefix("content-length:") {
            length = text.trim().parse().unwrap();
        }
        stays &= line != "connection: close";
        match (line.is_empty(), first.take()) {
            (true, Some(first)) => return Ok(Some((first, length, stays))),
            (_, before) => first = before.or(Some(line)),
        }
    }
}

/// A web server, until it is killed. It keeps connections open as long as its clients do.
pub(crate) fn backend(address: &str) -> io::Result<()> {
    for stream in TcpListener::bind(address)?.incoming() {
        let stream = stream?;
        thread::spawn(move || serve(stream));
    }
    Ok(())
}

fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some((line, length, stays)) = read_head(&mut stream)? {
        let mut sent = vec![0; length];
        stream.read_exact(&mut sent)?;
        let body = match line.split(' ').nth(1) {
            Some("/64k") => vec![b'x'; 64 * 1024],
            Some("/count") => length.to_string().into_bytes(),
            _ => b"small".to_vec(),
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        let body = if line.starts_with("head ") { &[][..] } else { &body };
        stream.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        if !stays {
            break;
        }
    }
    Ok(())
}
