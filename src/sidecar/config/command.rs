//! The wrapped command: what runs, as which user, after which steps, how often, and how it is stopped.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::environment::{Context, Reader, Reported};
use registry_client::protocol::{GoDuration, Invalid};

use super::raw::Raw;
use super::secrets::{self, Environment};
use super::signals::{self, Signal};
use super::steps::{self, Step};
use super::user::{self, RunAs};
use super::{ReadyCheck, values};

/// A wrapped command with everything around it.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandConfig {
    /// The program or shell line that runs.
    pub line: CommandLine,
    /// APP_DIR, for the command and the steps.
    pub directory: Option<PathBuf>,
    /// RUN_AS; `None` where the command runs as this process's user.
    pub run_as: Option<RunAs>,
    /// The command's whole environment.
    pub environment: Environment,
    /// WAIT_FOR.
    pub wait_for: Vec<ReadyCheck>,
    /// WAIT_FOR_TIMEOUT, more than zero.
    pub wait_for_timeout: GoDuration,
    /// PRE_START: shell lines, in their order.
    pub steps: Vec<Step>,
    /// PRE_START_FAILURE: whether a failed step keeps the command from starting.
    pub steps_fatal: bool,
    /// PRE_START_TIMEOUT for each; `None`: no limit.
    pub step_timeout: Option<GoDuration>,
    /// RESTART.
    pub restart: Restart,
    /// RESTART_DELAY.
    pub restart_delay: GoDuration,
    /// RUN_EVERY, more than zero.
    pub run_every: Option<GoDuration>,
    /// UPDATE_CHECK and what follows from it.
    pub update: Option<UpdateConfig>,
    /// STOP_SIGNAL; `None` takes the signal that suits the program that runs at that time.
    pub stop_signal: Option<Signal>,
    /// STOP_GRACE_PERIOD, more than zero.
    pub grace: Option<GoDuration>,
    /// Whether signals go to the whole process group: with SIGNAL_GROUP, and always for shell lines.
    pub group: bool,
    /// SIGNAL_REWRITE: pairs of the signal to replace and the signal to send; `None` drops it.
    pub rewrite: Vec<(Signal, Option<Signal>)>,
    /// DRAIN_PORTS: ports of the command, beside those of its routes, whose connections may end before it is stopped.
    pub drain_ports: Vec<u16>,
}

impl CommandConfig {
    /// The path as the command sees it, whose directory is APP_DIR.
    pub fn in_directory(&self, path: &Path) -> PathBuf {
        self.directory.as_deref().unwrap_or(Path::new("")).join(path)
    }
}

/// When a command that ended by itself is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Never: this process exits with its code.
    No,
    /// Unless it ended with 0.
    OnFailure,
    /// However it ended.
    Always,
}

/// How the command is updated in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateConfig {
    /// UPDATE_CHECK: a shell line that ends with 0 where there is an update.
    pub check: String,
    /// UPDATE_CHECK_INTERVAL, more than zero.
    pub every: GoDuration,
    /// UPDATE_COMMAND: shell lines, in their order; at least one.
    pub steps: Vec<Step>,
    /// UPDATE_TIMEOUT for the check and for each line; `None`: no limit.
    pub timeout: Option<GoDuration>,
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// A program, searched in PATH, and its arguments.
    Program(OsString, Vec<OsString>),
    /// A line for `/bin/sh -c`.
    Shell(String),
}

/// What the command and its environment are made of.
#[derive(Clone, Copy)]
pub(super) struct Origin<'a> {
    /// The arguments after `--`; `None` without `--`.
    pub(super) arguments: Option<&'a [OsString]>,
    /// The environment of this process.
    pub(super) vars: &'a [(OsString, OsString)],
    pub(super) context: &'a Context<'a>,
}

/// The variables that have no effect without a command.
pub const COMMAND_VARIABLES: &[&str] = &[
    "APP_DIR",
    "RUN_AS",
    "WAIT_FOR",
    "WAIT_FOR_TIMEOUT",
    "PRE_START",
    "PRE_START_FAILURE",
    "PRE_START_TIMEOUT",
    "RESTART",
    "RESTART_DELAY",
    "RUN_EVERY",
    "UPDATE_CHECK",
    "UPDATE_CHECK_INTERVAL",
    "UPDATE_COMMAND",
    "UPDATE_TIMEOUT",
    "SECRETS",
    "DRAIN_PORTS",
    "STOP_SIGNAL",
    "STOP_GRACE_PERIOD",
    "SIGNAL_GROUP",
    "SIGNAL_REWRITE",
];

