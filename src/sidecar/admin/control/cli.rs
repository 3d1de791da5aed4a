//! The commands that talk to the running daemon: turns words into one request, and the answer into text and an exit
//! code.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use crate::sidecar::config::ControlSocket;
use registry_client::protocol::GoDuration;

use super::render;
use super::request::{MAX_WAIT, Request};
use super::socket::connect;

/// The first words of the commands for the daemon.
pub const COMMANDS: [&str; 7] =
    ["status", "events", "drain", "maintenance", "routes", "healthcheck", "reload"];

/// The flags that have a value.
const WITH_VALUE: [&str; 2] = ["--reason", "--for"];
/// The exit code where no daemon answers, by the convention of sysexits.
const UNAVAILABLE: u8 = 69;
/// How long the daemon may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// A parsed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    request: Request,
    as_json: bool,
}

impl Invocation {
    /// Parses the words of the command line, which begin with one of [`COMMANDS`].
    ///
    /// # Errors
    /// Says what is wrong with them.
    pub fn parse(words: &[String]) -> Result<Invocation, String> {
        let Words { plain, mut flags } = Words::sort(words)?;
        let mut has = |flag| flags.remove(flag).is_some();
        let as_json = has("--json");
        let plain: Vec<&str> = plain.iter().map(String::as_str).collect();
        let request = match plain[..] {
            ["status"] => Request::Status,
            ["routes"] => Request::Routes,
            ["events"] => Request::Events { follow: has("--follow") },
            ["drain"] => Request::Drain { cancel: has("--cancel") },
            ["healthcheck"] => {
                Request::Healthcheck { ready: has("--ready"), registered: has("--registered") }
            }
            ["reload"] => Request::Reload,
            ["maintenance", ref words @ ..] => maintenance(words, &mut flags)?,
            [command, ..] => return Err(format!("{command} takes no further words")),
            [] => return Err("a command is missing".to_owned()),
        };
        match flags.into_keys().next() {
            Some(unknown) => Err(format!("{unknown} is not understood here")),
            None => Ok(Invocation { request, as_json }),
        }
    }

    /// Asks the daemon, writes the answer, and returns the exit code: 0, 1 where the daemon refuses or a registry has not
    /// confirmed what was waited for, 69 where no daemon runs. `healthcheck` exits only with 0 or 1, because engines know no others.
    ///
    /// # Errors
    /// Where the answer cannot be written.
    pub async fn run(self, socket: &ControlSocket, out: &mut impl Write) -> io::Result<u8> {
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

    async fn ask(&self, socket: &ControlSocket, out: &mut impl Write) -> io::Result<u8> {
        let mut stream = timeout(ANSWER_TIMEOUT, connect(socket)).await??;
        let line = serde_json::to_string(&self.request)? + "\n";
        stream.write_all(line.as_bytes()).await?;
        let mut lines = BufReader::new(stream).lines();
        if let Request::Events { follow } = self.request {
            loop {
                let line = match follow {
                    true => lines.next_line().await?,
                    false => timeout(ANSWER_TIMEOUT, lines.next_line()).await??,
                };
                let Some(line) = line else { return Ok(0) };
                match self.as_json {
                    true => writeln!(out, "{line}")?,
                    false => out.write_all(render::event(&serde_json::from_str(&line)?).as_bytes())?,
                }
                out.flush()?;
            }
        }
        let line = timeout(self.answer_timeout(), lines.next_line()).await??;
        let answer: Value = serde_json::from_str(&line.ok_or(io::ErrorKind::UnexpectedEof)?)?;
        self.show(&answer, out)
    }

    fn answer_timeout(&self) -> Duration {
        match self.request {
            Request::MaintenanceEnter { wait: true, .. } | Request::MaintenanceExit { wait: true, .. } => {
                ANSWER_TIMEOUT + MAX_WAIT
            }
            _ => ANSWER_TIMEOUT,
        }
    }

    fn show(&self, answer: &Value, out: &mut impl Write) -> io::Result<u8> {
        let data = &answer["data"];
        let is_ok = answer["ok"].as_bool() == Some(true);
        let healthy = data["healthy"].as_bool().unwrap_or(true);
        let is_confirmed = data["unconfirmed"].as_array().is_none_or(Vec::is_empty);
        let text = match &self.request {
            _ if self.as_json && is_ok => format!("{data}\n"),
            _ if self.as_json => format!("{answer}\n"),
            _ if !is_ok => format!("{}\n", answer["error"].as_str().unwrap_or("the daemon refused")),
            Request::Status | Request::Events { .. } => render::status(data),
            Request::Routes => render::all_routes(data),
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
            Request::Reload => format!("{}\n", data["reload"].as_str().unwrap_or("-")),
            Request::MaintenanceEnter { .. }
            | Request::MaintenanceExit { .. }
            | Request::MaintenanceStatus
            | Request::MaintenanceProgress { .. } => render::maintenance(data),
        };
        out.write_all(text.as_bytes())?;
        Ok(if is_ok && healthy && is_confirmed { 0 } else { 1 })
    }
}

/// The words of a command line: those that begin with `--`, and the others.
struct Words {
    plain: Vec<String>,
    /// Each with its value, or with an empty text.
    flags: BTreeMap<String, String>,
}

impl Words {
    fn sort(words: &[String]) -> Result<Words, String> {
        let (mut plain, mut flags) = (Vec::new(), BTreeMap::new());
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if !word.starts_with("--") {
                plain.push(word.clone());
                continue;
            }
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let value = match (WITH_VALUE.contains(&flag), value) {
                (true, Some(value)) => value,
                (true, None) => words.next().ok_or_else(|| format!("{flag} needs a value"))?.clone(),
                (false, Some(_)) => return Err(format!("{flag} takes no value")),
                (false, None) => String::new(),
            };
            flags.insert(flag.to_owned(), value);
        }
        Ok(Words { plain, flags })
    }
}

