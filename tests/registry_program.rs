//! The registry of the real program: what only a process shows (PROTOCOL sections 1 and 2).
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

#[path = "support/line.rs"]
mod line;
#[path = "support/programs.rs"]
mod programs;
#[path = "support/traced.rs"]
mod traced;

use line::Line;
use programs::Server;
use traced::Traced;

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");

#[test]
fn a_graceful_stop_says_shutdown_to_everybody_and_then_closes() {
    for signal in ["TERM", "INT"] {
        let mut server = Server::start(SERVER, &[]);
        let mut lines: Vec<Line> = (0..5).map(|_| Line::open(server.registry).unwrap()).collect();
        for (number, line) in lines.iter_mut().enumerate() {
            let said = ["REGISTER|web|web-1|0|", "PING|", "NONSENSE", "REGISTER|shop|shop-1|0|", "PING|x"];
            assert!(line.ask(said[number]).is_some());
        }
        // One that has subscribed to everything, and one that waits for an answer.
        assert_eq!(lines[0].ask("SUBSCRIBE||all").as_deref(), Some("SUBSCRIBE_OK"));
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        lines[3].send(&format!("BACKEND_TEST||http://{}/", silent.local_addr().unwrap()));
        let _asked = silent.accept().unwrap();
        server.program.signal(signal);
        for (number, line) in lines.iter_mut().enumerate() {
            if number == 3 {
                assert!(
                    line.read().unwrap().starts_with("BACKEND_FAIL|"),
                    "its question ends with the connection"
                );
            }
            assert_eq!(line.read().as_deref(), Some("SHUTDOWN"));
            assert_eq!(line.read(), None, "and then EOF");
        }
        assert_eq!(server.program.wait().code(), Some(0));
    }
}

#[test]
fn a_peer_that_speaks_http_is_named_in_the_log_once() {
    let server = Server::start(SERVER, &[]);
    for request in
        ["GET / HTTP/1.1\r\nHost: proxy:81\r\n\r", "POST /api HTTP/1.0\r\n\r", "HTTP/1.1 400 Bad Request\r"]
    {
        let mut browser = Line::open(server.registry).unwrap();
        browser.send(request);
        assert_eq!(browser.read(), None);
    }
    let line = server.program.wait_for_log("speaks HTTP to the registry's port");
    assert!(line.contains("WARN") && line.contains("127.0.0.1"), "{line}");
    let mut good = Line::open(server.registry).unwrap();
    assert!(good.ask("REGISTER|web|web-1|0|").unwrap().starts_with("ACK|"));
    server.program.wait_for_log("registered");
    let complaints = server.program.log().iter().filter(|line| line.contains("speaks HTTP")).count();
    assert_eq!(complaints, 1, "however often it comes");
}

#[test]
fn a_dead_peer_is_found_by_the_system() {
    let calls = ["-e", "trace=accept4,setsockopt"];
    let Some(server) = Traced::start(SERVER, &calls, &[("ADMIN_LISTEN", "off")]) else { return };
    let mut line = Line::open(server.registry).unwrap();
    assert!(line.ask("REGISTER|web|web-1|0|").unwrap().starts_with("ACK|"));
    let trace = server.end();
    for option in [
        "SO_KEEPALIVE, [1]",
        "TCP_KEEPIDLE, [30]",
        "TCP_KEEPINTVL, [10]",
        "TCP_KEEPCNT, [3]",
        "TCP_USER_TIMEOUT, [30000]",
        "TCP_NODELAY, [1]",
    ] {
        let is_set = trace.lines().any(|line| line.contains(option) && line.ends_with("= 0"));
        assert!(is_set, "{option} is never set:\n{trace}");
    }
}
