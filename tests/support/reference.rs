//! A registry that answers like the reference server, for programs: one connection at a time, and it keeps what it
//! was sent.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(unreachable_pub, clippy::unwrap_used, reason = "a failed assumption ends the test")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

pub struct Reference {
    pub address: SocketAddr,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Reference {
    pub fn start() -> Reference {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&lines);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let record = Arc::clone(&record);
                thread::spawn(move || serve(client, &record));
            }
        });
        Reference { address, lines }
    }

    /// What it was sent so far.
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// The names of the commands that it was sent so far.
    pub fn commands(&self) -> Vec<String> {
        self.lines().iter().map(|line| line.split('|').next().unwrap_or_default().to_owned()).collect()
    }
}

fn serve(client: TcpStream, record: &Mutex<Vec<String>>) {
    let mut routes = 0;
    let mut answers = client.try_clone().unwrap();
    for line in BufReader::new(client).lines().map_while(Result::ok) {
        let fields: Vec<&str> = line.split('|').collect();
        let reply = match fields[0] {
            "REGISTER" => "ACK|web-1-1734690123456-77".to_owned(),
            "RECONNECT" => "ERROR|no session".to_owned(),
            "SESSION_INFO" => r#"SESSION_OK|{"session_id":"web-1-1734690123456-77"}"#.to_owned(),
            "ROUTE_ADD" => {
                routes += 1;
                format!("ROUTE_OK|r{routes}")
            }
            "ROUTE_REMOVE" => format!("ROUTE_OK|{}", fields[2]),
            "HEALTH_SET" => "HEALTH_OK".to_owned(),
            "OPTIONS_SET" => "OPTIONS_OK".to_owned(),
            "HEADERS_SET" => "HEADERS_OK".to_owned(),
            "PING" => "PONG".to_owned(),
            "MAINT_ENTER" | "MAINT_EXIT" => format!("ACK\nMAINT_OK|{}", fields[2]),
            "BACKEND_TEST" => {
                r#"BACKEND_OK|{"reachable":true,"response_time_ms":1,"status_code":200,"tls_valid":false}"#
                    .to_owned()
            }
            "CLIENT_SHUTDOWN" => "SHUTDOWN_OK".to_owned(),
            "CONFIG_APPLY" | "CONFIG_ROLLBACK" => "OK".to_owned(),
            other => format!("ERROR|unknown command: {other}"),
        };
        record.lock().unwrap().push(line.clone());
        if answers.write_all(format!("{reply}\n").as_bytes()).is_err() || fields[0] == "CLIENT_SHUTDOWN" {
            return;
        }
    }
}
