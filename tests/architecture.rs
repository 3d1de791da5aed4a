//! Dependencies point one way. Each module names only those below it, as docs/ARCHITECTURE.md draws them.
//!
//! The source is read as text: every `crate::x::y` path that a file names, comments and strings left out. The package
//! `client/` counts as the modules `client` and `protocol`, which is what `src/` calls them, and `nodes/` as `nodes`.

#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "architecture/imports.rs"]
mod imports;
#[path = "architecture/rooms.rs"]
mod rooms;

/// The libraries of the workspace.
const LIBRARIES: &[imports::Library] = &[
    imports::Library { name: "registry_client", root: "client/src" },
    imports::Library { name: "registry_nodes", root: "nodes/src" },
    imports::Library { name: "registry_sidecar", root: "src" },
];

/// The folders whose rooms docs/ARCHITECTURE.md draws, and what each room may name. A folder's own `mod.rs` is free.
const ROOMS: &[rooms::House] = &[
    rooms::House {
        folder: "src/sidecar",
        may_name: &[
            ("config", &[]),
            ("http", &[]),
            ("address", &["config"]),
            ("state", &["config"]),
            ("readiness", &["address", "config"]),
            ("maintenance", &["config", "http", "state"]),
            ("registries", &["address", "config", "maintenance", "state"]),
            ("check", &["address", "config", "nodes", "registries"]),
            ("admin", &["config", "http", "maintenance", "state"]),
            ("nodes", &["address", "config", "state"]),
            ("process", &["address", "config", "maintenance", "readiness", "registries", "state"]),
            (
                "daemon",
                &[
                    "address",
                    "admin",
                    "config",
                    "maintenance",
                    "nodes",
                    "process",
                    "readiness",
                    "registries",
                    "state",
                ],
            ),
        ],
    },
    rooms::House {
        folder: "src/server",
        may_name: &[
            ("routing", &[]),
            ("live_table", &["routing"]),
            ("registry", &["routing"]),
            ("followed_file", &[]),
            ("policy_file", &["followed_file", "registry"]),
            ("routes_file", &["followed_file"]),
            ("webhook", &[]),
            ("config", &["policy_file", "routes_file", "routing", "webhook"]),
            ("store", &["registry"]),
            ("proxy", &["live_table", "routing"]),
            ("acme", &["live_table", "proxy", "routing"]),
            ("listener", &["live_table", "registry", "routing", "store"]),
            ("cluster", &["listener", "registry"]),
            ("replica", &["cluster", "config", "store"]),
            ("alerts", &["cluster", "listener", "live_table", "proxy", "registry", "webhook"]),
            (
                "admin",
                &["acme", "alerts", "cluster", "listener", "live_table", "proxy", "registry", "routing"],
            ),
            (
                "run",
                &[
                    "acme",
                    "admin",
                    "alerts",
                    "cluster",
                    "config",
                    "listener",
                    "live_table",
                    "policy_file",
                    "proxy",
                    "registry",
                    "replica",
                    "routes_file",
                    "routing",
                    "store",
                ],
            ),
        ],
    },
    rooms::House {
        folder: "src/server/registry",
        may_name: &[
            ("model", &[]),
            ("config", &["model"]),
            ("persist", &["model"]),
            ("api", &["model", "persist"]),
            ("session", &["model", "persist"]),
            ("membership", &["api", "model"]),
            ("engine", &["api", "config", "membership", "model", "persist", "session"]),
            ("commands", &["api", "engine", "membership", "model", "session"]),
        ],
    },
    rooms::House {
        folder: "src/server/proxy",
        may_name: &[
            ("http", &[]),
            ("local_executor", &[]),
            ("passwords", &[]),
            ("certificates", &[]),
            ("telemetry", &["http"]),
            ("buffered", &[]),
            ("upstream", &["buffered", "http", "local_executor"]),
            ("config", &["certificates", "telemetry", "upstream"]),
            ("context", &["buffered", "certificates", "config", "passwords", "telemetry", "upstream"]),
            ("client_state", &["buffered", "context", "http"]),
            ("downstream", &["certificates", "client_state", "http", "local_executor"]),
            (
                "exchange",
                &[
                    "buffered",
                    "certificates",
                    "client_state",
                    "context",
                    "http",
                    "passwords",
                    "telemetry",
                    "upstream",
                ],
            ),
            ("health", &["http", "upstream"]),
            ("workers", &["client_state", "config", "context", "downstream", "exchange"]),
        ],
    },
];

