//! The control socket, by which commands such as `registry-sidecar status` talk to the running daemon.
//!
//! A connection carries one request, a line of JSON such as `{"command":"status"}`. The answer is a line,
//! `{"ok":true,"data":…}` or `{"ok":false,"error":"…"}`; for events it is a line for each. Only our own user, and
//! root of our own PID namespace, may ask.

pub mod cli;
mod render;
mod request;
mod socket;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, broadcast};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::sidecar::config::ControlSocket;
use crate::sidecar::maintenance::Maintenance;
use crate::sidecar::state::DaemonState;

use request::Request;
use socket::listen;

/// How many connections are served at once, those that follow events included.
const MAX_CONNECTIONS: usize = 16;
/// The longest request, in bytes.
const MAX_REQUEST: u64 = 64 * 1024;
/// How long it may take to read a request, and to write an answer or one event.
const MAX_TIME: Duration = Duration::from_secs(10);
/// The pause after a failed accept.
const PAUSE: Duration = Duration::from_secs(1);

/// Answers requests for as long as it runs. Where it cannot listen it warns once, and the daemon works without it.
pub(crate) async fn serve(configured: ControlSocket, state: DaemonState, maintenance: Maintenance) {
    let (listener, _file) = match listen(&configured).await {
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
                let (state, maintenance) = (state.clone(), maintenance.clone());
                tokio::spawn(async move {
                    if let Err(error) = handle(stream, &state, &maintenance).await {
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

/// Allows our own user and root, but nobody outside our PID namespace: the kernel shows those as process 0.
fn is_authorized(uid: u32, pid: Option<i32>) -> bool {
    let own = rustix::process::getuid().as_raw();
    (uid == own || uid == 0) && pid != Some(0)
}

async fn handle(mut stream: UnixStream, state: &DaemonState, maintenance: &Maintenance) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    if !is_authorized(peer.uid(), peer.pid()) {
        info!("control socket: user {} may not ask", peer.uid());
        return send(&mut stream, &refusal("this user may not talk to the daemon")).await;
    }
    let mut line = String::new();
    let (reader, _) = stream.split();
    let mut reader = BufReader::new(reader.take(MAX_REQUEST));
    timeout(MAX_TIME, reader.read_line(&mut line)).await??;
    match serde_json::from_str(&line) {
        Ok(Request::Events { follow }) => events(&mut stream, state, follow).await,
        Ok(request) => {
            let answer = match request.carry_out(state, maintenance).await {
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

/// Sends the latest events, and with `follow` those to come, until the client closes the connection.
async fn events(stream: &mut UnixStream, state: &DaemonState, follow: bool) -> io::Result<()> {
    let (recent, mut coming) = state.events();
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
