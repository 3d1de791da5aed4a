//! Starts the command and its steps with their directory, user, environment and standard streams.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, fchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::Errno;
use tracing::{debug, info, warn};

use crate::sidecar::config::{CommandConfig, CommandLine, RunAs, Signal};
use crate::sidecar::process::os::Image;
use crate::sidecar::process::reaper::{Child, Reaper, Terminal};
use crate::sidecar::process::shell_line::{self, SHELL};
use crate::sidecar::process::signals;

use super::program_file::{Rejected, rejected};

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
    match &config.line {
        CommandLine::Shell(line) => {
            spawn(reaper, config, shell_as_user(config, line), Terminal::Handed, death_signal(config))
        }
        CommandLine::Program(program, arguments) => launch_program(reaper, config, program, arguments),
    }
}

/// Starts a program that is searched in PATH. A file that the kernel does not take and that is text goes to the shell.
fn launch_program(
    reaper: &Reaper,
    config: &CommandConfig,
    program: &OsStr,
    arguments: &[OsString],
) -> Result<Child, StartError> {
    let start = |paths: &[PathBuf], words: &[&OsStr]| {
        // Std makes everything but the last step: the image is what is executed.
        let mut command = Command::new(program);
        set_surroundings(&mut command, config);
        change_user(&mut command, config);
        let texts = |words: Vec<Vec<u8>>| words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
        let bytes = |word: &&OsStr| word.as_bytes().to_vec();
        let variables = config.environment.reveal();
        let variables = variables.map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        let paths = paths.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect();
        let image =
            Image::new(texts(paths)?, texts(words.iter().map(bytes).collect())?, texts(variables.collect())?);
        reaper.spawn_image(command, Some(image), Terminal::Handed, death_signal(config))
    };
    check_directory(config, program)?;
    let candidates = candidates(config, program);
    let words: Vec<&OsStr> = [program].into_iter().chain(arguments.iter().map(OsString::as_os_str)).collect();
    let what = program.to_string_lossy().into_owned();
    let not_taken = match start(&candidates, &words) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOEXEC) => error,
        started => return started.map_err(|error| start_error(what, &error)),
    };
    let Some(file) = candidates.iter().find(|path| is_executable(&config.in_directory(path))) else {
        return Err(start_error(what, &not_taken));
    };
    match rejected(&config.in_directory(file)) {
        Rejected::Other(why) => Err(StartError { what, why, code: NOT_EXECUTABLE }),
        Rejected::Script => {
            debug!("{what} names no interpreter: {SHELL} runs it");
            let words: Vec<&OsStr> =
                [OsStr::new(SHELL), file.as_os_str()].into_iter().chain(words.into_iter().skip(1)).collect();
            start(&[PathBuf::from(SHELL)], &words).map_err(|error| start_error(what, &error))
        }
    }
}

/// What the command gets when we end before it: its stop signal, as far as that is known before it runs.
fn death_signal(config: &CommandConfig) -> Signal {
    let by_name = || match &config.line {
        CommandLine::Program(program, _) => {
            let name = Path::new(program).file_name().unwrap_or_default();
            signals::stop_signal_of(&name.to_string_lossy())
        }
        CommandLine::Shell(_) => Signal::TERM,
    };
    let signal = config.stop_signal.unwrap_or_else(by_name);
    signals::rewritten(signal, &config.rewrite).unwrap_or(signal)
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
    let candidates = candidates(config, program).into_iter().map(|path| config.in_directory(&path));
    let files: Vec<PathBuf> = candidates.filter(|path| path.is_file()).collect();
    match (files.iter().any(|path| is_executable(path)), files.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => {
            Err(StartError { what: text, why: "there is no such program yet".to_owned(), code: NOT_FOUND })
        }
        (false, false) => {
            Err(StartError { what: text, why: "it is not executable".to_owned(), code: NOT_EXECUTABLE })
        }
    }
}

/// Where a program may be: as it is written if it has a path, else in each directory of PATH.
fn candidates(config: &CommandConfig, program: &OsStr) -> Vec<PathBuf> {
    match program.as_bytes().contains(&b'/') {
        true => vec![PathBuf::from(program)],
        false => config.environment.search_path().map(|folder| folder.join(program)).collect(),
    }
}

fn is_executable(path: &Path) -> bool {
    let mode = path.metadata().map(|metadata| metadata.permissions().mode());
    path.is_file() && mode.is_ok_and(|mode| mode & 0o111 != 0)
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
    death: Signal,
) -> Result<Child, StartError> {
    check_directory(config, command.get_program())?;
    let what = command.get_program().to_string_lossy().into_owned();
    reaper.spawn(command, terminal, death).map_err(|error| start_error(what, &error))
}

fn check_directory(config: &CommandConfig, program: &OsStr) -> Result<(), StartError> {
    match config.directory.as_ref().filter(|directory| !directory.is_dir()) {
        None => Ok(()),
        Some(directory) => Err(StartError {
            what: program.to_string_lossy().into_owned(),
            why: format!("APP_DIR, {}, is no directory", directory.display()),
            code: NOT_EXECUTABLE,
        }),
    }
}

fn start_error(what: String, error: &io::Error) -> StartError {
    let (why, code) = match error.kind() {
        io::ErrorKind::NotFound if what.contains('/') => {
            (format!("there is no such file, or what its first line names is missing ({error})"), NOT_FOUND)
        }
        io::ErrorKind::NotFound => (format!("no program of that name in PATH ({error})"), NOT_FOUND),
        _ => (error.to_string(), NOT_EXECUTABLE),
    };
    StartError { what, why, code }
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
