//! The wrapper as its users meet it: the real binary around small programs, around the ideas of tini's and
//! dumb-init's own suites, and around real servers.

#![cfg(feature = "server")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failed assumption ends the test, one that cannot run says so"
)]

#[path = "support/programs.rs"]
mod programs;
#[path = "support/relay.rs"]
mod relay;

#[path = "process/basics.rs"]
mod basics;
#[path = "process/life.rs"]
mod life;
#[path = "process/privacy.rs"]
mod privacy;
#[path = "process/real.rs"]
mod real;
#[path = "process/registered.rs"]
mod registered;
#[path = "process/signals.rs"]
mod signals;

use std::process::{Command, Output, Stdio};

use programs::Program;

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");
const SIDECAR: &str = env!("CARGO_BIN_EXE_registry-sidecar");
const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs");
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

type Env<'a> = &'a [(&'a str, &'a str)];

/// The sidecar around `words`, running, with what either says as its log.
fn wrap(env: Env<'_>, words: &[&str]) -> Program {
    let mut all = vec![("PATH", PATH.to_owned())];
    all.extend(env.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let args: Vec<&str> = if words.is_empty() { vec![] } else { [&["--"], words].concat() };
    Program::start("sidecar", SIDECAR, &args, &all)
}

/// The same with a script for `/bin/sh`.
fn wrap_script(env: Env<'_>, script: &str) -> Program {
    wrap(env, &["sh", "-c", script])
}

/// The sidecar around `words`, from start to end.
fn run(env: Env<'_>, words: &[&str]) -> Output {
    prepared(env, words).stdin(Stdio::null()).output().unwrap()
}

fn prepared(env: Env<'_>, words: &[&str]) -> Command {
    let mut command = Command::new(SIDECAR);
    command.env_clear().env("PATH", PATH).envs(env.iter().copied());
    if !words.is_empty() {
        command.arg("--").args(words);
    }
    command
}

fn program(name: &str) -> String {
    format!("{PROGRAMS}/{name}")
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{}", text(&output.stderr)))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
