//! The real server, a backend that counts what reaches it, and peers to compare with.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustls::{ClientConfig, RootCertStore};

use crate::programs::{Program, Server, free_address, status, wait_until};

/// Served without TLS.
pub(crate) const HOST: &str = "plain.example.com";
/// Served with TLS.
pub(crate) const TLS_HOST: &str = "tls.example.com";

/// A proxy under test.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    _program: Running,
}

enum Running {
    Ours(#[allow(dead_code, reason = "killed when dropped")] Server),
    Peer(#[allow(dead_code, reason = "killed when dropped")] Program),
}

pub(crate) struct Stage {
    pub(crate) ours: Proxy,
    /// Empty unless CONFORMANCE_BESIDE is set.
    pub(crate) peers: Vec<Proxy>,
    pub(crate) authority: rcgen::Certificate,
    _files: tempfile::TempDir,
}

impl Stage {
    /// All of them in front of `backend`.
    pub(crate) fn before(backend: SocketAddr) -> Stage {
        let files = tempfile::tempdir().unwrap();
        let authority = certificate(files.path());
        let ours = ours(files.path(), &format!("http://{}", backend), "");
        let peers = match std::env::var_os("CONFORMANCE_BESIDE") {
            Some(_) => peers(files.path(), backend),
            None => Vec::new(),
        };
        for proxy in peers.iter().chain([&ours]) {
            wait_until(proxy.name, || status(proxy.http, HOST, "/") == 200);
        }
        Stage { ours, peers, authority, _files: files }
    }
}

/// The real server in front of `backend`. `options` are further lines of its routes in ROUTES_FILE.
pub(crate) fn ours(files: &Path, backend: &str, options: &str) -> Proxy {
    let routes = files.join("routes.yml");
    let route =
        |host: &str| format!("  - service: web\n    domains: {host}\n    backend: {backend}\n{options}");
    fs::write(&routes, format!("routes:\n{}{}", route(HOST), route(TLS_HOST))).unwrap();
    let https = free_address();
    let listen = https.to_string();
    let more = [
        ("ROUTES_FILE", routes.to_str().unwrap()),
        ("HTTPS_LISTEN", listen.as_str()),
        ("CERT_DIR", files.to_str().unwrap()),
        // What one thread has learnt of a backend the others do not know.
        ("PROXY_THREADS", "1"),
    ];
    let server = Server::start(env!("CARGO_BIN_EXE_registry-server"), &more);
    Proxy { name: "ours", http: server.http, https, _program: Running::Ours(server) }
}

/// A certificate for [`TLS_HOST`] that signs itself, and its key, as files.
pub(crate) fn certificate(files: &Path) -> rcgen::Certificate {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new([TLS_HOST.to_owned()]).unwrap().self_signed(&key).unwrap();
    fs::write(files.join("tls.example.com.crt"), certificate.pem()).unwrap();
    fs::write(files.join("tls.example.com.key"), key.serialize_pem()).unwrap();
    // HAProxy wants both in one file.
    fs::create_dir(files.join("both")).unwrap();
    fs::write(files.join("both/tls.pem"), certificate.pem() + &key.serialize_pem()).unwrap();
    certificate
}

/// A client that trusts `authority` and speaks `protocol`.
pub(crate) fn client_config(authority: &rcgen::Certificate, protocol: &[u8]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = versions.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

fn peers(files: &Path, backend: SocketAddr) -> Vec<Proxy> {
    let at = |name: &str| files.join(name).to_str().unwrap().to_owned();
    let (certificate, key, both) = (at("tls.example.com.crt"), at("tls.example.com.key"), at("both/tls.pem"));
    let start = |name: &'static str, config: &str, program: &str, args: &[&str]| {
        let (http, https) = (free_address(), free_address());
        let text = config
            .replace("HTTP_PORT", &http.port().to_string())
            .replace("HTTPS_PORT", &https.port().to_string())
            .replace("HTTPS", &https.to_string())
            .replace("HTTP", &http.to_string())
            .replace("BACKEND", &backend.to_string())
            .replace("CERTIFICATE", &certificate)
            .replace("KEY", &key)
            .replace("BOTH", &both)
            .replace("DIRECTORY", files.to_str().unwrap());
        let file = at(&format!("{name}.conf"));
        fs::write(&file, text).unwrap();
        let args: Vec<&str> =
            args.iter().map(|arg| if *arg == "FILE" { file.as_str() } else { arg }).collect();
        let home = [("HOME", files.to_str().unwrap().to_owned())];
        let program = Program::start(name, program, &args, &home);
        Proxy { name, http, https, _program: Running::Peer(program) }
    };
    vec![
        start("nginx", NGINX, "/usr/sbin/nginx", &["-c", "FILE", "-g", "daemon off;"]),
        start("haproxy", HAPROXY, "/usr/sbin/haproxy", &["-db", "-f", "FILE"]),
        start("caddy", CADDY, "/usr/bin/caddy", &["run", "--adapter", "caddyfile", "--config", "FILE"]),
    ]
}

const NGINX: &str = "
pid DIRECTORY/nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path DIRECTORY/body;
    proxy_temp_path DIRECTORY/proxy;
    fastcgi_temp_path DIRECTORY/fastcgi;
    uwsgi_temp_path DIRECTORY/uwsgi;
    scgi_temp_path DIRECTORY/scgi;
    server {
        listen HTTP;
        listen HTTPS ssl http2;
        ssl_certificate CERTIFICATE;
        ssl_certificate_key KEY;
        location / {
            proxy_http_version 1.1;
            proxy_set_header Host $host;
            proxy_set_header Connection '';
            proxy_pass http://web;
        }
    }
    upstream web { server BACKEND; keepalive 32; }
}
";

const HAPROXY: &str = "
defaults
    mode http
    timeout client 10s
    timeout server 10s
    timeout connect 2s
frontend all
    bind HTTP
    bind HTTPS ssl crt BOTH alpn h2,http/1.1
    default_backend web
backend web
    server web BACKEND
";

const CADDY: &str = "
{
    admin off
    auto_https off
    storage file_system DIRECTORY/caddy
}
http://:HTTP_PORT {
    reverse_proxy BACKEND
}
https://:HTTPS_PORT {
    tls CERTIFICATE KEY
    reverse_proxy BACKEND
}
";