fn maintenance(words: &[&str], flags: &mut BTreeMap<String, String>) -> Result<Request, String> {
    Ok(match words {
        ["status"] => Request::MaintenanceStatus,
        ["enter", target @ ..] if target.len() <= 1 => {
            let duration = flags.remove("--for");
            if let Some(text) = &duration {
                let parsed = text.parse().and_then(GoDuration::non_zero);
                parsed.map_err(|error| format!("--for: {error}"))?;
            }
            let target = target.first().map(|target| (*target).to_owned());
            let wait = flags.remove("--wait").is_some();
            Request::MaintenanceEnter { target, reason: flags.remove("--reason"), duration, wait }
        }
        ["exit", target @ ..] if target.len() <= 1 => {
            let target = target.first().map(|target| (*target).to_owned());
            Request::MaintenanceExit { target, wait: flags.remove("--wait").is_some() }
        }
        ["progress", percent, message @ ..] => {
            let number = percent.trim_end_matches('%').parse().ok().filter(|percent| *percent <= 100);
            let percent = Some(number.ok_or("the progress is a number from 0 to 100")?);
            let message = (!message.is_empty()).then(|| message.join(" "));
            Request::MaintenanceProgress { percent, message }
        }
        _ => {
            return Err(
                "maintenance enter [TARGET] [--reason TEXT] [--for 30m] [--wait], exit [TARGET] [--wait], \
                        status, or progress PERCENT [MESSAGE]"
                    .to_owned(),
            );
        }
    })
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
            ("healthcheck --registered", Request::Healthcheck { ready: false, registered: true }),
            ("healthcheck --ready", Request::Healthcheck { ready: true, registered: false }),
            (
                "maintenance enter --wait",
                Request::MaintenanceEnter { target: None, reason: None, duration: None, wait: true },
            ),
            (
                "maintenance enter --reason moving /admin --for=30m",
                Request::MaintenanceEnter {
                    target: Some("/admin".to_owned()),
                    reason: Some("moving".to_owned()),
                    duration: Some("30m".to_owned()),
                    wait: false,
                },
            ),
            (
                "maintenance exit /admin",
                Request::MaintenanceExit { target: Some("/admin".to_owned()), wait: false },
            ),
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
            "maintenance enter a b",
            "maintenance enter --for",
            "maintenance enter --for soon",
            "maintenance enter --for 0s",
            "maintenance exit --for 30m",
            "status --json=yes",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
