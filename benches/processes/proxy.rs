//! Our proxy beside Debian's nginx and HAProxy: the same backend, the same clients, taking turns in one run.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::load::{CONNECTIONS, paced, wrk};
use super::programs::{Program, Server, free_address, status, wait_until};
use super::usage::cpu_time;
use super::{HOST, SIDECAR, server_binary};

/// Times that each has its turn.
const ROUNDS: usize = 7;
/// Turns at half the load, and how long each is.
const PACED_ROUNDS: usize = 3;
const PACED_TIME: Duration = Duration::from_secs(4);

struct Proxy {
    name: &'static str,
    address: SocketAddr,
    pid: u32,
}

/// What one proxy did in each of its turns.
#[derive(Default)]
struct Turns {
    /// Requests a second.
    rates: Vec<f64>,
    /// CPU time of a request, in microseconds.
    costs: Vec<f64>,
}

pub(crate) fn compare() {
    let temporary = tempfile::tempdir().unwrap();
    let at = |name: &str| temporary.path().join(name);
    let (backend, nginx, haproxy) = (free_address(), free_address(), free_address());
    let _backend = start_nginx("backend", &at("backend"), &config("backend.conf", backend, backend));
    let nginx_program = start_nginx("nginx", &at("nginx"), &config("nginx.conf", nginx, backend));
    let haproxy_program = start_haproxy(&at("haproxy.cfg"), &config("haproxy.cfg", haproxy, backend));
    let server = Server::start(server_binary(), &[("LOG_LEVEL", "error")]);
    let sidecar_env = server.sidecar_env(backend.port(), &[("HEALTH_PATH", "/small")]);
    let sidecar = Program::start("sidecar", SIDECAR, &[], &sidecar_env);
    sidecar.wait_for_log("live");
    let all = [
        Proxy { name: "ours", address: server.http, pid: server.program.id() },
        Proxy { name: "nginx", address: nginx, pid: nginx_program.id() },
        Proxy { name: "haproxy", address: haproxy, pid: haproxy_program.id() },
    ];
    for path in ["/small", "/64k"] {
        wait_until("all answer", || all.iter().all(|proxy| status(proxy.address, HOST, path) == 200));
        let turns = full_load(&all, path);
        report(&all, &turns, path);
        if path == "/small" {
            let slowest = turns.iter().map(|turns| median(&turns.rates)).fold(f64::MAX, f64::min);
            half_load(&all, path, slowest / 2.0);
        }
    }
}

fn full_load(all: &[Proxy; 3], path: &str) -> [Turns; 3] {
    let mut turns: [Turns; 3] = Default::default();
    for round in 0..ROUNDS {
        // Who goes first changes, so that a machine that grows slower is fair to all.
        for place in 0..all.len() {
            let at = (round + place) % all.len();
            let before = cpu_time(all[at].pid);
            let rate = wrk(all[at].address, HOST, path);
            let cpu = cpu_time(all[at].pid) - before;
            turns[at].rates.push(rate);
            turns[at].costs.push(cpu.as_secs_f64() * 1e6 / (rate * 3.0));
        }
    }
    turns
}

/// Every proxy gets the same number of requests a second: half of what the slowest can do.
fn half_load(all: &[Proxy; 3], path: &str, rate: f64) {
    let mut p99s: [Vec<f64>; 3] = Default::default();
    let mut p50s: [Vec<f64>; 3] = Default::default();
    for round in 0..PACED_ROUNDS {
        for place in 0..all.len() {
            let at = (round + place) % all.len();
            let took = paced(all[at].address, HOST, path, rate, PACED_TIME);
            let percentile = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
            p50s[at].push(percentile(50));
            p99s[at].push(percentile(99));
            // What is left over from one is not the next one's.
            thread::sleep(Duration::from_millis(200));
        }
    }
    for (proxy, (p50s, p99s)) in all.iter().zip(p50s.iter().zip(&p99s)) {
        println!(
            "proxy {path} at {rate:.0} requests/s, {}: p50 {:.2} ms, p99 {:.2} ms ({:.2} to {:.2})",
            proxy.name,
            median(p50s),
            median(p99s),
            least(p99s),
            most(p99s)
        );
    }
}

fn report(all: &[Proxy; 3], turns: &[Turns; 3], path: &str) {
    for (proxy, turns) in all.iter().zip(turns) {
        println!(
            "proxy {path}, {}: {:.0} requests/s ({:.0} to {:.0}) over {CONNECTIONS} connections, {:.1} µs of CPU each",
            proxy.name,
            median(&turns.rates),
            least(&turns.rates),
            most(&turns.rates),
            median(&turns.costs),
        );
    }
    for (peer, theirs) in all.iter().zip(turns).skip(1) {
        let ratios: Vec<f64> =
            turns[0].rates.iter().zip(&theirs.rates).map(|(ours, theirs)| ours / theirs).collect();
        println!(
            "proxy {path}: {:.2} times {} ({:.2} to {:.2})",
            median(&ratios),
            peer.name,
            least(&ratios),
            most(&ratios)
        );
    }
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::MAX, f64::min)
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::MIN, f64::max)
}

fn config(name: &str, listen: SocketAddr, backend: SocketAddr) -> String {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers").join(name))
        .unwrap()
        .replace("LISTEN", &listen.to_string())
        .replace("BACKEND", &backend.to_string())
        .replace("THREADS", &threads.to_string())
}

/// nginx with `config` in a directory of its own.
fn start_nginx(name: &'static str, dir: &Path, config: &str) -> Program {
    fs::create_dir_all(dir.join("www")).unwrap();
    fs::write(dir.join("www/64k"), vec![b'x'; 64 * 1024]).unwrap();
    fs::write(dir.join("nginx.conf"), config).unwrap();
    let prefix = dir.to_str().unwrap();
    Program::start(name, "/usr/sbin/nginx", &["-p", prefix, "-c", "nginx.conf", "-g", "daemon off;"], &[])
}

fn start_haproxy(path: &Path, config: &str) -> Program {
    fs::write(path, config).unwrap();
    Program::start("haproxy", "/usr/sbin/haproxy", &["-db", "-f", path.to_str().unwrap()], &[])
}
