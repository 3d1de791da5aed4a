//! What a run has reached: every command answered well, every error said.

use std::collections::{BTreeMap, BTreeSet};

use super::model::COMMANDS;

/// The error texts of PROTOCOL section 3, and ours. A text that ends in a space has more behind it.
pub(crate) const ERRORS: &[&str] = &[
    "no session",
    "session not found",
    "session replaced",
    "unknown command: ",
    "invalid format",
    "invalid metadata json",
    "invalid json",
    "route not found",
    "unknown field",
    "no domains specified",
    "path cannot be empty",
    "invalid backend url format",
    "circuit breaker not found",
    "no drain in progress",
    "unknown target: ",
    "invalid duration: ",
    "not allowed: ",
    "store unavailable",
    "wrong registry token",
    "wrong service token",
    "service_token is no text",
    "header not allowed: ",
    "too many routes",
    "too many domains",
    "too many headers",
    "too many staged changes",
    "too many sessions",
    "too many sessions from this address",
    "too many wrong tokens from this address",
    "too many backend tests",
    "service token cannot be added",
    "metadata too large",
    "too many connections",
    "too many connections from this address",
    "too many maintenance requests",
    "response too large",
    "line too long",
    "too many subscriptions",
    "too many commands at once",
    "invalid event type ",
    "no valid command in time",
    "maintenance request superseded",
    "timeout waiting for maintenance page to become reachable",
    "timeout waiting for backend to become reachable",
    "invalid service name ",
    "invalid instance name ",
    "invalid maintenance port ",
    "invalid domain ",
    "invalid path ",
    "invalid priority ",
    "invalid header name ",
    "invalid header value ",
    "invalid health path ",
    "invalid option ",
    "invalid option value ",
    "invalid scope ",
    "invalid threshold ",
    "invalid number of requests ",
    "invalid number of half-open requests ",
    "number of requests ",
    "route r",
];

/// Replies besides `OK` and its kind that must come up.
const WORDS: &[&str] = &["REREGISTER", "MAINT_OK", "SHUTDOWN", "BACKEND_FAIL", "BACKEND_OK", "PONG", "EVENT"];

#[derive(Debug, Default, Clone)]
pub(crate) struct Coverage {
    /// By name: how often it was answered with anything but an error.
    commands: BTreeMap<String, usize>,
    errors: BTreeMap<&'static str, usize>,
    words: BTreeMap<&'static str, usize>,
    /// Errors that the table above does not have.
    unlisted: BTreeSet<String>,
}

impl Coverage {
    /// A line came. If it answers a command, that is the first of `asked`.
    pub(crate) fn reply(&mut self, asked: &mut Vec<String>, line: &str) {
        let word = line.split('|').next().unwrap_or_default();
        if let Some(known) = WORDS.iter().find(|known| **known == word) {
            *self.words.entry(known).or_default() += 1;
        }
        let error = line.strip_prefix("ERROR|").map(|text| {
            // The longest that fits.
            let fits = |known: &&&'static str| text == known.trim_end() || is_prefix(known, text);
            (text, ERRORS.iter().filter(fits).max_by_key(|known| known.len()))
        });
        match error {
            Some((_, Some(known))) => *self.errors.entry(known).or_default() += 1,
            Some((text, None)) => _ = self.unlisted.insert(text.to_owned()),
            None => {}
        }
        let is_push = matches!(word, "MAINT_OK" | "SHUTDOWN" | "EVENT")
            || error.is_some_and(|(text, _)| {
                text.starts_with("timeout waiting")
                    || text.ends_with("superseded")
                    || text.starts_with("too many conn")
            });
        if is_push || asked.is_empty() {
            return;
        }
        let command = asked.remove(0);
        if error.is_none() {
            let name = command.split('|').next().unwrap_or_default().to_owned();
            *self.commands.entry(name).or_default() += 1;
        }
    }

    pub(crate) fn events(&mut self, count: usize) {
        if count > 0 {
            *self.words.entry("EVENT").or_default() += count;
        }
    }

    pub(crate) fn add(&mut self, other: &Coverage) {
        for (name, count) in &other.commands {
            *self.commands.entry(name.clone()).or_default() += count;
        }
        for (name, count) in &other.errors {
            *self.errors.entry(name).or_default() += count;
        }
        for (name, count) in &other.words {
            *self.words.entry(name).or_default() += count;
        }
        self.unlisted.extend(other.unlisted.iter().cloned());
    }

    /// Panics unless everything was reached, but for `beyond`, and nothing else.
    pub(crate) fn assert_complete(&self, beyond: &[&str]) {
        let missing = self.missing();
        let table = self.table();
        assert_eq!(missing, beyond, "on the left: never reached\n{table}");
        assert!(self.unlisted.is_empty(), "errors that no table has: {:?}", self.unlisted);
    }

    /// What was never reached.
    fn missing(&self) -> Vec<String> {
        let commands =
            COMMANDS.iter().map(|(name, _)| *name).filter(|name| !self.commands.contains_key(*name));
        let errors = ERRORS.iter().copied().filter(|text| !self.errors.contains_key(text));
        let words = WORDS.iter().copied().filter(|word| !self.words.contains_key(word));
        let errors = errors.map(|text| format!("ERROR|{text}"));
        commands.map(str::to_owned).chain(errors).chain(words.map(str::to_owned)).collect()
    }

    /// How often each was reached.
    pub(crate) fn table(&self) -> String {
        let rows = self.commands.iter().map(|(name, count)| format!("{count:>7}  {name}"));
        let errors = self.errors.iter().map(|(text, count)| format!("{count:>7}  ERROR|{text}"));
        let words = self.words.iter().map(|(word, count)| format!("{count:>7}  {word}"));
        rows.chain(errors).chain(words).collect::<Vec<_>>().join("\n")
    }
}

fn is_prefix(known: &str, text: &str) -> bool {
    (known.ends_with(' ') || known == "route r") && text.starts_with(known)
}
