//! Names with several addresses (SEMANTICS section 10), the registry's and the application's: the daemon in this process, with names that
//! resolve as the test says, and real servers on addresses of loopback.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failed assumption ends the test")]

#[path = "support/programs.rs"]
mod programs;
#[path = "support/reference.rs"]
mod reference;
#[path = "support/relay.rs"]
mod relay;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use programs::{Answer, Program, eventually, free_address, get, status, wait_until};
use registry_client::{Endpoint, Resolver};
use registry_sidecar::environment::Context;
use registry_sidecar::shutdown::{ShutdownTrigger, shutdown};
use registry_sidecar::sidecar::{config::Config, run_with};
use relay::Relay;

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");
const HOST: &str = "shop.example.com";

/// Names that have the addresses they are given.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<BTreeMap<&'static str, Vec<IpAddr>>>>);

impl Names {
    fn set(&self, name: &'static str, lasts: &[u8]) {
        let addresses = lasts.iter().map(|last| IpAddr::from([127, 0, 0, *last])).collect();
        self.0.lock().unwrap().insert(name, addresses);
    }
}

impl Resolver for Names {
    async fn resolve(&self, endpoint: &Endpoint) -> io::Result<Vec<SocketAddr>> {
        let found = self.0.lock().unwrap().get(endpoint.host.as_str()).cloned();
        match found {
            Some(addresses) => Ok(addresses.iter().map(|ip| SocketAddr::new(*ip, endpoint.port)).collect()),
            // A name server that is silent.
            None if endpoint.host == "silent" => std::future::pending().await,
            None => match endpoint.host.parse() {
                Ok(ip) => Ok(vec![SocketAddr::new(ip, endpoint.port)]),
                Err(_) => Err(io::Error::other("no such host")),
            },
        }
    }
}

/// A server on an address of loopback, its proxy on the same.
fn server(last: u8, registry: u16, http: u16) -> Program {
    server_with_admin(last, registry, http, "off")
}

fn server_with_admin(last: u8, registry: u16, http: u16, admin: &str) -> Program {
    let at = |port| SocketAddr::from(([127, 0, 0, last], port)).to_string();
    let env = [
        ("REGISTRY_LISTEN", at(registry)),
        ("HTTP_LISTEN", at(http)),
        ("ADMIN_LISTEN", admin.to_owned()),
        ("HOLD", "0s".to_owned()),
        ("BACKEND_ALLOW", "127.0.0.0/8".to_owned()),
    ];
    let program = Program::start("server", SERVER, &[], &env);
    wait_until("the server listens", || std::net::TcpStream::connect(at(registry)).is_ok());
    program
}

/// Ports that are free on every address that the tests use.
fn ports() -> (u16, u16) {
    (free_address().port(), free_address().port())
}

fn backend() -> SocketAddr {
    backend_at("127.0.0.1:0")
}

fn backend_at(listen: &str) -> SocketAddr {
    let listener = TcpListener::bind(listen).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer) {
                    if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

/// What a daemon logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A daemon in a thread of its own; asked to stop, and gone, when dropped.
struct Daemon {
    stop: ShutdownTrigger,
    log: Log,
    thread: Option<thread::JoinHandle<()>>,
}

impl Daemon {
    fn start(names: &Names, registry: u16, more: &[(&str, &str)]) -> Daemon {
        let (backend, port) = (backend(), registry.to_string());
        let backend_port = backend.port().to_string();
        let env = [
            ("REGISTRY_HOST", "proxies"),
            ("REGISTRY_PORT", port.as_str()),
            ("SERVICE_NAME", "shop"),
            ("INSTANCE_NAME", "shop-1"),
            ("DOMAINS", HOST),
            ("BACKEND_HOST", "127.0.0.1"),
            ("PORT", backend_port.as_str()),
            ("SIDECAR_DRAIN_TIMEOUT", "0"),
            ("SIDECAR_CONTROL_SOCKET", "/nonexistent/control.sock"),
        ];
        let vars = env.iter().filter(|(name, _)| !more.iter().any(|(other, _)| other == name)).chain(more);
        let vars = vars.map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let read_file = |_: &Path| Err("no files here".to_owned());
        let config = Config::from_env(vars, Context { host_name: "h", read_file: &read_file }).unwrap();
        let (stop, stopped) = shutdown();
        let (names, log) = (names.clone(), Log::default());
        let writer = log.clone();
        let thread = thread::spawn(move || {
            let told =
                tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
            let _telling = tracing::subscriber::set_default(told);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run_with(config, stopped, names));
            runtime.shutdown_background();
        });
        Daemon { stop, log, thread: Some(thread) }
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.0.lock().unwrap()).into_owned()
    }

    fn wait_for_log(&self, text: &str) {
        let found = eventually(|| self.log().contains(text).then_some(()));
        assert!(found.is_some(), "never logged {text:?}:\n{}", self.log());
    }

    /// Asks it to stop and waits until it has; how long that took.
    fn stop(&mut self) -> Duration {
        let asked = Instant::now();
        self.stop.request();
        self.thread.take().unwrap().join().unwrap();
        asked.elapsed()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop();
        }
        if thread::panicking() {
            println!("{}", self.log());
        }
    }
}

