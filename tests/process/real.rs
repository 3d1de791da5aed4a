//! Servers that people run, each wrapped and registered, stopped in the middle of a download: it arrives
//! whole.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::programs::{Program, Server, free_address, status, wait_until};
use crate::registered::{HOST, wrap_registered};
use crate::{PATH, SERVER};

/// The download: 5 MiB in about three seconds, so that the stop certainly comes in the middle of it.
pub(crate) const SIZE: usize = 5 << 20;
const PARTS: usize = 60;
const PART_PAUSE: Duration = Duration::from_millis(50);

/// No two parts of it look alike.
fn content() -> Vec<u8> {
    (0..SIZE).map(|index| (index.wrapping_mul(2_654_435_761) >> 16) as u8).collect()
}

/// Downloads through the proxy, has `signal` sent once a part of it is there, and compares.
fn stopped_while_it_streams(server: &Server, mut sidecar: Program, path: &str, signal: &str) {
    sidecar.wait_for_log("live");
    let mut stream = TcpStream::connect(server.http).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n").unwrap();
    let (mut received, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
    while received.len() < SIZE / 10 {
        let count = stream.read(&mut chunk).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&chunk[..count]);
    }
    sidecar.signal(signal);
    wait_until("the route is gone", || status(server.http, HOST, "/x") != 200);
    assert!(received.len() < SIZE / 2);
    stream.read_to_end(&mut received).unwrap();
    let end_of_head = received.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    let (head, body) = received.split_at(end_of_head);
    let head = String::from_utf8_lossy(head);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(unchunked(&head, body) == content(), "{} of {SIZE} bytes, or others", body.len());
    assert_eq!(sidecar.wait().code(), Some(0));
    // The command heard of it when nothing was in flight any more.
    let log = sidecar.log().join("\n");
    let at = |what: &str| log.find(what).unwrap_or_else(|| panic!("no {what:?} in\n{log}"));
    assert!(at("drained, nothing is in flight") < at("to the command"), "{log}");
}

fn unchunked(head: &str, body: &[u8]) -> Vec<u8> {
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return body.to_vec();
    }
    let (mut rest, mut whole) = (body, Vec::new());
    loop {
        let end = rest.windows(2).position(|bytes| bytes == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
    }
}

/// An application behind the wrapped server, which takes its time.
pub(crate) fn slow_origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || stream_slowly(client));
        }
    });
    address
}

fn stream_slowly(mut client: TcpStream) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    write!(client, "HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\nConnection: close\r\n\r\n").ok()?;
    for part in content().chunks(SIZE / PARTS) {
        client.write_all(part).ok()?;
        thread::sleep(PART_PAUSE);
    }
    Some(())
}

/// Caddy, wrapped and registered with `server`, in front of an origin that is slow.
fn wrapped_caddy(server: &Server, directory: &TempDir, more: &[(&'static str, &str)]) -> Program {
    let (port, origin) = (free_address().port(), slow_origin());
    let file = directory.path().join("Caddyfile");
    let site = format!(
        "{{\n admin off\n auto_https off\n}}\nhttp://:{port} {{\n bind 127.0.0.1\n \
         handle /slow {{\n reverse_proxy {origin}\n }}\n respond 200\n}}\n"
    );
    std::fs::write(&file, site).unwrap();
    let words = ["caddy", "run", "--adapter", "caddyfile", "--config", file.to_str().unwrap()];
    let env = [&[("HOME", directory.path().to_str().unwrap())], more].concat();
    wrap_registered(server, port, &env, &words)
}

#[test]
fn caddy_finishes_a_download_when_it_is_stopped() {
    let (server, directory) = (Server::start(SERVER, &[]), tempfile::tempdir().unwrap());
    let sidecar = wrapped_caddy(&server, &directory, &[]);
    stopped_while_it_streams(&server, sidecar, "/slow", "TERM");
}

#[test]
fn a_second_signal_does_not_wait_for_a_download() {
    let (server, directory) = (Server::start(SERVER, &[("HOLD", "0s")]), tempfile::tempdir().unwrap());
    let sidecar = wrapped_caddy(&server, &directory, &[("SIDECAR_DRAIN_TIMEOUT", "1h")]);
    sidecar.wait_for_log("live");
    let mut stream = TcpStream::connect(server.http).unwrap();
    write!(stream, "GET /slow HTTP/1.1\r\nHost: {HOST}\r\n\r\n").unwrap();
    stream.read_exact(&mut vec![0; SIZE / 20]).unwrap();
    sidecar.signal("TERM");
    wait_until("no new requests come", || status(server.http, HOST, "/") != 200);
    assert!(!sidecar.log().iter().any(|line| line.contains("to the command")), "{:?}", sidecar.log());
    sidecar.signal("TERM");
    sidecar.wait_for_log("sending SIGTERM to the command");
    assert!(!sidecar.log().iter().any(|line| line.contains("in flight")), "{:?}", sidecar.log());
}

/// A directory that any worker may read, with the download in it.
fn site() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let open: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).unwrap();
    std::fs::write(directory.path().join("download"), content()).unwrap();
    std::fs::write(directory.path().join("index.html"), "x").unwrap();
    directory
}

