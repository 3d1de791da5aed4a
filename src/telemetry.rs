//! The log: text for people, JSON for collectors. Used by all, uses none.
//!
//! It goes to standard error in both formats. Standard output is for the results of commands (`check`, `demo`) and
//! for the output of a wrapped application, which must stay apart from ours; container engines collect both. There
//! are no colours, because logs end in files. There is one level for this project's crates and one for all others,
//! because a filter language would be too large for the lean binary.
//!
//! Peers decide what is in a line and how often something happens. So characters that deceive a reader are escaped
//! ([`escape`](mod@escape)), and each statement writes at a bounded rate ([`limit`]).

pub mod escape;
pub mod limit;

use std::error::Error;
use std::str::FromStr;

use tracing::Subscriber;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use escape::{EscapingWriter, Notation};
use limit::Limited;

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

/// What the log holds, and how it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// LOG_LEVEL: for this project's crates.
    pub level: Level,
    /// LOG_LEVEL_LIBRARIES: for all other crates. It never exceeds `level`.
    pub libraries: Level,
    /// LOG_FORMAT.
    pub format: Format,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { level: Level::Info, libraries: Level::Error, format: Format::Text }
    }
}

/// Starts the log of this process. Call it once, as soon as its configuration is known.
///
/// # Errors
/// Where the process has a log already.
pub fn init(config: LogConfig) -> Result<(), Box<dyn Error + Send + Sync>> {
    tracing::subscriber::set_global_default(subscriber(config, std::io::stderr))?;
    Ok(())
}

/// A subscriber that writes the log to `writer`, with one write for each line.
fn subscriber<W>(config: LogConfig, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let notation = match config.format {
        Format::Text => Notation::Text,
        Format::Json => Notation::Json,
    };
    let (level, libraries) = (LevelFilter::from(config.level), LevelFilter::from(config.libraries));
    let common = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(Escaping { writer, notation })
        .with_ansi(false)
        // They would be written to standard error, and panic where that is what failed.
        .log_internal_errors(false);
    match config.format {
        Format::Text => {
            Box::new(Limited::new(common.compact().with_target(false).finish(), level, libraries))
        }
        Format::Json => {
            let json = common.json().flatten_event(true).with_current_span(false).with_span_list(false);
            Box::new(Limited::new(json.finish(), level, libraries))
        }
    }
}

/// Makes writers that escape what deceives a reader.
struct Escaping<W> {
    writer: W,
    notation: Notation,
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Escaping<W> {
    type Writer = EscapingWriter<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        EscapingWriter::new(self.writer.make_writer(), self.notation)
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
        written_by(LogConfig { level, libraries: Level::Error, format }, || {
            tracing::info!(route = "r1", "route live");
            tracing::debug!("unseen");
        })
    }

    fn written_by(config: LogConfig, statements: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        tracing::subscriber::with_default(subscriber(config, move || writer.clone()), statements);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn other_crates_have_a_level_of_their_own() {
        let statements = || {
            tracing::warn!(target: "h2::proto::ping_pong", "received unexpected ping ack");
            tracing::error!(target: "h2::proto", "broken");
            tracing::debug!(target: "registry_client::driver", "sent");
        };
        let text = written_by(LogConfig { level: Level::Debug, ..LogConfig::default() }, statements);
        assert!(!text.contains("ping ack") && text.contains("broken") && text.contains("sent"), "{text}");
        let all = LogConfig { level: Level::Debug, libraries: Level::Trace, format: Format::Text };
        assert!(written_by(all, statements).contains("ping ack"));
        let quiet = LogConfig { level: Level::Error, libraries: Level::Trace, format: Format::Text };
        assert!(!written_by(quiet, statements).contains("ping ack"), "never more than this project's own");
    }

    #[test]
    fn whatever_happens_how_often_the_log_grows_slowly() {
        let text = written_by(LogConfig::default(), || {
            for number in 0..100_000 {
                tracing::warn!(number, "a peer did something");
            }
        });
        let lines = text.lines().count();
        assert!((limit::BURST as usize..2 * limit::BURST as usize).contains(&lines), "{lines} lines");
    }

    #[test]
    fn what_peers_say_cannot_deceive_the_reader() {
        let statement = || tracing::warn!(service = "\u{202e}drowssap", "joined\u{2028}ERROR forged");
        for format in [Format::Text, Format::Json] {
            let text = written_by(LogConfig { format, ..LogConfig::default() }, statement);
            assert!(!text.contains(['\u{202e}', '\u{2028}']) && text.contains("202e"), "{text}");
            assert_eq!(text.lines().count(), 1);
        }
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
