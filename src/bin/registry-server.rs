//! `registry-server`: turns the arguments into one call, and its result into an exit code.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use lexopt::Parser;
use lexopt::prelude::*;

use registry_sidecar::environment;
use registry_sidecar::server::config::{Config, StateFile, TABLE};
use registry_sidecar::server::registry::ServiceToken;
use registry_sidecar::server::{Server, admin, store};
use registry_sidecar::shutdown::Shutdown;
use registry_sidecar::telemetry;
use registry_sidecar::terminal::{USAGE, print, print_error};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
A Registry V2 registry, and the HTTP reverse proxy whose routing it controls.

registry-server           run
registry-server check     report what is wrong with the configuration, and change nothing
registry-server check --untrusted   report also what neighbours that are not trusted could do
registry-server healthcheck   exit with 0 if the server of this environment is alive, else with 1
registry-server status    what it does at the moment, as a table; --json for programs, --watch goes on
registry-server drain SERVICE   let requests move away: [--for 30s] [--cancel] [--reason TEXT]; --session N instead of SERVICE for one instance
registry-server maintenance enter|exit SERVICE   show a page instead of it: [--page URL] [--reason TEXT]; --session N for one instance
registry-server export    write what STATE_FILE or etcd holds to the standard output, as JSON
registry-server import    make STATE_FILE, or a cluster in etcd, from such JSON on the standard input
registry-server policy hash   write the digest of a service's secret, read from the standard input, for REGISTRY_POLICY
registry-server variables all variables, with their defaults and what they do
registry-server --help | --version

Often set: HTTP_LISTEN (0.0.0.0:80), REGISTRY_LISTEN (0.0.0.0:81), LOG_LEVEL (info).

Exit codes: 0 stopped as asked, 1 cannot run, 64 wrong usage or configuration, 128+n ended at once by signal n.
";

/// How often `status --watch` asks.
const WATCH: Duration = Duration::from_secs(1);

enum Call {
    Run,
    Check,
    CheckUntrusted,
    Healthcheck,
    Status { json: bool, watch: bool },
    Order(Order),
    Export,
    Import,
    PolicyHash,
    Print(String),
}

fn main() -> ExitCode {
    let call = match parse(Parser::from_env()) {
        Ok(call) => call,
        Err(error) => return print_error(USAGE, &format!("registry-server: {error}\n\n{HELP}")),
    };
    match run(call) {
        Ok(code) => ExitCode::from(code),
        Err(error) => print_error(1, &format!("registry-server: {error:#}\n")),
    }
}

fn parse(mut arguments: Parser) -> Result<Call, lexopt::Error> {
    let mut call = None;
    while let Some(argument) = arguments.next()? {
        let wanted = match argument {
            Long("help") | Short('h') => Call::Print(HELP.to_owned()),
            Long("version") | Short('V') => {
                Call::Print(format!("registry-server {}\n", env!("CARGO_PKG_VERSION")))
            }
            Value(word) if word == "variables" => Call::Print(TABLE.listing()),
            Value(word) if word == "check" => Call::Check,
            Long("untrusted") if matches!(call, Some(Call::Check)) => {
                call = None;
                Call::CheckUntrusted
            }
            Value(word) if word == "healthcheck" => Call::Healthcheck,
            Value(word) if word == "status" => Call::Status { json: false, watch: false },
            Long("json") if matches!(call, Some(Call::Status { json: false, .. })) => {
                again(&mut call, true, false)
            }
            Long("watch") if matches!(call, Some(Call::Status { watch: false, .. })) => {
                again(&mut call, false, true)
            }
            Value(word) if word == "drain" => Call::Order(order(&mut arguments, "drain")?),
            Value(word) if word == "maintenance" => match arguments.next()? {
                Some(Value(word)) if word == "enter" => {
                    Call::Order(order(&mut arguments, "enter-maintenance")?)
                }
                Some(Value(word)) if word == "exit" => {
                    Call::Order(order(&mut arguments, "leave-maintenance")?)
                }
                Some(other) => return Err(other.unexpected()),
                None => return Err("maintenance what? There are: maintenance enter, maintenance exit".into()),
            },
            Value(word) if word == "export" => Call::Export,
            Value(word) if word == "import" => Call::Import,
            Value(word) if word == "policy" => match arguments.next()? {
                Some(Value(word)) if word == "hash" => Call::PolicyHash,
                Some(other) => return Err(other.unexpected()),
                None => return Err("policy what? There is: policy hash".into()),
            },
            other => return Err(other.unexpected()),
        };
        if call.replace(wanted).is_some() {
            return Err("one command at a time".into());
        }
    }
    Ok(call.unwrap_or(Call::Run))
}

