//! `registry-sidecar demo`: runs a registry with its proxy, a small backend and a sidecar on loopback in one process,
//! until Ctrl-C. The only place that knows both the sidecar and the server.

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use registry_sidecar::environment::Context;
use registry_sidecar::server::{self, Server};
use registry_sidecar::shutdown::Shutdown;
use registry_sidecar::telemetry::{self, LogConfig};
use registry_sidecar::{sidecar, sidecar::config::Config};

const DOMAIN: &str = "demo.example.com";
/// How long the first request through the proxy may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most bytes of a request that the backend reads.
const MAX_HEAD: usize = 16 * 1024;

/// Runs until asked to stop, and returns the exit code.
pub(crate) fn run() -> anyhow::Result<u8> {
    telemetry::init(LogConfig::default()).map_err(anyhow::Error::from_boxed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("cannot listen to signals")?;
        tokio::select! {
            shown = show(shutdown.clone()) => shown.map(|()| 0),
            code = shutdown.forced() => Ok(code),
        }
    });
    runtime.shutdown_background();
    code
}

async fn show(shutdown: Shutdown) -> anyhow::Result<()> {
    let server = start_server().await?;
    let backend = start_backend().await?;
    let variables = [
        ("REGISTRY_HOST", "127.0.0.1".to_owned()),
        ("REGISTRY_PORT", server.registry_address().port().to_string()),
        ("SERVICE_NAME", "demo".to_owned()),
        ("INSTANCE_NAME", "demo-1".to_owned()),
        ("DOMAINS", DOMAIN.to_owned()),
        ("BACKEND_HOST", "127.0.0.1".to_owned()),
        ("PORT", backend.port().to_string()),
    ];
    say("\nA backend that knows nothing of registries listens on loopback. Its sidecar's environment:\n")?;
    for (name, value) in &variables {
        say(&format!("    {name}={value}"))?;
    }
    say("")?;
    let config = Config::from_env(in_os_strings(&variables), context())?;
    let story = tell_the_url(server.http_address());
    tokio::join!(sidecar::run(config, shutdown.clone()), async {
        tokio::select! {
            result = story => result,
            () = shutdown.requested() => Ok(()),
        }
    })
    .1?;
    server.stop().await;
    Ok(())
}

async fn start_server() -> anyhow::Result<Server> {
    let variables = [
        ("HTTP_LISTEN", "127.0.0.1:0".to_owned()),
        ("REGISTRY_LISTEN", "127.0.0.1:0".to_owned()),
        ("ADMIN_LISTEN", "off".to_owned()),
    ];
    let config = server::config::Config::from_env(in_os_strings(&variables), context())?;
    Ok(Server::start(&config).await?)
}

/// Waits until a request gets through the proxy, and prints how to send another.
async fn tell_the_url(proxy: SocketAddr) -> anyhow::Result<()> {
    let travels = async {
        while !request(proxy).await.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, travels).await.context("no request came through the proxy")?;
    say("\nThe route works. Paste this in another terminal:\n")?;
    say(&format!("    curl -H 'Host: {DOMAIN}' http://{proxy}/"))?;
    say("\nCtrl-C shows how the sidecar and the server leave.\n")
}

async fn request(proxy: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream
        .write_all(format!("GET / HTTP/1.1\r\nHost: {DOMAIN}\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// A backend that listens on a port and answers each request.
async fn start_backend() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    Ok(address)
}

/// Answers one request and closes the connection.
async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < MAX_HEAD {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let body = format!("Hello from the backend, which got this request:\n\n{}", head.trim_end());
    let length = body.len() + 1;
    let response = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}\n"
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

fn in_os_strings(variables: &[(&str, String)]) -> impl Iterator<Item = (OsString, OsString)> {
    variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)))
}

/// Reads no files and no host name, so that the demo looks the same everywhere.
fn context() -> Context<'static> {
    Context { host_name: "demo", read_file: &|_: &Path| Err("the demo reads no files".to_owned()) }
}

fn say(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot write to the standard output")
}