fn serves(last: u8, http: u16) -> bool {
    status(SocketAddr::from(([127, 0, 0, last], http)), HOST, "/") == 200
}

#[test]
fn every_address_gets_a_session_and_those_to_come_too() {
    let (registry, http) = ports();
    let (_two, _three) = (server(2, registry, http), server(3, registry, http));
    let names = Names::default();
    names.set("proxies", &[2, 3]);
    let mut daemon = Daemon::start(&names, registry, &[("SIDECAR_REGISTRY_EACH_ADDRESS", "true")]);
    wait_until("both serve it", || serves(2, http) && serves(3, http));

    let _four = server(4, registry, http);
    names.set("proxies", &[2, 3, 4]);
    wait_until("the new one serves it as well", || serves(4, http));

    daemon.stop();
    for last in [2, 3, 4] {
        wait_until("it was left in order", || !serves(last, http));
    }
}

#[test]
fn one_that_is_down_delays_nothing_on_the_others_and_is_registered_with_when_it_comes() {
    let (registry, http) = ports();
    let _two = server(2, registry, http);
    let names = Names::default();
    // Nobody listens at 3; what listens at 4 says nothing.
    let _silent = TcpListener::bind(SocketAddr::from(([127, 0, 0, 4], registry))).unwrap();
    names.set("proxies", &[4, 3, 2]);
    let started = Instant::now();
    let mut daemon = Daemon::start(&names, registry, &[("SIDECAR_REGISTRY_EACH_ADDRESS", "true")]);
    wait_until("the one that is there serves it", || serves(2, http));
    // Far less than any time-out of the silent one.
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let _three = server(3, registry, http);
    wait_until("the other one does as well", || serves(3, http));
    let took = daemon.stop();
    assert!(took < Duration::from_millis(1500), "{took:?}");
}

#[test]
fn a_name_that_is_never_resolved_delays_neither_the_others_nor_the_stop() {
    let (registry, http) = ports();
    let _two = server(2, registry, http);
    for each in ["true", "false"] {
        let names = Names::default();
        names.set("proxies", &[2]);
        let env = [("SIDECAR_REGISTRY_EACH_ADDRESS", each), ("REGISTRY_HOST", "silent,proxies,missing")];
        let started = Instant::now();
        let mut daemon = Daemon::start(&names, registry, &env);
        wait_until("it is served", || serves(2, http));
        assert!(started.elapsed() < Duration::from_secs(2), "{each}: {:?}", started.elapsed());
        let took = daemon.stop();
        assert!(took < Duration::from_millis(1500), "{each}: {took:?}");
        wait_until("it is gone", || !serves(2, http));
    }
}

#[test]
fn two_addresses_of_one_registry_share_a_session_and_nobody_fights() {
    let (registry, http) = ports();
    let admin = free_address();
    let _one = server_with_admin(1, registry, http, &admin.to_string());
    let target = SocketAddr::from(([127, 0, 0, 1], registry));
    let ways = [2, 3].map(|last| Relay::start_at(SocketAddr::from(([127, 0, 0, last], registry)), target));
    let sent = |what: &str| ways.iter().map(|way| way.sent().matches(what).count()).sum::<usize>();
    let names = Names::default();
    names.set("proxies", &[2, 3]);
    let mut daemon = Daemon::start(&names, registry, &[("SIDECAR_REGISTRY_EACH_ADDRESS", "true")]);
    let shared = "share their state: one session is enough for both";
    daemon.wait_for_log(shared);
    wait_until("it is served", || serves(1, http));
    wait_until("the session that stays is live", || {
        daemon.log().split_once(shared).is_some_and(|(_, then)| then.contains("live: "))
    });
    // The older session serves until the newer one's backend has answered the proxy.
    let has_one_member = |answer: Answer| answer.body.contains("\"members_total\": 1,");
    wait_until("the newer one serves alone", || {
        get(admin, "localhost", "/status").is_some_and(has_one_member)
    });
    assert_eq!(sent("REGISTER|"), 2);
    assert!(serves(1, http), "the end of the older session touches nothing of the newer one");
    assert!(!daemon.log().contains("taken this one's place"), "{}", daemon.log());
    daemon.stop();
    assert!(!serves(1, http));
    assert_eq!(sent("REGISTER|"), 2, "{}", daemon.log());
}