/// `status` with one more of its options.
fn again(call: &mut Option<Call>, more_json: bool, more_watch: bool) -> Call {
    match call.take() {
        Some(Call::Status { json, watch }) => {
            Call::Status { json: json || more_json, watch: watch || more_watch }
        }
        _ => Call::Status { json: more_json, watch: more_watch },
    }
}

/// What an operator has the running server do.
#[derive(Default)]
struct Order {
    action: &'static str,
    service: Option<String>,
    session: Option<u64>,
    duration: Option<String>,
    page: Option<String>,
    reason: Option<String>,
}

/// Reads the rest of the arguments, which say whom an action is for.
fn order(arguments: &mut Parser, action: &'static str) -> Result<Order, lexopt::Error> {
    let mut order = Order { action, ..Order::default() };
    while let Some(argument) = arguments.next()? {
        match argument {
            Value(service) if order.service.is_none() => order.service = Some(service.string()?),
            Long("session") => order.session = Some(arguments.value()?.parse()?),
            Long("for") if order.action == "drain" => order.duration = Some(arguments.value()?.string()?),
            Long("cancel") if order.action == "drain" => order.action = "cancel-drain",
            Long("page") if order.action == "enter-maintenance" => {
                order.page = Some(arguments.value()?.string()?)
            }
            Long("reason") => order.reason = Some(arguments.value()?.string()?),
            other => return Err(other.unexpected()),
        }
    }
    match (&order.service, order.session) {
        (Some(_), None) | (None, Some(_)) => Ok(order),
        _ => Err("for whom? Give the name of a service, or --session N".into()),
    }
}

fn run(call: Call) -> anyhow::Result<u8> {
    match &call {
        Call::Print(text) => return print(text),
        Call::PolicyHash => return hash_secret(),
        _ => {}
    }
    let config = match Config::load() {
        Ok(config) => config,
        Err(errors) => {
            print_error(USAGE, &format!("{errors}\n"));
            return Ok(USAGE);
        }
    };
    match call {
        Call::Check => {
            let warnings = config.warnings.iter().map(|line| format!("warning: {line}\n"));
            let (warnings, routes) = (warnings.collect::<String>(), understood(&config));
            let (orders, open) = (orders(&config), open_to_neighbours(config.exposures().len()));
            print(&format!("{warnings}{routes}{orders}{open}the configuration is good\n"))
        }
        Call::CheckUntrusted => print(&exposures(&config)),
        Call::Healthcheck => ask(&config, "/healthz").map(|_| 0),
        Call::Status { json, watch } => status(&config, json, watch),
        Call::Order(order) => carry_out(&config, &order),
        Call::Export => export(&config),
        Call::Import => import(&config),
        Call::Run | Call::PolicyHash | Call::Print(_) => serve(&config),
    }
}

/// The routes of ROUTES_FILE, as the commands by which they are registered.
fn understood(config: &Config) -> String {
    let Some((file, instance)) = config.routes_file.as_ref().zip(config.own_instance.as_ref()) else {
        return String::new();
    };
    let lines = file.understood(instance).into_iter().map(|line| format!("  {line}\n"));
    format!("ROUTES_FILE={} is understood as:\n{}", file.path.display(), lines.collect::<String>())
}

/// Which certificates would be ordered.
fn orders(config: &Config) -> String {
    let Some(acme) = &config.acme else { return String::new() };
    let besides = match config.https.as_ref().and_then(|https| https.cert_dir.as_ref()) {
        Some(folder) => format!(" that has none in {}", folder.display()),
        None => String::new(),
    };
    format!(
        "certificates: one for each exact host that a service claims{besides}, ordered from {} for {}, kept in {}\n",
        acme.directory,
        acme.email,
        acme.folder.display()
    )
}

/// Says that neighbours that are not trusted could do something, and what tells more.
fn open_to_neighbours(count: usize) -> String {
    let things = if count == 1 { "thing" } else { "things" };
    match count {
        0 => String::new(),
        _ => format!(
            "note: a neighbour that is not trusted could do {count} {things} here; registry-server check --untrusted \
             says which, and what closes them\n"
        ),
    }
}

/// What neighbours that are not trusted could do, each with the line that closes it.
fn exposures(config: &Config) -> String {
    let all = config.exposures();
    if all.is_empty() {
        return "nothing that a setting would close is open to neighbours that are not trusted\n".to_owned();
    }
    all.iter()
        .map(|exposure| format!("open: {}\n  close it with: {}\n", exposure.what, exposure.close))
        .collect()
}

