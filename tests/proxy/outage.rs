//! Members that cannot be connected to: requests wait, one dial asks for all of them, and they go in batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use registry_client::protocol::{CircuitBreaker, GoDuration};
use registry_sidecar::server::routing::{ExtraSettings, Maintenance, Member};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::support::{Peer, Response, Stage, ok, refusing, soon, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\n\r\nhello";

/// Serves `text` on a listener until the task is aborted. `serve` gets each connection.
fn accept<F: Future<Output = ()> + Send>(
    listener: TcpListener,
    serve: impl Fn(Peer) -> F + Send + 'static,
) -> JoinHandle<()>
where
    F: 'static,
{
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(Peer::new(stream)));
        }
    })
}

async fn answer_all(mut peer: Peer) {
    while let Some(head) = peer.head().await {
        if head.starts_with("POST") {
            peer.exactly(5).await;
        }
        peer.send(ok("web")).await;
    }
}

fn held(id: u64, url: &str, hold: Duration) -> Member {
    let mut member = crate::support::member(id, url);
    Arc::make_mut(&mut member.terms).hold = hold;
    member
}

fn with_extras(mut member: Member, change: impl FnOnce(&mut ExtraSettings)) -> Member {
    let mut extras = ExtraSettings::default();
    change(&mut extras);
    Arc::make_mut(&mut member.terms).extras = extras.into();
    member
}

fn breaker(threshold: u32) -> CircuitBreaker {
    CircuitBreaker { threshold, timeout: GoDuration::from_secs(60), half_open_requests: 1 }
}

const LONG: Duration = Duration::from_secs(60);

async fn send(stage: &Stage, request: &str) -> Peer {
    let mut client = stage.client().await;
    client.send(request).await;
    client
}

#[tokio::test]
async fn requests_wait_for_the_only_member_while_it_refuses_whatever_their_method() {
    let (socket, url) = refusing();
    let stage = Stage::new();
    let member = held(1, &url, LONG);
    stage.route("example.com", "/", vec![member.clone()]);
    let mut clients = Vec::new();
    for request in [GET, POST, GET, POST] {
        clients.push(send(&stage, request).await);
    }
    until(|| member.load.is_unreachable()).await;
    let _serving = accept(socket.listen(64).unwrap(), answer_all);
    for client in &mut clients {
        let response = client.response().await;
        assert_eq!((response.status(), &*response.body), (200, "web"));
    }
    until(|| !member.load.is_unreachable()).await;
}

#[tokio::test]
async fn a_port_that_drops_connections_is_lost_after_a_second() {
    // The kernel ignores connections once the queue of a listener is full.
    let (socket, url) = refusing();
    let addr = socket.local_addr().unwrap();
    let listener = socket.listen(1).unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(addr)).await {
        queued.push(stream.unwrap());
    }
    let stage = Stage::new();
    let member = held(1, &url, LONG);
    stage.route("example.com", "/", vec![member.clone()]);
    let begun = Instant::now();
    let mut client = send(&stage, GET).await;
    until(|| member.load.is_unreachable()).await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    drop(queued);
    let _serving = accept(listener, answer_all);
    assert_eq!(client.response().await.body, "web");
}

#[tokio::test]
async fn one_dial_asks_for_all_that_wait_and_counts_once() {
    let (_socket, url) = refusing();
    let stage = Stage::new();
    let member = with_extras(held(1, &url, LONG), |extras| extras.breaker = Some(breaker(1000)));
    stage.route("example.com", "/", vec![member.clone()]);
    let failures = || member.route.breaker().status(Instant::now()).failures;
    let mut clients = vec![send(&stage, GET).await];
    until(|| failures() == 1).await;
    let begun = Instant::now();
    for _ in 0..40 {
        clients.push(send(&stage, GET).await);
    }
    until(|| failures() >= 4).await;
    let dials = begun.elapsed().as_millis() as u32 / 250;
    assert!(failures() <= dials + 2, "{} failures in {:?}", failures(), begun.elapsed());
    assert!(begun.elapsed() > Duration::from_millis(500), "three dials, 250 ms apart");
}

