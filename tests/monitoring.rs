//! deploy/monitoring: Prometheus takes the rules, fires them for a server that runs, and knows all that the dashboard asks.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

#[path = "support/programs.rs"]
mod programs;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use programs::{Program, Server, free_address, get, status, wait_until};
use serde_json::Value;

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring")
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).current_dir(folder()).output();
    let output = output.expect("promtool, of Debian's prometheus");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[test]
fn promtool_takes_the_rules_and_each_fires_for_what_it_is_about() {
    promtool(&["check", "rules", "alerts.yml"]);
    promtool(&["test", "rules", "alerts.test.yml"]);
}

#[test]
fn promtool_takes_the_metrics_of_a_server() {
    let admin = free_address();
    let _server = Server::start(
        SERVER,
        &[("ADMIN_LISTEN", &admin.to_string()), ("ALERT_WEBHOOKS", "http://127.0.0.1:9/x")],
    );
    let page = get(admin, "localhost", "/metrics").unwrap().body;
    let mut command = Command::new("promtool");
    command
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let mut checking = command.spawn().unwrap();
    checking.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = checking.wait_with_output().unwrap();
    assert!(output.status.success(), "{}\n{page}", String::from_utf8_lossy(&output.stderr));
}

/// A Prometheus that asks a server every second, with the rules of the folder, whose waits are seconds here.
fn prometheus(proxy: SocketAddr, at: &Path) -> (Program, SocketAddr) {
    let rules = std::fs::read_to_string(folder().join("alerts.yml")).unwrap();
    let hasty: Vec<String> = rules
        .lines()
        .map(|line| match line.trim_start().starts_with("for: ") {
            true => format!("{}for: 1s", &line[..line.len() - line.trim_start().len()]),
            false => line.to_owned(),
        })
        .collect();
    std::fs::write(at.join("alerts.yml"), hasty.join("\n")).unwrap();
    let config = format!(
        "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [{}]\nscrape_configs:\n  - job_name: proxy\n    static_configs: [{{ targets: ['{proxy}'] }}]\n",
        at.join("alerts.yml").display()
    );
    let file = at.join("prometheus.yml");
    std::fs::write(&file, config).unwrap();
    let listen = free_address();
    let arguments = [
        format!("--config.file={}", file.display()),
        format!("--storage.tsdb.path={}", at.join("data").display()),
        format!("--web.listen-address={listen}"),
    ];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    (Program::start("prometheus", "prometheus", &arguments, &[]), listen)
}

fn asked(prometheus: SocketAddr, path: &str) -> Option<Value> {
    let answer = get(prometheus, "localhost", path)?;
    serde_json::from_str(&answer.body).ok().filter(|value: &Value| value["status"] == "success")
}

#[test]
fn a_real_prometheus_fires_for_a_service_that_nobody_serves_and_knows_what_the_dashboard_asks() {
    let admin = free_address();
    let server = Server::start(SERVER, &[("ADMIN_LISTEN", &admin.to_string())]);
    let backend = free_address();
    let mut program = programs::caddy(backend, "hello");
    let mut session = BufReader::new(TcpStream::connect(server.registry).unwrap());
    for line in [
        "REGISTER|web|web-1|0|",
        &format!("ROUTE_ADD||web.example|/|http://{backend}|0"),
        "HEALTH_SET||r1|/|100ms|1s",
        "CONFIG_APPLY|",
    ] {
        writeln!(session.get_mut(), "{line}").unwrap();
        let mut reply = String::new();
        session.read_line(&mut reply).unwrap();
        assert!(!reply.starts_with("ERROR"), "{line}: {reply}");
    }
    wait_until("it serves", || status(server.http, "web.example", "/") == 200);
    let directory = tempfile::tempdir().unwrap();
    let (_prometheus, at) = prometheus(admin, directory.path());
    let usable = "/api/v1/query?query=proxy_members%7Bstate%3D%22usable%22%7D";
    wait_until("Prometheus knows the instance", || {
        asked(at, usable).is_some_and(|value| value["data"]["result"][0]["value"][1] == "1")
    });
    let firing = |name: &str| {
        let alerts = asked(at, "/api/v1/alerts").unwrap_or_default();
        let all = alerts["data"]["alerts"].as_array().cloned().unwrap_or_default();
        all.iter().any(|alert| alert["labels"]["alertname"] == name && alert["state"] == "firing")
    };
    // Before it was asked for the first time, the proxy counts as away.
    wait_until("nothing fires", || !firing("NobodyServes") && !firing("ProxyAway"));
    program.kill();
    wait_until("the alert fires", || firing("NobodyServes"));
    let _program = programs::caddy(backend, "hello");
    wait_until("it is over", || !firing("NobodyServes"));

    let dashboard = std::fs::read_to_string(folder().join("grafana-dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let known =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/metrics.md"))
            .unwrap();
    let mut expressions = 0;
    for target in
        dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap())
    {
        let expression = target["expr"].as_str().unwrap();
        let concrete = expression.replace("$service", ".*").replace("$__rate_interval", "1m");
        let query = format!("/api/v1/query?query={}", encoded(&concrete));
        assert!(asked(at, &query).is_some(), "{expression}: {:?}", get(at, "localhost", &query));
        for word in expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            let family = word.strip_suffix("_bucket").unwrap_or(word);
            let is_metric = word.starts_with("proxy_") || word.starts_with("registry_");
            assert!(!is_metric || known.contains(&format!("`{family}`")), "{word} is no metric of ours");
        }
        expressions += 1;
    }
    assert!(expressions > 10);
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() { (byte as char).to_string() } else { format!("%{byte:02X}") }
            },
        )
        .collect()
}
