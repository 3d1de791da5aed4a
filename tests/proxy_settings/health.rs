//! HEALTH_SET: what the proxy asks, and what the answers mean for who is served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::support::{Backend, Peer, field, until};
use super::*;

/// Answers people with 200 and the proxy's question, which it counts, with the status that is in the switch; with 500
/// to as many as it is told to.
struct Ill {
    backend: Backend,
    status: Arc<AtomicUsize>,
    failures: Arc<AtomicUsize>,
    probes: Arc<AtomicUsize>,
}

impl Ill {
    async fn new() -> Self {
        let (status, probes) = (Arc::new(AtomicUsize::new(200)), Arc::new(AtomicUsize::new(0)));
        let failures = Arc::new(AtomicUsize::new(0));
        let (switch, count, to_fail) = (Arc::clone(&status), Arc::clone(&probes), Arc::clone(&failures));
        let heads: Arc<std::sync::Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&heads);
        let mut backend = Backend::new(move |mut peer: Peer| {
            let (switch, count, kept) = (Arc::clone(&switch), Arc::clone(&count), Arc::clone(&kept));
            let to_fail = Arc::clone(&to_fail);
            async move {
                while let Some(head) = peer.head().await {
                    let is_probe = head.starts_with("GET /health ");
                    let mut status = 200;
                    if is_probe {
                        let less = |left: usize| left.checked_sub(1);
                        let fails = to_fail.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok();
                        status = if fails { 500 } else { switch.load(Ordering::SeqCst) };
                        count.fetch_add(1, Ordering::SeqCst);
                        kept.lock().unwrap().push(head);
                    }
                    let response =
                        format!("HTTP/1.1 {status} X\r\nLocation: /elsewhere\r\nContent-Length: 2\r\n\r\nhi");
                    peer.send(response).await;
                }
            }
        })
        .await;
        backend.heads = heads;
        Ill { backend, status, failures, probes }
    }

    fn answers(&self, status: usize) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn probes(&self) -> usize {
        self.probes.load(Ordering::SeqCst)
    }

    /// Waits for so many more probes.
    async fn probed(&self, more: usize) {
        let until_now = self.probes();
        until(|| self.probes() >= until_now + more).await;
    }
}

#[tokio::test]
async fn three_failures_take_a_member_out_and_one_success_brings_it_back() {
    let ill = Ill::new().await;
    let mut world = World::with(&[("HOLD", "0s")]).await;
    let url = ill.backend.url();
    let add = format!("ROUTE_ADD||*.example.org,example.com|/|{url}|0");
    world.all_ok(&[&add, "HEALTH_SET||r1|/health|100ms|1s", "CONFIG_APPLY|"]).await;
    ill.probed(1).await;
    let head = ill.backend.last_head();
    assert_eq!(field(&head, "host"), Some("example.com"), "the first domain that is no wildcard");
    assert_eq!(field(&head, "x-forwarded-for"), None, "by this a page server knows the proxy");
    for bad in [404, 500, 503] {
        let before = ill.probes();
        ill.answers(bad);
        // As long as it has not failed three times, everybody is served.
        soon(async {
            loop {
                let status = world.get("/").await.status();
                let failed = ill.probes() - before;
                match status {
                    200 => {}
                    503 => return assert!(failed >= 3, "{bad}: out after {failed}"),
                    other => panic!("{other}"),
                }
            }
        })
        .await;
        ill.answers(302);
        soon(async { while world.get("/").await.status() != 200 {} }).await;
    }
    assert!(!ill.backend.heads.lock().unwrap().iter().any(|head| head.contains("/elsewhere")));

    ill.answers(500);
    soon(async { while world.get("/").await.status() != 503 {} }).await;
    world.all_ok(&["HEALTH_SET||r1|/health|0s|1s", "CONFIG_APPLY|"]).await;
    soon(async { while world.get("/").await.status() != 200 {} }).await;
}

#[tokio::test]
async fn who_comes_while_the_last_member_is_out_waits_until_it_is_back() {
    let ill = Ill::new().await;
    let mut world = World::new().await;
    world.route("example.com", &ill.backend).await;
    world.all_ok(&["HEALTH_SET||r1|/health|100ms|1s", "CONFIG_APPLY|"]).await;
    ill.answers(500);
    // The first that is not answered at once is held, and no other claim takes it.
    let mut client = world.client().await;
    soon(async {
        loop {
            client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
            let answer = tokio::time::timeout(std::time::Duration::from_millis(500), client.response()).await;
            match answer {
                Ok(answer) => assert_eq!(answer.status(), 200),
                Err(_) => return,
            }
        }
    })
    .await;
    ill.answers(200);
    assert_eq!(client.response().await.status(), 200);
}