fn nginx_is_stopped_by(signal: &str) {
    let (server, port, site) = (Server::start(SERVER, &[]), free_address().port(), site());
    let root = site.path().display();
    let config = format!(
        "pid {root}/pid; error_log stderr; events {{}} http {{ access_log off; \
         client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f; \
         uwsgi_temp_path {root}/u; scgi_temp_path {root}/s; \
         server {{ listen 127.0.0.1:{port}; root {root}; location /download {{ limit_rate 1700k; }} }} }}"
    );
    let file = site.path().join("nginx.conf");
    std::fs::write(&file, config).unwrap();
    let words = ["nginx", "-g", "daemon off;", "-c", file.to_str().unwrap()];
    let sidecar = wrap_registered(&server, port, &[], &words);
    stopped_while_it_streams(&server, sidecar, "/download", signal);
}

#[test]
fn nginx_finishes_a_download_when_it_is_stopped() {
    nginx_is_stopped_by("TERM");
}

#[test]
fn nginx_finishes_a_download_when_the_signal_of_its_image_comes() {
    nginx_is_stopped_by("QUIT");
}

/// php-fpm behind a caddy of the test's own, which speaks FastCGI with it.
fn fpm_is_stopped_by(signal: &str) {
    let fpm = php_fpm();
    let (server, web, fastcgi, site) = (Server::start(SERVER, &[]), free_address(), free_address(), site());
    let root = site.path().display();
    let script = format!(
        "<?php while (ob_get_level()) ob_end_clean(); $all = file_get_contents('{root}/download');\n\
         foreach (str_split($all, {}) as $part) {{ echo $part; flush(); usleep({}); }}\n",
        SIZE / PARTS,
        PART_PAUSE.as_micros()
    );
    std::fs::write(site.path().join("slow.php"), script).unwrap();
    let config = format!(
        "[global]\nerror_log = /dev/stderr\npid = {root}/pid\nprocess_control_timeout = 10s\n[www]\n\
         user = nobody\nlisten = {fastcgi}\npm = static\npm.max_children = 2\n"
    );
    let file = site.path().join("fpm.conf");
    std::fs::write(&file, config).unwrap();
    let caddyfile = format!(
        "{{\n admin off\n auto_https off\n}}\nhttp://:{} {{\n bind 127.0.0.1\n root * {root}\n \
         php_fastcgi {fastcgi}\n}}\n",
        web.port()
    );
    let caddyfile_path = site.path().join("Caddyfile");
    std::fs::write(&caddyfile_path, caddyfile).unwrap();
    let caddyfile_path = caddyfile_path.to_str().unwrap().to_owned();
    let env = [("PATH", PATH.to_owned()), ("HOME", root.to_string())];
    let words = ["run", "--adapter", "caddyfile", "--config", &caddyfile_path];
    let _caddy = Program::start("caddy", "caddy", &words, &env);
    wait_until("caddy listens", || TcpStream::connect(web).is_ok());
    let check = format!("tcp://{fastcgi}");
    let env =
        [("SIDECAR_READY_CHECK", check.as_str()), ("HEALTH_PATH", "/"), ("SIDECAR_HEALTH_INTERVAL", "0")];
    let words = [fpm.as_str(), "-F", "-R", "-y", file.to_str().unwrap()];
    let sidecar = wrap_registered(&server, web.port(), &env, &words);
    stopped_while_it_streams(&server, sidecar, "/slow.php", signal);
}

