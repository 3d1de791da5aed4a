//! Certificates from a real authority (Caddy's), and from one that is in trouble.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "support/programs.rs"]
mod programs;

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use programs::{Program, free_address};
use registry_sidecar::environment::Context;
use registry_sidecar::server::Server;
use registry_sidecar::server::admin::query;
use registry_sidecar::server::config::Config;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Nothing in these tests takes this long unless it never comes.
const SOON: Duration = Duration::from_secs(60);

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let come = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, come).await.is_ok(), "did not come true: {what}");
}

/// An address of this test's own: authorities ask on the ports 80 and 443 and no others.
fn address(last: u8) -> Ipv4Addr {
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, low, last)
}

/// Caddy as an authority, in whose eyes the names lead where a file of hosts says.
struct Authority {
    folder: tempfile::TempDir,
    address: SocketAddr,
    program: Program,
}

impl Authority {
    fn start(hosts: &[(&str, Ipv4Addr)]) -> Authority {
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let lines = hosts.iter().map(|(name, address)| format!("{address} {name}\n"));
        std::fs::write(
            folder.path().join("hosts"),
            format!("127.0.0.1 localhost\n{}", lines.collect::<String>()),
        )
        .unwrap();
        let caddyfile = format!(
            "{{\n  admin off\n  skip_install_trust\n  auto_https disable_redirects\n}}\n\
             https://localhost:{} {{\n  bind 127.0.0.1\n  tls internal\n  acme_server\n}}\n",
            address.port()
        );
        std::fs::write(folder.path().join("Caddyfile"), caddyfile).unwrap();
        let program = Authority::run(folder.path());
        Authority { folder, address, program }
    }

    fn run(folder: &Path) -> Program {
        let data = folder.display().to_string();
        let line = format!(
            "mount --bind {data}/hosts /etc/hosts && exec /usr/bin/caddy run --config {data}/Caddyfile --adapter caddyfile"
        );
        let args = ["--map-root-user", "--mount", "/bin/sh", "-c", &line];
        let env = [("XDG_DATA_HOME", data.clone()), ("XDG_CONFIG_HOME", data.clone())];
        Program::start("authority", "/usr/bin/unshare", &args, &env)
    }

    fn directory(&self) -> String {
        format!("https://localhost:{}/acme/local/directory", self.address.port())
    }

    /// The certificate that it signs with, as soon as it has made it and listens.
    async fn root(&self) -> PathBuf {
        let root = self.folder.path().join("caddy/pki/authorities/local/root.crt");
        until("the authority listens", async || {
            root.exists() && TcpStream::connect(self.address).await.is_ok()
        })
        .await;
        root
    }
}