/// Reads the command; `None` where there is none to run.
pub(super) fn command(
    raw: &mut Raw,
    reader: &mut Reader,
    origin: Origin<'_>,
) -> Result<Option<CommandConfig>, Reported> {
    let Some(line) = line(raw, reader, origin.arguments)? else {
        for name in COMMAND_VARIABLES {
            if reader.is_prefixed(name) {
                let spelled = reader.spelled(name);
                reader.warn(format!("{spelled} has no effect: there is no command to run"));
            }
        }
        return Ok(None);
    };
    let directory = reader.optional("APP_DIR", raw.app_dir.take(), directory);
    let run_as = run_as(raw, reader, origin.context);
    let secrets = reader.optional("SECRETS", raw.secrets.take(), secrets::parse);
    let environment = secrets.and_then(|wanted| {
        secrets::environment(&wanted.unwrap_or_default(), origin.vars, origin.context, reader)
    });
    warn_without_effect(raw, reader);
    let preparation = preparation(raw, reader);
    let run_policy = run_policy(raw, reader);
    let update = update(raw, reader);
    let stop = stop(raw, reader);
    let (preparation, run_policy, update, stop) = (preparation?, run_policy?, update?, stop?);
    let (run_as, mut environment) = (run_as?, environment?);
    if run_policy.every.is_some() && update.is_some() {
        let reason = "a command that RUN_EVERY starts again and again is updated between two runs, by itself";
        return Err(reader.refuse("UPDATE_CHECK", reason.to_owned()));
    }
    if let Some(run_as) = &run_as {
        environment.set("HOME", &run_as.home);
    }
    Ok(Some(CommandConfig {
        group: stop.group || matches!(line, CommandLine::Shell(_)),
        line,
        directory: directory?,
        run_as,
        environment,
        wait_for: preparation.wait_for,
        wait_for_timeout: preparation.wait_for_timeout,
        steps: preparation.steps,
        steps_fatal: preparation.fatal,
        step_timeout: preparation.timeout,
        restart: run_policy.restart,
        restart_delay: run_policy.delay,
        run_every: run_policy.every,
        update,
        stop_signal: stop.signal,
        grace: stop.grace,
        rewrite: stop.rewrite,
        drain_ports: stop.drain_ports,
    }))
}

fn line(
    raw: &mut Raw,
    reader: &mut Reader,
    arguments: Option<&[OsString]>,
) -> Result<Option<CommandLine>, Reported> {
    let shell = raw.entry_command.take();
    match (arguments, shell) {
        (None, None) => Ok(None),
        (None | Some([]), Some(line)) => Ok(Some(CommandLine::Shell(line))),
        (Some([]), None) => Err(reader.refuse_named(
            "ENTRY_COMMAND",
            "registry-sidecar --",
            "nothing stands after it: an image whose ENTRYPOINT is set loses its CMD, so set that too, to the \
             image's former entrypoint and command"
                .to_owned(),
        )),
        (Some(_), Some(_)) => {
            let reason = "a command stands after -- as well: keep one of the two".to_owned();
            Err(reader.refuse("ENTRY_COMMAND", reason))
        }
        (Some([program, ..]), None) if program.is_empty() => {
            let reason = "an empty word stands after it where a program should".to_owned();
            Err(reader.refuse_named("ENTRY_COMMAND", "registry-sidecar --", reason))
        }
        (Some([program, rest @ ..]), None) => Ok(Some(CommandLine::Program(program.clone(), rest.to_vec()))),
    }
}

fn directory(text: &str) -> Result<PathBuf, Invalid> {
    match Path::new(text).is_absolute() {
        true => Ok(PathBuf::from(text)),
        false => Err(Invalid::new("directory", text, "it does not begin with /", "/app")),
    }
}

