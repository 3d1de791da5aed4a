//! Figures of whole processes on loopback: `cargo bench --bench processes [-- NAME…]`.
//!
//! | name | what |
//! |---|---|
//! | `start` | a sidecar waits; its backend begins to listen: how long to the first 200 through the proxy |
//! | `restart` | the registry is killed and started again: how long from listening to the first 200 |
//! | `size` | the lean sidecar: file size, resident memory when live |
//! | `day` | the same through a day's 2,880 keepalives and then 1,000 lost connections: does it grow? |
//! | `proxy` | requests a second, CPU time and latencies beside nginx and HAProxy (needs them and wrk) |
//! | `ping` | PINGs a second over 64 connections, and their CPU time |
//! | `apply` | one session applies 100,000 routes at once: CPU time of the whole server |
//! | `memory` | what a connected session takes, and what a route takes beside it |
//!
//! REGISTRY_SERVER names another server than the one that was built with the bench: what `scripts/guided` prints.
//!
//! Nothing here fails for being slow; it prints medians with the spread, for docs/internals/performance.md.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a program for people")]
#![allow(missing_docs, reason = "a program, not a library")]

#[path = "processes/day.rs"]
mod day;
#[path = "processes/load.rs"]
mod load;
#[path = "../tests/support/programs.rs"]
mod programs;
#[path = "processes/proxy.rs"]
mod proxy;
#[path = "processes/registry.rs"]
mod registry;
#[path = "processes/usage.rs"]
mod usage;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use programs::{Program, Server, free_address, status, wait_until};

const SIDECAR: &str = env!("CARGO_BIN_EXE_registry-sidecar");
const HOST: &str = "shop.example.com";

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    if ["start", "restart", "size", "day"].into_iter().any(is_wanted) {
        let lean = lean_sidecar();
        println!("sidecar: {} (lean), server: {}", lean.display(), server_binary());
        if is_wanted("start") {
            start(&lean);
        }
        if is_wanted("restart") {
            restart(&lean);
        }
        if is_wanted("size") {
            size(&lean);
        }
        if is_wanted("day") {
            day::run(&lean);
        }
    }
    if is_wanted("proxy") {
        proxy::compare();
    }
    if is_wanted("ping") {
        registry::ping();
    }
    if is_wanted("apply") {
        registry::apply();
    }
    if is_wanted("memory") {
        registry::memory();
    }
}

/// The server that is measured: this build's, or the one that REGISTRY_SERVER names (`scripts/guided`).
fn server_binary() -> &'static str {
    static NAMED: OnceLock<Option<String>> = OnceLock::new();
    let named = NAMED.get_or_init(|| std::env::var("REGISTRY_SERVER").ok());
    named.as_deref().unwrap_or(env!("CARGO_BIN_EXE_registry-server"))
}

/// The sidecar as it goes into images, built here unless it is up to date.
fn lean_sidecar() -> PathBuf {
    let target = Path::new(SIDECAR).ancestors().nth(2).unwrap().join("lean-bench");
    let host = "x86_64-unknown-linux-gnu";
    let built = Command::new("cargo")
        .args(["build", "--quiet", "--locked", "--profile", "lean", "--no-default-features"])
        .args(["--bin", "registry-sidecar", "--target", host])
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", include_str!("../scripts/lean-flags").trim())
        .status()
        .unwrap();
    assert!(built.success());
    target.join(host).join("lean/registry-sidecar")
}

fn start(lean: &Path) {
    let server = Server::start(server_binary(), &[("LOG_LEVEL", "error")]);
    let times: Vec<Duration> = (0..41)
        .map(|_| {
            let backend = free_address();
            let port = backend.port().to_string();
            let env = server.sidecar_env(backend.port(), &[("PORT", &port)]);
            let mut sidecar = Program::start("sidecar", lean.to_str().unwrap(), &[], &env);
            sidecar.wait_for_log("waiting for tcp://");
            let listens = serve(backend);
            wait_until("the first 200", || status(server.http, HOST, "/") == 200);
            let took = listens.elapsed();
            sidecar.signal("TERM");
            sidecar.wait();
            wait_until("the route is gone", || status(server.http, HOST, "/") != 200);
            took
        })
        .collect();
    report("start: backend listens -> first 200 through the proxy", times);
}

/// A backend that answers every request with 200; returns when it listens. It lives as long as the program.
fn serve(address: SocketAddr) -> Instant {
    use std::io::Read;
    let listener = std::net::TcpListener::bind(address).unwrap();
    let listens = Instant::now();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer) {
                    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                        break;
                    }
                }
            });
        }
    });
    listens
}

fn restart(lean: &Path) {
    let backend = free_address();
    serve(backend);
    let times: Vec<Duration> = (0..41)
        .map(|_| {
            // A sidecar of its own for each run: none that is still patient from the run before.
            let mut server = Server::start(server_binary(), &[("LOG_LEVEL", "error")]);
            let env = server.sidecar_env(backend.port(), &[]);
            let sidecar = Program::start("sidecar", lean.to_str().unwrap(), &[], &env);
            sidecar.wait_for_log("live");
            server.crash_and_restart();
            let listens = Instant::now();
            wait_until("the route is back", || status(server.http, HOST, "/") == 200);
            listens.elapsed()
        })
        .collect();
    report("restart: the registry listens -> first 200 through the proxy", times);
}

fn size(lean: &Path) {
    let server = Server::start(server_binary(), &[]);
    let backend = free_address();
    serve(backend);
    let env = server.sidecar_env(backend.port(), &[]);
    let sidecar = Program::start("sidecar", lean.to_str().unwrap(), &[], &env);
    sidecar.wait_for_log("live");
    println!("size: file {} bytes", fs::metadata(lean).unwrap().len());
    for key in ["VmRSS:", "VmHWM:", "RssAnon:", "RssFile:"] {
        println!("size: {key} {} kB", usage::memory_kb(sidecar.id(), key));
    }
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100].as_secs_f64() * 1000.0;
    println!(
        "{what}: median {:.1} ms, p10 {:.1}, p90 {:.1}, of {} runs",
        at(50),
        at(10),
        at(90),
        times.len()
    );
}
