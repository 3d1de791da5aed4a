//! Load on a proxy: as much as goes with wrk, or so many requests a second.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

/// Kept-alive connections, as many as wrk has.
pub(crate) const CONNECTIONS: u32 = 64;

/// Requests a second over kept-alive connections for 3 s, each sent when the one before is answered.
pub(crate) fn wrk(address: SocketAddr, host: &str, path: &str) -> f64 {
    let url = format!("http://{address}{path}");
    let (host, connections) = (format!("Host: {host}"), format!("-c{CONNECTIONS}"));
    let run = Command::new("wrk").args(["-t1", &connections, "-d3s", "-H", &host, &url]).output().unwrap();
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    let line = text.lines().find(|line| line.starts_with("Requests/sec:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How long each request took, in order, when `rate` a second are sent for `time` whatever becomes of them. What
/// is due while a connection waits is sent as soon as it can be, and its time counts from when it was due:
/// a proxy that stands still for a while is seen by every request that should have gone there.
pub(crate) fn paced(address: SocketAddr, host: &str, path: &str, rate: f64, time: Duration) -> Vec<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let pause = Duration::from_secs_f64(f64::from(CONNECTIONS) / rate);
    let begin = Instant::now() + Duration::from_millis(100);
    let mut took = runtime.block_on(async {
        let mut all = JoinSet::new();
        for number in 0..CONNECTIONS {
            let first = begin + pause * number / CONNECTIONS;
            all.spawn(connection(address, request.clone(), (first, begin + time), pause));
        }
        all.join_all().await.concat()
    });
    took.sort();
    took
}

async fn connection(
    address: SocketAddr,
    request: String,
    (first, end): (Instant, Instant),
    pause: Duration,
) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut took, mut due, mut buffer) = (Vec::new(), first, vec![0; 128 * 1024]);
    while due < end {
        // The timer is exact to a millisecond only, which is not the proxy's fault.
        let begun = if Instant::now() < due {
            sleep_until(due.into()).await;
            Instant::now()
        } else {
            due
        };
        stream.write_all(request.as_bytes()).await.unwrap();
        read_response(&mut stream, &mut buffer).await;
        took.push(begun.elapsed());
        due += pause;
    }
    took
}

/// Reads one response with a Content-Length, and nothing behind it.
async fn read_response(stream: &mut TcpStream, buffer: &mut [u8]) {
    let mut filled = 0;
    loop {
        let more = stream.read(&mut buffer[filled..]).await.unwrap();
        assert!(more > 0, "the connection broke");
        filled += more;
        let Some(head) = buffer[..filled].windows(4).position(|end| end == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        assert!(text.starts_with("http/1.1 200"), "{text}");
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")).unwrap();
        let whole = head + 4 + length.trim().parse::<usize>().unwrap();
        while filled < whole {
            let more = stream.read(&mut buffer[filled..]).await.unwrap();
            assert!(more > 0, "the connection broke");
            filled += more;
        }
        return;
    }
}
