//! What is answered to whom. Files are read when they are asked for, so that a page can be changed while it is
//! shown.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::client::Wanted;
use crate::sidecar::agent::Agent;

/// The built-in page.
const PAGE: &str = include_str!("page.html");
/// How long a file may be.
const MAX_FILE: u64 = 8 * 1024 * 1024;
/// When people, and their browsers, should try again, in seconds.
const RETRY_AFTER: u32 = 10;

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    head_only: bool,
    /// Without the query.
    path: String,
    /// It came through the proxy, from a person.
    forwarded: bool,
}

/// The whole answer.
pub(super) struct Answer {
    status: &'static str,
    kind: &'static str,
    body: Vec<u8>,
    head_only: bool,
}

impl Asked {
    /// From the lines of a request's head.
    pub(super) fn parse(head: &str) -> Option<Asked> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target, version) = (words.next()?, words.next()?, words.next()?);
        if !version.starts_with("HTTP/1.") || method.is_empty() {
            return None;
        }
        let path = target.split(['?', '#']).next().unwrap_or_default();
        let forwarded = lines.any(|line| {
            line.split_once(':').is_some_and(|(name, _)| name.eq_ignore_ascii_case("x-forwarded-for"))
        });
        Some(Asked { head_only: method == "HEAD", path: path.to_owned(), forwarded })
    }
}

impl Answer {
    pub(super) fn bad_request() -> Answer {
        Answer {
            status: "400 Bad Request",
            kind: "text/plain",
            body: b"bad request\n".to_vec(),
            head_only: false,
        }
    }

    /// The status for anybody, a file beside the page, or the page: with 503 for people, and 200 for the proxy.
    pub(super) fn to(asked: &Asked, page: Option<&Path>, service: &str, agent: &Agent) -> Answer {
        let (status, kind, body) = match asked.path.as_str() {
            "/health" | "/healthcheck" => ("200 OK", "text/plain", b"ok\n".to_vec()),
            "/api/status" => ("200 OK", "application/json", status(service, agent).into_bytes()),
            path => match page.and_then(|page| asset(page, path)) {
                Some((kind, body)) => ("200 OK", kind, body),
                None => {
                    let status = if asked.forwarded { "503 Service Unavailable" } else { "200 OK" };
                    (status, "text/html; charset=utf-8", index(page, service))
                }
            },
        };
        Answer { status, kind, body, head_only: asked.head_only }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let retry = match self.status.starts_with("503") {
            true => format!("Retry-After: {RETRY_AFTER}\r\nX-Maintenance-Mode: true\r\n"),
            false => String::new(),
        };
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{retry}Cache-Control: no-store\r\n\
             X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
            self.status,
            self.kind,
            self.body.len()
        );
        let mut bytes = head.into_bytes();
        if !self.head_only {
            bytes.extend(&self.body);
        }
        bytes
    }
}

/// The names of steps and their progress, never what they print.
fn status(service: &str, agent: &Agent) -> String {
    let (progress, conditions) = (agent.progress(), agent.conditions());
    let status = match conditions.wanted() {
        Wanted::Live => "live",
        Wanted::Maintenance => "maintenance",
        Wanted::Absent | Wanted::Draining => "unavailable",
    };
    json!({
        "service": service,
        "status": status,
        "ready": conditions.ready,
        "step": agent.wrapped().doing().unwrap_or_else(|| conditions.reason().to_owned()),
        "message": progress.message,
        "progress": progress.percent,
    })
    .to_string()
}

/// The page itself: the configured one, or where that cannot be read the built-in one.
fn index(page: Option<&Path>, service: &str) -> Vec<u8> {
    let own =
        page.and_then(|page| read(&if page.is_dir() { page.join("index.html") } else { page.to_owned() }));
    own.unwrap_or_else(|| PAGE.replace("{{service}}", &escaped(service)).into_bytes())
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
