//! The control socket: how `registry-sidecar status` and its like talk to the running daemon, in lines of JSON.
//!
//! One request a connection: `{"command":"status"}`; the answer is `{"ok":true,"data":…}` or
//! `{"ok":false,"error":"…"}`, and for events a line each. The socket is a file, or a name in Linux's abstract
//! namespace where `/run` cannot be written. Only our own user and root of our own PID namespace may ask.

pub mod cli;
mod render;
mod request;
mod socket;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, broadcast};
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::sidecar::maintenance::Maintenance;
use crate::sidecar::state::DaemonState;

use request::Request;
use socket::listen;

/// How many connections are answered at once; followers of events are among them.
const MAX_CONNECTIONS: usize = 16;
/// How long a request may be.
const MAX_REQUEST: u64 = 64 * 1024;
/// How long a request, an answer and each line of events may take.
const MAX_TIME: Duration = Duration::from_secs(10);
/// Until accepting is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Answers for as long as it lives. Without a socket the daemon does its work all the same, and says so once.
pub(crate) async fn serve(configured: Option<PathBuf>, state: DaemonState, maintenance: Maintenance) {
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

/// Our own user and root, and nobody from outside of our PID namespace, whom the kernel shows as process 0.
fn may_ask(uid: u32, pid: Option<i32>) -> bool {
    let own = rustix::process::getuid().as_raw();
    (uid == own || uid == 0) && pid != Some(0)
}

async fn handle(mut stream: UnixStream, state: &DaemonState, maintenance: &Maintenance) -> io::Result<()> {
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

/// What happened lately, and with `follow` what happens from now on, until the listener is gone.
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
