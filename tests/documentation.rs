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
