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
#[path = "process/preparing.rs"]
mod preparing;
#[path = "process/privacy.rs"]
mod privacy;
#[path = "process/real.rs"]
mod real;
#[path = "process/registered.rs"]
mod registered;
#[path = "process/scripted.rs"]
mod scripted;
#[path = "process/signals.rs"]
mod signals;
#[path = "process/updating.rs"]
mod updating;

use std::process::{Command, Output, Stdio};

use programs::{Program, Server, free_address, get};

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

/// A wrapped application with a control socket of its own, and a folder for what it waits for.
struct Wrapped {
    program: Program,
    folder: tempfile::TempDir,
    server: Server,
}

impl Wrapped {
    /// `words` with `PORT` as their environment has it; `DIR` in values is the folder, which is also the
    /// directory of everything that runs.
    fn start(server: Server, more: &[(&'static str, &str)], words: &[&str]) -> Wrapped {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_address().port());
        let directory = folder.path().to_str().unwrap();
        let more: Vec<_> =
            more.iter().map(|(name, value)| (*name, value.replace("DIR", directory))).collect();
        let socket = format!("{directory}/control.sock");
        let mut env: Vec<(&'static str, &str)> = vec![
            ("APP_DIR", directory),
            ("SIDECAR_CONTROL_SOCKET", &socket),
            ("SIDECAR_HEALTH_INTERVAL", "0"),
        ];
        env.extend(more.iter().map(|(name, value)| (*name, value.as_str())));
        let program = registered::wrap_registered(&server, port, &env, words);
        Wrapped { program, folder, server }
    }

    /// The same with a maintenance page.
    fn with_page(server: Server, more: &[(&'static str, &str)], words: &[&str]) -> Wrapped {
        let page_port = free_address().port().to_string();
        Wrapped::start(server, &[more, &[("MAINTENANCE_PORT", page_port.as_str())]].concat(), words)
    }

    fn touch(&self, name: &str) {
        std::fs::write(self.folder.path().join(name), "").unwrap();
    }

    fn has(&self, name: &str) -> bool {
        self.folder.path().join(name).exists()
    }

    fn say(&self, words: &str) -> Output {
        let mut command = Command::new(SIDECAR);
        let socket = self.folder.path().join("control.sock");
        command.args(words.split(' ')).env_clear().env("SIDECAR_CONTROL_SOCKET", socket).output().unwrap()
    }

    fn status(&self) -> String {
        text(&self.say("status").stdout)
    }

    fn is_healthy(&self) -> bool {
        self.say("healthcheck").status.success()
    }

    /// What people get; 0 and nothing where there is no answer.
    fn shown(&self, path: &str) -> (u16, String) {
        get(self.server.http, registered::HOST, path).map_or((0, String::new()), |it| (it.status, it.body))
    }

    fn has_logged(&self, what: &str) -> bool {
        self.program.log().iter().any(|line| line.contains(what))
    }
}

/// An application that says which version it is, by the file `version` if there is one.
const VERSIONED: [&str; 3] =
    ["sh", "-c", "exec caddy respond --listen 127.0.0.1:$PORT \"version $(cat version 2>/dev/null)\""];

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
