//! READY_CHECK of every kind, for real: the real sidecar, beside and around an application.

#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

#[path = "support/programs.rs"]
mod programs;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use programs::{Program, Server, free_address, status, wait_until};

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");
const SIDECAR: &str = env!("CARGO_BIN_EXE_registry-sidecar");
const HOST: &str = "shop.example.com";
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Tries follow each other at once, and each counts.
const FAST: [(&str, &str); 4] = [
    ("SIDECAR_READY_INTERVAL", "50ms"),
    ("SIDECAR_READY_FALL", "1"),
    ("SIDECAR_HEALTH_INTERVAL", "0"),
    ("SIDECAR_READY_TIMEOUT", "10s"),
];

fn sidecar(server: &Server, port: u16, words: &[&str], more: &[(&'static str, &str)]) -> Program {
    let more = [&FAST[..], more].concat();
    let mut env = server.sidecar_env(port, &more);
    env.push(("PATH", PATH.to_owned()));
    Program::start("sidecar", SIDECAR, words, &env)
}

/// Answers every request with `status`, as long as the program lives.
fn serve(listen: SocketAddr, status: &'static str) {
    let listener = TcpListener::bind(listen).unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer) {
                    if write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").is_err() {
                        break;
                    }
                }
            });
        }
    });
}

/// The processes whose command line contains `words`.
fn processes(words: &str) -> usize {
    let cmdline = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("cmdline")).ok();
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(cmdline);
    all.filter(|line| line.replace('\0', " ").contains(words)).count()
}

#[test]
fn several_checks_must_all_pass_and_the_log_says_which_does_not() {
    let (server, backend, health) = (Server::start(SERVER, &[]), free_address(), free_address());
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let checks = format!(
        "tcp://{backend} http://{health}/up unix:{} file:{} exec:test -e {} || {{ echo no flag; exit 3; }}",
        at("app.sock"),
        at("ready"),
        at("flag")
    );
    let sidecar = sidecar(
        &server,
        backend.port(),
        &[],
        &[
            ("SIDECAR_READY_CHECK", &checks),
            // Still waiting is told after 5 s; longer than this at once.
            ("PORT_WAIT_TIMEOUT", "1ms"),
            ("SIDECAR_LOG_LEVEL", "debug"),
        ],
    );
    sidecar.wait_for_log(&format!("tcp://{backend}: Connection refused"));
    serve(backend, "200 OK");
    serve(health, "204 No Content");
    let _listener = UnixListener::bind(at("app.sock")).unwrap();
    fs::write(at("ready"), "").unwrap();
    assert_eq!(status(server.http, HOST, "/"), 404);
    fs::write(at("flag"), "").unwrap();
    sidecar.wait_for_log("live: ");

    fs::remove_file(at("flag")).unwrap();
    let lost = sidecar.wait_for_log("the application is not ready any more");
    assert!(lost.contains("exec:test -e") && lost.contains("it ended with 3: no flag"), "{lost}");
    fs::write(at("flag"), "").unwrap();
    wait_until("it is back", || status(server.http, HOST, "/") == 200);
}

#[test]
fn a_check_that_hangs_is_killed_with_everything_that_it_started() {
    let (server, backend) = (Server::start(SERVER, &[]), free_address());
    serve(backend, "200 OK");
    // A number of seconds that nobody else sleeps for.
    let nap = format!("sleep 1{}", backend.port());
    let folder = tempfile::tempdir().unwrap();
    let tries = folder.path().join("tries");
    let check = format!("exec:echo >> {}; ({nap} & {nap})", tries.display());
    let sidecar = sidecar(
        &server,
        backend.port(),
        &[],
        &[("SIDECAR_READY_CHECK", &check), ("SIDECAR_READY_TIMEOUT", "300ms"), ("PORT_WAIT_TIMEOUT", "1ms")],
    );
    let told = sidecar.wait_for_log("the application is not ready after");
    assert!(told.contains("no answer within 300ms"), "{told}");
    wait_until("it was tried often", || fs::read(&tries).is_ok_and(|lines| lines.len() >= 5));
    // Two shells and two naps of the present try, nothing of those before.
    assert!(processes(&nap) <= 4, "{}", processes(&nap));
    sidecar.signal("TERM");
    wait_until("nothing is left behind", || processes(&nap) == 0);
}

#[test]
fn a_check_finds_the_environment_without_what_is_meant_for_the_sidecar() {
    let (server, backend) = (Server::start(SERVER, &[]), free_address());
    serve(backend, "200 OK");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("env").to_str().unwrap().to_owned();
    let check = format!("exec:env > {file}.new && mv {file}.new {file}");
    let _sidecar = sidecar(
        &server,
        backend.port(),
        &[],
        &[("SIDECAR_READY_CHECK", &check), ("SIDECAR_REGISTRY_TOKEN", "hush"), ("COLOUR", "red")],
    );
    wait_until("it has run", || Path::new(&file).exists());
    let seen = fs::read_to_string(&file).unwrap();
    assert!(seen.contains("COLOUR=red") && !seen.contains("SIDECAR_") && !seen.contains("hush"), "{seen}");
}

#[test]
fn around_a_command_a_check_runs_in_its_place_and_with_its_secrets() {
    let (server, backend) = (Server::start(SERVER, &[]), free_address());
    serve(backend, "200 OK");
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().to_str().unwrap();
    fs::write(folder.path().join("password"), "open sesame\n").unwrap();
    let secret = format!("{directory}/password");
    let mut sidecar = sidecar(
        &server,
        backend.port(),
        &["--", "sleep", "600"],
        &[
            ("APP_DIR", directory),
            ("SIDECAR_SECRETS", "DB_PASSWORD"),
            ("DB_PASSWORD_FILE", &secret),
            ("SIDECAR_READY_CHECK", r#"exec:test "$DB_PASSWORD" = "open sesame" && test -e password"#),
        ],
    );
    sidecar.wait_for_log("live: ");
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(143), "the command's own end, by SIGTERM");
}