/// A module, by its path from the crate's root, and the modules that it may name. A module may always name
/// itself and what is inside it. The longest prefix of a file's module path decides.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("shutdown", &[]),
    ("telemetry", &[]),
    ("terminal", &[]),
    ("prometheus", &[]),
    ("tls", &[]),
    ("tcp_diag", &[]),
    ("environment", &["protocol", "telemetry"]),
    ("etcd", &["environment", "nodes", "protocol"]),
    ("client", &["protocol"]),
    ("nodes", &[]),
    (
        "sidecar",
        &[
            "client",
            "environment",
            "etcd",
            "prometheus",
            "protocol",
            "shutdown",
            "tcp_diag",
            "telemetry",
            "tls",
        ],
    ),
    ("server::routing", &["protocol"]),
    ("server::live_table", &["server::routing"]),
    ("server::registry", &["protocol", "server::routing"]),
    ("server::store", &["protocol", "server::registry"]),
    (
        "server::proxy",
        &["protocol", "server::live_table", "server::routing", "shutdown", "tcp_diag", "telemetry", "tls"],
    ),
    (
        "server::listener",
        &[
            "protocol",
            "server::live_table",
            "server::registry",
            "server::routing",
            "server::store",
            "shutdown",
        ],
    ),
    ("server::cluster", &["environment", "protocol", "server::listener", "server::registry"]),
    ("server::replica", &["nodes", "server::cluster", "server::config", "server::store"]),
    (
        "server::alerts",
        &[
            "protocol",
            "server::cluster",
            "server::listener",
            "server::live_table",
            "server::proxy",
            "server::registry",
            "server::webhook",
            "tls",
        ],
    ),
    ("server::webhook", &["protocol"]),
    ("server::acme", &["protocol", "server::live_table", "server::proxy", "server::routing", "tls"]),
    (
        "server::admin",
        &[
            "prometheus",
            "protocol",
            "server::acme",
            "server::alerts",
            "server::cluster",
            "server::listener",
            "server::live_table",
            "server::proxy",
            "server::registry",
            "server::routing",
        ],
    ),
    ("server::routes_file", &["client", "environment", "protocol", "server::followed_file"]),
    ("server", &["environment", "etcd", "protocol", "shutdown", "telemetry"]),
];

/// These decide and do nothing else: no socket, no clock, no task, no lock, no environment (rule 1).
const PURE: &[&str] = &[
    "protocol",
    "client::plan",
    "client::session",
    "nodes::backoff",
    "nodes::layout",
    "nodes::node",
    "nodes::registration::machine",
    "nodes::watch::follower",
    "server::admin::live::changes",
    "server::admin::live::history",
    "server::admin::live::journal",
    "server::admin::live::reason",
    "server::admin::live::view",
    "server::admin::actions::order",
    "server::admin::actions::permission",
    "server::admin::table",
    "server::alerts::conditions",
    "server::alerts::message",
    "server::alerts::outbox",
    "server::webhook",
    "server::cluster::frame",
    "server::cluster::handshake",
    "server::cluster::router",
    "server::cluster::seal",
    "server::registry",
    "server::routes_file::document",
    "server::routing",
    "server::store::etcd::backoff",
    "server::store::etcd::housekeeping",
    "server::store::etcd::commit",
    "server::store::etcd::image",
    "server::store::etcd::layout",
    "server::store::etcd::leadership",
    "server::store::etcd::presence",
    "server::store::etcd::transaction",
    "server::store::etcd::values",
    "sidecar::address::choice",
    "sidecar::nodes::info",
    "sidecar::maintenance::windows",
    "sidecar::process::signals",
    "sidecar::process::supervisor",
    "sidecar::readiness::failure",
    "sidecar::readiness::gate",
    "sidecar::registries::address_plan",
    "sidecar::registries::hints",
    "sidecar::registries::intent",
    "sidecar::registries::log_throttle",
    "sidecar::registries::wanted",
    "sidecar::state::conditions",
];

/// What a pure module may not say outside its tests.
const IMPURE_WORDS: &[&str] = &[
    "tokio::",
    "std::net::Tcp",
    "std::thread",
    "std::fs",
    "std::env",
    "Instant::now(",
    "SystemTime::now(",
    "Mutex",
    "RwLock",
    "async fn",
];

