//! The registry's questions to backends.

use std::net::IpAddr;
use std::time::Duration;

use registry_sidecar::server::proxy::{Prober, test_backend};
use registry_sidecar::server::routing::{BackendPolicy, Probe, ProbeFailure, ProbeKind};

use crate::support::{Backend, Peer, Stage, field, refusing, soon, until};

const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn probe(url: &str, kind: ProbeKind) -> Probe {
    Probe {
        backend: url.parse().unwrap(),
        peer: LOOPBACK,
        kind,
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(300),
    }
}

fn get(path: &str) -> ProbeKind {
    ProbeKind::Get { path: path.parse().unwrap(), host: Some("example.com".parse().unwrap()), statuses: None }
}

/// The first result of one probe.
async fn verdict(probe: Probe) -> Result<(), String> {
    result(probe).await.map_err(|failure| failure.reason)
}

async fn result(probe: Probe) -> Result<(), ProbeFailure> {
    let (prober, mut results) = Prober::start(BackendPolicy::default());
    prober.watch(probe.clone());
    let (asked, result) = soon(results.recv()).await.unwrap();
    assert_eq!(asked, probe);
    result
}

#[tokio::test]
async fn a_get_says_who_asks_and_for_which_host_and_not_for_whom() {
    let backend = Backend::saying("well").await;
    verdict(probe(&format!("{}/base", backend.url()), get("/health?x"))).await.unwrap();
    let head = backend.last_head();
    assert!(head.starts_with("GET /base/health?x HTTP/1.1\r\n"), "{head}");
    assert_eq!(field(&head, "host"), Some("example.com"));
    assert_eq!(field(&head, "user-agent"), Some("registry-server-probe"));
    assert_eq!(field(&head, "x-forwarded-for"), None);
    verdict(probe(&backend.url(), ProbeKind::Get { path: "/".parse().unwrap(), host: None, statuses: None }))
        .await
        .unwrap();
    assert_eq!(field(&backend.last_head(), "host"), Some(backend.addr.to_string().as_str()));
}

#[tokio::test]
async fn the_root_passes_below_500_and_other_paths_with_2xx_and_3xx() {
    for (status, root, other) in
        [(200, true, true), (302, true, true), (404, true, false), (401, true, false), (500, false, false)]
    {
        let backend =
            Backend::answering(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\nLocation: /x\r\n\r\n"))
                .await;
        assert_eq!(verdict(probe(&backend.url(), get("/"))).await.is_ok(), root, "/ {status}");
        let health = verdict(probe(&backend.url(), get("/health"))).await;
        assert_eq!(health.is_ok(), other, "/health {status}");
        if let Err(why) = health {
            assert_eq!(why, format!("answered {status}"));
        }
        assert_eq!(backend.heads.lock().unwrap().len(), 2, "no redirect is followed");
    }
}

#[tokio::test]
async fn what_does_not_answer_does_not_pass() {
    let (_socket, refused) = refusing();
    let silent = Backend::new(|mut peer: Peer| async move { peer.gone().await }).await;
    let closing = Backend::new(|_| async {}).await;
    assert!(verdict(probe(&refused, ProbeKind::Connect)).await.unwrap_err().contains("refused"));
    assert!(verdict(probe(&refused, get("/"))).await.unwrap_err().contains("refused"));
    assert!(verdict(probe(&silent.url(), get("/"))).await.unwrap_err().contains("no answer within 300ms"));
    assert!(verdict(probe(&closing.url(), get("/"))).await.unwrap_err().contains("broke off"));
    verdict(probe(&silent.url(), ProbeKind::Connect)).await.unwrap();
}

#[tokio::test]
async fn only_an_answer_that_is_late_on_an_open_port_is_slow() {
    let (_socket, refused) = refusing();
    let silent = Backend::new(|mut peer: Peer| async move { peer.gone().await }).await;
    let closing = Backend::new(|_| async {}).await;
    let failing = Backend::answering("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n").await;
    for (url, is_slow) in
        [(refused, false), (silent.url(), true), (closing.url(), false), (failing.url(), false)]
    {
        assert_eq!(result(probe(&url, get("/"))).await.unwrap_err().is_slow, is_slow, "{url}");
    }
}

#[tokio::test]
async fn a_probe_that_nobody_wants_any_more_ends_at_once() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let silent = Backend::new(move |mut peer: Peer| {
        let tell = tell.clone();
        async move {
            tell.send("asked").unwrap();
            peer.gone().await;
            tell.send("ended").unwrap();
        }
    })
    .await;
    let (prober, _results) = Prober::start(BackendPolicy::default());
    let probe = Probe { timeout: Duration::from_secs(3600), ..probe(&silent.url(), get("/")) };
    prober.watch(probe.clone());
    assert_eq!(soon(told.recv()).await, Some("asked"));
    prober.forget(&probe);
    assert_eq!(soon(told.recv()).await, Some("ended"));
}

