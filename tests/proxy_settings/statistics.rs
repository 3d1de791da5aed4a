//! STATS_GET: what the proxy saw of a route's requests.

use std::time::{Duration, Instant};

use super::support::{Backend, Peer};
use super::*;

async fn stats(world: &mut World, which: &str) -> serde_json::Value {
    let reply = world.ask(&format!("STATS_GET||{which}")).await;
    serde_json::from_str(reply.strip_prefix("STATS_OK|").expect(&reply)).unwrap()
}

/// Waits until so many requests of r1 are over: the proxy counts them when the last byte is out.
async fn counted(world: &mut World, requests: u64) -> serde_json::Value {
    soon(async {
        loop {
            let stats = stats(world, "r1").await;
            if stats["requests"] == requests {
                return stats;
            }
        }
    })
    .await
}

#[tokio::test]
async fn requests_errors_bytes_and_statuses_are_counted_for_the_route() {
    let backend = Backend::new(|mut peer: Peer| async move {
        while let Some(head) = peer.head().await {
            let length: usize =
                support::field(&head, "content-length").map_or(0, |length| length.parse().unwrap());
            peer.exactly(length).await;
            let status = if head.contains(" /bad ") { 500 } else { 200 };
            peer.send(format!("HTTP/1.1 {status} X\r\nContent-Length: 5\r\n\r\nhello")).await;
        }
    })
    .await;
    let mut world = World::before(&backend).await;
    let none = stats(&mut world, "r1").await;
    assert_eq!((&none["requests"], &none["p99_latency_ms"]), (&0.into(), &0.0.into()), "and no NaN");

    let post = "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 10\r\n\r\n0123456789";
    assert_eq!(world.raw(post).await.status(), 200);
    for _ in 0..3 {
        world.get("/").await;
    }
    world.get("/bad").await;
    let one = counted(&mut world, 5).await;
    assert_eq!((&one["errors"], &one["status_codes"]), (&1.into(), &serde_json::json!({"200": 4, "500": 1})));
    assert_eq!((&one["bytes_sent"], &one["bytes_received"]), (&25.into(), &10.into()));
    let latency = |name: &str| one[name].as_f64().unwrap();
    assert!(latency("avg_latency_ms") > 0.0 && latency("p95_latency_ms") <= latency("p99_latency_ms"));

    world.route("other.example.com", &backend).await;
    let all = stats(&mut world, "ALL").await;
    assert_eq!(
        (&all[0]["requests"], &all[1]["requests"]),
        (&5.into(), &0.into()),
        "an apply forgets nothing"
    );
    assert_eq!(world.ask("STATS_GET||r9").await, "ERROR|route not found");
}

#[tokio::test]
async fn a_response_that_breaks_off_is_an_error() {
    let backend = Backend::new(|mut peer: Peer| async move {
        peer.head().await;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello").await;
    })
    .await;
    let mut world = World::before(&backend).await;
    let mut client = world.client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    client.gone().await;
    let one = counted(&mut world, 1).await;
    assert_eq!((&one["errors"], &one["bytes_sent"]), (&1.into(), &5.into()));
}

/// Latencies as one end of the connection measured them, in milliseconds.
type Measured = std::sync::Arc<std::sync::Mutex<Vec<f64>>>;

/// Takes 10 ms for most requests and 400 ms for `/slow`.
async fn bimodal(measured: &Measured) -> Backend {
    let measured = std::sync::Arc::clone(measured);
    Backend::new(move |mut peer: Peer| {
        let measured = std::sync::Arc::clone(&measured);
        async move {
            while let Some(head) = peer.head().await {
                let begun = Instant::now();
                let millis = if head.starts_with("GET /slow ") { 400 } else { 10 };
                tokio::time::sleep(Duration::from_millis(millis)).await;
                measured.lock().unwrap().push(begun.elapsed().as_secs_f64() * 1000.0);
                peer.send(support::ok("hi")).await;
            }
        }
    })
    .await
}

/// What so many percent are no slower than.
fn percentile(measured: &Measured, percent: usize) -> f64 {
    let mut all = measured.lock().unwrap().clone();
    all.sort_by(f64::total_cmp);
    all[(all.len() * percent).div_ceil(100) - 1]
}

#[tokio::test]
async fn percentiles_of_two_kinds_of_requests_are_right_to_5_percent() {
    const CLIENTS: usize = 8;
    // Of 400 requests so many are slow: the 95th percentile falls on a slow one, or the 99th alone, or none.
    for slow in [40, 12, 2] {
        let (at_backend, at_client) = (Measured::default(), Measured::default());
        let backend = bimodal(&at_backend).await;
        let mut world = World::before(&backend).await;
        let address = world.server.http_address();
        let client = |number: usize| {
            let at_client = std::sync::Arc::clone(&at_client);
            async move {
                let mut client = Peer::connect(address).await;
                for request in (number..400).step_by(CLIENTS) {
                    let path = if request * slow % 400 < slow { "slow" } else { "fast" };
                    let begun = Instant::now();
                    client.send(format!("GET /{path} HTTP/1.1\r\nHost: example.com\r\n\r\n")).await;
                    client.head().await.unwrap();
                    at_client.lock().unwrap().push(begun.elapsed().as_secs_f64() * 1000.0);
                    client.exactly(2).await;
                }
            }
        };
        futures_util::future::join_all((0..CLIENTS).map(client)).await;
        let stats = counted(&mut world, 400).await;
        for (key, percent) in [("p95_latency_ms", 95), ("p99_latency_ms", 99)] {
            // What the proxy saw lies between what its two neighbours did.
            let (least, most) = (percentile(&at_backend, percent), percentile(&at_client, percent));
            let found = stats[key].as_f64().unwrap();
            assert!(
                least * 0.95 < found && found < most * 1.05,
                "{slow} slow, {key}: {least} {found} {most}"
            );
        }
    }
}