#[tokio::test]
async fn they_wait_until_hold_after_the_first_failure_and_then_nobody_waits_until_it_answers() {
    let (socket, url) = refusing();
    let stage = Stage::new();
    let hold = Duration::from_millis(700);
    let member = held(1, &url, hold);
    stage.route("example.com", "/", vec![member.clone()]);
    let begun = Instant::now();
    let mut first = send(&stage, GET).await;
    until(|| member.load.is_unreachable()).await;
    tokio::time::sleep(hold / 2).await;
    let mut second = send(&stage, GET).await;
    assert_eq!(first.response().await.status(), 502);
    assert_eq!(second.response().await.status(), 502);
    assert!(begun.elapsed() >= hold);
    for _ in 0..20 {
        let asked = Instant::now();
        assert_eq!(stage.get("example.com", "/").await.status(), 502);
        assert!(asked.elapsed() < hold / 2, "the hold must not begin again: {:?}", asked.elapsed());
    }
    let _serving = accept(socket.listen(64).unwrap(), answer_all);
    soon(async { while stage.get("example.com", "/").await.status() != 200 {} }).await;
    assert_eq!(member.load.unreachable_since(), None);
}

#[tokio::test]
async fn whoever_waits_goes_in_batches_that_double_with_the_answers() {
    let (socket, url) = refusing();
    let stage = Stage::new();
    let member = held(1, &url, LONG);
    stage.route("example.com", "/", vec![member.clone()]);
    let mut clients = Vec::new();
    for _ in 0..15 {
        clients.push(send(&stage, GET).await);
    }
    until(|| member.load.is_unreachable()).await;
    let (arrived, answers) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let _serving = {
        let (arrived, answers) = (Arc::clone(&arrived), Arc::clone(&answers));
        accept(socket.listen(64).unwrap(), move |mut peer| {
            let (arrived, answers) = (Arc::clone(&arrived), Arc::clone(&answers));
            async move {
                while peer.head().await.is_some() {
                    arrived.fetch_add(1, Ordering::SeqCst);
                    answers.acquire().await.unwrap().forget();
                    peer.send(ok("web")).await;
                }
            }
        })
    };
    let mut expected = 0;
    for batch in [1, 2, 4, 8] {
        expected += batch;
        until(|| arrived.load(Ordering::SeqCst) >= expected).await;
        // Nothing tells that no more come, so give them the time.
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(arrived.load(Ordering::SeqCst), expected);
        answers.add_permits(batch);
    }
    for client in &mut clients {
        assert_eq!(client.response().await.status(), 200);
    }
}

#[tokio::test]
async fn a_client_that_goes_away_with_its_turn_does_not_keep_it() {
    let (socket, url) = refusing();
    let stage = Stage::new();
    let member = held(1, &url, LONG);
    stage.route("example.com", "/", vec![member.clone()]);
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(send(&stage, GET).await);
        until(|| member.load.is_unreachable()).await;
    }
    let heads = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&heads);
    let _serving = accept(socket.listen(64).unwrap(), move |mut peer| {
        let count = Arc::clone(&count);
        async move {
            // The first request is never answered.
            while peer.head().await.is_some() {
                if count.fetch_add(1, Ordering::SeqCst) > 0 {
                    peer.send(ok("web")).await;
                }
            }
        }
    });
    until(|| heads.load(Ordering::SeqCst) == 1).await;
    // Whichever it was that went first, all of them go.
    drop(clients);
    until(|| member.load.in_flight.load(Ordering::SeqCst) == 0).await;
    assert_eq!(stage.get("example.com", "/").await.status(), 200);
}

