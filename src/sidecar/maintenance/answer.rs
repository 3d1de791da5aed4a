//! What is answered to whom. Files are read when they are asked for, so that a page can be changed while it is
//! shown.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::json;

use crate::client::Wanted;
use crate::sidecar::agent::{Agent, Progress};
use crate::sidecar::http::{Answer, Asked};

/// The built-in page.
const PAGE: &str = include_str!("page.html");
/// How long a file may be.
const MAX_FILE: u64 = 8 * 1024 * 1024;
/// When people, and their browsers, should try again, in seconds: by default, and at most.
const RETRY_AFTER: u64 = 10;
const MAX_RETRY_AFTER: u64 = 3_600;
/// What the page says where nobody has said more.
const DEFAULT_MESSAGE: &str = "This service is being worked on. Nothing is lost.";

/// What the page says beside its own words.
struct Shown<'a> {
    service: &'a str,
    progress: Progress,
    /// Why there is maintenance, in an operator's words.
    reason: Option<String>,
    /// When it ends by itself.
    remaining: Option<u64>,
}

impl Answer {
    /// The status for anybody, a file beside the page, or the page: with 503 for people, and 200 for the proxy.
    pub(super) fn to(asked: &Asked, page: Option<&Path>, service: &str, agent: &Agent) -> Answer {
        let shown = Shown::of(service, agent);
        let (status, kind, body) = match asked.path.as_str() {
            "/health" | "/healthcheck" => ("200 OK", "text/plain", b"ok\n".to_vec()),
            "/api/status" => ("200 OK", "application/json", shown.status(agent).into_bytes()),
            path => match page.and_then(|page| asset(page, path)) {
                Some((kind, body)) => ("200 OK", kind, body),
                None => {
                    let status = if asked.forwarded { "503 Service Unavailable" } else { "200 OK" };
                    (status, "text/html; charset=utf-8", index(page, &shown))
                }
            },
        };
        let more = match status.starts_with("503") {
            true => format!("Retry-After: {}\r\nX-Maintenance-Mode: true\r\n", shown.retry_after()),
            false => String::new(),
        };
        Answer { status, kind, more, body, head_only: asked.head_only }
    }
}

impl<'a> Shown<'a> {
    fn of(service: &'a str, agent: &Agent) -> Self {
        // Of several windows the one that was opened last.
        let window = agent.windows().windows().last().cloned();
        let remaining = window.as_ref().and_then(|window| window.remaining(SystemTime::now()));
        Shown {
            service,
            progress: agent.progress(),
            reason: window.and_then(|window| window.reason),
            remaining: remaining.map(|left| left.as_secs()),
        }
    }

    /// The names of steps and their progress, never what they print.
    fn status(&self, agent: &Agent) -> String {
        let conditions = agent.conditions();
        let status = match conditions.wanted() {
            Wanted::Live => "live",
            Wanted::Maintenance => "maintenance",
            Wanted::Absent | Wanted::Draining => "unavailable",
        };
        json!({
            "service": self.service,
            "status": status,
            "ready": conditions.ready,
            "step": agent.wrapped().doing().unwrap_or_else(|| conditions.reason().to_owned()),
            "message": self.progress.message,
            "progress": self.progress.percent,
            "reason": self.reason,
            "remaining_seconds": self.remaining,
        })
        .to_string()
    }

    /// Nobody is sent away for long: an operator may be faster than planned.
    fn retry_after(&self) -> u64 {
        self.remaining.unwrap_or(RETRY_AFTER).clamp(RETRY_AFTER, MAX_RETRY_AFTER)
    }

    /// The built-in page, which reads well without scripts too.
    fn page(&self) -> String {
        let words = self.progress.message.as_ref().or(self.reason.as_ref());
        PAGE.replace("{{service}}", &escaped(self.service))
            .replace("{{message}}", &escaped(words.map_or(DEFAULT_MESSAGE, String::as_str)))
    }
}

/// The page itself: the configured one, or where that cannot be read the built-in one.
fn index(page: Option<&Path>, shown: &Shown<'_>) -> Vec<u8> {
    let own =
        page.and_then(|page| read(&if page.is_dir() { page.join("index.html") } else { page.to_owned() }));
    own.unwrap_or_else(|| shown.page().into_bytes())
}

/// A file beside the page, where the page is a directory.
fn asset(page: &Path, path: &str) -> Option<(&'static str, Vec<u8>)> {
    let mut file = PathBuf::from(page);
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        // Neither a way out nor a hidden file; a percent sign would need decoding, which no asset needs.
        if segment.starts_with('.') || segment.contains(['%', '\\', '\0']) {
            return None;
        }
        file.push(segment);
    }
    let name = file.file_name()?.to_str()?;
    if !page.is_dir() || name == "index.html" || !file.is_file() {
        return None;
    }
    // A link that leads out of the directory is no asset.
    let (page, file) = (page.canonicalize().ok()?, file.canonicalize().ok()?);
    let kind = kind_of(file.extension().and_then(|extension| extension.to_str()).unwrap_or_default());
    file.starts_with(page).then(|| read(&file)).flatten().map(|body| (kind, body))
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    File::open(path).ok()?.take(MAX_FILE + 1).read_to_end(&mut body).ok()?;
    (body.len() as u64 <= MAX_FILE).then_some(body)
}

fn kind_of(extension: &str) -> &'static str {
    match extension {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "json" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
