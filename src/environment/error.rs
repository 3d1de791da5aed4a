//! Reports everything that is wrong with a configuration at once.

use std::fmt;

use registry_client::protocol::Invalid;

/// One mistake in one variable.
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

/// How many characters of a value are quoted, so that a mistake fits into a line.
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

/// All mistakes of a configuration; never empty. The program exits with 64 (usage).
///
/// Its text has a line for each mistake. The first line names a variable, because a log collector may show only that
/// line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Problem>);

impl ConfigErrors {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        ConfigErrors(problems)
    }

    /// The mistakes, in the order in which the variables were read.
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

/// The reason for a refusal, which quotes the refused part of the value where that is not the whole.
pub fn reason_of(refused: &Invalid, whole: &str) -> String {
    let quoted: String = whole.chars().take(QUOTED_CHARS).collect();
    if refused.value == quoted {
        return refused.reason.to_string();
    }
    format!("{:?}: {}", refused.value, refused.reason)
}