/// A server that orders certificates, with its parts on the ports where authorities ask.
struct Edge {
    vars: Vec<(&'static str, String)>,
    http: SocketAddr,
    https: SocketAddr,
    state: tempfile::TempDir,
}

impl Edge {
    fn new(http: Ipv4Addr, https: Ipv4Addr, directory: String, ca: Option<&Path>) -> Edge {
        let state = tempfile::tempdir().unwrap();
        let (http, https) = (SocketAddr::from((http, 80)), SocketAddr::from((https, 443)));
        let mut vars = vec![
            ("HTTP_LISTEN", http.to_string()),
            ("HTTPS_LISTEN", https.to_string()),
            ("REGISTRY_LISTEN", "127.0.0.1:0".to_owned()),
            ("ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
            ("PROXY_THREADS", "2".to_owned()),
            ("HOLD", "0s".to_owned()),
            ("START_HOLD", "0s".to_owned()),
            ("STATE_FILE", state.path().join("registry.redb").display().to_string()),
            ("ACME_EMAIL", "you@example.com".to_owned()),
            ("ACME_DIRECTORY", directory),
        ];
        vars.extend(ca.map(|ca| ("ACME_CA_FILE", ca.display().to_string())));
        Edge { vars, http, https, state }
    }

    async fn start(&self) -> Server {
        let vars = self.vars.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let read_file = |path: &Path| std::fs::read(path).map_err(|error| error.to_string());
        let config = Config::from_env(vars, Context { host_name: "proxy", read_file: &read_file }).unwrap();
        Server::start(&config).await.unwrap()
    }

    /// The files that are kept for the authority.
    fn kept(&self) -> Vec<(String, u32)> {
        let Ok(authorities) = std::fs::read_dir(self.state.path().join("acme")) else { return Vec::new() };
        let files = authorities.flat_map(|folder| std::fs::read_dir(folder.unwrap().path()).unwrap());
        let mut files: Vec<_> = files
            .map(|file| {
                let file = file.unwrap();
                let mode = file.metadata().unwrap().permissions().mode() & 0o777;
                (file.file_name().into_string().unwrap(), mode)
            })
            .collect();
        files.sort();
        files
    }

    /// Whether a client that trusts the authority gets a certificate for `host`.
    async fn serves(&self, host: &str, root: &Path) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(root).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let Ok(stream) = TcpStream::connect(self.https).await else { return false };
        let name = ServerName::try_from(host.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.is_ok()
    }
}

/// Claims hosts until it is dropped.
async fn claim(server: &Server, service: &str, hosts: &[&str]) -> BufReader<TcpStream> {
    let mut stream = BufReader::new(TcpStream::connect(server.registry_address()).await.unwrap());
    let mut lines = vec![format!("REGISTER|{service}|{service}-1|0|")];
    let session = {
        stream.write_all(format!("{}\n", lines.remove(0)).as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_line(&mut reply).await.unwrap();
        reply.trim().strip_prefix("ACK|").expect(&reply).to_owned()
    };
    let routes = hosts.iter().map(|host| format!("ROUTE_ADD|{session}|{host}|/|http://127.0.0.1:9|0"));
    for line in routes.chain([format!("CONFIG_APPLY|{session}")]) {
        stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_line(&mut reply).await.unwrap();
        assert!(!reply.starts_with("ERROR"), "{line}: {reply}");
    }
    stream
}

/// Ends the session and its claims.
async fn leave(mut session: BufReader<TcpStream>) {
    session.write_all(b"CLIENT_SHUTDOWN|\n").await.unwrap();
    let mut reply = String::new();
    session.read_line(&mut reply).await.unwrap();
    assert_eq!(reply.trim(), "SHUTDOWN_OK");
}

/// What /status says of a host's certificate.
async fn report(server: &Server, host: &str) -> serde_json::Value {
    let address = server.admin_address().unwrap();
    let text = tokio::task::spawn_blocking(move || query(address, "/status").unwrap()).await.unwrap();
    let status: serde_json::Value = serde_json::from_str(&text).unwrap();
    let all = status["certificates"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|found| found["host"] == host).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn claimed_hosts_get_certificates_by_either_challenge_and_keep_them_over_a_restart() {
    let (http, https) = (address(1), address(2));
    let mut authority = Authority::start(&[
        ("a.acme.example", http),
        // Somebody else answers on its port 80: only the handshake can convince.
        ("b.acme.example", https),
        ("c.acme.example", http),
        ("elsewhere.acme.example", address(3)),
    ]);
    let _other = programs::caddy(SocketAddr::from((https, 80)), "somebody else");
    let _third = programs::caddy(SocketAddr::from((address(3), 80)), "somebody else");
    let root = authority.root().await;
    let edge = Edge::new(http, https, authority.directory(), Some(&root));
    let server = edge.start().await;
    let hosts = ["a.acme.example", "b.acme.example", "elsewhere.acme.example", "*.acme.example", "localhost"];
    let session = claim(&server, "shop", &hosts).await;

    until("by HTTP-01", async || edge.serves("a.acme.example", &root).await).await;
    until("by TLS-ALPN-01", async || edge.serves("b.acme.example", &root).await).await;
    let answer = programs::get(edge.http, "a.acme.example", "/x").unwrap();
    assert!(answer.head.contains("location: https://a.acme.example/x"), "{}", answer.head);
    until("the host that leads elsewhere has failed", async || {
        report(&server, "elsewhere.acme.example").await["error"].is_string()
    })
    .await;
    assert!(report(&server, "a.acme.example").await["ends"].is_string());
    assert!(
        report(&server, "*.acme.example").await.is_null() && report(&server, "localhost").await.is_null()
    );
    let kept = [("a.acme.example.pem", 0o600), ("account.json", 0o600), ("b.acme.example.pem", 0o600)];
    assert_eq!(edge.kept(), kept.map(|(name, mode)| (name.to_owned(), mode)));

    // Nothing is to be ordered while the authority is away, so that it is asked again at once when it is back.
    leave(session).await;
    server.stop().await;
    authority.program.kill();
    let server = edge.start().await;
    assert!(edge.serves("a.acme.example", &root).await, "what is kept serves without the authority");
    authority.program = Authority::run(authority.folder.path());
    authority.root().await;
    let _session = claim(&server, "other", &["c.acme.example"]).await;
    until("with the account from before", async || edge.serves("c.acme.example", &root).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_in_trouble_is_told_with_its_status_and_asked_once() {
    let trouble = TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = format!("http://{}/directory", trouble.local_addr().unwrap());
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in trouble.incoming() {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(
                b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7200\r\nContent-Length: 7\r\n\r\n<html/>",
            );
        }
    });
    let edge = Edge::new(address(1), address(2), directory, None);
    let server = edge.start().await;
    let _session = claim(&server, "shop", &["a.acme.example", "b.acme.example"]).await;
    until("the failure is told", async || report(&server, "a.acme.example").await["error"].is_string()).await;
    let told = report(&server, "a.acme.example").await["error"].to_string();
    assert!(told.contains("503") && told.contains("no ACME"), "{told}");
    assert!(report(&server, "b.acme.example").await["error"].is_null(), "all orders pause");
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_eq!(
        programs::status(edge.http, "a.acme.example", "/"),
        502,
        "it serves without TLS, and no redirect; nothing listens at the backend"
    );
}
