//! What is wrong with a configuration, all of it at once, for the person who has to set it right.

use std::fmt;

use crate::protocol::Invalid;

/// One mistake: which variable, what it holds, what is wrong, what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The variable as it was written (`SIDECAR_PORT`, `PORT_FILE`, `ROUTES[1].port`).
    pub variable: String,
    /// Its value, cut to a bounded length; `None` where it is missing or secret.
    pub value: Option<String>,
    /// What is wrong.
    pub reason: String,
    /// A line that would be right: `PORT=8080`.
    pub example: Option<String>,
}

/// Values are quoted up to this many characters, so that a mistake fits a line.
pub(super) const QUOTED_CHARS: usize = 100;

impl Problem {
    pub(super) fn new(variable: impl Into<String>, value: Option<&str>, reason: impl Into<String>) -> Self {
        Problem {
            variable: variable.into(),
            value: value.map(|text| text.chars().take(QUOTED_CHARS).collect()),
            reason: reason.into(),
            example: None,
        }
    }

    pub(super) fn example(self, line: impl Into<String>) -> Self {
        Problem { example: Some(line.into()), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.variable)?;
        if let Some(value) = &self.value {
            write!(f, "={value:?}")?;
        }
        write!(f, ": {}", self.reason)?;
        match &self.example {
            Some(line) => write!(f, "; for example: {line}"),
            None => Ok(()),
        }
    }
}

/// Every mistake of a configuration; never empty. The process that meets it exits with 64 (usage).
///
/// Its text has one line a mistake, and the first line names a variable already: a log collector may show
/// no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Problem>);

impl ConfigErrors {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        ConfigErrors(problems)
    }

    /// The mistakes, in the order of the table of variables as far as it goes.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
            if count > 1 {
                write!(f, " ({} of {count})", index + 1)?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// The refusal's reason; with the part of the value that was refused where that is not all of it.
pub fn reason_of(refused: &Invalid, whole: &str) -> String {
    let quoted: String = whole.chars().take(QUOTED_CHARS).collect();
    if refused.value == quoted {
        return refused.reason.to_string();
    }
    format!("{:?}: {}", refused.value, refused.reason)
}