/// Answers each request with `ok`, and counts them.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    seen: Arc<AtomicUsize>,
}

impl Backend {
    pub(crate) fn start() -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, seen) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
        let all = Arc::clone(&seen);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let seen = Arc::clone(&all);
                thread::spawn(move || answer_all(client, &seen));
            }
        });
        Backend { address, seen }
    }

    /// How many requests have reached it.
    pub(crate) fn seen(&self) -> usize {
        self.seen.load(Ordering::SeqCst)
    }
}

/// Until the connection ends, or a request is none.
fn answer_all(client: TcpStream, seen: &AtomicUsize) -> Option<()> {
    let mut client = BufReader::new(client);
    loop {
        let mut lines = Vec::new();
        while lines.last().is_none_or(|line: &String| !line.is_empty()) {
            let mut line = Vec::new();
            client.read_until(b'\n', &mut line).ok().filter(|length| *length > 0)?;
            lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        seen.fetch_add(1, Ordering::SeqCst);
        let field = |name: &str| {
            let of = |line: &String| Some(line.to_ascii_lowercase().strip_prefix(name)?.trim().to_owned());
            lines.iter().find_map(of)
        };
        if field("transfer-encoding:").is_some() {
            read_chunks(&mut client)?;
        } else {
            let length = field("content-length:").and_then(|length| length.parse().ok()).unwrap_or(0);
            client.read_exact(&mut vec![0; length]).ok()?;
        }
        let body = if lines[0].starts_with("HEAD ") { "" } else { "ok" };
        write!(client.get_mut(), "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}").ok()?;
    }
}

fn read_chunks(client: &mut BufReader<TcpStream>) -> Option<()> {
    loop {
        let mut size = String::new();
        client.read_line(&mut size).ok().filter(|length| *length > 0)?;
        let size = usize::from_str_radix(size.trim().split(';').next()?, 16).ok()?;
        if size > 0 {
            client.read_exact(&mut vec![0; size + 2]).ok()?;
            continue;
        }
        loop {
            let mut trailer = String::new();
            client.read_line(&mut trailer).ok().filter(|length| *length > 0)?;
            if trailer.trim().is_empty() {
                return Some(());
            }
        }
    }
}
