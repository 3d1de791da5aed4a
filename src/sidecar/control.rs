//! The control socket: how `registry-sidecar status` and its like talk to the running daemon, in lines of JSON.
//!
//! One request a connection: `{"command":"status"}`; the answer is `{"ok":true,"data":…}` or
//! `{"ok":false,"error":"…"}`, and for events a line each. The socket is a file, or a name in Linux's abstract
//! namespace where `/run` cannot be written. Only our own user and root of our own PID namespace may ask.

pub mod cli;
mod request;
mod show;

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::agent::Agent;
use request::Request;

/// Where the socket is unless told otherwise.
const DEFAULT_PATH: &str = "/run/registry-sidecar.sock";
/// How many connections are answered at once; followers of events are among them.
const MAX_CONNECTIONS: usize = 16;
/// How long a request may be.
const MAX_REQUEST: u64 = 64 * 1024;
/// How long a request, an answer and each line of events may take.
const MAX_TIME: Duration = Duration::from_secs(10);
/// Until accepting is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Answers for as long as it lives. Without a socket the daemon does its work all the same, and says so once.
pub(super) async fn serve(configured: Option<PathBuf>, agent: Agent) {
    let (listener, _file) = match listen(configured.as_deref()).await {
        Ok(listening) => listening,
        Err(error) => {
            warn!("no control socket, `registry-sidecar status` and its like will not work: {error}");
            return std::future::pending().await;
        }
    };
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&limit).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let agent = agent.clone();
                tokio::spawn(async move {
                    if let Err(error) = talk(stream, &agent).await {
                        debug!("control socket: {error}");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                warn!("control socket: cannot accept: {error}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Removes the socket's file when the daemon ends.
struct SocketFile(Option<PathBuf>);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // It may be gone, and that is what is wanted.
            drop(std::fs::remove_file(path));
        }
    }
}

async fn listen(configured: Option<&Path>) -> io::Result<(UnixListener, SocketFile)> {
    let path = configured.unwrap_or(Path::new(DEFAULT_PATH));
    if let Some(name) = abstract_name(path) {
        return Ok((UnixListener::bind(name)?, SocketFile(None)));
    }
    match listen_at(path).await {
        Ok(listener) => Ok((listener, SocketFile(Some(path.to_owned())))),
        Err(error) if configured.is_some() => {
            Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        }
        Err(error) => {
            debug!("{}: {error}; using the abstract namespace", path.display());
            Ok((UnixListener::bind(default_abstract_name())?, SocketFile(None)))
        }
    }
}

async fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            // Left behind by a daemon that was killed, or the socket of one that runs.
            if UnixStream::connect(path).await.is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// `@name` stands for a name in the abstract namespace, as elsewhere in Linux.
fn abstract_name(path: &Path) -> Option<PathBuf> {
    let name = path.as_os_str().as_bytes().strip_prefix(b"@")?;
    Some(PathBuf::from(format!("\0{}", String::from_utf8_lossy(name))))
}

/// Containers that share a network namespace share its abstract names; their PID namespaces tell them apart.
fn default_abstract_name() -> PathBuf {
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let inode: String = namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    PathBuf::from(format!("\0registry-sidecar-{inode}"))
}

/// A connection to the running daemon.
///
/// # Errors
/// Where none runs, or its socket is elsewhere.
async fn connect(configured: Option<&Path>) -> io::Result<UnixStream> {
    let path = configured.unwrap_or(Path::new(DEFAULT_PATH));
    if let Some(name) = abstract_name(path) {
        return UnixStream::connect(name).await;
    }
    match UnixStream::connect(path).await {
        Err(_) if configured.is_none() => UnixStream::connect(default_abstract_name()).await,
        connected => connected,
    }
}

/// Our own user and root, and nobody from outside of our PID namespace, whom the kernel shows as process 0.
fn may_ask(uid: u32, pid: Option<i32>) -> bool {
    let own = rustix::process::getuid().as_raw();
    (uid == own || uid == 0) && pid != Some(0)
}

async fn talk(mut stream: UnixStream, agent: &Agent) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    if !may_ask(peer.uid(), peer.pid()) {
        info!("control socket: user {} may not ask", peer.uid());
        return send(&mut stream, &refusal("this user may not talk to the daemon")).await;
    }
    let mut line = String::new();
    let (reader, _) = stream.split();
    let mut reader = BufReader::new(reader.take(MAX_REQUEST));
    timeout(MAX_TIME, reader.read_line(&mut line)).await??;
    match serde_json::from_str(&line) {
        Ok(Request::Events { follow }) => events(&mut stream, agent, follow).await,
        Ok(request) => {
            let answer = match request.carry_out(agent).await {
                Ok(data) => json!({"ok": true, "data": data}),
                Err(error) => refusal(&error),
            };
            send(&mut stream, &answer).await
        }
        Err(error) => send(&mut stream, &refusal(&format!("no request: {error}"))).await,
    }
}

fn refusal(error: &str) -> Value {
    json!({"ok": false, "error": error})
}

/// What happened lately, and with `follow` what happens from now on, until the listener is gone.
async fn events(stream: &mut UnixStream, agent: &Agent, follow: bool) -> io::Result<()> {
    let (recent, mut coming) = agent.events();
    for event in recent {
        send_line(stream, &event).await?;
    }
    if !follow {
        return Ok(());
    }
    loop {
        let mut end = [0];
        let event = tokio::select! {
            event = coming.recv() => event,
            _ = stream.read(&mut end) => return Ok(()),
        };
        match event {
            Ok(event) => send_line(stream, &event).await?,
            Err(broadcast::error::RecvError::Lagged(count)) => {
                send(stream, &json!({"event": "LOG", "level": "warn", "missed": count})).await?;
            }
            Err(broadcast::error::RecvError::Closed) => return Ok(()),
        }
    }
}

async fn send(stream: &mut UnixStream, value: &Value) -> io::Result<()> {
    send_line(stream, &value.to_string()).await
}

async fn send_line(stream: &mut UnixStream, line: &str) -> io::Result<()> {
    timeout(MAX_TIME, stream.write_all(format!("{line}\n").as_bytes())).await?
}

#[cfg(test)]
mod tests;
