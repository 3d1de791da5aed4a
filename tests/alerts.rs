//! ALERT_WEBHOOKS: what receivers are told, and that none of them holds anything up.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

#[path = "support/programs.rs"]
mod programs;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use programs::{Server, free_address, get, status, wait_until};
use serde_json::Value;

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");

/// Somebody who is told of alerts.
struct Receiver {
    address: SocketAddr,
    /// When each message came, and what it said.
    heard: Arc<Mutex<Vec<(Instant, Value)>>>,
}

impl Receiver {
    /// Answers the first messages with these heads, and all further ones with 200. An empty head is no answer at all.
    fn start(answers: &'static [&'static str]) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard: Arc<Mutex<Vec<(Instant, Value)>>> = Arc::default();
        let kept = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for (number, stream) in listener.incoming().enumerate() {
                let mut stream = BufReader::new(stream.unwrap());
                let body = read(&mut stream);
                kept.lock().unwrap().push((Instant::now(), serde_json::from_slice(&body).unwrap()));
                let answer = answers.get(number).unwrap_or(&"HTTP/1.1 200 OK");
                if answer.is_empty() {
                    silent.push(stream);
                    continue;
                }
                let _ = write!(stream.get_mut(), "{answer}\r\nContent-Length: 0\r\n\r\n");
            }
        });
        Receiver { address, heard }
    }

    fn messages(&self) -> Vec<Value> {
        self.heard.lock().unwrap().iter().map(|(_, message)| message.clone()).collect()
    }
}

fn read(stream: &mut BufReader<TcpStream>) -> Vec<u8> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = text.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            let mut body = vec![0; length];
            stream.read_exact(&mut body).unwrap();
            return body;
        }
    }
}

/// A backend that answers while this lives.
fn backend(address: SocketAddr) -> programs::Program {
    programs::caddy(address, "hello")
}

/// A session whose route is in force.
fn register(server: &Server, backend: SocketAddr) -> BufReader<TcpStream> {
    let mut session = BufReader::new(TcpStream::connect(server.registry).unwrap());
    let lines = [
        "REGISTER|web|web-1|0|".to_owned(),
        format!("ROUTE_ADD||web.example|/|http://{backend}|0"),
        "HEALTH_SET||r1|/|100ms|1s".to_owned(),
        "CONFIG_APPLY|".to_owned(),
    ];
    for line in lines {
        writeln!(session.get_mut(), "{line}").unwrap();
        let mut reply = String::new();
        session.read_line(&mut reply).unwrap();
        assert!(!reply.starts_with("ERROR"), "{line}: {reply}");
    }
    session
}

#[test]
fn a_lost_service_and_its_return_are_told_to_all_while_one_is_slow_one_is_gone_and_one_has_enough() {
    let well = Receiver::start(&[]);
    let strict = Receiver::start(&["HTTP/1.1 429 Slow down\r\nRetry-After: 3"]);
    let silent = Receiver::start(&["", "", "", ""]);
    let gone = free_address();
    let hooks = format!(
        "http://{}/secret-1, slack+http://{}/secret-2, http://{}/secret-3 http://{gone}/secret-4",
        well.address, strict.address, silent.address
    );
    let admin = free_address();
    let server = Server::start(
        SERVER,
        &[
            ("ALERT_WEBHOOKS", &hooks),
            ("ADMIN_LISTEN", &admin.to_string()),
            ("LOG_LEVEL", "trace"),
            ("LOG_LEVEL_LIBRARIES", "trace"),
        ],
    );
    let address = free_address();
    let mut program = backend(address);
    let _session = register(&server, address);
    wait_until("it serves", || status(server.http, "web.example", "/") == 200);

    program.kill();
    wait_until("the service is lost", || !well.messages().is_empty());
    let first = &well.messages()[0];
    assert_eq!(
        (&first["source"], &first["alerts"][0]["kind"]),
        (&"registry-server".into(), &"service".into())
    );
    assert_eq!(
        (&first["alerts"][0]["name"], &first["alerts"][0]["state"]),
        (&"web".into(), &"firing".into())
    );
    assert!(first["text"].as_str().unwrap().contains("web is lost"), "{first}");

    wait_until("the strict one is asked again", || strict.messages().len() == 2);
    let heard: Vec<Instant> = strict.heard.lock().unwrap().iter().map(|(at, _)| *at).collect();
    assert!(heard[1] - heard[0] >= Duration::from_secs(3), "it waits as long as it was asked to");
    assert_eq!(
        strict.messages()[0]["text"],
        strict.messages()[1]["text"],
        "what was not taken is told again"
    );

    let _program = backend(address);
    wait_until("its return is told", || {
        well.messages().iter().any(|message| message["alerts"][0]["state"] == "resolved")
    });
    wait_until("it serves again", || status(server.http, "web.example", "/") == 200);
    // The silent one has its first message still, and hears both in one when it is asked again.
    wait_until("the silent one is asked again", || silent.messages().len() >= 2);
    let folded = &silent.messages()[1]["alerts"][0];
    assert_eq!(folded["state"], "resolved", "{folded}");
    assert!(folded["began"].is_string() && folded["ended"].is_string(), "{folded}");

    let metrics = get(admin, "localhost", "/metrics").unwrap().body;
    let failed =
        metrics.lines().find(|line| line.starts_with("registry_alert_messages_total{result=\"failed\"}"));
    let failed: u32 = failed.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!(failed >= 3, "{metrics}");
    server.program.wait_for_log("alerts not taken: it answered 429");
    let log = server.program.log().join("\n");
    assert!(!log.contains("secret"), "a URL is a secret");
}
