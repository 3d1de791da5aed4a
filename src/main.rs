//! `registry-sidecar`: turns the arguments into one call, and its result into an exit code.

#[cfg(feature = "server")]
mod demo;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Context;
use lexopt::Parser;
use lexopt::prelude::*;

use registry_sidecar::shutdown::Shutdown;
use registry_sidecar::sidecar::admin::control::cli::{self, Invocation};
use registry_sidecar::sidecar::config::{CommandConfig, Config, TABLE};
use registry_sidecar::sidecar::process::conceal;
use registry_sidecar::terminal::{USAGE, print, print_error};
use registry_sidecar::{sidecar, telemetry};

#[cfg(feature = "server")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
Puts a container behind a Registry V2 reverse proxy, by environment variables alone.

registry-sidecar          run as a daemon, or around the command of ENTRY_COMMAND
registry-sidecar -- CMD   run CMD, register it when it is ready, stop it in order; its exit code is ours
registry-sidecar check    dry run: the configuration as understood, the address and why, the lines to be sent
registry-sidecar demo     registry, proxy, a small backend and a sidecar on loopback; prints a curl line
                          (not in the lean build)
registry-sidecar status [--json] | routes | events [--follow] [--json] | drain [--cancel] | reload
registry-sidecar maintenance enter [TARGET] [--reason TEXT] [--for 30m] [--wait] | exit [TARGET] [--wait] | status
                             | progress PERCENT [MESSAGE]
registry-sidecar healthcheck [--ready | --registered]
                          ask the running daemon; TARGET is a route, a path or a domain, and everything without
registry-sidecar nodes SERVICE [--follow] [--json]
                          the nodes of a service in etcd; needs SIDECAR_ETCD_ENDPOINTS (not in the lean build)
registry-sidecar variables
                          all variables, with their defaults and what they do
registry-sidecar --help | --version

Needed: SERVICE_NAME, DOMAINS. Often: REGISTRY_HOST (proxy), PORT (80), BACKEND_HOST, INSTANCE_NAME.

Exit codes: 0 stopped as asked, 64 wrong usage or configuration, 75 left without a network,
128+n ended at once by signal n.
Around a command: the command's own, 126 not executable, 127 not found, 69 WAIT_FOR in vain.
";

enum Call {
    Daemon,
    Check,
    Demo,
    Control(Invocation),
    Nodes(Vec<String>),
    Print(String),
}

fn main() -> ExitCode {
    let (ours, command) = split(std::env::args_os().collect());
    let call = match parse(Parser::from_iter(ours)) {
        Ok(call) => call,
        Err(error) => return print_error(USAGE, &format!("registry-sidecar: {error}\n\n{HELP}")),
    };
    match run(call, command.as_deref()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => print_error(1, &format!("registry-sidecar: {error:#}\n")),
    }
}

/// The arguments before `--`, and those after it.
fn split(mut arguments: Vec<OsString>) -> (Vec<OsString>, Option<Vec<OsString>>) {
    let command = arguments.iter().position(|word| word == "--").map(|at| {
        let behind = arguments.split_off(at + 1);
        arguments.truncate(at);
        behind
    });
    (arguments, command)
}

fn parse(mut arguments: Parser) -> Result<Call, lexopt::Error> {
    let mut call = None;
    while let Some(argument) = arguments.next()? {
        let wanted = match argument {
            Long("help") | Short('h') => Call::Print(HELP.to_owned()),
            Long("version") | Short('V') => {
                Call::Print(format!("registry-sidecar {}\n", env!("CARGO_PKG_VERSION")))
            }
            Value(word) if cli::COMMANDS.iter().any(|command| word == *command) => {
                let mut words = vec![word.string()?];
                for rest in arguments.raw_args()? {
                    words.push(rest.string()?);
                }
                Call::Control(Invocation::parse(&words)?)
            }
            Value(word) if word == "nodes" => {
                let rest = arguments.raw_args()?;
                Call::Nodes(rest.map(|word| word.string()).collect::<Result<_, _>>()?)
            }
            Value(word) if word == "variables" => Call::Print(TABLE.listing()),
            Value(word) if word == "check" => Call::Check,
            Value(word) if word == "demo" => Call::Demo,
            other => return Err(other.unexpected()),
        };
        if call.replace(wanted).is_some() {
            return Err("one command at a time".into());
        }
    }
    Ok(call.unwrap_or(Call::Daemon))
}

