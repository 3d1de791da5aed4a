//! A name in capitals (a variable, a command of the wire, an event) that a page mentions is one that the code has.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use registry_sidecar::server;
use registry_sidecar::sidecar::config::{PREFIX, VARIABLES};

use super::page::{Page, ROOT, files_below, pages};

/// Names that other programs have, and ours only have to do with.
const OF_OTHERS: [&str; 1] = ["STOPSIGNAL"];

#[test]
fn every_variable_with_our_prefix_is_one() {
    let mut seen = 0;
    for page in pages() {
        for (number, word) in words(&page.text) {
            let Some(name) = word.strip_prefix(PREFIX) else { continue };
            let known = VARIABLES.iter().any(|known| known.name == name.trim_end_matches("_FILE"));
            // These are prefixes of names, and the placeholders of the rules.
            let family = name.starts_with("ENV_") || ["", "X", "NAME"].contains(&name);
            assert!(known || family, "{}:{number}: there is no {word}", page.path.display());
            seen += 1;
        }
    }
    assert!(seen > 100, "only {seen} names were looked at");
}

/// Whoever copies a name from a page for users gets one that is read.
#[test]
fn a_variable_that_is_read_with_our_prefix_only_is_written_with_it() {
    let for_users = |page: &Page| {
        ["docs/guides", "docs/reference", "deploy", "README.md"].iter().any(|at| page.path.starts_with(at))
    };
    for page in pages().iter().filter(|page| for_users(page)) {
        for (number, span) in page.code_spans() {
            let name = span.split(['=', ':', ' ']).next().unwrap();
            let ours = VARIABLES.iter().any(|known| known.name == name && !known.bare);
            let servers = server::config::VARIABLES.iter().any(|known| known.name == name);
            assert!(!ours || servers, "{}:{number}: write {PREFIX}{name}", page.path.display());
        }
    }
}

#[test]
fn every_name_in_capitals_stands_in_the_code() {
    let known = names_of_the_code();
    let mut unknown = Vec::new();
    // The pages on migration name the variables of the programs that they replace, the log of changes parts of names.
    let ours = |page: &Page| {
        !page.path.starts_with("docs/guides/migration") && page.path != Path::new("CHANGELOG.md")
    };
    for page in pages().iter().filter(|page| ours(page)) {
        let spans = page.code_spans();
        let in_spans = spans.iter().flat_map(|(number, span)| words(span).map(|(_, word)| (*number, word)));
        let with_underscores = words(&page.text).filter(|(_, word)| word.contains('_'));
        for (number, word) in with_underscores.chain(in_spans) {
            let is_elsewhere = word.starts_with(PREFIX) || OF_OTHERS.contains(&word);
            if is_name(word)
                && !is_elsewhere
                && !known.contains(word)
                && !known.contains(word.trim_end_matches("_FILE"))
            {
                unknown.push(format!("{}:{number}: {word}", page.path.display()));
            }
        }
    }
    unknown.sort();
    unknown.dedup();
    assert!(unknown.is_empty(), "no such name in the code:\n{}", unknown.join("\n"));
}

/// Letters are capitals, and there are three signs at least.
fn is_name(word: &str) -> bool {
    word.len() >= 3
        && word.starts_with(|c: char| c.is_ascii_uppercase())
        && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// The words of a text with the numbers of their lines.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().flat_map(|(index, line)| {
        let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.map(move |word| (index + 1, word))
    })
}

/// Every name in the programs, their tests, benches and scripts. The tests of the documentation are left out: what they
/// name proves nothing.
fn names_of_the_code() -> BTreeSet<String> {
    let folders =
        ["src", "client", "nodes", "tests", "benches", "scripts", "deploy", "fuzz/fuzz_targets", ".ci"];
    let there = folders.iter().map(|folder| Path::new(ROOT).join(folder)).filter(|folder| folder.exists());
    let mut files: Vec<_> = there.flat_map(|folder| files_below(&folder)).collect();
    files.extend(["Dockerfile", "docker-compose.yml", "Cargo.toml"].map(|file| Path::new(ROOT).join(file)));
    files.retain(|file| {
        !file.ends_with("README.md") && !file.to_string_lossy().contains("tests/documentation/")
    });
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    let names = |text: String| -> Vec<String> {
        words(&text).map(|(_, word)| word).filter(|word| is_name(word)).map(str::to_owned).collect()
    };
    texts.flat_map(names).collect()
}
