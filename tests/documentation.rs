//! docs/CONFIGURATION.md says what the tables of variables say.
//!
//! After a change of a table: `UPDATE_DOCS=1 cargo test --test documentation` writes it anew.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

use std::fmt::Write as _;
use std::path::Path;

use registry_sidecar::environment::{Fallback, Variable};
use registry_sidecar::{server, sidecar};

#[test]
fn the_configuration_page_is_what_the_tables_say() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CONFIGURATION.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let text_now = with_table(&text, "sidecar", &table(sidecar::config::VARIABLES, true));
    let text_now = with_table(&text_now, "server", &table(server::config::VARIABLES, false));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&page, text_now).unwrap();
    } else {
        assert!(
            text == text_now,
            "docs/CONFIGURATION.md is behind: UPDATE_DOCS=1 cargo test --test documentation"
        );
    }
}

/// The limits of what a client may fill: those that a variable sets as it is documented there, the others as the code
/// has them, and none of the variables left out.
#[test]
fn the_page_has_every_limit_of_the_registry_with_its_default() {
    let page = include_str!("../docs/CONFIGURATION.md");
    let table =
        page.split("<!-- begin limits -->").nth(1).unwrap().split("<!-- end limits -->").next().unwrap();
    let rows: Vec<Vec<String>> = table
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| what"))
        .map(|line| line.replace("\\|", "\0").split('|').map(|cell| cell.trim().replace('`', "")).collect())
        .collect();
    let at_most = |variable: &str, what: &str| -> String {
        let row = rows.iter().find(|row| row[3] == variable && row[1].starts_with(what));
        row.unwrap_or_else(|| panic!("no row for {variable} {what}"))[2].clone()
    };
    // MAX_CONNECTIONS is the proxy's.
    let is_limit = |known: &&Variable| known.name.starts_with("MAX_") && known.name != "MAX_CONNECTIONS";
    for known in server::config::VARIABLES.iter().filter(is_limit) {
        let Fallback::Text(default) = known.default else { panic!("{} has no default", known.name) };
        assert_eq!(at_most(known.name, ""), default, "{}", known.name);
    }
    let limits = server::registry::Limits::default();
    for (what, most) in [
        ("bytes of these headers", limits.header_bytes),
        ("domains of a route", limits.domains),
        ("bytes of the metadata", limits.metadata_bytes),
        ("bytes of a command", registry_sidecar::protocol::MAX_LINE),
    ] {
        assert_eq!(at_most("", what), most.to_string(), "{what}");
    }
    let mut answers: Vec<&String> = rows.iter().map(|row| &row[4]).collect();
    answers.dedup();
    assert_eq!(answers.len(), rows.len() - 1, "each in words of its own; the two of headers are one");
}

/// The rows for what this version does, then the names that it only knows.
fn table(variables: &[Variable], has_prefix: bool) -> String {
    let mut table = "| variable | default | meaning | example |\n|---|---|---|---|\n".to_owned();
    for known in variables.iter().filter(|known| known.implemented) {
        let star = if has_prefix && known.bare { "*" } else { "" };
        let default = match known.default {
            Fallback::Text(text) => format!("`{text}`"),
            Fallback::Derived(from) => from.to_owned(),
            Fallback::Unset => String::new(),
            Fallback::Required => "required".to_owned(),
        };
        writeln!(table, "| `{}`{star} | {default} | {} | `{}` |", known.name, known.meaning, known.example)
            .unwrap();
    }
    let later = variables.iter().filter(|known| !known.implemented).map(|known| format!("`{}`", known.name));
    write!(table, "\nKnown, and without effect in this version: {}.\n", later.collect::<Vec<_>>().join(", "))
        .unwrap();
    table
}

/// The page with the part between the two marks of `name` replaced.
fn with_table(page: &str, name: &str, table: &str) -> String {
    let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->"));
    let (before, rest) = page.split_once(&begin).unwrap();
    let (_, after) = rest.split_once(&end).unwrap();
    format!("{before}{begin}{table}{end}{after}")
}
