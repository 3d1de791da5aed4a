//! PROTOCOL section 3: BACKEND_TEST, asked of the real server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::authority::Authority;
use crate::backends::ModernBackend;
use crate::line::Line;
use crate::programs::Server;

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");

fn session(server: &Server) -> Line {
    let mut line = Line::open(server.registry).unwrap();
    assert!(line.ask("REGISTER|web|web-1|0|").unwrap().starts_with("ACK|"));
    line
}

/// What is in the reply, without the time that it took.
fn test(line: &mut Line, url: &str) -> (String, serde_json::Value) {
    let reply = line.ask(&format!("BACKEND_TEST||{url}")).unwrap();
    let (word, json) = reply.split_once('|').expect(&reply);
    let mut body: serde_json::Value = serde_json::from_str(json).expect(&reply);
    if let Some(time) = body.as_object_mut().unwrap().remove("response_time_ms") {
        assert!((0.0..5500.0).contains(&time.as_f64().unwrap()), "{reply}");
    }
    (word.to_owned(), body)
}

/// Answers every connection with this, and counts them.
fn answering(text: String) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&count);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            counter.fetch_add(1, Ordering::SeqCst);
            let mut head = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while reader.read_line(&mut head).is_ok_and(|count| count > 2) {}
            let _ = stream.write_all(text.as_bytes());
        }
    });
    (address, count)
}

#[tokio::test]
async fn a_certificate_is_verified_for_a_name_and_looked_at_for_an_address() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, ours.pem()).unwrap();
    let good = ModernBackend::https(&ours.pair(&["localhost"]), &["http/1.1"]).await;
    let modern = ModernBackend::https(&ours.pair(&["localhost"]), &["h2"]).await;
    let foreign = ModernBackend::https(&theirs.pair(&["localhost"]), &["http/1.1"]).await;
    let misnamed = ModernBackend::https(&ours.pair(&["other.example.com"]), &["http/1.1"]).await;
    let ports = [&good, &modern, &foreign, &misnamed].map(|backend| backend.addr.port());
    let asked = tokio::task::spawn_blocking(move || {
        let server = Server::start(SERVER, &[("SSL_CERT_FILE", roots.to_str().unwrap())]);
        let mut line = session(&server);
        let mut of = |host: &str, port: u16| test(&mut line, &format!("https://{host}:{port}/"));
        let [good, modern, foreign, misnamed] = ports;
        [
            of("localhost", good),
            of("localhost", modern),
            of("127.0.0.1", good),
            of("localhost", foreign),
            of("localhost", misnamed),
        ]
    });
    let [named, modern, address, foreign, misnamed] = asked.await.unwrap();
    let ok = |tls_valid: bool| {
        let body = serde_json::json!({"reachable": true, "status_code": 200, "tls_valid": tls_valid});
        ("BACKEND_OK".to_owned(), body)
    };
    assert_eq!((named, modern, address), (ok(true), ok(true), ok(false)));
    for (word, body) in [foreign, misnamed] {
        assert_eq!((word.as_str(), &body["reachable"]), ("BACKEND_FAIL", &false.into()));
        assert!(body["error"].as_str().unwrap().contains("certificate"), "{body}");
    }
}

#[test]
fn a_redirect_is_told_and_not_followed() {
    let server = Server::start(SERVER, &[]);
    let (target, followed) = answering("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned());
    let redirect = format!("HTTP/1.1 302 Found\r\nLocation: http://{target}/\r\nContent-Length: 0\r\n\r\n");
    let (address, _) = answering(redirect);
    let (word, body) = test(&mut session(&server), &format!("http://{address}/"));
    assert_eq!(word, "BACKEND_OK");
    assert_eq!(body, serde_json::json!({"reachable": true, "status_code": 302, "tls_valid": false}));
    assert_eq!(followed.load(Ordering::SeqCst), 0);
}

#[test]
fn a_backend_that_says_nothing_is_given_up_after_five_seconds_and_what_waited_is_answered() {
    let server = Server::start(SERVER, &[]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut line = session(&server);
    let (url, asked) = (format!("http://{}/", silent.local_addr().unwrap()), Instant::now());
    line.send(&format!("BACKEND_TEST||{url}\nPING|"));
    let reply = line.read().unwrap();
    let took = asked.elapsed();
    assert!(reply.starts_with("BACKEND_FAIL|") && reply.contains(r#""reachable":false"#), "{reply}");
    assert!((Duration::from_millis(4900)..Duration::from_millis(6000)).contains(&took), "{took:?}");
    assert_eq!(line.read().as_deref(), Some("PONG"), "in the order of the commands");

    // It really connected, and asked.
    let (mut stream, _): (TcpStream, _) = silent.accept().unwrap();
    let mut head = [0; 16];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"GET / HTTP/1.1\r\n");
}
