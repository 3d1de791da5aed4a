//! What all shell lines share: the shell, and the pipe for their output.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use tokio::net::unix::pipe;

/// The shell of POSIX systems.
pub(super) const SHELL: &str = "/bin/sh";

/// The command that runs a shell line; its environment, directory and user are still to be set.
pub(crate) fn command(line: &str) -> Command {
    let mut command = Command::new(SHELL);
    command.args(["-c", line]);
    command
}

/// One pipe for both output streams, so that lines arrive in the order in which they were written: the end that
/// we read, and the ends for stdout and stderr.
pub(super) fn output_pipe() -> io::Result<(pipe::Receiver, Stdio, Stdio)> {
    let (reader, writer) = io::pipe()?;
    let stderr = writer.try_clone()?;
    Ok((pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?, writer.into(), stderr.into()))
}
