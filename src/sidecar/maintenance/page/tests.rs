use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;
use crate::sidecar::maintenance::Window;

/// How long an answer may take.
const MAX_TIME: Duration = http::MAX_TIME;

/// The status line and headers, and the body.
async fn ask(port: u16, head: &str) -> (String, String) {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    stream.write_all(format!("{head}\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(MAX_TIME, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

async fn started(page: Option<PathBuf>) -> (u16, DaemonState, Maintenance) {
    let probe = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = probe.local_addr().unwrap().port();
    drop(probe);
    let state = DaemonState::new();
    let maintenance = Maintenance::new(state.clone());
    let config = MaintenanceConfig { port: Some(port), page, url: None, state: None };
    tokio::spawn(serve_page(config, "<shop>".to_owned(), state.clone(), maintenance.clone()));
    let connected = async {
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(MAX_TIME, connected).await.unwrap();
    (port, state, maintenance)
}

#[tokio::test]
async fn people_get_503_and_the_proxys_probe_gets_200() {
    let (port, ..) = started(None).await;
    let (head, body) = ask(port, "GET /any/page?x=1 HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1").await;
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("Retry-After: "), "{head}");
    assert!(body.contains("We will be right back") && body.contains("&lt;shop&gt;"), "{body}");
    let (head, _) = ask(port, "GET / HTTP/1.1").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && !head.contains("Retry-After"), "{head}");
    let (head, body) = ask(port, "HEAD / HTTP/1.1\r\nx-forwarded-for: 192.0.2.1").await;
    assert!(head.starts_with("HTTP/1.1 503 ") && body.is_empty(), "{head}");
}

#[tokio::test]
async fn health_and_status_are_for_anybody() {
    let (port, state, _) = started(None).await;
    state.set_progress(Progress { message: Some("migrating".to_owned()), percent: Some(40) });
    for path in ["/health", "/healthcheck"] {
        let (head, _) = ask(port, &format!("GET {path} HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1")).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{path}: {head}");
    }
    let (head, body) = ask(port, "GET /api/status HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1").await;
    assert!(head.contains("application/json"), "{head}");
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&status["message"], &status["progress"]), (&"migrating".into(), &40.into()));
}

#[tokio::test]
async fn the_page_says_why_and_until_when_in_words_that_cannot_become_markup() {
    let (port, _, maintenance) = started(None).await;
    let now = std::time::SystemTime::now();
    let window = Window {
        target: registry_client::MaintenanceTarget::All,
        reason: Some("moving <the> data".to_owned()),
        since: now,
        until: Some(now + Duration::from_secs(1_800)),
    };
    maintenance.enter(window).await.unwrap();
    let (head, body) = ask(port, "GET / HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1").await;
    assert!(body.contains("moving &lt;the&gt; data") && !body.contains("{{"), "{body}");
    let retry = head.lines().find_map(|line| line.strip_prefix("Retry-After: ")).unwrap();
    assert!((1_700..=1_800).contains(&retry.parse::<u32>().unwrap()), "{retry}");
    let (_, body) = ask(port, "GET /api/status HTTP/1.1").await;
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&status["status"], &status["reason"]), (&"maintenance".into(), &"moving <the> data".into()));
    assert!(status["remaining_seconds"].as_u64().unwrap() > 1_700, "{body}");

    maintenance.exit(registry_client::MaintenanceTarget::All).await.unwrap();
    let (_, body) = ask(port, "GET / HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1").await;
    assert!(body.contains("Nothing is lost") && !body.contains("moving"), "{body}");
}

#[tokio::test]
async fn a_directory_is_served_and_nothing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page");
    std::fs::create_dir(&page).unwrap();
    std::fs::write(page.join("index.html"), "<p>ours</p>").unwrap();
    std::fs::write(page.join("style.css"), "p {}").unwrap();
    std::fs::write(page.join(".hidden"), "hidden").unwrap();
    std::fs::write(folder.path().join("secret.txt"), "secret").unwrap();
    std::os::unix::fs::symlink(folder.path().join("secret.txt"), page.join("link.txt")).unwrap();
    let (port, ..) = started(Some(page)).await;
    let get =
        async |path: &str| ask(port, &format!("GET {path} HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1")).await;
    let (head, body) = get("/style.css").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/css") && body == "p {}", "{head}");
    for path in
        ["/", "/no/such", "/../secret.txt", "/%2e%2e/secret.txt", "/.hidden", "/link.txt", "/index.html"]
    {
        let (head, body) = get(path).await;
        assert!(head.starts_with("HTTP/1.1 503 ") && body == "<p>ours</p>", "{path}: {head} {body}");
    }
}

#[tokio::test]
async fn what_is_no_request_gets_no_page() {
    let (port, ..) = started(None).await;
    let (head, _) = ask(port, "what?").await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
}
