//! What the proxy does, with programs that people run: nginx, caddy and PHP-FPM behind it, curl before it.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

#[path = "proxy_tls/authority.rs"]
#[allow(dead_code, reason = "shared with tests/proxy_tls.rs, which uses the rest")]
mod authority;
#[path = "support/programs.rs"]
mod programs;

#[path = "backends/files.rs"]
mod files;
#[path = "backends/operations.rs"]
mod operations;
#[path = "backends/php.rs"]
mod php;
#[path = "backends/tls.rs"]
mod tls;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use programs::{Program, Server, free_address, wait_until};
use tempfile::TempDir;

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");
const HOST: &str = "shop.example.com";

/// A server, a session by hand, and a folder for the programs' files.
struct World {
    server: Server,
    session: BufReader<TcpStream>,
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        World::with(&[])
    }

    fn with(vars: &[(&'static str, &str)]) -> Self {
        let server = Server::start(SERVER, vars);
        let session = session(server.registry, "web-1");
        World { server, session, folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Leads [`HOST`] to `url`, with what `more` says of the route `r1`.
    fn route(&mut self, url: &str, more: &[&str]) {
        self.ok(&format!("ROUTE_ADD||{HOST}|/|{url}|0"));
        more.iter().for_each(|line| self.ok(line));
        self.ok("CONFIG_APPLY|");
    }

    fn ask(&mut self, line: &str) -> String {
        ask(&mut self.session, line)
    }

    fn ok(&mut self, line: &str) {
        let reply = self.ask(line);
        assert!(!reply.starts_with("ERROR"), "{line}: {reply}");
    }

    /// A key of a reply's JSON.
    fn told(&mut self, line: &str, key: &str) -> serde_json::Value {
        let reply = self.ask(line);
        let (_, json) = reply.split_once('|').unwrap();
        serde_json::from_str::<serde_json::Value>(json).unwrap()[key].clone()
    }

    fn curl(&self, path: &str, args: &[&str]) -> Answer {
        let http = self.server.http;
        curl(&format!("http://{HOST}:{}{path}", http.port()), http, args)
    }
}

/// A session on a connection of its own.
fn session(registry: SocketAddr, instance: &str) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(registry).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut session = BufReader::new(stream);
    assert!(ask(&mut session, &format!("REGISTER|web|{instance}|0|")).starts_with("ACK|"));
    session
}

fn ask(session: &mut BufReader<TcpStream>, line: &str) -> String {
    writeln!(session.get_mut(), "{line}").unwrap();
    let mut reply = String::new();
    session.read_line(&mut reply).unwrap();
    reply.trim_end().to_owned()
}

/// What curl got.
#[derive(Debug)]
struct Answer {
    status: u16,
    /// `HTTP/1.1` or `HTTP/2`.
    version: String,
    head: String,
    body: Vec<u8>,
    /// How curl ended: 0 is well.
    exit: i32,
}

impl Answer {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }
}

/// One request by curl, whose connection goes to `to` whatever the URL's host is.
fn curl(url: &str, to: SocketAddr, args: &[&str]) -> Answer {
    let folder = tempfile::tempdir().unwrap();
    let (head, body) = (folder.path().join("head"), folder.path().join("body"));
    let output = Command::new("curl")
        .args(["--silent", "--max-time", "20", "--connect-to", &format!("::{}:{}", to.ip(), to.port())])
        .args(["--write-out", "%{http_code} %{http_version}", "--dump-header"])
        .arg(&head)
        .arg("--output")
        .arg(&body)
        .args(args)
        .arg(url)
        .env_clear()
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let (status, version) = told.split_once(' ').unwrap();
    let read = |path: &Path| std::fs::read(path).unwrap_or_default();
    Answer {
        status: status.parse().unwrap(),
        version: version.to_owned(),
        head: String::from_utf8_lossy(&read(&head)).into_owned(),
        body: read(&body),
        exit: output.status.code().unwrap(),
    }
}

/// nginx in `folder`, with `server` in its one server block; it listens before this returns.
fn nginx(folder: &Path, address: SocketAddr, server: &str) -> Program {
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {kind}_temp;\n"))
        .concat();
    let configuration = format!(
        "user root; worker_processes 1; pid nginx.pid; error_log stderr;\n\
         events {{ worker_connections 100; }}\n\
         http {{\naccess_log off; {temporary}\n\
         types {{ text/css css; text/html html; image/png png; }}\n\
         server {{ listen {address}; server_name _; root {}; {server} }}\n}}\n",
        folder.display()
    );
    // Another one may be there already.
    let name = format!("nginx-{}.conf", address.port());
    std::fs::write(folder.join(&name), configuration.replace("nginx.pid", &format!("{name}.pid"))).unwrap();
    let prefix = folder.to_str().unwrap();
    let args = ["-p", prefix, "-c", &name, "-e", "stderr", "-g", "daemon off;"];
    let nginx = Program::start("nginx", "/usr/sbin/nginx", &args, &[]);
    wait_until("nginx listens", || TcpStream::connect(address).is_ok());
    nginx
}
