//! One line for each request, that nobody waits for.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};

use registry_sidecar::server::proxy::{AccessFormat, AccessLog, ProxyConfig};
use serde_json::Value;

use crate::support::{Backend, Output, Stage, field, member, ok, soon, until};

async fn objects(output: &Output, count: usize) -> Vec<Value> {
    output.lines(count).await.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn stage(format: AccessFormat, configure: impl FnOnce(&mut ProxyConfig)) -> (Stage, Output) {
    let output = Output::default();
    let log = AccessLog::to(output.clone(), format).unwrap();
    let stage = Stage::with(|config| {
        config.access_log = Some(log);
        configure(config);
    });
    (stage, output)
}

#[tokio::test]
async fn a_line_says_who_asked_for_what_who_answered_and_how_it_went() {
    let backend = Backend::saying("hello").await;
    let (stage, output) = stage(AccessFormat::Json, |_| {});
    stage.route("example.com", "/", vec![member(1, &backend.url())]);
    stage.raw("GET /a/b?token=secret HTTP/1.1\r\nHost: example.com\r\nUser-Agent: t\"est\r\n\r\n").await;
    let line = objects(&output, 1).await.remove(0);
    let expected = [
        ("client", "127.0.0.1"),
        ("method", "GET"),
        ("scheme", "http"),
        ("host", "example.com"),
        ("path", "/a/b"),
        ("protocol", "HTTP/1.1"),
        ("service", "web"),
        ("instance", "web-1"),
        ("outcome", "complete"),
        ("user_agent", "t\"est"),
    ];
    for (key, value) in expected {
        assert_eq!(line[key], value, "{line}");
    }
    assert_eq!((line["status"].as_u64(), line["bytes"].as_u64()), (Some(200), Some(5)));
    assert_eq!(line["backend"], format!("{}/", backend.url()));
    let (whole, upstream) = (line["duration_ms"].as_f64().unwrap(), line["upstream_ms"].as_f64().unwrap());
    assert!(0.0 < upstream && upstream <= whole, "{line}");
    assert_eq!(field(&backend.last_head(), "x-request-id"), line["request_id"].as_str(), "{line}");
    assert_eq!(line["request_id"].as_str().unwrap().len(), 32);
}

#[tokio::test]
async fn pages_and_broken_responses_have_lines_too() {
    let half = Backend::new(|mut peer| async move {
        peer.head().await;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    })
    .await;
    let (stage, output) = stage(AccessFormat::Json, |_| {});
    stage.route("example.com", "/", vec![member(1, &half.url())]);
    assert_eq!(stage.get("nobody.example", "/").await.status(), 404);
    let mut client = stage.client().await;
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
    client.gone().await;
    let lines = objects(&output, 2).await;
    assert_eq!((lines[0]["outcome"].as_str(), lines[0]["status"].as_u64()), (Some("page"), Some(404)));
    assert!(lines[0]["service"].is_null() && lines[0]["upstream_ms"].is_null());
    assert_eq!((lines[1]["outcome"].as_str(), lines[1]["bytes"].as_u64()), (Some("broken"), Some(4)));
}

#[tokio::test]
async fn the_id_of_a_trusted_proxy_is_kept_and_that_of_anybody_else_is_not() {
    let backend = Backend::saying("hello").await;
    let request =
        "GET / HTTP/1.1\r\nHost: example.com\r\nX-Request-Id: given-1\r\nX-Forwarded-For: 8.8.8.8\r\n\r\n";
    for trusted in [true, false] {
        let (stage, output) = stage(AccessFormat::Json, |config| {
            config.trusted_proxies = if trusted { vec!["127.0.0.0/8".parse().unwrap()] } else { vec![] };
        });
        stage.route("example.com", "/", vec![member(1, &backend.url())]);
        stage.raw(request).await;
        let line = objects(&output, 1).await.remove(0);
        assert_eq!(line["request_id"] == "given-1", trusted, "{line}");
        assert_eq!(line["client"] == "8.8.8.8", trusted, "{line}");
        assert_eq!(field(&backend.last_head(), "x-request-id"), line["request_id"].as_str());
    }
}

#[tokio::test]
async fn a_trace_is_passed_on_or_begun_and_the_line_has_its_id() {
    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let backend = Backend::saying("hello").await;
    let ask = async |sample: f64, header: &str| {
        let (stage, output) = stage(AccessFormat::Json, |config| config.trace_sample = sample);
        stage.route("example.com", "/", vec![member(1, &backend.url())]);
        stage.raw(&format!("GET / HTTP/1.1\r\nHost: example.com\r\n{header}\r\n")).await;
        let line = objects(&output, 1).await.remove(0);
        (field(&backend.last_head(), "traceparent").map(str::to_owned), line["trace_id"].clone())
    };
    for sample in [0.0, 1.0] {
        let (sent, logged) = ask(sample, &format!("traceparent: {GIVEN}\r\n")).await;
        assert_eq!((sent.as_deref(), &logged), (Some(GIVEN), &GIVEN[3..35].into()), "{sample}");
    }
    assert_eq!(ask(0.0, "").await, (None, Value::Null));
    assert_eq!(ask(0.0, "traceparent: odd\r\n").await, (Some("odd".to_owned()), Value::Null));
    for header in ["", "traceparent: odd\r\n"] {
        let (sent, logged) = ask(1.0, header).await;
        let sent = sent.unwrap();
        assert!(sent.starts_with("00-") && sent.ends_with("-01") && sent.len() == 55, "{sent}");
        assert_eq!(logged, sent[3..35]);
    }
}

#[tokio::test]
async fn the_combined_format_is_that_of_nginx_and_nobody_can_break_its_lines() {
    let backend = Backend::saying("hello").await;
    let (stage, output) = stage(AccessFormat::Combined, |_| {});
    stage.route("example.com", "/", vec![member(1, &backend.url())]);
    let agent = "a\"b\\c";
    stage
        .raw(&format!(
            "GET /x?y HTTP/1.1\r\nHost: example.com\r\nReferer: http://a/?secret\r\nUser-Agent: {agent}\r\n\r\n"
        ))
        .await;
    let line = output.lines(1).await.remove(0);
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    assert!(line.ends_with(r#" +0000] "GET /x HTTP/1.1" 200 5 "http://a/" "a\x22b\x5Cc""#), "{line}");
}

/// An output that takes nothing until it is told to.
struct Stuck(Receiver<()>, Output);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.recv();
        self.1.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_output_that_is_stuck_costs_lines_and_not_requests() {
    const REQUESTS: usize = 9500;
    let (go, stuck): (Sender<()>, _) = channel();
    let output = Output::default();
    let log = AccessLog::to(Stuck(stuck, output.clone()), AccessFormat::Combined).unwrap();
    let watched = log.clone();
    let stage = Stage::with(|config| config.access_log = Some(log));
    let backend = Backend::answering(ok("x")).await;
    stage.route("example.com", "/", vec![member(1, &backend.url())]);
    let mut client = stage.client().await;
    for _ in 0..REQUESTS / 100 {
        client.send("GET / HTTP/1.1\r\nHost: nobody.example\r\n\r\n".repeat(100)).await;
        for _ in 0..100 {
            assert_eq!(client.response().await.status(), 404);
        }
    }
    until(|| watched.dropped() > 0).await;
    drop(go);
    soon(watched.flush()).await;
    let written = output.lines(1).await.len() as u64;
    assert!(written + watched.dropped() <= REQUESTS as u64);
}