fn run(call: Call, command: Option<&[OsString]>) -> anyhow::Result<u8> {
    match call {
        Call::Print(text) => print(&text),
        Call::Demo => demo(),
        Call::Control(invocation) => control(invocation),
        Call::Nodes(words) => nodes(&words),
        Call::Daemon | Call::Check => {
            // It can only fail on a kernel that does not know the call.
            let _ = conceal();
            let config = match Config::load(command) {
                Ok(config) => config,
                Err(errors) => {
                    print_error(USAGE, &format!("{errors}\n"));
                    return Ok(USAGE);
                }
            };
            match (call, config.command.clone()) {
                (Call::Check, _) => check(&config),
                (_, Some(command)) => wrapper(config, command),
                (_, None) => daemon(config),
            }
        }
    }
}

fn daemon(config: Config) -> anyhow::Result<u8> {
    telemetry::init(config.log).map_err(anyhow::Error::from_boxed)?;
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("cannot listen to signals")?;
        tokio::select! {
            code = sidecar::run(config, shutdown.clone()) => Ok(code),
            code = shutdown.forced() => Ok(code),
        }
    });
    // Do not wait for a name resolution that hangs.
    runtime.shutdown_background();
    code
}

fn wrapper(config: Config, command: CommandConfig) -> anyhow::Result<u8> {
    telemetry::init(config.log).map_err(anyhow::Error::from_boxed)?;
    let runtime = runtime()?;
    let code = runtime.block_on(sidecar::wrap(config, command)).context("cannot listen to signals");
    runtime.shutdown_background();
    code
}

fn control(invocation: Invocation) -> anyhow::Result<u8> {
    let socket = Config::control_socket_from_env();
    let answer = runtime()?.block_on(invocation.run(&socket, &mut std::io::stdout()));
    match answer {
        // The reader of `events --follow` may close its end at any time.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
        answer => answer.context("cannot write to the standard output"),
    }
}

#[cfg(feature = "etcd")]
fn nodes(words: &[String]) -> anyhow::Result<u8> {
    use registry_sidecar::sidecar::config::load_nodes_config;
    use registry_sidecar::sidecar::nodes::command::NodesCommand;
    let refuse = |problem: &dyn std::fmt::Display| {
        print_error(USAGE, &format!("registry-sidecar: {problem}\n"));
        Ok(USAGE)
    };
    let command = match NodesCommand::parse(words) {
        Ok(command) => command,
        Err(problem) => return refuse(&problem),
    };
    let config = match load_nodes_config() {
        Ok(config) => config,
        Err(problem) => return refuse(&problem),
    };
    let runtime = runtime()?;
    let code = runtime.block_on(command.run(config, &mut std::io::stdout(), &mut std::io::stderr()));
    runtime.shutdown_background();
    match code {
        // Whoever read the first lines of `nodes --follow` and left.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
        code => code.context("cannot write the nodes"),
    }
}

#[cfg(not(feature = "etcd"))]
fn nodes(_words: &[String]) -> anyhow::Result<u8> {
    print_error(
        USAGE,
        "registry-sidecar: this build has no command nodes: use the image of the Dockerfile's target sidecar-etcd, or \
         build it with --features etcd\n",
    );
    Ok(USAGE)
}

fn check(config: &Config) -> anyhow::Result<u8> {
    let runtime = runtime()?;
    let report = runtime.block_on(sidecar::check(config));
    runtime.shutdown_background();
    print(&report)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // There are few sockets, so keep the buffer for their events small.
        .max_io_events_per_tick(64)
        // Only name resolution and files block. A resolution that hangs must not delay the others. Threads are
        // started as they are needed, and end again.
        .max_blocking_threads(64)
        .build()
        .context("cannot start")
}

#[cfg(feature = "server")]
fn demo() -> anyhow::Result<u8> {
    demo::run()
}

#[cfg(not(feature = "server"))]
fn demo() -> anyhow::Result<u8> {
    print_error(USAGE, "registry-sidecar: the lean build has no demo, because it has no server\n");
    Ok(USAGE)
}
