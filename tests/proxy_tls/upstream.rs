//! What the proxy does as a client: TLS, HTTP/2, both.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use registry_sidecar::server::proxy::{Prober, Trust, test_backend_trusting};
use registry_sidecar::server::routing::{BackendPolicy, Probe, ProbeKind};

use crate::authority::Authority;
use crate::backends::ModernBackend;
use crate::support::{Output, Stage, member, member_with, soon};

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn trusting(trust: &Trust) -> Stage {
    let trust = trust.clone();
    Stage::with(|config| {
        config.trust = trust;
        config.workers = 1;
    })
}

/// What the backend said, taken out of its chunked body.
async fn said(stage: &Stage, path: &str) -> String {
    let mut client = stage.client().await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n")).await;
    let text = client.rest().await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{text}");
    body.lines().find(|line| line.starts_with("HTTP/")).unwrap_or(body).to_owned()
}

#[tokio::test]
async fn the_certificate_of_a_backend_with_a_name_is_verified() {
    let (ours, others) = (Authority::new(), Authority::new());
    let good = ModernBackend::https(&ours.pair(&["localhost"]), &[]).await;
    let wrong_name = ModernBackend::https(&ours.pair(&["other.example"]), &[]).await;
    let unknown = ModernBackend::https(&others.pair(&["localhost"]), &[]).await;
    for (backend, status) in [(&good, 200), (&wrong_name, 502), (&unknown, 502)] {
        let stage = trusting(&ours.trust());
        stage.route(
            "app.example",
            "/",
            vec![member(1, &format!("https://localhost:{}", backend.addr.port()))],
        );
        let mut client = stage.client().await;
        client.send("GET / HTTP/1.1\r\nHost: app.example\r\n\r\n").await;
        let head = client.head().await.unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
    assert_eq!(good.names(), [Some("app.example".to_owned())], "SNI is the request's host");
}

#[tokio::test]
async fn a_certificate_for_the_host_that_was_asked_for_will_do() {
    let ours = Authority::new();
    let backend = ModernBackend::https(&ours.pair(&["app.example"]), &[]).await;
    let stage = trusting(&ours.trust());
    stage.route("app.example", "/", vec![member(1, &format!("https://localhost:{}", backend.addr.port()))]);
    assert!(said(&stage, "/").await.starts_with("HTTP/1.1 GET / host=app.example"));
}

#[tokio::test]
async fn an_address_cannot_be_verified_so_it_is_not() {
    let (ours, others) = (Authority::new(), Authority::new());
    let backend = ModernBackend::https(&others.pair(&["whatever.example"]), &[]).await;
    let stage = trusting(&ours.trust());
    stage.route("app.example", "/", vec![member(1, &format!("https://{}", backend.addr))]);
    assert!(said(&stage, "/").await.starts_with("HTTP/1.1 GET /"));
}

#[tokio::test]
async fn that_an_address_is_not_verified_is_said_once_whoever_meets_it() {
    let log = Output::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).init();
    let (ours, others) = (Authority::new(), Authority::new());
    let backend = ModernBackend::https(&others.pair(&["whatever.example"]), &[]).await;
    let stage = Stage::with(|config| {
        config.trust = ours.trust();
        config.workers = 4;
    });
    let url = format!("https://{}", backend.addr);
    stage.route("app.example", "/", vec![member(1, &url)]);
    let mut clients = Vec::new();
    for _ in 0..8 {
        let mut client = stage.client().await;
        client.send("HEAD / HTTP/1.1\r\nHost: app.example\r\n\r\n").await;
        assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200"));
        clients.push(client);
    }
    assert!(backend.connections() >= 4, "each worker has connections of its own");
    let url = url.parse().unwrap();
    let test = test_backend_trusting(&url, &BackendPolicy::default(), LOOPBACK, ours.trust()).await;
    assert_eq!((test.reachable, test.tls_valid), (true, false), "{test:?}");
    let (prober, mut results) = Prober::start_trusting(BackendPolicy::default(), ours.trust());
    let kind = ProbeKind::Get { path: "/".parse().unwrap(), host: None, statuses: None };
    let (interval, timeout) = (Duration::from_secs(60), Duration::from_secs(5));
    prober.watch(Probe { backend: url, peer: LOOPBACK, kind, interval, timeout });
    assert!(soon(results.recv()).await.unwrap().1.is_ok());
    let said = log.text();
    let said: Vec<_> = said.lines().filter(|line| line.contains(&backend.addr.to_string())).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("WARN") && said[0].contains("register the backend by its name"), "{said:?}");
}