#[tokio::test]
async fn a_sibling_that_answers_gets_the_requests_and_the_member_comes_back() {
    let (socket, url) = refusing();
    let web = crate::support::Backend::saying("sibling").await;
    let stage = Stage::new();
    let (refused, living) = (held(1, &url, LONG), held(2, &web.url(), LONG));
    stage.route("example.com", "/", vec![refused.clone(), living]);
    for _ in 0..20 {
        assert_eq!(stage.get("example.com", "/").await.body, "sibling");
    }
    assert!(refused.load.is_unreachable());
    let _serving = accept(socket.listen(64).unwrap(), answer_all);
    until(|| !refused.load.is_unreachable()).await;
    soon(async { while stage.get("example.com", "/").await.body != "web" {} }).await;
}

#[tokio::test]
async fn all_of_several_members_must_refuse_and_the_first_that_accepts_serves() {
    let (_one, one) = refusing();
    let (_two, two) = refusing();
    let (three, third) = refusing();
    let stage = Stage::new();
    let members = [held(1, &one, LONG), held(2, &two, LONG), held(3, &third, LONG)];
    stage.route("example.com", "/", members.to_vec());
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(send(&stage, GET).await);
    }
    until(|| members.iter().all(|member| member.load.is_unreachable())).await;
    let _serving = accept(three.listen(64).unwrap(), answer_all);
    for client in &mut clients {
        assert_eq!(client.response().await.body, "web");
    }
}

#[tokio::test]
async fn an_open_breaker_is_answered_at_once() {
    let (_socket, url) = refusing();
    let stage = Stage::new();
    let member = with_extras(held(1, &url, LONG), |extras| extras.breaker = Some(breaker(3)));
    stage.route("example.com", "/", vec![member]);
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(send(&stage, GET).await);
    }
    for client in &mut clients {
        let page = client.response().await;
        assert_eq!(page.status(), 503);
        assert!(page.body.contains("failed too often"), "{}", page.body);
    }
    assert_eq!(stage.get("example.com", "/").await.status(), 503);
}

#[tokio::test]
async fn a_page_is_shown_at_once() {
    let (_socket, url) = refusing();
    let stage = Stage::new();
    let mut maintained = with_extras(held(2, &url, LONG), |extras| {
        extras.maintenance = Some(Arc::new(Maintenance { page: None }));
    });
    maintained.usable = false;
    stage.route("example.com", "/", vec![held(1, &url, LONG), maintained]);
    for _ in 0..2 {
        let page = stage.get("example.com", "/").await;
        assert_eq!(page.field("x-maintenance-mode").is_some(), page.status() == 503);
        assert!(page.body.contains("maintained"), "{}", page.body);
    }
}

#[tokio::test]
async fn at_most_half_of_the_connections_wait() {
    let (_socket, url) = refusing();
    let stage = Stage::with(|config| config.max_connections = 8);
    stage.route("example.com", "/", vec![held(1, &url, LONG)]);
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(send(&stage, GET).await);
    }
    let mut fifth = send(&stage, GET).await;
    let answered = async {
        // Any of the five may be the one that does not wait.
        let mut clients = waiting.iter_mut().chain([&mut fifth]);
        let all = std::iter::from_fn(|| clients.next().map(|c| Box::pin(c.response())));
        futures_util::future::select_all(all).await.0
    };
    let page: Response = soon(answered).await;
    assert_eq!(page.status(), 502);
}

#[tokio::test]
async fn a_failure_that_is_not_the_members_begins_no_wait() {
    let stage = Stage::new();
    for (id, url) in
        [(1, "http://no-such-name.invalid:80"), (2, "http://169.254.169.254"), (3, "https://127.0.0.1:1")]
    {
        let mut member = held(id, url, LONG);
        if id == 3 {
            // Refused, but without a hold.
            Arc::make_mut(&mut member.terms).hold = Duration::ZERO;
        }
        stage.route("example.com", "/", vec![member.clone()]);
        assert_eq!(stage.get("example.com", "/").await.status(), 502, "{url}");
        assert!(!member.load.is_unreachable(), "{url}");
    }
}