/// The newest that is installed; its name has the version in it.
fn php_fpm() -> String {
    let is_fpm = |path: &Path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("php-fpm"))
    };
    let found = std::fs::read_dir("/usr/sbin").unwrap().map_while(Result::ok).map(|entry| entry.path());
    let newest = found.filter(|path| is_fpm(path)).max();
    newest.expect("php-fpm is not installed: see scripts/test").to_str().unwrap().to_owned()
}

#[test]
fn php_fpm_finishes_a_request_when_it_is_stopped() {
    fpm_is_stopped_by("TERM");
}

#[test]
fn php_fpm_finishes_a_request_when_the_signal_of_its_image_comes() {
    fpm_is_stopped_by("QUIT");
}

/// A FastCGI request by hand for the script, which takes its time; what came back.
fn fastcgi(pool: std::net::SocketAddr, script: &str) -> String {
    let mut stream = TcpStream::connect(pool).unwrap();
    let mut params = Vec::new();
    for (name, value) in
        [("REQUEST_METHOD", "GET"), ("SCRIPT_FILENAME", script), ("SERVER_PROTOCOL", "HTTP/1.1")]
    {
        params.extend([name.len() as u8, value.len() as u8]);
        params.extend(name.bytes().chain(value.bytes()));
    }
    let record = |kind: u8, content: &[u8]| {
        let [high, low] = (content.len() as u16).to_be_bytes();
        [&[1, kind, 0, 1, high, low, 0, 0], content].concat()
    };
    let begin = record(1, &[0, 1, 0, 0, 0, 0, 0, 0]);
    stream.write_all(&[begin, record(4, &params), record(4, &[]), record(5, &[])].concat()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn php_fpm_in_front_of_nothing_ends_its_request_before_it_is_stopped() {
    let (fpm, pool, site) = (php_fpm(), free_address(), site());
    let root = site.path().display();
    std::fs::write(site.path().join("slow.php"), "<?php usleep(1500000); echo 'whole';").unwrap();
    // Without process_control_timeout the master ends its workers at once.
    let config = format!(
        "[global]\nerror_log = /dev/stderr\npid = {root}/pid\n[www]\nuser = nobody\nlisten = {pool}\n\
         pm = static\npm.max_children = 2\n"
    );
    let file = site.path().join("fpm.conf");
    std::fs::write(&file, config).unwrap();
    let check = format!("tcp://{pool}");
    let port = pool.port().to_string();
    for (name, value) in [("SIDECAR_READY_CHECK", check.as_str()), ("SIDECAR_DRAIN_PORTS", &port)] {
        let words = [fpm.as_str(), "-F", "-R", "-y", file.to_str().unwrap()];
        let mut sidecar = crate::wrap(&[(name, value), ("SIDECAR_DRAIN_TIMEOUT", "20s")], &words);
        wait_until("it listens", || TcpStream::connect(pool).is_ok());
        let script = format!("{root}/slow.php");
        let request = std::thread::spawn(move || fastcgi(pool, &script));
        wait_until("it is asked", || {
            let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
            let local = format!(":{:04X} ", pool.port());
            table.lines().any(|line| line.split_whitespace().nth(3) == Some("01") && line.contains(&local))
        });
        sidecar.signal("TERM");
        sidecar.wait_for_log("waiting for requests on 1 connections to the application to end");
        let answer = request.join().unwrap();
        assert!(answer.contains("whole"), "{name}: {answer:?}");
        sidecar.wait_for_log("sending SIGQUIT to the command");
        sidecar.wait();
    }
}