#[tokio::test]
async fn a_kept_connection_serves_only_the_name_that_it_was_made_for() {
    let ours = Authority::new();
    let backend = ModernBackend::https(&ours.pair(&["localhost"]), &[]).await;
    let stage = trusting(&ours.trust());
    let url = format!("https://localhost:{}", backend.addr.port());
    stage.route("*.example", "/", vec![member(1, &url)]);
    for host in ["a.example", "a.example", "b.example", "a.example"] {
        let request = format!("HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let mut client = stage.client().await;
        client.send(request).await;
        assert!(client.rest().await.unwrap().starts_with("HTTP/1.1 200"));
    }
    let names: Vec<_> = backend.names().into_iter().flatten().collect();
    assert_eq!(names, ["a.example", "b.example"], "connections are kept, one name each");
}

#[tokio::test]
async fn the_option_http2_asks_for_it_and_takes_what_it_gets() {
    let ours = Authority::new();
    let pair = ours.pair(&["localhost"]);
    let offers: [(&[&str], bool, &str); 4] = [
        (&["h2", "http/1.1"], true, "HTTP/2.0 GET https://app.example/x?y host="),
        (&["h2", "http/1.1"], false, "HTTP/1.1 GET /x?y host=app.example"),
        (&["http/1.1"], true, "HTTP/1.1 GET /x?y host=app.example"),
        (&[], true, "HTTP/1.1 GET /x?y host=app.example"),
    ];
    for (offers, http2, expected) in offers {
        let backend = ModernBackend::https(&pair, offers).await;
        let stage = trusting(&ours.trust());
        let url = format!("https://localhost:{}", backend.addr.port());
        stage.route("app.example", "/", vec![member_with(1, &url, |settings| settings.http2 = http2)]);
        for _ in 0..2 {
            let said = said(&stage, "/x?y").await;
            assert!(said.starts_with(expected), "{offers:?} {http2}: {said}");
        }
        assert_eq!(backend.connections(), 1, "{offers:?} {http2}");
    }
}

#[tokio::test]
async fn requests_to_an_h2c_backend_share_one_connection() {
    let backend = ModernBackend::h2c().await;
    let stage = trusting(&Trust::system());
    stage.route("app.example", "/", vec![member(1, &format!("h2c://{}", backend.addr))]);
    let requests: Vec<_> = (0..20).map(|_| said(&stage, "/slow")).collect();
    for said in soon(futures_util::future::join_all(requests)).await {
        assert!(said.starts_with("HTTP/2.0 GET http://app.example/slow host= "), "{said}");
    }
    assert_eq!(backend.connections(), 1);
    assert!(backend.seen.most_at_once.load(Ordering::SeqCst) > 10, "they are not in a queue");
}

#[tokio::test]
async fn bodies_base_paths_and_trailers_reach_an_h2c_backend_and_come_back() {
    let backend = ModernBackend::h2c().await;
    let stage = trusting(&Trust::system());
    stage.route("app.example", "/", vec![member(1, &format!("h2c://{}/base", backend.addr))]);
    let mut client = stage.client().await;
    client
        .send(
            "POST /in HTTP/1.1\r\nHost: app.example\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\
             Connection: close\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        )
        .await;
    let text = client.rest().await.unwrap();
    assert!(text.contains("HTTP/2.0 POST http://app.example/base/in "), "{text}");
    assert!(text.contains("body=5"), "{text}");
    assert!(text.contains("x-sum: 7"), "trailers are passed on: {text}");
}

#[tokio::test]
async fn a_websocket_to_an_h2c_backend_is_refused_and_to_an_https_one_speaks_http1() {
    let ours = Authority::new();
    let upgrade = "GET / HTTP/1.1\r\nHost: app.example\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let h2c = ModernBackend::h2c().await;
    let stage = trusting(&ours.trust());
    stage.route("app.example", "/", vec![member(1, &format!("h2c://{}", h2c.addr))]);
    assert_eq!(stage.raw(upgrade).await.status(), 403);
    let https = ModernBackend::https(&ours.pair(&["localhost"]), &["h2", "http/1.1"]).await;
    let url = format!("https://localhost:{}", https.addr.port());
    stage.route("app.example", "/", vec![member_with(2, &url, |settings| settings.http2 = true)]);
    let mut client = stage.client().await;
    client.send(upgrade).await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(client.exactly(40).await.contains("HTTP/1.1 GET /"));
}

#[tokio::test]
async fn a_request_goes_to_the_next_member_whatever_that_speaks() {
    let (_socket, refusing) = crate::support::refusing();
    let refusing = refusing.replace("http://", "h2c://");
    let plain = crate::support::Backend::saying("plain").await;
    for _ in 0..10 {
        let stage = trusting(&Trust::system());
        stage.route("app.example", "/", vec![member(1, &refusing), member(2, &plain.url())]);
        assert_eq!(stage.get("app.example", "/x").await.body, "plain");
        assert!(plain.last_head().starts_with("GET /x HTTP/1.1"), "{}", plain.last_head());
    }
}

#[tokio::test]
async fn waiting_requests_fail_together_when_there_is_no_connection() {
    let (_socket, url) = crate::support::refusing();
    let stage = trusting(&Trust::system());
    stage.route("app.example", "/", vec![member(1, &url.replace("http://", "h2c://"))]);
    let requests: Vec<_> = (0..10).map(|_| stage.get("app.example", "/")).collect();
    for response in soon(futures_util::future::join_all(requests)).await {
        assert_eq!(response.status(), 502);
    }
}

#[tokio::test]
async fn probes_and_tests_speak_what_the_backend_speaks() {
    let (ours, others) = (Authority::new(), Authority::new());
    let pair = ours.pair(&["localhost"]);
    let strange = others.pair(&["localhost"]);
    let h2c = ModernBackend::h2c().await;
    let https = ModernBackend::https(&pair, &["http/1.1"]).await;
    let only_h2 = ModernBackend::https(&pair, &["h2"]).await;
    let unknown = ModernBackend::https(&strange, &[]).await;
    let by_name = |backend: &ModernBackend| format!("https://localhost:{}", backend.addr.port());
    let table = [
        (format!("h2c://{}", h2c.addr), true, false),
        (by_name(&https), true, true),
        (by_name(&only_h2), true, true),
        (by_name(&unknown), false, false),
        (format!("https://{}", unknown.addr), true, false),
    ];
    for (url, reachable, tls_valid) in table {
        let backend = url.parse().unwrap();
        let test = test_backend_trusting(&backend, &BackendPolicy::default(), LOOPBACK, ours.trust()).await;
        assert_eq!((test.reachable, test.tls_valid), (reachable, tls_valid), "{url}: {test:?}");
        if let Some(error) = test.error {
            assert!(error.contains("certificate"), "{error}");
        }
        let probe = Probe {
            backend,
            peer: LOOPBACK,
            kind: ProbeKind::Get {
                path: "/".parse().unwrap(),
                host: Some("app.example".parse().unwrap()),
                statuses: None,
            },
            interval: Duration::from_secs(60),
            timeout: Duration::from_secs(5),
        };
        let (prober, mut results) = Prober::start_trusting(BackendPolicy::default(), ours.trust());
        prober.watch(probe);
        assert_eq!(soon(results.recv()).await.unwrap().1.is_ok(), reachable, "{url}");
    }
}