#[test]
fn registries_that_do_not_share_their_state_are_warned_about_once() {
    let (registry, http) = ports();
    let servers = [server(2, registry, http), server(3, registry, http)];
    let shared = Relay::start_at(
        SocketAddr::from(([127, 0, 0, 4], registry)),
        SocketAddr::from(([127, 0, 0, 2], registry)),
    );
    let names = Names::default();
    names.set("proxies", &[2, 4]);
    let daemon = Daemon::start(&names, registry, &[]);
    daemon.wait_for_log("live: ");
    wait_until("the other address was asked", || shared.sent().contains("SESSION_INFO|"));
    drop(daemon);

    names.set("proxies", &[2, 3, 4]);
    let daemon = Daemon::start(&names, registry, &[]);
    daemon.wait_for_log("set SIDECAR_REGISTRY_EACH_ADDRESS=true");
    let log = daemon.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("EACH_ADDRESS")).collect();
    assert!(told.len() == 1 && told[0].contains("127.0.0.2 is unknown at 127.0.0.3, where"), "{told:?}");
    drop(servers);
}

#[test]
fn without_the_variable_any_one_will_do_and_the_next_when_it_fails() {
    let (registry, http) = ports();
    let (mut two, _three) = (server(2, registry, http), server(3, registry, http));
    let names = Names::default();
    names.set("proxies", &[2, 3]);
    let _daemon = Daemon::start(&names, registry, &[]);
    wait_until("the first serves it", || serves(2, http));
    assert!(!serves(3, http));
    two.kill();
    wait_until("the second serves it", || serves(3, http));
}

#[test]
fn an_application_whose_name_others_have_too_keeps_its_address_and_never_gets_theirs() {
    let (registry, http) = ports();
    let _one = server(1, registry, http);
    let port = backend_at("0.0.0.0:0").port().to_string();
    let names = Names::default();
    names.set("proxies", &[1]);
    names.set("app", &[5, 6]);
    let env = [("BACKEND_HOST", "app"), ("PORT", port.as_str()), ("SIDECAR_WAIT_FOR_PORT", "false")];
    let daemon = Daemon::start(&names, registry, &env);
    daemon
        .wait_for_log("waiting 15s for one address: BACKEND_HOST app has the addresses 127.0.0.5, 127.0.0.6");
    assert!(!daemon.log().contains("connected to"), "{}", daemon.log());
    names.set("app", &[5]);
    wait_until("it is served", || serves(1, http));

    names.set("app", &[4, 5]);
    daemon.wait_for_log("127.0.0.5 is still advertised, but BACKEND_HOST app has the addresses 127.0.0.4, ");
    assert!(serves(1, http));
    names.set("app", &[4]);
    wait_until("what is left is somebody else's", || !serves(1, http));
    assert!(daemon.log().contains("of which only 127.0.0.4 is left"), "{}", daemon.log());
    assert!(!daemon.log().contains("127.0.0.4:"), "{}", daemon.log());
    names.set("app", &[4, 5]);
    wait_until("its own is back", || serves(1, http));
    names.set("app", &[4, 7]);
    wait_until("of these nobody knows which", || !serves(1, http));
    names.set("app", &[7]);
    wait_until("its successor is served", || serves(1, http));
    daemon.wait_for_log("; it was 127.0.0.5");
}

/// What answers at the host, asked often enough to meet all members.
fn answers(last: u8, http: u16) -> std::collections::BTreeSet<String> {
    let proxy = SocketAddr::from(([127, 0, 0, last], http));
    (0..30)
        .filter_map(|_| get(proxy, HOST, "/"))
        .map(|answer| format!("{} {}", answer.status, answer.body))
        .collect()
}

