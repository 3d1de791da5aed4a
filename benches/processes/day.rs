//! `day`: does a sidecar grow in a day, or from lost connections?

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::programs::{Program, Server, free_address, wait_until};
use super::{serve, server_binary, usage};

pub(super) fn run(lean: &Path) {
    let backend = free_address();
    serve(backend);
    let (address, registry) = YesRegistry::start();
    let server = Server::start(server_binary(), &[]);
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let short = [
        ("REGISTRY_HOST", host.as_str()),
        ("REGISTRY_PORT", port.as_str()),
        ("SIDECAR_KEEPALIVE_INTERVAL", "2ms"),
        ("SIDECAR_RECONNECT_MIN", "1ms"),
        ("SIDECAR_RECONNECT_MAX", "4ms"),
    ];
    let sidecar =
        Program::start("sidecar", lean.to_str().unwrap(), &[], &server.sidecar_env(backend.port(), &short));
    let tell = |when: &str| {
        let (all, own) =
            (usage::memory_kb(sidecar.id(), "VmRSS:"), usage::memory_kb(sidecar.id(), "RssAnon:"));
        println!("day: {when}: resident {all} kB, of it anonymous {own} kB");
    };
    let pings = || registry.pings.load(Ordering::Relaxed);
    let connections = || registry.connections.load(Ordering::Relaxed);
    wait_until("it is live", || pings() >= 10);
    tell("at rest");
    wait_until("a day has passed", || pings() >= 2_890);
    tell("after 2,880 keepalives");
    registry.cuts.store(true, Ordering::Relaxed);
    for count in [100, 500, 1_000] {
        wait_until("connections were lost", || connections() > count);
        tell(&format!("and {count} lost connections"));
    }
}

/// A registry that says yes to everything; with `cuts` it resets each connection as soon as routes are applied.
#[derive(Default)]
struct YesRegistry {
    pings: AtomicU64,
    connections: AtomicU64,
    cuts: AtomicBool,
}

impl YesRegistry {
    fn start() -> (SocketAddr, Arc<YesRegistry>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, registry) = (listener.local_addr().unwrap(), Arc::new(YesRegistry::default()));
        let shared = Arc::clone(&registry);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                shared.connections.fetch_add(1, Ordering::Relaxed);
                let registry = Arc::clone(&shared);
                std::thread::spawn(move || registry.talk(&stream));
            }
        });
        (address, registry)
    }

    fn talk(&self, mut stream: &TcpStream) {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let command = line.split('|').next().unwrap_or_default();
            let reply = match command {
                "REGISTER" => "ACK|S1",
                "RECONNECT" => "REREGISTER",
                "SESSION_INFO" => r#"SESSION_OK|{"server":"registry-server/0","revision":0}"#,
                "ROUTE_ADD" => "ROUTE_OK|r1",
                "HEALTH_SET" => "HEALTH_OK",
                "OPTIONS_SET" => "OPTIONS_OK",
                "PING" => "PONG",
                "BACKEND_TEST" => {
                    r#"BACKEND_OK|{"reachable":true,"response_time_ms":1,"status_code":200,"tls_valid":false}"#
                }
                "CLIENT_SHUTDOWN" => "SHUTDOWN_OK",
                _ => "OK",
            };
            self.pings.fetch_add(u64::from(command == "PING"), Ordering::Relaxed);
            let is_cut = self.cuts.load(Ordering::Relaxed) && matches!(command, "CONFIG_APPLY" | "PING");
            if is_cut || writeln!(stream, "{reply}").is_err() {
                let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
                return;
            }
        }
    }
}
