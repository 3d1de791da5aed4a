//! Runs a shell line beside or before the command, its output line by line in our log.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::sidecar::config::CommandConfig;
use crate::sidecar::process::reaper::{Child, ChildHandle, Exit, Reaper, Terminal};
use crate::sidecar::process::shell_line::output_pipe;

use super::launch::{self, NotStarted};

/// A longer line of a step is told in pieces.
const MAX_LINE: usize = 4 * 1024;
/// How long the rest of a step's output is read after its end.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A step that runs.
pub(super) struct Step {
    child: Child,
    /// `None` where its output is not ours.
    telling: Option<JoinHandle<()>>,
}

impl Step {
    /// Signals it while it is awaited.
    pub(super) fn handle(&self) -> ChildHandle {
        self.child.handle()
    }

    /// Its end, after its last words unless somebody else still holds its streams.
    pub(super) async fn wait(mut self) -> Exit {
        let exit = self.child.wait().await;
        if let Some(telling) = self.telling {
            let _ = timeout(LAST_WORDS, telling).await;
        }
        exit
    }
}

/// How loud the output of a step is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voice {
    /// For everybody.
    Loud,
    /// Of what runs every few minutes: at debug.
    Quiet,
}

/// Starts the line, as our own user: what needs root before the command loses it belongs here.
pub(super) fn run(
    reaper: &Reaper,
    config: &CommandConfig,
    label: &str,
    line: &str,
    voice: Voice,
) -> Result<Step, NotStarted> {
    let mut command = launch::shell(config, line);
    command.stdin(Stdio::null());
    let telling = match output_pipe() {
        Ok((reading, out, err)) => {
            command.stdout(out).stderr(err);
            Some(tokio::spawn(tell(reading, label.to_owned(), voice)))
        }
        Err(error) => {
            warn!("{label}: its output is not prefixed: {error}");
            None
        }
    };
    let child = launch::spawn(reaper, config, command, Terminal::Kept)?;
    Ok(Step { child, telling })
}

/// Logs what is read, until whoever has the other end has closed it.
async fn tell(mut reading: pipe::Receiver, label: String, voice: Voice) {
    let (mut chunk, mut pending) = ([0; MAX_LINE], Vec::new());
    loop {
        let read = reading.read(&mut chunk).await.unwrap_or(0);
        if read == 0 {
            break;
        }
        for byte in &chunk[..read] {
            if *byte != b'\n' {
                pending.push(*byte);
            }
            if *byte == b'\n' || pending.len() >= MAX_LINE {
                tell_line(&label, voice, &mut pending);
            }
        }
    }
    if !pending.is_empty() {
        tell_line(&label, voice, &mut pending);
    }
}

fn tell_line(label: &str, voice: Voice, line: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(line);
    match voice {
        Voice::Loud => info!("{label} | {}", text.trim_end()),
        Voice::Quiet => debug!("{label} | {}", text.trim_end()),
    }
    line.clear();
}