#[tokio::test]
async fn probes_obey_the_policy() {
    let mut foreign = probe("http://127.0.0.1:9", ProbeKind::Connect);
    foreign.peer = "10.2.2.7".parse().unwrap();
    assert_eq!(verdict(foreign).await.unwrap_err(), "not allowed: 127.0.0.1");
}

#[tokio::test]
async fn a_probe_goes_on_until_the_last_who_wants_it_forgets_it() {
    let backend = Backend::saying("well").await;
    let (prober, mut results) = Prober::start(BackendPolicy::default());
    let probe = probe(&backend.url(), get("/"));
    prober.watch(probe.clone());
    prober.watch(probe.clone());
    for _ in 0..3 {
        soon(results.recv()).await.unwrap().1.unwrap();
    }
    prober.forget(&probe);
    soon(results.recv()).await.unwrap().1.unwrap();
    prober.forget(&probe);
    // What was sent before is still read; nothing comes after.
    let quiet = Duration::from_millis(1_500);
    while tokio::time::timeout(quiet, results.recv()).await.is_ok() {}
    let asked = backend.accepts();
    assert!(tokio::time::timeout(quiet, results.recv()).await.is_err());
    assert_eq!(backend.accepts(), asked);
}

#[tokio::test]
async fn a_prober_ends_with_its_receiver() {
    let backend = Backend::new(|mut peer: Peer| async move { peer.gone().await }).await;
    let (prober, results) = Prober::start(BackendPolicy::default());
    prober.watch(Probe { timeout: Duration::from_secs(60), ..probe(&backend.url(), get("/")) });
    until(|| backend.accepts() == 1).await;
    drop(results);
    let handles = tokio::runtime::Handle::current();
    until(|| handles.metrics().num_alive_tasks() <= 2).await;
}

#[tokio::test]
async fn a_test_of_a_backend_tells_what_the_proxy_saw() {
    let backend = Backend::answering("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
    let policy = BackendPolicy::default();
    let url = format!("{}/base", backend.url()).parse().unwrap();
    let test = test_backend(&url, &policy, LOOPBACK).await;
    assert_eq!((test.reachable, test.status_code, test.error), (true, Some(404), None));
    assert!(backend.last_head().starts_with("GET /base/ HTTP/1.1\r\n"), "{}", backend.last_head());

    let test = test_backend(&url, &policy, "10.2.2.7".parse().unwrap()).await;
    assert_eq!((test.reachable, test.status_code), (false, None));
    assert_eq!(test.error.as_deref(), Some("not allowed: 127.0.0.1"));

    let (_socket, refused) = refusing();
    let test = test_backend(&refused.parse().unwrap(), &policy, LOOPBACK).await;
    assert!(test.error.unwrap().contains("refused"));
}

#[tokio::test]
async fn our_own_listener_is_no_backend_to_test() {
    let stage = Stage::with(|config| config.listen = "0.0.0.0:0".parse().unwrap());
    let policy = BackendPolicy { own: vec![stage.addr()], ..BackendPolicy::default() };
    let url = format!("http://127.0.0.1:{}", stage.addr().port()).parse().unwrap();
    assert_eq!(test_backend(&url, &policy, LOOPBACK).await.error.as_deref(), Some("not allowed: 127.0.0.1"));
}
