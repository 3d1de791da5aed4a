//! The log: text for people, JSON for collectors. Used by all, uses none.
//!
//! It goes to standard error, in both forms: standard output belongs to what a command prints as its
//! result (`check`, `demo`) and to a wrapped application, whose output we must not mix with ours. Container
//! engines collect both. There are no colours, because logs end in files. There is one level for
//! everything, and no filter language: the lean binary has no room for one.

use std::str::FromStr;

use tracing_subscriber::filter::LevelFilter;

/// Up to which level the log tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// What somebody must set right.
    Error,
    /// And what somebody should look at.
    Warn,
    /// And what happens to routes and sessions.
    Info,
    /// And every line sent and received, secrets redacted.
    Debug,
    /// And what only a developer understands.
    Trace,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Time, level, message, fields.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for Level {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "error" => Ok(Level::Error),
            "warn" | "warning" => Ok(Level::Warn),
            "info" => Ok(Level::Info),
            "debug" => Ok(Level::Debug),
            "trace" => Ok(Level::Trace),
            _ => Err("it is none of error, warn, info, debug, trace"),
        }
    }
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => Err("it is none of text, json"),
        }
    }
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> LevelFilter {
        match level {
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
            Level::Trace => LevelFilter::TRACE,
        }
    }
}
