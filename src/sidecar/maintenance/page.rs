//! MAINTENANCE_PORT: serves the maintenance page (SEMANTICS section 5).
//!
//! Requests of people come through the proxy and have `X-Forwarded-For`: they get 503 and `Retry-After`. The proxy's
//! own probe has no such header and gets 200. Files are read for each request, so that a page can be changed while it
//! is shown.

use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::json;
use tracing::info;

use crate::sidecar::config::MaintenanceConfig;
use crate::sidecar::http::{self, Request, Response};
use crate::sidecar::state::{DaemonState, Progress};
use registry_client::Visibility;

use super::handle::Maintenance;

/// The built-in page.
const PAGE: &str = include_str!("page.html");
/// The longest file that is served, in bytes.
const MAX_FILE: u64 = 8 * 1024 * 1024;
/// `Retry-After` in seconds: by default, and at most.
const RETRY_AFTER: u64 = 10;
const MAX_RETRY_AFTER: u64 = 3_600;
/// What the page says where there is neither progress nor a reason.
const DEFAULT_MESSAGE: &str = "This service is being worked on. Nothing is lost.";

/// Serves the page for as long as it runs. A port that is in use is tried again, and warned about once.
pub(crate) async fn serve_page(
    config: MaintenanceConfig,
    service: String,
    state: DaemonState,
    maintenance: Maintenance,
) {
    let Some(port) = config.port else { return std::future::pending().await };
    info!("maintenance page on port {port}");
    // The first accepts both families; the second is for hosts without IPv6.
    let addresses =
        [SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))];
    let respond = move |request: &Request| {
        let content = Content::now(&service, &state, &maintenance);
        respond(request, config.page.as_deref(), &content, &state)
    };
    http::serve("maintenance page", &addresses, Arc::new(respond)).await;
}

/// The health check and the status for anybody, a file beside the page, or the page itself: with 503 for people,
/// and with 200 for the proxy.
fn respond(request: &Request, page: Option<&Path>, content: &Content<'_>, state: &DaemonState) -> Response {
    let (status, content_type, body) = match request.path.as_str() {
        "/health" | "/healthcheck" => ("200 OK", "text/plain", b"ok\n".to_vec()),
        "/api/status" => ("200 OK", "application/json", content.status(state).into_bytes()),
        path => match page.and_then(|page| asset(page, path)) {
            Some((content_type, body)) => ("200 OK", content_type, body),
            None => {
                let status = if request.forwarded { "503 Service Unavailable" } else { "200 OK" };
                (status, "text/html; charset=utf-8", index(page, content))
            }
        },
    };
    let headers = match status.starts_with("503") {
        true => format!("Retry-After: {}\r\nX-Maintenance-Mode: true\r\n", content.retry_after()),
        false => String::new(),
    };
    Response { status, content_type, headers, body, head_only: request.head_only }
}

/// What the page and `/api/status` say at this moment.
struct Content<'a> {
    service: &'a str,
    progress: Progress,
    /// Why there is maintenance, in an operator's words.
    reason: Option<String>,
    /// Seconds until it ends by itself.
    remaining: Option<u64>,
}

impl<'a> Content<'a> {
    fn now(service: &'a str, state: &DaemonState, maintenance: &Maintenance) -> Self {
        // Of several windows the one that was opened last.
        let window = maintenance.windows().windows().last().cloned();
        let remaining = window.as_ref().and_then(|window| window.remaining(SystemTime::now()));
        Content {
            service,
            progress: state.progress(),
            reason: window.and_then(|window| window.reason),
            remaining: remaining.map(|left| left.as_secs()),
        }
    }

    /// `/api/status`: the names of steps and their progress, never their output.
    fn status(&self, state: &DaemonState) -> String {
        let conditions = state.conditions();
        let status = match conditions.visibility() {
            Visibility::Live => "live",
            Visibility::Maintenance => "maintenance",
            Visibility::Absent | Visibility::Draining => "unavailable",
        };
        let doing = state.command().and_then(|command| command.doing);
        json!({
            "service": self.service,
            "status": status,
            "ready": conditions.ready,
            "step": doing.unwrap_or_else(|| conditions.reason().to_owned()),
            "message": self.progress.message,
            "progress": self.progress.percent,
            "reason": self.reason,
            "remaining_seconds": self.remaining,
        })
        .to_string()
    }

    /// It is bounded, because an operator may be faster than planned.
    fn retry_after(&self) -> u64 {
        self.remaining.unwrap_or(RETRY_AFTER).clamp(RETRY_AFTER, MAX_RETRY_AFTER)
    }

    /// The built-in page, filled in.
    fn page(&self) -> String {
        let words = self.progress.message.as_ref().or(self.reason.as_ref());
        PAGE.replace("{{service}}", &escaped(self.service))
            .replace("{{message}}", &escaped(words.map_or(DEFAULT_MESSAGE, String::as_str)))
    }
}

/// The configured page, or the built-in one where that cannot be read.
fn index(page: Option<&Path>, content: &Content<'_>) -> Vec<u8> {
    let own =
        page.and_then(|page| read(&if page.is_dir() { page.join("index.html") } else { page.to_owned() }));
    own.unwrap_or_else(|| content.page().into_bytes())
}

/// A file of the page's directory, with its content type; `None` where the page is no directory.
fn asset(page: &Path, path: &str) -> Option<(&'static str, Vec<u8>)> {
    let mut file = PathBuf::from(page);
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        // Refuse `..`, hidden files, and names that would need decoding.
        if segment.starts_with('.') || segment.contains(['%', '\\', '\0']) {
            return None;
        }
        file.push(segment);
    }
    let name = file.file_name()?.to_str()?;
    if !page.is_dir() || name == "index.html" || !file.is_file() {
        return None;
    }
    // Refuse symbolic links that lead out of the directory.
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

#[cfg(test)]
mod tests;
