//! Runs shell lines as readiness checks: exit code 0 passes. Each runs in a process group of its own, which is killed
//! when the check ends or is given up.

use std::process::{Command, Stdio};

use tokio::io::AsyncReadExt;

use crate::sidecar::config::Signal;
use crate::sidecar::readiness::Shell;

use super::reaper::{ChildHandle, Reaper, Target, Terminal};
use super::shell_line::output_pipe;

/// How much of the end of a check's output is kept, in bytes.
const MAX_SAID: usize = 1024;
/// How much of its last line is reported, in characters.
const MAX_TOLD: usize = 200;

/// Runs the `exec:` checks as children of `reaper`. `command` makes the command of a line, and decides its
/// environment, directory and user.
pub(crate) fn shell(reaper: Reaper, command: impl Fn(&str) -> Command + Send + Sync + 'static) -> Shell {
    Shell::new(move |line| Box::pin(run(reaper.clone(), command(line))))
}

/// Kills the whole process group when dropped.
struct KilledAtTheEnd(ChildHandle);

impl Drop for KilledAtTheEnd {
    fn drop(&mut self) {
        self.0.signal(Target::Group, Signal::KILL);
    }
}

/// # Errors
/// Says how it ended, and the last line of its output.
async fn run(reaper: Reaper, mut command: Command) -> Result<(), String> {
    let (mut reading, out, err) = output_pipe().map_err(|error| error.to_string())?;
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    let child = reaper.spawn(command, Terminal::Kept, Signal::KILL);
    let mut child = child.map_err(|error| format!("/bin/sh cannot be started: {error}"))?;
    let _end = KilledAtTheEnd(child.handle());
    let (mut said, mut chunk, mut is_open) = (Vec::new(), [0; 512], true);
    let exit = loop {
        tokio::select! {
            exit = child.wait() => break exit,
            read = reading.read(&mut chunk), if is_open => match read {
                Ok(length @ 1..) => keep(&mut said, &chunk[..length]),
                _ => is_open = false,
            },
        }
    };
    // Its last output is in the pipe already. Do not wait for its end: a background process may hold it open.
    while let Ok(length @ 1..) = reading.try_read(&mut chunk) {
        keep(&mut said, &chunk[..length]);
    }
    match exit.is_success() {
        true => Ok(()),
        false => Err(told(exit.to_string(), &said)),
    }
}

fn keep(said: &mut Vec<u8>, more: &[u8]) {
    said.extend(more);
    let surplus = said.len().saturating_sub(MAX_SAID);
    said.drain(..surplus);
}

fn told(exit: String, said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    match said.lines().rev().map(str::trim).find(|line| !line.is_empty()) {
        Some(line) => format!("it {exit}: {}", line.chars().take(MAX_TOLD).collect::<String>()),
        None => format!("it {exit}"),
    }
}
