//! Runs a step or an update check, and logs its output line by line.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::sidecar::config::{CommandConfig, Signal};
use crate::sidecar::process::reaper::{Child, ChildHandle, Exit, Reaper, Terminal};
use crate::sidecar::process::shell_line::output_pipe;

use super::launch::{self, StartError};

/// A longer line of output is logged in pieces of this many bytes.
const MAX_LINE: usize = 4 * 1024;
/// How long output is still read after the step has ended.
const OUTPUT_LIMIT: Duration = Duration::from_millis(200);

/// A step that runs.
pub(super) struct Step {
    child: Child,
    /// The task that logs the output; `None` where the output goes to our own streams.
    logging: Option<JoinHandle<()>>,
}

impl Step {
    /// A handle that signals the step while somebody waits for it.
    pub(super) fn handle(&self) -> ChildHandle {
        self.child.handle()
    }

    /// Waits for its end, and for the rest of its output unless a background process holds its streams open.
    pub(super) async fn wait(mut self) -> Exit {
        let exit = self.child.wait().await;
        if let Some(logging) = self.logging {
            let _ = timeout(OUTPUT_LIMIT, logging).await;
        }
        exit
    }
}

/// The level at which output is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OutputLevel {
    /// For a step.
    Info,
    /// For an update check, which runs every few minutes.
    Debug,
}

/// Starts the line as our own user, so that steps can do what needs root before the command runs as another user.
pub(super) fn run(
    reaper: &Reaper,
    config: &CommandConfig,
    label: &str,
    line: &str,
    level: OutputLevel,
) -> Result<Step, StartError> {
    let mut command = launch::shell(config, line);
    command.stdin(Stdio::null());
    let logging = match output_pipe() {
        Ok((reading, out, err)) => {
            command.stdout(out).stderr(err);
            Some(tokio::spawn(log_output(reading, label.to_owned(), level)))
        }
        Err(error) => {
            warn!("{label}: its output is not prefixed: {error}");
            None
        }
    };
    let child = launch::spawn(reaper, config, command, Terminal::Kept, Signal::TERM)?;
    Ok(Step { child, logging })
}

/// Logs the output until every process has closed the other end.
async fn log_output(mut reading: pipe::Receiver, label: String, level: OutputLevel) {
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
                log_line(&label, level, &mut pending);
            }
        }
    }
    if !pending.is_empty() {
        log_line(&label, level, &mut pending);
    }
}

fn log_line(label: &str, level: OutputLevel, line: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(line);
    match level {
        OutputLevel::Info => info!("{label} | {}", text.trim_end()),
        OutputLevel::Debug => debug!("{label} | {}", text.trim_end()),
    }
    line.clear();
}
