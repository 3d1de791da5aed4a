//! A command of our programs that a page mentions is one that they know, and the reference has all of them.

use std::path::Path;
use std::process::Command;

use registry_sidecar::sidecar::admin::control::cli;
use registry_sidecar::{server, sidecar};

use super::log_lines::literals_of_the_code;
use super::page::{Page, ROOT, pages};

const PROGRAMS: [(&str, &str); 2] = [
    ("registry-sidecar", env!("CARGO_BIN_EXE_registry-sidecar")),
    ("registry-server", env!("CARGO_BIN_EXE_registry-server")),
];

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').filter(|word| !word.is_empty())
}

fn help(program: &str) -> String {
    let output = Command::new(program).arg("--help").env_clear().output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_command_that_a_page_mentions_is_in_the_help_of_the_program() {
    let mut checked = 0;
    for (name, path) in PROGRAMS {
        let help = help(path);
        let known: Vec<&str> = words(&help).collect();
        for page in pages() {
            for (number, span) in page.code_spans() {
                let Some((before, command)) = span.split_once(&format!("{name} ")) else { continue };
                if !before.is_empty() && !before.contains(" exec ") {
                    continue;
                }
                // What stands behind `--` is somebody else's, and so is a value.
                let ours =
                    command.split(" -- ").next().unwrap().split_whitespace().take_while(|word| *word != "--");
                let ours = ours
                    .filter(|word| word.starts_with("--") || word.chars().all(|c| c.is_ascii_lowercase()));
                for word in ours {
                    assert!(known.contains(&word), "{}:{number}: {name} has no {word}", page.path.display());
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 20, "only {checked} words were checked");
}

#[test]
fn the_reference_has_every_command() {
    let page = Page::read(Path::new("docs/reference/command-line.md"));
    let has = |command: &str| {
        assert!(
            page.text.contains(&format!("| `{command}`")) || page.text.contains(&format!("| `{command} ")),
            "{}: no row for {command}",
            page.path.display()
        );
    };
    cli::COMMANDS
        .iter()
        .filter(|word| **word != "maintenance")
        .for_each(|word| has(&format!("registry-sidecar {word}")));
    for line in help(PROGRAMS[1].1).lines().filter(|line| line.starts_with("registry-server ")) {
        words(line).nth(1).filter(|word| !word.starts_with("--") && *word != "run").into_iter().for_each(
            |word| {
                has(&format!("registry-server {word}"));
            },
        );
    }
}

/// Whoever has an image and no page asks the program itself.
#[test]
fn the_programs_print_every_variable_and_their_help_names_only_what_they_have() {
    let tables = [sidecar::config::TABLE, server::config::TABLE];
    for ((name, path), table) in PROGRAMS.iter().zip(tables) {
        let output = Command::new(path).arg("variables").env_clear().output().unwrap();
        assert!(output.status.success(), "{name}");
        let printed = String::from_utf8(output.stdout).unwrap();
        for known in table.variables.iter().filter(|known| known.implemented) {
            let written = table.advertised(known);
            let named = |line: &str| line.split(' ').next() == Some(&written);
            assert!(printed.lines().any(named), "{name} variables does not print {written}");
        }
        assert!(!help(path).contains(".md"), "the help of {name} names a file that an image does not have");
    }
}

#[test]
fn the_page_on_metrics_has_those_of_the_code_and_no_others() {
    let is_metric = |text: &str| {
        let is_ours = text.starts_with("proxy_") || text.starts_with("registry_");
        is_ours && !text.ends_with('_') && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let page = Page::read(Path::new("docs/reference/metrics.md"));
    let mut shown: Vec<&str> =
        page.code_spans().into_iter().map(|(_, span)| span).filter(|span| is_metric(span)).collect();
    let code = literals_of_the_code();
    let mut there: Vec<&str> = code.iter().map(String::as_str).filter(|text| is_metric(text)).collect();
    for names in [&mut shown, &mut there] {
        names.sort_unstable();
        names.dedup();
    }
    assert_eq!(shown, there);
    let alerts = std::fs::read_to_string(Path::new(ROOT).join("deploy/monitoring/alerts.yml")).unwrap();
    let words = alerts.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for name in words.filter(|word| is_metric(word)) {
        let name = name.strip_suffix("_bucket").unwrap_or(name);
        assert!(there.binary_search(&name).is_ok(), "deploy/monitoring/alerts.yml: there is no {name}");
    }
}
