//! Instances come and go under load, and no request is lost (SEMANTICS section 6).
#![cfg(feature = "server")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "operations/support.rs"]
#[expect(dead_code, reason = "shared with tests/operations.rs")]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use registry_sidecar::server::Server;
use tokio::net::TcpListener;

use support::{Backend, Client, Session, server, soon};

const DOMAIN: &str = "shop.example.com";
/// Times that the only instance is replaced.
const ROUNDS: usize = 20;
/// Clients, each with a request every 20 ms: 300 a second.
const CLIENTS: usize = 6;
const PAUSE: Duration = Duration::from_millis(20);

/// What clients saw.
#[derive(Default)]
struct Seen {
    good: AtomicUsize,
    bad: std::sync::Mutex<BTreeMap<String, usize>>,
}

impl Seen {
    fn bad(&self, what: String) {
        *self.bad.lock().unwrap().entry(what).or_default() += 1;
    }

    fn nothing_is_lost(&self) {
        let bad = self.bad.lock().unwrap();
        let good = self.good.load(Ordering::SeqCst);
        assert!(bad.is_empty() && good > 200, "{good} requests were answered, and these were not: {bad:?}");
    }
}

/// Asks until it is told to stop: GET and POST in turn, on a kept connection or on a new one each time.
async fn ask(server: Arc<Server>, number: usize, stop: Arc<AtomicBool>, seen: Arc<Seen>) {
    let keeps = number.is_multiple_of(2);
    let mut kept = None;
    let mut ticks = tokio::time::interval(PAUSE);
    for round in number.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        ticks.tick().await;
        let mut client = match kept.take() {
            Some(client) => client,
            None => Client::connect(&server).await.unwrap(),
        };
        let (method, body) = if round % 4 < 2 { ("GET", String::new()) } else { ("POST", "x".repeat(2000)) };
        let text =
            format!("{method} / HTTP/1.1\r\nHost: {DOMAIN}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let answered = async {
            client.send(&text).await?;
            client.answer().await
        };
        match soon(answered).await {
            Ok(answer) if answer.status == 200 && answer.body.ends_with(&format!(" {}", body.len())) => {
                seen.good.fetch_add(1, Ordering::SeqCst);
                kept = keeps.then_some(client);
            }
            Ok(answer) => seen.bad(format!("{method} kept={keeps}: {} {}", answer.status, answer.body)),
            Err(error) => seen.bad(format!("{method} kept={keeps}: {error}")),
        }
    }
}

/// Runs clients while `replace` does what it does; who serves at its end is what it returns.
async fn under_load<T>(server: Server, replace: impl AsyncFnOnce(&Server) -> T) -> Arc<Seen> {
    let (server, stop, seen) =
        (Arc::new(server), Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(ask(server.clone(), number, stop.clone(), seen.clone())))
        .collect();
    let last = replace(&server).await;
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        soon(client).await.unwrap();
    }
    drop(last);
    seen
}

/// The ordered stop: no new requests, those in flight finish, the session ends, then the application.
async fn leave(mut session: Session, backend: Backend) {
    assert!(session.ask("DRAIN_START||0s").await.starts_with("DRAIN_OK|"));
    session.drained().await;
    assert_eq!(session.ask("CLIENT_SHUTDOWN|").await, "SHUTDOWN_OK");
    backend.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_the_only_instance_stop_first_loses_no_request() {
    let server = server(&[]).await;
    let mut backend = Backend::new("0").await;
    let mut session = Session::live(&server, "shop", "shop-1", DOMAIN, &backend).await;
    let seen = under_load(server, async |server| {
        for round in 1..=ROUNDS {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let addr = backend.addr;
            leave(session, backend).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            // Every other time the next one has the same address.
            let at = if round.is_multiple_of(2) { "127.0.0.1:0".parse().unwrap() } else { addr };
            let listener = TcpListener::bind(at).await.unwrap();
            backend = Backend::on(listener, &round.to_string(), 200);
            session = Session::live(server, "shop", "shop-1", DOMAIN, &backend).await;
        }
        (session, backend)
    })
    .await;
    seen.nothing_is_lost();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_the_only_instance_start_first_loses_no_request() {
    let server = server(&[]).await;
    let mut backend = Backend::new("0").await;
    let mut session = Session::live(&server, "shop", "shop-0", DOMAIN, &backend).await;
    let seen = under_load(server, async |server| {
        for round in 1..=ROUNDS {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let new_backend = Backend::new(&round.to_string()).await;
            let new = Session::live(server, "shop", &format!("shop-{round}"), DOMAIN, &new_backend).await;
            leave(session, backend).await;
            (session, backend) = (new, new_backend);
        }
        (session, backend)
    })
    .await;
    seen.nothing_is_lost();
}
