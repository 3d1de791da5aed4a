//! From the texts of the variables to values, one at a time, collecting what is wrong.

use serde::Deserialize;

use crate::protocol::Invalid;

use super::error::{ConfigErrors, Problem, QUOTED_CHARS, reason_of};
use super::source::{Given, Source};
use super::variables::{self, Fallback, Variable};

macro_rules! raw {
    ($($field:ident)+) => {
        /// One text for each variable that this version acts on; `None` where it is not set.
        #[derive(Debug, Default, Deserialize)]
        pub(super) struct Raw { $(pub(super) $field: Option<String>,)+ }

        impl Raw {
            /// The fields, which are the variables' names in lower case.
            #[cfg(test)]
            const FIELDS: &'static [&'static str] = &[$(stringify!($field),)+];
        }
    };
}

raw! {
    registry_host registry_port registry_token service_token enable_registry
    service_name instance_name metadata
    domains route_path port app_port priority routes backend_scheme backend_host web_net_cidr
    health_path health_interval health_timeout
    compression enable_websocket preserve_host backend_http2 backend_timeout
    response_headers rate_limit circuit_breaker
    enable_socketio_route socketio_path
    wait_for_port port_wait_timeout ready_check ready_interval ready_timeout ready_rise
    keepalive_interval request_timeout reconnect_min reconnect_max
    log_level log_format
}

/// A mistake that has been written into the report: there is no value, and nothing more to say about it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reported;

/// Turns texts into values and keeps the report.
pub(super) struct Reader {
    source: Source,
}

impl Reader {
    /// The texts, and a reader that knows where each came from.
    pub(super) fn new(mut source: Source) -> (Raw, Reader) {
        let texts = source.values.iter().map(|(name, given)| ((*name).to_owned(), given.text.clone()));
        let raw = envy::from_iter(texts.collect::<Vec<_>>()).unwrap_or_else(|error| {
            // Nothing but optional texts, each name once: there is nothing to refuse.
            source.problems.push(Problem::new("environment", None, error.to_string()));
            Raw::default()
        });
        (raw, Reader { source })
    }

    /// The value of a variable that may be missing.
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        text: Option<String>,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Result<Option<T>, Reported> {
        let Some(text) = text else { return Ok(None) };
        parse(&text).map(Some).map_err(|refused| {
            let secret = variables::find(name).is_some_and(Variable::is_secret);
            // A part of a secret is not quoted either.
            let reason = if secret { refused.reason.into_owned() } else { reason_of(&refused, &text) };
            self.refuse(name, reason)
        })
    }

    /// The value of a variable, or the one that the table of variables has in its place.
    pub(super) fn value<T>(
        &mut self,
        name: &'static str,
        text: Option<String>,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Result<T, Reported> {
        let fallback = || match variables::find(name)?.default {
            Fallback::Text(text) => Some(text.to_owned()),
            Fallback::Derived(_) | Fallback::Unset | Fallback::Required => None,
        };
        let value = self.optional(name, text.or_else(fallback), parse)?;
        value.ok_or_else(|| self.missing(name, "it is required and not set", &[name]))
    }

    /// Reports that `name` is not set; a near-miss of one of `wanted` is pointed out.
    pub(super) fn missing(&mut self, name: &'static str, reason: &str, wanted: &[&str]) -> Reported {
        let reason = match self.source.misspelled(wanted) {
            Some(hint) => format!("{reason} ({hint})"),
            None => reason.to_owned(),
        };
        self.refuse(name, reason)
    }

    /// Reports what is wrong with a variable as a whole.
    pub(super) fn refuse(&mut self, name: &'static str, reason: String) -> Reported {
        let known = variables::find(name);
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

    /// Reports what is wrong with a part of a variable: `place` is `[1].port`.
    pub(super) fn refuse_part(
        &mut self,
        name: &'static str,
        place: &str,
        value: Option<&str>,
        reason: String,
    ) -> Reported {
        let problem = Problem::new(format!("{}{place}", self.spelled(name)), value, reason);
        self.report(name, problem)
    }

    fn report(&mut self, name: &'static str, problem: Problem) -> Reported {
        let example = variables::find(name).map(|known| {
            let spelled = match self.source.values.get(name) {
                Some(given) => given.variable.trim_end_matches(variables::FILE_SUFFIX).to_owned(),
                None => known.advertised(),
            };
            format!("{spelled}={}", known.example)
        });
        self.source.problems.push(match example {
            Some(line) => problem.example(line),
            None => problem,
        });
        Reported
    }

    /// The name as it was written, or as it should be.
    pub(super) fn spelled(&self, name: &'static str) -> String {
        match (self.source.values.get(name), variables::find(name)) {
            (Some(given), _) => given.variable.clone(),
            (None, Some(known)) => known.advertised(),
            (None, None) => name.to_owned(),
        }
    }

    /// Whether the variable was written with our prefix.
    pub(super) fn is_prefixed(&self, name: &'static str) -> bool {
        self.source.values.get(name).is_some_and(|given| given.is_prefixed())
    }

    pub(super) fn warn(&mut self, line: String) {
        self.source.warnings.push(line);
    }

    /// The warnings if nothing was wrong, else the report.
    pub(super) fn finish(self) -> Result<Vec<String>, ConfigErrors> {
        match self.source.problems.is_empty() {
            true => Ok(self.source.warnings),
            false => Err(ConfigErrors::new(self.source.problems)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::config::VARIABLES;

    #[test]
    fn every_variable_that_is_read_is_in_the_table_and_the_other_way_round() {
        let read: Vec<String> = Raw::FIELDS.iter().map(|field| field.to_ascii_uppercase()).collect();
        for name in &read {
            assert!(VARIABLES.iter().any(|known| known.name == *name && known.implemented), "{name}");
        }
        for known in VARIABLES.iter().filter(|known| known.implemented) {
            assert!(read.iter().any(|name| name == known.name), "{}", known.name);
        }
    }
}