fn run_as(raw: &mut Raw, reader: &mut Reader, context: &Context<'_>) -> Result<Option<RunAs>, Reported> {
    // A missing file counts as empty.
    let text = |path: &str| {
        let bytes = (context.read_file)(Path::new(path)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let parse = |given: &str| user::parse(given, &text("/etc/passwd"), &text("/etc/group"));
    let Some(run_as) = reader.optional("RUN_AS", raw.run_as.take(), parse)? else { return Ok(None) };
    match user::needs_change(&run_as, &text("/proc/self/status")) {
        Ok(needed) => Ok(needed.then_some(run_as)),
        Err(reason) => Err(reader.refuse("RUN_AS", reason)),
    }
}

/// What comes before the command.
struct Preparation {
    wait_for: Vec<ReadyCheck>,
    wait_for_timeout: GoDuration,
    steps: Vec<Step>,
    fatal: bool,
    timeout: Option<GoDuration>,
}

fn preparation(raw: &mut Raw, reader: &mut Reader) -> Result<Preparation, Reported> {
    let wait_for = reader.optional("WAIT_FOR", raw.wait_for.take(), values::ready_checks);
    let wait_for_timeout = reader.value("WAIT_FOR_TIMEOUT", raw.wait_for_timeout.take(), values::positive);
    let steps = reader.optional("PRE_START", raw.pre_start.take(), steps::parse);
    let fatal = reader.value("PRE_START_FAILURE", raw.pre_start_failure.take(), failure);
    let timeout = reader.value("PRE_START_TIMEOUT", raw.pre_start_timeout.take(), values::duration);
    Ok(Preparation {
        wait_for: wait_for?.unwrap_or_default(),
        wait_for_timeout: wait_for_timeout?,
        steps: steps?.unwrap_or_default(),
        fatal: fatal?,
        timeout: timeout?.non_zero().ok(),
    })
}

fn failure(text: &str) -> Result<bool, Invalid> {
    match text.to_ascii_lowercase().as_str() {
        "fatal" => Ok(true),
        "warn" => Ok(false),
        _ => Err(Invalid::new("consequence", text, "it is none of fatal, warn", "fatal")),
    }
}

/// How often the command runs.
struct RunPolicy {
    restart: Restart,
    delay: GoDuration,
    every: Option<GoDuration>,
}

fn run_policy(raw: &mut Raw, reader: &mut Reader) -> Result<RunPolicy, Reported> {
    let restart = reader.value("RESTART", raw.restart.take(), restart);
    let delay = reader.value("RESTART_DELAY", raw.restart_delay.take(), values::duration);
    let every = reader.optional("RUN_EVERY", raw.run_every.take(), values::positive);
    let run_policy = RunPolicy { restart: restart?, delay: delay?, every: every? };
    if run_policy.every.is_some() && run_policy.restart != Restart::No {
        let reason = "RUN_EVERY runs the command again in any case: keep one of the two".to_owned();
        return Err(reader.refuse("RESTART", reason));
    }
    Ok(run_policy)
}

/// UPDATE_CHECK and UPDATE_COMMAND, which are refused if only one of them is set.
fn update(raw: &mut Raw, reader: &mut Reader) -> Result<Option<UpdateConfig>, Reported> {
    let check = raw.update_check.take();
    let every = reader.value("UPDATE_CHECK_INTERVAL", raw.update_check_interval.take(), values::duration);
    let steps = reader.optional("UPDATE_COMMAND", raw.update_command.take(), steps::parse);
    let timeout = reader.value("UPDATE_TIMEOUT", raw.update_timeout.take(), values::duration);
    let (every, steps, timeout) = (every?, steps?.unwrap_or_default(), timeout?.non_zero().ok());
    match (check, steps.is_empty()) {
        // 0 turns the checks off, as in the Go entrypoints.
        (Some(_), false) if every.is_zero() => Ok(None),
        (Some(check), false) => Ok(Some(UpdateConfig { check, every, steps, timeout })),
        (None, true) => Ok(None),
        (Some(_), true) => {
            let reason = "UPDATE_COMMAND does not say what to do about an update: set both".to_owned();
            Err(reader.refuse("UPDATE_CHECK", reason))
        }
        (None, false) => {
            let reason = "UPDATE_CHECK does not say when there is an update: set both".to_owned();
            Err(reader.refuse("UPDATE_COMMAND", reason))
        }
    }
}

/// Warns about variables that refine another one that is not set.
fn warn_without_effect(raw: &Raw, reader: &mut Reader) {
    let pairs = [
        ("WAIT_FOR_TIMEOUT", "WAIT_FOR", raw.wait_for_timeout.is_some() && raw.wait_for.is_none()),
        ("PRE_START_FAILURE", "PRE_START", raw.pre_start_failure.is_some() && raw.pre_start.is_none()),
        ("PRE_START_TIMEOUT", "PRE_START", raw.pre_start_timeout.is_some() && raw.pre_start.is_none()),
        ("RESTART_DELAY", "RESTART", raw.restart_delay.is_some() && raw.restart.is_none()),
        ("UPDATE_TIMEOUT", "UPDATE_CHECK", raw.update_timeout.is_some() && raw.update_check.is_none()),
    ];
    for (name, needed, has_no_effect) in pairs {
        if has_no_effect {
            let spelled = reader.spelled(name);
            reader.warn(format!("{spelled} has no effect: {needed} is not set"));
        }
    }
}

fn restart(text: &str) -> Result<Restart, Invalid> {
    match text.to_ascii_lowercase().as_str() {
        "no" | "false" => Ok(Restart::No),
        "on-failure" => Ok(Restart::OnFailure),
        "always" => Ok(Restart::Always),
        _ => Err(Invalid::new("restart", text, "it is none of no, on-failure, always", "on-failure")),
    }
}

/// How the command is stopped.
struct Stop {
    signal: Option<Signal>,
    grace: Option<GoDuration>,
    group: bool,
    rewrite: Vec<(Signal, Option<Signal>)>,
    drain_ports: Vec<u16>,
}

fn stop(raw: &mut Raw, reader: &mut Reader) -> Result<Stop, Reported> {
    let signal = reader.optional("STOP_SIGNAL", raw.stop_signal.take(), signals::stop_signal);
    let grace = reader.optional("STOP_GRACE_PERIOD", raw.stop_grace_period.take(), values::positive);
    let group = reader.value("SIGNAL_GROUP", raw.signal_group.take(), values::flag);
    let rewrite = reader.optional("SIGNAL_REWRITE", raw.signal_rewrite.take(), signals::rewrites);
    let drain_ports = reader.optional("DRAIN_PORTS", raw.drain_ports.take(), values::ports);
    Ok(Stop {
        signal: signal?,
        grace: grace?,
        group: group?,
        rewrite: rewrite?.unwrap_or_default(),
        drain_ports: drain_ports?.unwrap_or_default(),
    })
}
