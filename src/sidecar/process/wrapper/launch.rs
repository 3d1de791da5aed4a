//! Starts the command and its steps with their directory, user, environment and standard streams.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt, fchown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use tracing::{debug, info, warn};

use crate::sidecar::config::{CommandConfig, CommandLine, RunAs};
use crate::sidecar::process::reaper::{Child, Reaper, Terminal};
use crate::sidecar::process::shell_line;

/// The exit codes of a shell for a program that does not exist, and for one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Why a program could not be started.
#[derive(Debug)]
pub(super) struct StartError {
    what: String,
    why: String,
    /// 126 or 127, as a shell exits.
    pub(super) code: u8,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot start {}: {}", self.what, self.why)
    }
}

/// Starts the command with our standard streams, and hands it the terminal if there is one.
pub(super) fn launch(reaper: &Reaper, config: &CommandConfig) -> Result<Child, StartError> {
    let mut command = match &config.line {
        CommandLine::Shell(line) => shell(config, line),
        CommandLine::Program(program, arguments) => {
            let mut command = Command::new(program);
            command.args(arguments);
            set_surroundings(&mut command, config);
            command
        }
    };
    change_user(&mut command, config);
    spawn(reaper, config, command, Terminal::Handed)
}

/// A shell line with the command's directory, environment and user.
pub(super) fn shell_as_user(config: &CommandConfig, line: &str) -> Command {
    let mut command = shell(config, line);
    change_user(&mut command, config);
    command
}

fn change_user(command: &mut Command, config: &CommandConfig) {
    if let Some(RunAs { uid, gid, .. }) = config.run_as {
        // Std drops the supplementary groups when it changes the user.
        command.uid(uid).gid(gid);
    }
}

/// Checks whether the command's program exists and is executable now. It cannot tell for a shell line.
pub(super) fn find_program(config: &CommandConfig) -> Result<(), StartError> {
    let CommandLine::Program(program, _) = &config.line else { return Ok(()) };
    let text = program.to_string_lossy().into_owned();
    let candidates: Vec<PathBuf> = match text.contains('/') {
        true => vec![config.directory.clone().unwrap_or_default().join(program)],
        false => config.environment.search_path().map(|folder| folder.join(program)).collect(),
    };
    let files: Vec<_> = candidates.iter().filter(|path| path.is_file()).collect();
    let executable =
        |path: &&&PathBuf| path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0);
    match (files.iter().any(|path| executable(&path)), files.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => {
            Err(StartError { what: text, why: "there is no such program yet".to_owned(), code: NOT_FOUND })
        }
        (false, false) => {
            Err(StartError { what: text, why: "it is not executable".to_owned(), code: NOT_EXECUTABLE })
        }
    }
}

/// Makes APP_DIR where it is missing, so that steps can fill it.
pub(super) fn make_directory(config: &CommandConfig) {
    let Some(directory) = config.directory.as_ref().filter(|directory| !directory.exists()) else { return };
    match fs::create_dir_all(directory) {
        Ok(()) => info!("made APP_DIR, {}", directory.display()),
        // Starting the step then fails with its own message.
        Err(error) => warn!("cannot make APP_DIR, {}: {error}", directory.display()),
    }
}

/// A shell line with the command's directory and environment, as our own user.
pub(super) fn shell(config: &CommandConfig, line: &str) -> Command {
    let mut command = shell_line::command(line);
    set_surroundings(&mut command, config);
    command
}

fn set_surroundings(command: &mut Command, config: &CommandConfig) {
    command.env_clear().envs(config.environment.reveal());
    if let Some(directory) = &config.directory {
        command.current_dir(directory);
    }
}

pub(super) fn spawn(
    reaper: &Reaper,
    config: &CommandConfig,
    command: Command,
    terminal: Terminal,
) -> Result<Child, StartError> {
    let what = command.get_program().to_string_lossy().into_owned();
    if let Some(directory) = config.directory.as_ref().filter(|directory| !directory.is_dir()) {
        let why = format!("APP_DIR, {}, is no directory", directory.display());
        return Err(StartError { what, why, code: NOT_EXECUTABLE });
    }
    reaper.spawn(command, terminal).map_err(|error| {
        let (why, code) = match error.kind() {
            io::ErrorKind::NotFound if what.contains('/') => (
                format!("there is no such file, or what its first line names is missing ({error})"),
                NOT_FOUND,
            ),
            io::ErrorKind::NotFound => (format!("no program of that name in PATH ({error})"), NOT_FOUND),
            _ => (error.to_string(), NOT_EXECUTABLE),
        };
        StartError { what, why, code }
    })
}

/// Gives standard streams that are pipes, sockets or a terminal to the command's user, so that it can open
/// `/dev/stdout` and the like. Files and other devices keep their owner.
pub(super) fn give_streams_to_user(config: &CommandConfig) {
    let Some(run_as) = &config.run_as else { return };
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    for stream in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        if let Err(error) = give_to_user(stream, run_as) {
            debug!("a standard stream stays ours: {error}");
        }
    }
}

fn give_to_user(stream: BorrowedFd<'_>, run_as: &RunAs) -> io::Result<()> {
    let kind = File::from(stream.try_clone_to_owned()?).metadata()?.file_type();
    if kind.is_fifo() || kind.is_socket() || stream.is_terminal() {
        fchown(stream, Some(run_as.uid), Some(run_as.gid))?;
    }
    Ok(())
}
