//! A server with an admin listener, its sessions, and those who follow its page.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use registry_sidecar::environment::Context;
use registry_sidecar::server::{Server, config::Config};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::support::soon;

/// The ADMIN_TOKEN of the tests.
pub(crate) const TOKEN: &str = "correct-horse-battery-staple";

/// Starts a server that lets the system choose its ports.
pub(crate) async fn server(more: &[(&str, &str)]) -> Server {
    let usual = [
        ("HTTP_LISTEN", "127.0.0.1:0"),
        ("REGISTRY_LISTEN", "127.0.0.1:0"),
        ("ADMIN_LISTEN", "127.0.0.1:0"),
        ("START_HOLD", "0s"),
        ("ADMIN_TOKEN", TOKEN),
    ];
    let is_usual = |(name, _): &&(&str, &str)| !more.iter().any(|(other, _)| other == name);
    let vars = usual
        .iter()
        .filter(is_usual)
        .chain(more)
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let no_file = |_: &std::path::Path| Err("there is no such file".to_owned());
    let context = Context { host_name: "proxy", read_file: &no_file };
    Server::start(&Config::from_env(vars, context).unwrap()).await.unwrap()
}

/// A session that lives as long as this.
pub(crate) struct Session(BufReader<TcpStream>);

impl Session {
    /// Registers an instance of a service.
    pub(crate) async fn register(server: &Server, service: &str, instance: &str) -> Session {
        let stream = TcpStream::connect(server.registry_address()).await.unwrap();
        let mut session = Session(BufReader::new(stream));
        session.ok(&format!("REGISTER|{service}|{instance}|0|")).await;
        session
    }

    /// Registers it with a route that is in force.
    pub(crate) async fn serving(
        server: &Server,
        service: &str,
        instance: &str,
        domain: &str,
        url: &str,
    ) -> Session {
        let mut session = Session::register(server, service, instance).await;
        session.ok(&format!("ROUTE_ADD||{domain}|/|{url}|0")).await;
        session.ok("CONFIG_APPLY|").await;
        session
    }

    /// Sends a command. Returns the reply, which is no error.
    pub(crate) async fn ok(&mut self, line: &str) -> String {
        self.0.get_mut().write_all(format!("{line}\n").as_bytes()).await.unwrap();
        let mut reply = String::new();
        soon(self.0.read_line(&mut reply)).await.unwrap();
        assert!(!reply.starts_with("ERROR"), "{line}: {reply}");
        reply.trim_end().to_owned()
    }
}

/// Asks the admin listener. Returns head and body.
pub(crate) async fn ask(address: SocketAddr, head: &str, body: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request =
        format!("{head}\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    soon(stream.read_to_string(&mut text)).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

/// Asks for the model of the page.
pub(crate) async fn view(address: SocketAddr) -> Value {
    let (_, body) = ask(address, "GET /live HTTP/1.1", "").await;
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// Waits until the model is as wanted.
pub(crate) async fn view_with(address: SocketAddr, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..1000 {
        last = view(address).await;
        if wanted(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the model never was as wanted: {last:#}");
}

/// Somebody who follows the page's changes.
pub(crate) struct Follower(BufReader<TcpStream>);

impl Follower {
    /// Asks for the changes. Returns what the answer's head says.
    pub(crate) async fn ask(address: SocketAddr) -> (Follower, String) {
        let mut stream = BufReader::new(TcpStream::connect(address).await.unwrap());
        let request = format!("GET /events HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.get_mut().write_all(request.as_bytes()).await.unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(soon(stream.read_line(&mut head)).await.unwrap() > 0, "{head}");
        }
        (Follower(stream), head)
    }

    /// The next event of this name.
    pub(crate) async fn next(&mut self, name: &str) -> Value {
        let mut is_wanted = false;
        loop {
            let mut line = String::new();
            assert!(soon(self.0.read_line(&mut line)).await.unwrap() > 0, "closed");
            let line = line.trim_end();
            if let Some(event) = line.strip_prefix("event: ") {
                is_wanted = event == name;
            } else if let Some(data) = line.strip_prefix("data: ").filter(|_| is_wanted) {
                return serde_json::from_str(data).unwrap();
            }
        }
    }
}

/// Has the server do something, as an operator.
pub(crate) async fn order(address: SocketAddr, token: &str, body: &Value) -> (u16, String) {
    let head =
        format!("POST /actions HTTP/1.1\r\nContent-Type: application/json\r\nAuthorization: Bearer {token}");
    let (head, body) = ask(address, &head, &body.to_string()).await;
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
}
