//! Dependencies point one way. Each module names only those below it, as docs/ARCHITECTURE.md draws them.
//!
//! The source is read as text: every `crate::x::y` path that a file names, comments and strings left out. The package
//! `client/` counts as the modules `client` and `protocol`, which is what `src/` calls them, and `nodes/` as `nodes`.

#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A module, by its path from the crate's root, and the modules that it may name. A module may always name
/// itself and what is inside it. The longest prefix of a file's module path decides.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("shutdown", &[]),
    ("telemetry", &[]),
    ("terminal", &[]),
    ("prometheus", &[]),
    ("tls", &[]),
    ("environment", &["protocol", "telemetry"]),
    ("client", &["protocol"]),
    ("nodes", &[]),
    ("sidecar", &["client", "environment", "prometheus", "protocol", "shutdown", "telemetry", "tls"]),
    ("server::routing", &["protocol"]),
    ("server::live_table", &["server::routing"]),
    ("server::registry", &["protocol", "server::routing"]),
    ("server::store", &["protocol", "server::registry"]),
    ("server::proxy", &["protocol", "server::live_table", "server::routing", "shutdown", "tls"]),
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
    ("server::admin", &["prometheus", "protocol", "server::live_table", "server::proxy", "server::routing"]),
    ("server", &["environment", "protocol", "shutdown", "telemetry"]),
];

/// The rooms of the proxy, and the others that each may name.
const PROXY_ROOMS: &[(&str, &[&str])] = &[
    ("http", &[]),
    ("certificates", &[]),
    ("local_executor", &[]),
    ("telemetry", &["http"]),
    ("upstream", &["local_executor"]),
    ("health", &["upstream"]),
    ("config", &["certificates", "telemetry", "upstream"]),
    ("context", &["certificates", "config", "telemetry", "upstream"]),
    ("client", &["context", "http"]),
    ("exchange", &["client", "context", "http", "telemetry", "upstream"]),
    ("downstream", &["certificates", "client", "http", "local_executor"]),
    ("workers", &["client", "config", "context", "downstream", "exchange"]),
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
    "server::registry",
    "server::routing",
    "sidecar::address::choice",
    "sidecar::nodes::info",
    "sidecar::maintenance::windows",
    "sidecar::process::signals",
    "sidecar::process::supervisor",
    "sidecar::readiness::gate",
    "sidecar::registries::address_plan",
    "sidecar::registries::hints",
    "sidecar::registries::intent",
    "sidecar::registries::log_throttle",
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
fn the_parts_of_the_client_name_each_other_in_one_direction() {
    let mut edges = BTreeSet::new();
    for file in library_files().into_iter().filter(|file| is_within(&file.module, "client")) {
        let mut parts = file.module.split("::").skip(1);
        let Some(part) = parts.next() else { continue };
        let prefixes = if parts.next().is_none() { &["super::", "crate::"][..] } else { &["crate::"] };
        for (at, prefix) in prefixes.iter().flat_map(|prefix| file.code.match_indices(prefix)) {
            let rest = &file.code[at + prefix.len()..];
            let named: String = rest.chars().take_while(|c| c.is_lowercase() || *c == '_').collect();
            if !named.is_empty() && named != part && named != "protocol" {
                edges.insert((part.to_owned(), named));
            }
        }
    }
    assert!(edges.contains(&("handle".to_owned(), "driver".to_owned())), "{edges:?}");
    // What names nothing that is left can be taken away, until nothing is left.
    while let Some(done) =
        edges.iter().map(|(_, to)| to.clone()).find(|to| !edges.iter().any(|(from, _)| from == to))
    {
        edges.retain(|(_, to)| *to != done);
    }
    assert!(edges.is_empty(), "these name each other in a circle, or something that does: {edges:?}");
}

/// The rooms of the registry, and the rooms that each may name.
const REGISTRY_ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("config", &["model"]),
    ("persist", &["model"]),
    ("api", &["model", "persist"]),
    ("session", &["model", "persist"]),
    ("membership", &["api", "model"]),
    ("engine", &["api", "config", "membership", "model", "persist", "session"]),
    ("commands", &["api", "engine", "membership", "model", "session"]),
];

/// The rooms of the sidecar, and the rooms that each may name.
const SIDECAR_ROOMS: &[(&str, &[&str])] = &[
    ("config", &[]),
    ("http", &[]),
    ("state", &[]),
    ("address", &["config"]),
    ("readiness", &["address", "config"]),
    ("maintenance", &["config", "http", "state"]),
    ("registries", &["address", "config", "maintenance", "state"]),
    ("nodes", &["address", "config", "state"]),
    ("process", &["config", "maintenance", "readiness", "registries", "state"]),
    ("admin", &["http", "maintenance", "state"]),
];

#[test]
fn the_rooms_of_the_registry_name_each_other_in_one_direction() {
    assert_rooms("server::registry::", REGISTRY_ROOMS, 50);
}

#[test]
fn the_rooms_of_the_sidecar_name_each_other_in_one_direction() {
    assert_rooms("sidecar::", SIDECAR_ROOMS, 40);
}

/// Each room below `parent` names only those of the table. `least` tells whether the source was read at all.
fn assert_rooms(parent: &str, rooms: &[(&str, &[&str])], least: usize) {
    let prefix = format!("crate::{parent}");
    let (mut wrong, mut arrows) = (Vec::new(), 0);
    for file in library_files() {
        let Some(room) = file.module.strip_prefix(parent).and_then(|rest| rest.split("::").next()) else {
            continue;
        };
        let may_name = rooms.iter().find(|(name, _)| *name == room).map(|(_, below)| *below);
        for (at, _) in file.code.match_indices(&prefix) {
            let rest = &file.code[at + prefix.len()..];
            let named: String = rest.chars().take_while(|c| c.is_lowercase() || *c == '_').collect();
            arrows += usize::from(named != room);
            if named != room && !may_name.is_some_and(|below| below.contains(&named.as_str())) {
                wrong.push(format!("{}: names {named}", file.path.display()));
            }
        }
    }
    assert!(arrows > least, "the source is read: {arrows}");
    assert!(wrong.is_empty(), "against the direction of the rooms of {parent}\n{}", wrong.join("\n"));
}

#[test]
fn the_rooms_of_the_proxy_name_only_those_below_them() {
    const PROXY: &str = "crate::server::proxy::";
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for file in library_files() {
        let Some(room) = file.module.strip_prefix("server::proxy::") else { continue };
        let room = room.split("::").next().unwrap();
        let below = PROXY_ROOMS.iter().find(|(name, _)| *name == room).map(|(_, below)| *below);
        let below = below.unwrap_or_else(|| panic!("{room} is no room of the proxy"));
        for (at, _) in file.code.match_indices(PROXY) {
            let rest = &file.code[at + PROXY.len()..];
            let named: String = rest.chars().take_while(|c| c.is_lowercase() || *c == '_').collect();
            seen.insert((room.to_owned(), named.clone()));
            if named != room && !below.contains(&named.as_str()) {
                wrong.push(format!("{}: names {named}", file.path.display()));
            }
        }
        // A room names others by their whole path, so that this test sees it.
        let climbs = if file.path.ends_with("mod.rs") { "use super::" } else { "super::super::" };
        if file.code.contains(climbs) {
            wrong.push(format!("{}: leaves its room with {climbs}", file.path.display()));
        }
    }
    assert!(seen.contains(&("workers".to_owned(), "exchange".to_owned())), "{seen:?}");
    assert!(wrong.is_empty(), "against the direction of the rooms:\n{}", wrong.join("\n"));
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
