//! Turns the texts of variables into values, one at a time, and collects the mistakes.

use std::path::PathBuf;

use serde::de::DeserializeOwned;

use registry_client::protocol::Invalid;

use super::error::{ConfigErrors, Problem, QUOTED_CHARS, reason_of};
use super::source::{Given, Source};
use super::variable::{Fallback, Variable};

/// There is no value, because of a mistake that is already in the report.
#[derive(Debug, Clone, Copy)]
pub struct Reported;

/// Parses texts and keeps the report.
pub struct Reader {
    source: Source,
}

impl Reader {
    /// Returns the texts in a `Raw`, whose fields are `Option<String>`s with the names of the variables in lower
    /// case, and a reader that knows the origin of each text.
    pub fn new<Raw: DeserializeOwned + Default>(mut source: Source) -> (Raw, Reader) {
        let texts = source.values.iter().map(|(name, given)| ((*name).to_owned(), given.text.clone()));
        let raw = envy::from_iter(texts.collect::<Vec<_>>()).unwrap_or_else(|error| {
            // This cannot happen, because all fields are optional texts.
            source.problems.push(Problem::new("environment", None, error.to_string()));
            Raw::default()
        });
        (raw, Reader { source })
    }

    /// The value of a variable that may be missing.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        text: Option<String>,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Result<Option<T>, Reported> {
        let Some(text) = text else { return Ok(None) };
        parse(&text).map(Some).map_err(|refused| {
            let secret = self.find(name).is_some_and(Variable::is_secret);
            // Do not quote even a part of a secret.
            let reason = if secret { refused.reason.into_owned() } else { reason_of(&refused, &text) };
            self.refuse(name, reason)
        })
    }

    /// The value of a variable, or its default in the table.
    pub fn value<T>(
        &mut self,
        name: &'static str,
        text: Option<String>,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Result<T, Reported> {
        let fallback = || match self.find(name)?.default {
            Fallback::Text(text) => Some(text.to_owned()),
            Fallback::Derived(_) | Fallback::Unset | Fallback::Required => None,
        };
        let value = self.optional(name, text.or_else(fallback), parse)?;
        value.ok_or_else(|| self.missing(name, "it is required and not set", &[name]))
    }

    /// Reports that `name` is not set, with a hint where another variable looks like a misspelling of one of
    /// `wanted`.
    pub fn missing(&mut self, name: &'static str, reason: &str, wanted: &[&str]) -> Reported {
        let reason = match self.source.misspelled(wanted) {
            Some(hint) => format!("{reason} ({hint})"),
            None => reason.to_owned(),
        };
        self.refuse(name, reason)
    }

    /// Reports what is wrong with a variable as a whole.
    pub fn refuse(&mut self, name: &'static str, reason: String) -> Reported {
        let known = self.find(name);
        let secret = known.is_some_and(Variable::is_secret);
        let (value, reason) = match self.source.values.get(name) {
            None => (None, reason),
            Some(Given { file: Some(file), .. }) if secret => {
                (Some(file.clone()), format!("what the file holds: {reason}"))
            }
            Some(Given { file: Some(file), text, .. }) => {
                let head: String = text.chars().take(QUOTED_CHARS).collect();
                (Some(file.clone()), format!("the file holds {head:?}: {reason}"))
            }
            Some(_) if secret => (None, reason),
            Some(given) => (Some(given.text.clone()), reason),
        };
        let problem = Problem::new(self.spelled(name), value.as_deref(), reason);
        self.report(name, problem)
    }

    /// Reports what is wrong with a part of a variable; `place` is for example `[1].port`.
    pub fn refuse_part(
        &mut self,
        name: &'static str,
        place: &str,
        value: Option<&str>,
        reason: String,
    ) -> Reported {
        let problem = Problem::new(format!("{}{place}", self.spelled(name)), value, reason);
        self.report(name, problem)
    }

    /// Reports what is wrong with something that `name` is about, but that is shown under another name. Its value is
    /// not quoted.
    pub fn refuse_named(&mut self, name: &'static str, shown: &str, reason: String) -> Reported {
        self.report(name, Problem::new(shown, None, reason))
    }

    fn find(&self, name: &str) -> Option<&'static Variable> {
        self.source.table.find(name)
    }

    fn report(&mut self, name: &'static str, problem: Problem) -> Reported {
        let example = self.find(name).map(|known| {
            let spelled = match self.source.values.get(name) {
                Some(given) => given.of_text().to_owned(),
                None => self.source.table.advertised(known),
            };
            format!("{spelled}={}", known.example)
        });
        self.source.problems.push(match example {
            Some(line) => problem.example(line),
            None => problem,
        });
        Reported
    }

    /// The name as it was written, or as it should be written.
    pub fn spelled(&self, name: &'static str) -> String {
        match (self.source.values.get(name), self.find(name)) {
            (Some(given), _) => given.variable.clone(),
            (None, Some(known)) => self.source.table.advertised(known),
            (None, None) => name.to_owned(),
        }
    }

    /// The file that the variable's value came from; `None` where it came from the variable itself.
    pub fn file_of(&self, name: &'static str) -> Option<PathBuf> {
        self.source.values.get(name)?.file.as_ref().map(PathBuf::from)
    }

    /// Whether the variable is set, in whatever spelling.
    pub fn is_given(&self, name: &'static str) -> bool {
        self.source.values.contains_key(name)
    }

    /// Whether the variable was written with our prefix.
    pub fn is_prefixed(&self, name: &'static str) -> bool {
        let given = self.source.values.get(name);
        given.is_some_and(|given| self.source.table.without_prefix(&given.variable).is_some())
    }

    /// Adds a line to the warnings.
    pub fn warn(&mut self, line: String) {
        self.source.warnings.push(line);
    }

    /// Returns what was read and the warnings if there was no mistake, else the report.
    pub fn finish<T>(mut self, read: Result<T, Reported>) -> Result<(T, Vec<String>), ConfigErrors> {
        let given_up = read.is_err() && self.source.problems.is_empty();
        if given_up {
            // Every error is reported, so this is a bug; do not start all the same.
            self.source.problems.push(Problem::new("environment", None, "it cannot be read"));
        }
        match read {
            Ok(value) if self.source.problems.is_empty() => Ok((value, self.source.warnings)),
            _ => Err(ConfigErrors::new(self.source.problems)),
        }
    }
}
