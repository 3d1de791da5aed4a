//! docs/reference/configuration.md says what the tables of variables and the registry's limits say.

use std::fmt::Write as _;
use std::path::Path;

use registry_sidecar::environment::{Fallback, Table, Variable};
use registry_sidecar::{server, sidecar};

use super::page::{Page, ROOT};

const PAGE: &str = "docs/reference/configuration.md";

/// The page names the variables of a group in its mark, `<!-- sidecar: PORT APP_PORT -->`. The table below it is the
/// code's.
#[test]
fn each_variable_is_in_one_group_of_the_page_as_the_code_has_it() {
    let page = Page::read(Path::new(PAGE));
    let programs = [("sidecar", sidecar::config::TABLE), ("server", server::config::TABLE)];
    let now = programs.iter().fold(page.text.clone(), |text, (name, table)| with_tables(&text, name, table));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(Path::new(ROOT).join(PAGE), now).unwrap();
    } else {
        assert!(page.text == now, "{PAGE} is behind: UPDATE_DOCS=1 cargo test --test documentation");
    }
}

/// The page with every table of a program written anew.
fn with_tables(page: &str, program: &str, table: &Table) -> String {
    let mut left: Vec<&Variable> = table.variables.iter().collect();
    let mark = format!("<!-- {program}: ");
    let mut pieces = page.split(&mark);
    let mut text = pieces.next().unwrap().to_owned();
    for piece in pieces {
        let (names, rest) = piece.split_once(" -->\n").unwrap();
        let (_, after) = rest.split_once("<!-- end -->").unwrap();
        let group: Vec<&Variable> =
            names
                .split(' ')
                .map(|name| {
                    let at = left.iter().position(|known| known.name == name);
                    left.remove(at.unwrap_or_else(|| {
                        panic!("{PAGE}: no variable of the {program} is left that is {name}")
                    }))
                })
                .collect();
        let rows = rows(&group, table);
        write!(text, "<!-- {program}: {names} -->\n{rows}<!-- end -->{after}").unwrap();
    }
    let left: Vec<_> = left.iter().map(|known| known.name).collect();
    assert!(left.is_empty(), "{PAGE}: no group of the {program} names {left:?}: write them into a mark");
    text
}

/// A group of variables as a table, or as a line where this version only knows their names.
fn rows(group: &[&Variable], table: &Table) -> String {
    let (now, later): (Vec<&Variable>, Vec<&Variable>) = group.iter().partition(|known| known.implemented);
    let names = later.iter().map(|known| format!("`{}`", table.advertised(known))).collect::<Vec<_>>();
    let mut rows = String::new();
    if !now.is_empty() {
        rows += "| variable | default | meaning | example |\n|---|---|---|---|\n";
    }
    for known in now {
        let default = match known.default {
            Fallback::Text(text) => format!("`{text}`"),
            Fallback::Derived(from) => from.to_owned(),
            Fallback::Unset => String::new(),
            Fallback::Required => "required".to_owned(),
        };
        let name = table.advertised(known);
        writeln!(rows, "| `{name}` | {default} | {} | `{}` |", known.meaning, known.example).unwrap();
    }
    if !names.is_empty() {
        writeln!(rows, "Known, and without effect in this version: {}.", names.join(", ")).unwrap();
    }
    rows
}

/// The limits of what a client may fill: those that a variable sets as it is documented there, the others as the code
/// has them, and none of the variables left out.
#[test]
fn the_page_has_every_limit_of_the_registry_with_its_default() {
    let page = Page::read(Path::new(PAGE)).text;
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
    let proxys = ["MAX_CONNECTIONS", "MAX_BUFFERED"];
    let is_limit = |known: &&Variable| known.name.starts_with("MAX_") && !proxys.contains(&known.name);
    for known in server::config::VARIABLES.iter().filter(is_limit) {
        let Fallback::Text(default) = known.default else { panic!("{} has no default", known.name) };
        assert_eq!(at_most(known.name, ""), default, "{}", known.name);
    }
    let limits = server::registry::Limits::default();
    for (what, most) in [
        ("of these, by all sessions from one address", limits.staged_bytes_per_address),
        ("of these, of all sessions at once", limits.staged_bytes_in_all),
        ("bytes of these headers", limits.header_bytes),
        ("domains of a route", limits.domains),
        ("bytes of the metadata", limits.metadata_bytes),
        ("bytes of a command", registry_client::protocol::MAX_LINE),
    ] {
        assert_eq!(at_most("", what), most.to_string(), "{what}");
    }
    let mut answers: Vec<&String> = rows.iter().map(|row| &row[4]).collect();
    answers.dedup();
    assert_eq!(
        answers.len(),
        rows.len() - 4,
        "each in words of its own; those of headers and of stages are one"
    );
}
