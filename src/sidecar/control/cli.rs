//! The commands that talk to the running daemon: from words to one request, from the answer to text and an exit
//! code.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::request::Request;
use super::{connect, show};

/// The words with which a command for the daemon begins.
pub const COMMANDS: [&str; 7] =
    ["status", "events", "drain", "maintenance", "routes", "healthcheck", "reload"];

/// Nobody answers: the convention of sysexits for a service that is not there.
const UNAVAILABLE: u8 = 69;
/// How long the daemon may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// A command, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    request: Request,
    as_json: bool,
}

impl Invocation {
    /// From the words of the command line, beginning with one of [`COMMANDS`].
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(words: &[String]) -> Result<Invocation, String> {
        let (flags, words): (Vec<&str>, Vec<&str>) =
            words.iter().map(String::as_str).partition(|word| word.starts_with("--"));
        let allowed: &[&str] = match words.first().copied() {
            Some("status" | "routes") => &["--json"],
            Some("events") => &["--json", "--follow"],
            Some("drain") => &["--json", "--cancel"],
            Some("healthcheck") => &["--json", "--registered"],
            _ => &["--json"],
        };
        if let Some(unknown) = flags.iter().find(|flag| !allowed.contains(*flag)) {
            return Err(format!("{unknown} is not understood here; there is {}", allowed.join(", ")));
        }
        let has = |flag| flags.contains(&flag);
        let request = match words[..] {
            ["status"] => Request::Status,
            ["routes"] => Request::Routes,
            ["events"] => Request::Events { follow: has("--follow") },
            ["drain"] => Request::Drain { cancel: has("--cancel") },
            ["healthcheck"] => Request::Healthcheck { registered: has("--registered") },
            ["reload"] => Request::Reload,
            ["maintenance", "status"] => Request::MaintenanceStatus,
            ["maintenance", "enter"] => Request::MaintenanceEnter { target: None },
            ["maintenance", "enter", target] => Request::MaintenanceEnter { target: Some(target.to_owned()) },
            ["maintenance", "exit"] => Request::MaintenanceExit { target: None },
            ["maintenance", "exit", target] => Request::MaintenanceExit { target: Some(target.to_owned()) },
            ["maintenance", "progress", percent, ref message @ ..] => {
                let number = percent.trim_end_matches('%').parse().ok().filter(|percent| *percent <= 100);
                let percent = Some(number.ok_or("the progress is a number from 0 to 100")?);
                let message = (!message.is_empty()).then(|| message.join(" "));
                Request::MaintenanceProgress { percent, message }
            }
            ["maintenance", ..] => {
                return Err(
                    "maintenance enter [TARGET], exit [TARGET], status, or progress PERCENT [MESSAGE]"
                        .to_owned(),
                );
            }
            [command, ..] => return Err(format!("{command} takes no further words")),
            [] => return Err("a command is missing".to_owned()),
        };
        Ok(Invocation { request, as_json: has("--json") })
    }

    /// Asks the daemon, writes the answer, and returns the exit code: 0, 1 where the daemon says no, 69 where no
    /// daemon runs. `healthcheck` has 0 and 1 only, which is what engines understand.
    ///
    /// # Errors
    /// Where the answer cannot be written.
    pub async fn run(self, socket: Option<&Path>, out: &mut impl Write) -> io::Result<u8> {
        let is_check = matches!(self.request, Request::Healthcheck { .. });
        let nobody = |error: io::Error| {
            let text = format!(
                "no registry-sidecar is running here ({error}); if it has its own SIDECAR_CONTROL_SOCKET, set that \
                 here as well"
            );
            (text, if is_check { 1 } else { UNAVAILABLE })
        };
        let answered = self.ask(socket, out).await;
        match answered {
            Ok(code) => Ok(code),
            Err(error) => {
                let (text, code) = nobody(error);
                match self.as_json {
                    true => writeln!(out, "{}", json!({"ok": false, "error": text}))?,
                    false => writeln!(out, "{text}")?,
                }
                Ok(code)
            }
        }
    }

    async fn ask(&self, socket: Option<&Path>, out: &mut impl Write) -> io::Result<u8> {
        let mut stream = timeout(PATIENCE, connect(socket)).await??;
        let line = serde_json::to_string(&self.request)? + "\n";
        stream.write_all(line.as_bytes()).await?;
        let mut lines = BufReader::new(stream).lines();
        if let Request::Events { follow } = self.request {
            loop {
                let line = match follow {
                    true => lines.next_line().await?,
                    false => timeout(PATIENCE, lines.next_line()).await??,
                };
                let Some(line) = line else { return Ok(0) };
                match self.as_json {
                    true => writeln!(out, "{line}")?,
                    false => out.write_all(show::event(&serde_json::from_str(&line)?).as_bytes())?,
                }
                out.flush()?;
            }
        }
        let line = timeout(PATIENCE, lines.next_line()).await??;
        let answer: Value = serde_json::from_str(&line.ok_or(io::ErrorKind::UnexpectedEof)?)?;
        self.show(&answer, out)
    }

    fn show(&self, answer: &Value, out: &mut impl Write) -> io::Result<u8> {
        let data = &answer["data"];
        let is_ok = answer["ok"].as_bool() == Some(true);
        let healthy = data["healthy"].as_bool().unwrap_or(true);
        let text = match &self.request {
            _ if self.as_json && is_ok => format!("{data}\n"),
            _ if self.as_json => format!("{answer}\n"),
            _ if !is_ok => format!("{}\n", answer["error"].as_str().unwrap_or("the daemon refused")),
            Request::Status | Request::Events { .. } => show::status(data),
            Request::Routes => show::all_routes(data),
            Request::Healthcheck { .. } => format!(
                "{}: {}\n",
                if healthy { "healthy" } else { "unhealthy" },
                data["reason"].as_str().unwrap_or("-")
            ),
            Request::Drain { .. } => format!(
                "{}, because {}\n",
                data["wanted"].as_str().unwrap_or("-"),
                data["reason"].as_str().unwrap_or("-")
            ),
            Request::Reload => {
                "asked the daemon to read its configuration again; its log says what came of it\n".to_owned()
            }
            Request::MaintenanceEnter { .. }
            | Request::MaintenanceExit { .. }
            | Request::MaintenanceStatus
            | Request::MaintenanceProgress { .. } => show::maintenance(data),
        };
        out.write_all(text.as_bytes())?;
        Ok(if is_ok && healthy { 0 } else { 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Invocation, String> {
        Invocation::parse(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn words_become_one_request() {
        for (text, request) in [
            ("status --json", Request::Status),
            ("events --follow", Request::Events { follow: true }),
            ("drain --cancel", Request::Drain { cancel: true }),
            ("healthcheck --registered", Request::Healthcheck { registered: true }),
            ("maintenance enter", Request::MaintenanceEnter { target: None }),
            ("maintenance exit /admin", Request::MaintenanceExit { target: Some("/admin".to_owned()) }),
            (
                "maintenance progress 40 migrating the data",
                Request::MaintenanceProgress {
                    percent: Some(40),
                    message: Some("migrating the data".to_owned()),
                },
            ),
        ] {
            assert_eq!(parse(text).unwrap().request, request, "{text}");
        }
        assert!(parse("status --json").unwrap().as_json);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for text in [
            "status now",
            "status --follow",
            "maintenance",
            "maintenance progress much",
            "maintenance progress 101",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
