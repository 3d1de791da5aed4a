//! The log: text for people, JSON for collectors. Used by all, uses none.
//!
//! It goes to standard error in both formats. Standard output is for the results of commands (`check`, `demo`) and
//! for the output of a wrapped application, which must stay apart from ours; container engines collect both. There
//! are no colours, because logs end in files. One level holds for everything, because a filter language would be too
//! large for the lean binary.

use std::error::Error;
use std::str::FromStr;

use tracing::Subscriber;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How much is logged. Each level includes those above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// What an operator must repair.
    Error,
    /// What an operator should look at.
    Warn,
    /// What happens to routes and sessions.
    Info,
    /// Every line sent and received, with secrets redacted.
    Debug,
    /// What only developers need.
    Trace,
}

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Time, level, message, fields.
    Text,
    /// One JSON object on each line.
    Json,
}

/// Starts the log of this process. Call it once, as soon as level and format are known.
///
/// # Errors
/// Where the process has a log already.
pub fn init(level: Level, format: Format) -> Result<(), Box<dyn Error + Send + Sync>> {
    tracing::subscriber::set_global_default(subscriber(level, format, std::io::stderr))?;
    Ok(())
}

/// A subscriber that writes the log to `writer`, with one write for each line.
fn subscriber<W>(level: Level, format: Format, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let common = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from(level))
        .with_writer(writer)
        .with_ansi(false)
        // They would be written to standard error, and panic where that is what failed.
        .log_internal_errors(false);
    match format {
        Format::Text => Box::new(common.compact().with_target(false).finish()),
        Format::Json => Box::new(
            common.json().flatten_event(true).with_current_span(false).with_span_list(false).finish(),
        ),
    }
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

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps what is written.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn written(level: Level, format: Format) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        tracing::subscriber::with_default(subscriber(level, format, move || writer.clone()), || {
            tracing::info!(route = "r1", "route live");
            tracing::debug!("unseen");
        });
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn people_read_time_level_message_and_fields() {
        let text = written(Level::Info, Format::Text);
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{text}");
        assert_eq!(rest.trim_start(), "INFO route live route=\"r1\"\n");
    }

    #[test]
    fn collectors_read_one_object_a_line() {
        let text = written(Level::Info, Format::Json);
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["level"], &line["message"]), (&"INFO".into(), &"route live".into()));
        assert_eq!(line["route"], "r1");
        assert!(line["timestamp"].is_string());
    }

    #[test]
    fn the_level_bounds_what_is_told() {
        assert_eq!(written(Level::Warn, Format::Text), "");
        assert!(written(Level::Debug, Format::Text).contains("unseen"));
    }

    #[test]
    fn levels_and_formats_have_names_in_any_case() {
        assert_eq!(("WARN".parse(), "Json".parse()), (Ok(Level::Warn), Ok(Format::Json)));
        assert!("loud".parse::<Level>().is_err() && "xml".parse::<Format>().is_err());
    }
}
