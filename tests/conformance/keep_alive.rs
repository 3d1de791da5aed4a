//! A backend that closes idle connections while the proxy sends on them. A request that cannot be repeated is lost then.
//!
//! On a network a close is on its way for a while. Here the backend closes [`UNDER_WAY`] after it has decided to, and what
//! comes meanwhile is lost.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::stage::{HOST, Stage};

/// How long the backend keeps an idle connection.
const KEPT: Duration = Duration::from_millis(200);
/// How long the proxy does not know of a close.
const UNDER_WAY: Duration = Duration::from_millis(20);
/// Until the proxy knows the backend's limit.
const WARM_UP: Duration = Duration::from_secs(4);
const MEASURED: Duration = Duration::from_secs(8);

fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer_until_idle(client));
        }
    });
    address
}

fn answer_until_idle(client: TcpStream) -> Option<()> {
    let end = client.try_clone().ok()?;
    client.set_read_timeout(Some(KEPT)).ok()?;
    client.set_nodelay(true).ok()?;
    // It ends with an error, which is the time-out's or the end's.
    let _ = answer(client);
    end.set_read_timeout(Some(UNDER_WAY)).ok()?;
    // With something unread the close is a reset.
    end.peek(&mut [0]).ok().map(|_| ())
}

/// Until nothing has come for as long as connections are kept.
fn answer(client: TcpStream) -> std::io::Result<()> {
    let mut client = BufReader::new(client);
    loop {
        read_message(&mut client)?;
        write!(client.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
    }
}

/// POSTs on one connection, each about when the backend closes the proxy's. Returns how many were sent, how many of
/// them were answered by somebody else than the backend, and how many not at all: HAProxy closes then.
fn post(proxy: SocketAddr, time: Duration) -> (usize, usize, usize) {
    let (until, mut sent, mut lost, mut unanswered) = (Instant::now() + time, 0, 0, 0);
    let mut client = None;
    while Instant::now() < until {
        let mut stream = client.take().unwrap_or_else(|| BufReader::new(TcpStream::connect(proxy).unwrap()));
        let request = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\n\r\nhi");
        sent += 1;
        match stream.get_mut().write_all(request.as_bytes()).and_then(|()| status(&mut stream)) {
            Ok(200) => client = Some(stream),
            Ok(_) => lost += 1,
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::WouldBlock);
                unanswered += 1;
            }
        }
        thread::sleep(KEPT.mul_f64(fastrand::f64().mul_add(0.06, 0.97)));
    }
    (sent, lost, unanswered)
}

fn status(stream: &mut BufReader<TcpStream>) -> std::io::Result<u16> {
    let first = read_message(stream)?;
    Ok(first.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0))
}

/// Reads a request or a response with its body. Returns its first line.
fn read_message(stream: &mut BufReader<TcpStream>) -> std::io::Result<String> {
    let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
    stream.read_line(&mut first)?;
    while line != "\r\n" {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    stream.read_exact(&mut vec![0; length])?;
    Ok(first)
}

#[test]
fn a_backend_that_closes_idle_connections_costs_no_request_once_its_limit_is_known() {
    let stage = Stage::before(backend());
    for peer in &stage.peers {
        post(peer.http, WARM_UP);
        let (sent, lost, unanswered) = post(peer.http, MEASURED);
        println!("{:<8} lost {lost} of {sent} POSTs, {unanswered} without an answer", peer.name);
    }
    let (sent, before, _) = post(stage.ours.http, WARM_UP);
    println!("ours     lost {before} of {sent} POSTs at first");
    let (sent, lost, unanswered) = post(stage.ours.http, MEASURED);
    println!("ours     lost {lost} of {sent} POSTs, {unanswered} without an answer");
    assert_eq!((lost, unanswered), (0, 0), "of {sent}");
}