#[tokio::test]
async fn two_failures_in_a_row_are_forgiven() {
    let ill = Ill::new().await;
    let mut world = World::with(&[("HOLD", "0s")]).await;
    world.route("example.com", &ill.backend).await;
    world.all_ok(&["HEALTH_SET||r1|/health|100ms|1s", "CONFIG_APPLY|"]).await;
    for _ in 0..5 {
        ill.probed(1).await;
        let before = ill.probes();
        ill.failures.store(2, Ordering::SeqCst);
        while ill.probes() < before + 4 {
            assert_eq!(world.get("/").await.status(), 200);
        }
    }
}

#[tokio::test]
async fn routes_to_one_backend_are_probed_together() {
    let ill = Ill::new().await;
    let mut world = World::new().await;
    for number in 1..=10 {
        let add = format!("ROUTE_ADD||example.com|/{number}|{}|0", ill.backend.url());
        world.all_ok(&[&add, &format!("HEALTH_SET||r{number}|/health|1h|1s")]).await;
    }
    world.ok("CONFIG_APPLY|").await;
    ill.probed(1).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    // Whoever is new is probed at once, and may come while one is under way.
    assert!(ill.probes() <= 2, "{}", ill.probes());
}

#[tokio::test]
async fn the_options_of_a_check_say_whom_it_calls_and_which_answers_pass() {
    let ill = Ill::new().await;
    let mut world = World::with(&[("HOLD", "0s")]).await;
    let add = format!("ROUTE_ADD||*.example.com|/|{}|0", ill.backend.url());
    world.all_ok(&[&add, "HEALTH_SET||r1|/health|100ms|1s", "CONFIG_APPLY|"]).await;
    let host =
        || ill.backend.heads.lock().unwrap().last().and_then(|head| field(head, "host").map(str::to_owned));
    until(|| host().as_deref() == Some("www.example.com")).await;
    world.all_ok(&["OPTIONS_SET||r1|health_host|app.example.com", "CONFIG_APPLY|"]).await;
    until(|| host().as_deref() == Some("app.example.com")).await;

    let status = async |world: &mut World| {
        let asked = "GET / HTTP/1.1\r\nHost: shop.example.com\r\n\r\n";
        world.raw(asked).await.status()
    };
    world.all_ok(&["OPTIONS_SET||r1|health_status|401,500-599", "CONFIG_APPLY|"]).await;
    for (answer, served) in [(200, 503), (500, 200), (302, 503), (401, 200)] {
        ill.answers(answer);
        soon(async { while status(&mut world).await != served {} }).await;
    }
    world.all_ok(&["OPTIONS_REMOVE||r1|health_status", "CONFIG_APPLY|"]).await;
    soon(async { while status(&mut world).await != 503 {} }).await;
}

#[tokio::test]
async fn rise_and_fall_are_how_many_checks_in_a_row_decide() {
    let ill = Ill::new().await;
    let mut world = World::with(&[("HOLD", "0s")]).await;
    world.route("example.com", &ill.backend).await;
    let options = ["OPTIONS_SET||r1|health_fall|5", "OPTIONS_SET||ALL|health_rise|4"];
    world.all_ok(&["HEALTH_SET||r1|/health|100ms|1s", options[0], options[1], "CONFIG_APPLY|"]).await;
    ill.probed(1).await;
    // The number of checks that have had the new answer when the change is seen.
    let turns = async |world: &mut World, answer, until_status| {
        let before = ill.probes();
        ill.answers(answer);
        soon(async { while world.get("/").await.status() != until_status {} }).await;
        ill.probes() - before
    };
    let failed = turns(&mut world, 500, 503).await;
    assert!(failed >= 5, "out after {failed}");
    // A failure among the passes begins the count anew.
    ill.answers(200);
    ill.probed(2).await;
    assert_eq!(world.get("/").await.status(), 503);
    ill.failures.store(1, Ordering::SeqCst);
    until(|| ill.failures.load(Ordering::SeqCst) == 0).await;
    let passed = turns(&mut world, 200, 200).await;
    assert!(passed >= 4, "back after {passed}");
}
