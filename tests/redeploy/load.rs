//! Requests at a steady rate, whether or not those before are answered: GETs and POSTs in turn, on connections
//! that are kept and on new ones.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::application::sum;
use crate::programs::wait_until;

/// Requests a second. Nine in ten of them must have been sent for a proof.
pub(crate) const RATE: u32 = 320;
/// The longest answer takes 300 ms, and a hold half a minute.
const PATIENCE: Duration = Duration::from_secs(40);

/// How long a kept connection may be idle. The proxy closes it after 60 s, and what is sent at that moment is lost.
const MAX_IDLE: Duration = Duration::from_secs(30);

/// Goes on until it is ended.
pub(crate) struct Load {
    runtime: Runtime,
    shared: Arc<Shared>,
    ended: tokio::task::JoinHandle<()>,
    since: Instant,
    rate: u32,
}

struct Shared {
    proxy: SocketAddr,
    host: &'static str,
    stop: AtomicBool,
    sent: AtomicUsize,
    good: AtomicUsize,
    in_flight: AtomicUsize,
    bad: Mutex<Vec<Loss>>,
    /// Connections, and when each was last used.
    kept: Mutex<Vec<(Instant, BufReader<TcpStream>)>>,
    /// Kept connections that were used a second time or more.
    again: AtomicUsize,
}

/// A request that was not answered as it should have been.
#[derive(Debug, Clone)]
pub(crate) struct Loss {
    pub(crate) sent: Instant,
    pub(crate) took: Duration,
    pub(crate) why: String,
}

impl Load {
    /// Sends `rate` requests a second.
    pub(crate) fn start(proxy: SocketAddr, host: &'static str, rate: u32) -> Load {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let shared = Arc::new(Shared {
            proxy,
            host,
            stop: AtomicBool::new(false),
            sent: AtomicUsize::new(0),
            good: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            bad: Mutex::default(),
            kept: Mutex::default(),
            again: AtomicUsize::new(0),
        });
        let ended = runtime.spawn(send_all(Arc::clone(&shared), rate));
        Load { runtime, shared, ended, since: Instant::now(), rate }
    }

    /// Returns when requests are on their way.
    pub(crate) fn wait_until_busy(&self) {
        wait_until("requests are in flight", || self.shared.in_flight.load(Ordering::SeqCst) > 3);
    }

    /// Stops, and returns how many requests were answered and which were not.
    pub(crate) fn end(self) -> (usize, Vec<Loss>) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.runtime.block_on(self.ended).unwrap();
        let losses = self.shared.bad.lock().unwrap().clone();
        (self.shared.good.load(Ordering::SeqCst), losses)
    }

    /// Stops, and fails the test if any request was not answered as it should have been.
    pub(crate) fn end_without_a_loss(self) {
        let rate = self.shared.sent.load(Ordering::SeqCst) as f64 / self.since.elapsed().as_secs_f64();
        self.shared.stop.store(true, Ordering::SeqCst);
        self.runtime.block_on(self.ended).unwrap();
        let good = self.shared.good.load(Ordering::SeqCst);
        let again = self.shared.again.load(Ordering::SeqCst);
        let mut bad: BTreeMap<String, usize> = BTreeMap::new();
        for loss in self.shared.bad.lock().unwrap().iter() {
            *bad.entry(loss.why.clone()).or_default() += 1;
        }
        println!("{good} requests, {rate:.0} a second, {again} of them on kept connections; failed: {bad:?}");
        assert!(bad.is_empty(), "{good} requests were answered, and these were not: {bad:?}");
        assert_eq!(good, self.shared.sent.load(Ordering::SeqCst));
        // Requests that wait for an application have their connections for themselves.
        assert!(again > good / 4 || self.rate < RATE, "too few kept connections: {again} of {good}");
        assert!(
            rate >= 0.9 * f64::from(self.rate),
            "only {rate:.0} requests a second: this machine is too busy for a proof"
        );
    }
}

impl Shared {
    /// The connection that was used last, unless the proxy may be about to close it.
    fn kept(&self) -> Option<BufReader<TcpStream>> {
        let (since, connection) = self.kept.lock().unwrap().pop()?;
        (since.elapsed() < MAX_IDLE).then_some(connection)
    }
}

async fn send_all(shared: Arc<Shared>, rate: u32) {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut requests = JoinSet::new();
    for number in 0_usize.. {
        ticks.tick().await;
        if shared.stop.load(Ordering::SeqCst) {
            break;
        }
        while requests.try_join_next().is_some() {}
        shared.sent.fetch_add(1, Ordering::SeqCst);
        requests.spawn(send(Arc::clone(&shared), number));
    }
    requests.join_all().await;
}

async fn send(shared: Arc<Shared>, number: usize) {
    shared.in_flight.fetch_add(1, Ordering::SeqCst);
    let sent = Instant::now();
    let keeps = number.is_multiple_of(2);
    let method = if number % 4 < 2 { "GET" } else { "POST" };
    let outcome = match timeout(PATIENCE, exchange(&shared, method, keeps)).await {
        Ok(outcome) => outcome,
        Err(_) => Err("no answer".to_owned()),
    };
    shared.in_flight.fetch_sub(1, Ordering::SeqCst);
    match outcome {
        Ok(()) => drop(shared.good.fetch_add(1, Ordering::SeqCst)),
        Err(why) => {
            let why = format!("{method} kept={keeps}: {why}");
            shared.bad.lock().unwrap().push(Loss { sent, took: sent.elapsed(), why });
        }
    }
}

/// One request and its answer, which must be right.
async fn exchange(shared: &Shared, method: &str, keeps: bool) -> Result<(), String> {
    let body: Vec<u8> = match method {
        "POST" => (0..fastrand::usize(1..20_000)).map(|_| fastrand::u8(..)).collect(),
        _ => Vec::new(),
    };
    // Mostly short, at times as long as 300 ms.
    let takes = 1 + (299.0 * fastrand::f64().powi(3)).round() as u32;
    let kept = if keeps { shared.kept() } else { None };
    let mut connection = match kept {
        Some(kept) => {
            shared.again.fetch_add(1, Ordering::SeqCst);
            kept
        }
        None => connect(shared.proxy).await.map_err(|error| format!("connecting: {error}"))?,
    };
    let head = format!(
        "{method} /{takes} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n{}\r\n",
        shared.host,
        body.len(),
        if keeps { "" } else { "Connection: close\r\n" }
    );
    let answered = async {
        connection.write_all(head.as_bytes()).await?;
        connection.write_all(&body).await?;
        answer(&mut connection).await
    };
    let (status, text) = answered.await.map_err(|error: io::Error| error.to_string())?;
    if status != 200 || text != sum(&body).to_string() {
        return Err(format!("{status} {text}"));
    }
    if keeps {
        shared.kept.lock().unwrap().push((Instant::now(), connection));
    }
    Ok(())
}

async fn connect(proxy: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

async fn answer(connection: &mut BufReader<TcpStream>) -> io::Result<(u16, String)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if connection.read_line(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    connection.read_exact(&mut body).await?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