/// Asks the running server, which has the same environment.
fn ask(config: &Config, path: &str) -> anyhow::Result<String> {
    let admin = config.admin.context("ADMIN_LISTEN is off, so nothing can be asked")?;
    Ok(admin::query(admin.address, path)?)
}

/// Prints how the running server is, once or again and again.
fn status(config: &Config, json: bool, watch: bool) -> anyhow::Result<u8> {
    let is_terminal = std::io::stdout().is_terminal();
    loop {
        let text = match json {
            true => ask(config, "/status")?,
            false => {
                let live = ask(config, "/live")?;
                admin::table(&live, is_terminal).context("the server answers with something else")?
            }
        };
        if !watch {
            return print(&text);
        }
        // A terminal shows the latest state alone.
        let clear = if is_terminal { "\x1b[H\x1b[2J\x1b[3J" } else { "" };
        print(&format!("{clear}{text}"))?;
        std::thread::sleep(WATCH);
    }
}

/// Has the running server do something, with the ADMIN_TOKEN of the same environment.
fn carry_out(config: &Config, order: &Order) -> anyhow::Result<u8> {
    let admin = config.admin.context("ADMIN_LISTEN is off, so nothing can be asked")?;
    let token = config.admin_token.as_ref().context("ADMIN_TOKEN is not set, so nothing can be changed")?;
    let written = serde_json::json!({
        "action": order.action,
        "service": order.service,
        "session": order.session,
        "duration": order.duration,
        "page": order.page,
        "reason": order.reason.as_deref().unwrap_or_default(),
        "by": environment::host_name(),
    });
    let (is_done, answer) = admin::order(admin.address, token.reveal(), &written.to_string())?;
    let answer = match serde_json::from_str::<serde_json::Value>(&answer) {
        Ok(answer) => outcomes(&answer),
        Err(_) => answer,
    };
    match is_done {
        true => print(&answer),
        false => anyhow::bail!("{}", answer.trim_end()),
    }
}

/// A line for each session.
fn outcomes(answer: &serde_json::Value) -> String {
    let results = answer["results"].as_array().into_iter().flatten();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    results.map(|one| format!("{}: {}\n", text(&one["instance"]), text(&one["outcome"]))).collect()
}

fn export(config: &Config) -> anyhow::Result<u8> {
    #[cfg(feature = "etcd")]
    if let Some(cluster) = &config.cluster {
        let json = block_on(store::etcd::export_cluster(cluster.etcd.clone()))??;
        return print(&format!("{json}\n"));
    }
    let Some(StateFile { path, .. }) = &config.state_file else { return Ok(no_state_file()) };
    print(&format!("{}\n", store::export(path)?))
}

fn import(config: &Config) -> anyhow::Result<u8> {
    #[cfg(feature = "etcd")]
    if let Some(cluster) = &config.cluster {
        let json = standard_input()?;
        let sessions = block_on(store::etcd::import_cluster(cluster.etcd.clone(), &json))??;
        return print(&format!("{} in etcd holds {sessions} sessions\n", cluster.etcd.base_path));
    }
    let Some(StateFile { path, .. }) = &config.state_file else { return Ok(no_state_file()) };
    let json = standard_input()?;
    let sessions = store::import(path, &json)?;
    print(&format!("{} holds {sessions} sessions\n", path.display()))
}

fn standard_input() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read the standard input")?;
    Ok(text)
}

#[cfg(feature = "etcd")]
fn block_on<T>(work: impl Future<Output = T>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start")?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    Ok(result)
}

/// Prints how a REGISTRY_POLICY has the secret on the standard input.
fn hash_secret() -> anyhow::Result<u8> {
    let secret = standard_input()?;
    let secret = secret.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        print_error(USAGE, "registry-server: there is no secret on the standard input\n");
        return Ok(USAGE);
    }
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).context("the system has no random bits")?;
    print(&format!("{}\n", ServiceToken::new(u128::from_ne_bytes(salt), secret).digest()))
}

fn no_state_file() -> u8 {
    print_error(USAGE, "registry-server: STATE_FILE is not set\n");
    USAGE
}

fn serve(config: &Config) -> anyhow::Result<u8> {
    telemetry::init(config.log).map_err(anyhow::Error::from_boxed)?;
    // One thread is enough for the registry and the probes; the proxy's workers have threads of their own.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let code = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("cannot listen to signals")?;
        let server = Server::start(config).await?;
        let orderly = async {
            shutdown.requested().await;
            server.stop().await;
        };
        tokio::select! {
            () = orderly => Ok(0),
            code = shutdown.forced() => Ok(code),
        }
    });
    runtime.shutdown_background();
    code
}