/// The only places that read the environment (rule 8).
const READS_ENVIRONMENT: &[&str] = &["sidecar::config", "server::config"];

struct SourceFile {
    path: PathBuf,
    module: String,
    code: String,
}

#[test]
fn every_module_names_only_what_stands_below_it() {
    let mut wrong = Vec::new();
    for file in library_files() {
        for named in named_modules(&file) {
            if !may_name(&file.module, &named) {
                wrong.push(format!("{}: names crate::{named}", file.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "against the direction of the architecture:\n{}", wrong.join("\n"));
}

#[test]
fn no_two_files_or_folders_need_each_other() {
    let arrows = imports::arrows(Path::new(env!("CARGO_MANIFEST_DIR")), LIBRARIES);
    // A reader that finds nothing finds no circle either.
    assert!(arrows.len() > 500, "only {} imports were found", arrows.len());
    let circles = rooms::circles(&arrows);
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn a_circle_is_found_wherever_it_is_hidden() {
    let arrow = |from: &str, to: &str| {
        let path = |module: &str| PathBuf::from("src").join(module);
        ((path(from), path(to)), BTreeSet::from(["Thing".to_owned()]))
    };
    let found = |arrows: &[(imports::Arrow, BTreeSet<String>)]| {
        rooms::circles(&arrows.iter().cloned().collect()).len()
    };
    let straight = [arrow("a.rs", "b.rs"), arrow("b.rs", "c/mod.rs"), arrow("c/mod.rs", "c/d.rs")];
    assert_eq!(found(&straight), 0);
    let children_use_their_parent = [arrow("c/mod.rs", "c/d.rs"), arrow("c/d.rs", "c/mod.rs")];
    assert_eq!(found(&children_use_their_parent), 0);
    let three_files = [arrow("a.rs", "b.rs"), arrow("b.rs", "c.rs"), arrow("c.rs", "a.rs")];
    assert_eq!(found(&three_files), 1);
    let two_rooms_but_no_files = [arrow("x/a.rs", "y/b.rs"), arrow("y/c.rs", "x/d.rs")];
    assert_eq!(found(&two_rooms_but_no_files), 1);
}

#[test]
fn rooms_name_each_other_as_the_map_draws_them() {
    let arrows = imports::arrows(Path::new(env!("CARGO_MANIFEST_DIR")), LIBRARIES);
    let wrong: Vec<_> = ROOMS.iter().flat_map(|house| rooms::against(&arrows, house)).collect();
    assert!(wrong.is_empty(), "against docs/ARCHITECTURE.md:\n{}", wrong.join("\n"));
}

#[test]
fn what_decides_touches_no_socket_clock_task_or_lock() {
    let mut wrong = Vec::new();
    for file in library_files().into_iter().filter(|file| PURE.iter().any(|m| is_within(&file.module, m))) {
        for word in IMPURE_WORDS.iter().filter(|word| file.code.contains(**word)) {
            wrong.push(format!("{}: {word}", file.path.display()));
        }
    }
    assert!(wrong.is_empty(), "impure words in pure modules:\n{}", wrong.join("\n"));
}

#[test]
fn only_the_two_configurations_read_the_environment() {
    let allowed = |module: &str| READS_ENVIRONMENT.iter().any(|m| is_within(module, m));
    let wrong: Vec<_> = library_files()
        .into_iter()
        .filter(|file| file.code.contains("env::var") && !allowed(&file.module))
        .map(|file| file.path)
        .collect();
    assert!(wrong.is_empty(), "{wrong:?} read the environment");
}

#[test]
fn no_file_is_longer_than_a_reader_bears() {
    // The rule is "about 600"; beyond this it has told us about a missing idea.
    const MOST: usize = 700;
    let lines = |file: &SourceFile| fs::read_to_string(&file.path).unwrap().lines().count();
    let long: Vec<_> =
        library_files().into_iter().filter(|file| lines(file) > MOST).map(|f| f.path).collect();
    assert!(long.is_empty(), "longer than {MOST} lines: {long:?}");
}

#[test]
fn the_checks_can_fail() {
    assert!(!may_name("protocol::command", "client"));
    assert!(!may_name("server::registry::session", "server::proxy"));
    assert!(!may_name("sidecar::daemon", "server"));
    assert!(may_name("server::proxy::forward", "server::routing"));
    let named = |path: &str, module: &str, source: &str| {
        let code = without_comments(source);
        named_modules(&SourceFile { path: path.into(), module: module.into(), code })
    };
    let from_server =
        named("src/a.rs", "a", "use crate::server::proxy::{A}; // crate::client\n\"crate::sidecar\"");
    assert_eq!(from_server, BTreeSet::from(["server::proxy".to_owned()]));
    let from_client = named("client/src/protocol/a.rs", "protocol::a", "crate::protocol::A; crate::plan::B");
    assert_eq!(from_client, BTreeSet::from(["protocol".to_owned(), "client".to_owned()]));
    let from_others = named("src/a.rs", "a", "registry_client::A; registry_client::protocol::B");
    assert_eq!(from_others, BTreeSet::from(["protocol".to_owned(), "client".to_owned()]));
}

fn may_name(module: &str, named: &str) -> bool {
    if is_within(named, module) || is_within(module, named) && !module.starts_with("server") {
        return true;
    }
    let rule = MAY_NAME
        .iter()
        .filter(|(prefix, _)| is_within(module, prefix))
        .max_by_key(|(prefix, _)| prefix.len());
    let Some((own, below)) = rule else { return true };
    // The modules that put the server together may name all of its parts.
    let assembles = *own == "server" && is_within(named, "server");
    assembles || is_within(named, own) || below.iter().any(|m| is_within(named, m))
}

fn is_within(module: &str, of: &str) -> bool {
    module == of || module.strip_prefix(of).is_some_and(|rest| rest.starts_with("::"))
}

/// The modules that `crate::…` and `registry_client::…` paths name: two levels below `server`, one elsewhere.
fn named_modules(file: &SourceFile) -> BTreeSet<String> {
    let in_client = ["client", "protocol"].iter().any(|module| is_within(&file.module, module));
    let in_nodes = is_within(&file.module, "nodes");
    let mut found = BTreeSet::new();
    for root in ["crate::", "registry_client::"] {
        for (at, _) in file.code.match_indices(root) {
            let path: Vec<_> = file.code[at + root.len()..]
                .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
                .next()
                .unwrap_or_default()
                .split("::")
                .filter(|part| part.starts_with(|c: char| c.is_lowercase()))
                .collect();
            match path.as_slice() {
                ["protocol", ..] => drop(found.insert("protocol".to_owned())),
                _ if in_client || root == "registry_client::" => drop(found.insert("client".to_owned())),
                _ if in_nodes => drop(found.insert("nodes".to_owned())),
                [] => {}
                ["server", second, ..] => drop(found.insert(format!("server::{second}"))),
                [first, ..] => drop(found.insert((*first).to_owned())),
            }
        }
    }
    found
}

/// Every file of the three libraries with its module path, tests inside it cut off.
fn library_files() -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |folder: &str, prefix: &str| {
        let folder = root.join(folder);
        let mut files = Vec::new();
        collect(&folder, &mut files);
        files.into_iter().filter_map(|path| source_file(&folder, prefix, path)).collect::<Vec<_>>()
    };
    let mut files = read("src", "");
    files.extend(read("client/src", "client"));
    files.extend(read("nodes/src", "nodes"));
    files
}

fn source_file(folder: &Path, prefix: &str, path: PathBuf) -> Option<SourceFile> {
    let relative = path.strip_prefix(folder).ok()?.with_extension("");
    let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let is_binary = matches!(parts[0].as_str(), "main" | "bin" | "lib");
    let is_test = parts.iter().any(|part| part == "tests" || part.ends_with("_tests"));
    let prefix = (!prefix.is_empty() && parts[0] != "protocol").then_some(prefix);
    let parts: Vec<_> = prefix.into_iter().chain(parts.iter().map(String::as_str)).collect();
    let module = parts.join("::").trim_end_matches("::mod").to_owned();
    let source = fs::read_to_string(&path).ok()?;
    let code = without_comments(source.split("\n#[cfg(test)]\nmod ").next()?);
    (!is_binary && !is_test).then_some(SourceFile { path, module, code })
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The code without line comments and string literals. Good enough for paths: none contains a quote.
fn without_comments(source: &str) -> String {
    let mut code = String::new();
    for line in source.lines() {
        let line = line.split("//").next().unwrap_or_default();
        let outside = line.split('"').step_by(2);
        outside.for_each(|part| code.push_str(part));
        code.push('\n');
    }
    code
}