/// A replica that says its own number.
fn replica(last: u8, port: u16) -> Program {
    let address = SocketAddr::from(([127, 0, 0, last], port));
    programs::caddy(address, &format!("replica {last}"))
}

fn both(lasts: &[u8]) -> std::collections::BTreeSet<String> {
    lasts.iter().map(|last| format!("200 replica {last}")).collect()
}

#[test]
fn each_replica_behind_a_name_gets_requests_and_they_come_and_go() {
    let (registry, http) = ports();
    let port = free_address().port();
    let (_server, port_text) = (server(2, registry, http), port.to_string());
    let names = Names::default();
    names.set("proxies", &[2]);
    names.set("tasks.shop", &[11, 12, 13]);
    let (_one, mut two) = (replica(11, port), replica(12, port));
    let env = [
        ("BACKEND_HOST", "tasks.shop"),
        ("SIDECAR_BACKEND_EACH_ADDRESS", "true"),
        ("PORT", port_text.as_str()),
        ("SIDECAR_READY_INTERVAL", "100ms"),
    ];
    let mut daemon = Daemon::start(&names, registry, &env);
    wait_until("the two that answer serve", || answers(2, http) == both(&[11, 12]));
    daemon.wait_for_log("has 3 replicas");
    // The third one was slow to start.
    let _three = replica(13, port);
    wait_until("the third one serves too", || answers(2, http) == both(&[11, 12, 13]));
    // One of them is scaled away.
    names.set("tasks.shop", &[11, 13]);
    daemon.wait_for_log("has 2 replicas");
    wait_until("it gets no requests any more", || answers(2, http) == both(&[11, 13]));
    two.kill();
    assert_eq!(answers(2, http), both(&[11, 13]));
    daemon.stop();
    wait_until("all are left", || !serves(2, http));
}

#[test]
fn a_reference_server_gets_one_of_the_replicas_and_the_log_says_so() {
    let reference = reference::Reference::start();
    let port = free_address().port();
    let (_one, _two, port_text) = (replica(11, port), replica(12, port), port.to_string());
    let names = Names::default();
    names.set("proxies", &[1]);
    names.set("tasks.shop", &[11, 12]);
    let env = [
        ("BACKEND_HOST", "tasks.shop"),
        ("SIDECAR_BACKEND_EACH_ADDRESS", "true"),
        ("PORT", port_text.as_str()),
    ];
    let daemon = Daemon::start(&names, reference.address.port(), &env);
    daemon.wait_for_log("one backend for a domain and path is understood");
    daemon.wait_for_log("configuration applied");
    let added =
        reference.lines().iter().filter(|line| line.starts_with("ROUTE_ADD|")).cloned().collect::<Vec<_>>();
    assert!(!added.is_empty() && added.iter().all(|line| line.contains("http://127.0.0.11:")), "{added:?}");
}

#[test]
fn of_two_routes_on_two_ports_the_one_whose_port_is_dead_does_not_hold_back_the_other() {
    let (registry, http) = ports();
    let _server = server(2, registry, http);
    let (one, two) = (free_address(), free_address());
    let names = Names::default();
    names.set("proxies", &[2]);
    let routes = format!(
        r#"[{{"domains":"{HOST}","port":{}}},{{"domains":"api.example.com","port":{}}}]"#,
        one.port(),
        two.port()
    );
    let env = [
        ("DOMAINS", ""),
        ("SIDECAR_ROUTES", routes.as_str()),
        ("SIDECAR_READY_INTERVAL", "100ms"),
        ("SIDECAR_READY_FALL", "2"),
    ];
    let proxy = SocketAddr::from(([127, 0, 0, 2], http));
    let api = || status(proxy, "api.example.com", "/");
    let mut first = programs::caddy(one, "web");
    let daemon = Daemon::start(&names, registry, &env);
    wait_until("the first one serves", || serves(2, http));
    assert_eq!(api(), 404, "what was never ready is not registered");
    let mut second = programs::caddy(two, "api");
    wait_until("the second one serves too", || api() == 200);
    second.kill();
    daemon.wait_for_log("is not ready any more");
    assert!(serves(2, http), "the first one is not drained");
    let _second = programs::caddy(two, "api");
    wait_until("the second one serves again", || api() == 200);
    // Without any of them the application is not ready.
    drop(_second);
    first.kill();
    daemon.wait_for_log("its routes are taken out");
}
