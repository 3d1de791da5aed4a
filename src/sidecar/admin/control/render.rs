//! Turns the daemon's answers into text.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use crate::sidecar::maintenance::duration_text;

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The text of `status`. Writing to a `String` cannot fail.
pub(super) fn status(data: &Value) -> String {
    let mut out = String::new();
    let ready = if data["ready"].as_bool() == Some(true) { "ready" } else { "not ready" };
    let _ = writeln!(out, "application  {ready}");
    for place in list(&data["places"]) {
        if let Some(problem) = place["problem"].as_str() {
            let _ = writeln!(out, "not ready    {problem}");
        }
    }
    let _ = writeln!(out, "wanted       {}, because {}", text(data, "wanted"), text(data, "reason"));
    if let Some(problem) = data["address_problem"].as_str() {
        let _ = writeln!(out, "address      {problem}");
    }
    if let Some(doing) = data["command"]["doing"].as_str() {
        let percent = data["progress"]["percent"].as_u64().map(|percent| format!(", {percent} %"));
        let _ = writeln!(out, "command      {doing}{}", percent.unwrap_or_default());
    }
    if let Some(update) = data["command"]["last_update"].as_str() {
        let _ = writeln!(out, "update       {update}");
    }
    out.push_str(&windows(data));
    let up = data["uptime_seconds"].as_u64().unwrap_or_default();
    let _ =
        writeln!(out, "daemon       version {}, process {}, up {up} s", text(data, "version"), data["pid"]);
    let sessions = list(&data["sessions"]);
    if sessions.is_empty() {
        let _ = writeln!(out, "registry     nothing is registered");
    }
    for session in sessions {
        let live = if session["live"].as_bool() == Some(true) { "live" } else { "not live" };
        let _ = writeln!(
            out,
            "registry     {} ({}): {}, {live}, shown: {}",
            text(session, "registry"),
            text(session, "kind"),
            text(session, "phase"),
            text(session, "shown")
        );
        if let Some(cause) = session["cause"].as_str() {
            let _ = writeln!(out, "because      {cause}");
        }
        out.push_str(&routes(session));
    }
    if let Some(key) = data["node"]["key"].as_str() {
        let _ = writeln!(out, "node         {key}: {}", text(&data["node"], "state"));
    }
    if let Some(trouble) = data["node"]["trouble"].as_str() {
        let _ = writeln!(out, "because      {trouble}");
    }
    out
}

/// The maintenance windows and exceptions, a line each.
fn windows(data: &Value) -> String {
    let mut out = String::new();
    let time = |seconds: &Value| seconds.as_u64().map(|seconds| duration_text(Duration::from_secs(seconds)));
    for window in list(&data["windows"]) {
        let target = text(window, "target");
        if window["except"].as_bool() == Some(true) {
            let _ = writeln!(out, "not          {target}");
            continue;
        }
        let since = time(&window["since_seconds"]).unwrap_or_default();
        let end = match time(&window["remaining_seconds"]) {
            Some(left) => format!("ends by itself in {left}"),
            None => "until it is ended".to_owned(),
        };
        let reason = window["reason"].as_str().map(|reason| format!(": {reason}")).unwrap_or_default();
        let _ = writeln!(out, "window       {target}, for {since}, {end}{reason}");
    }
    out
}

/// The text of `routes`: those of all sessions.
pub(super) fn all_routes(data: &Value) -> String {
    list(&data["sessions"]).iter().map(routes).collect()
}

fn routes(session: &Value) -> String {
    let mut out = String::new();
    for route in list(&session["routes"]) {
        let maintenance = match route["maintenance"].as_str() {
            Some(standing) => format!(", maintenance {standing}"),
            None => String::new(),
        };
        let _ = writeln!(
            out,
            "route        {}: {} {} -> {}: {}{maintenance}",
            text(route, "route"),
            text(route, "domains"),
            text(route, "path"),
            text(route, "backend_url"),
            text(route, "status")
        );
        if let Some(why) = route["out"].as_str() {
            let _ = writeln!(out, "out          {}: {why}", text(route, "route"));
        }
    }
    out
}

/// The text of the `maintenance` commands.
pub(super) fn maintenance(data: &Value) -> String {
    let mut out = String::new();
    let has_windows = list(&data["windows"]).iter().any(|window| window["except"].as_bool() != Some(true));
    let whole = match data["maintenance"].as_bool() {
        Some(true) => "on",
        _ if has_windows => "on, for a part of the routes",
        _ => "off",
    };
    let _ = writeln!(out, "maintenance  {whole}");
    if let Some(warning) = data["warning"].as_str() {
        let _ = writeln!(out, "warning      {warning}");
    }
    for why in list(&data["unconfirmed"]) {
        let _ = writeln!(out, "unconfirmed  {}", why.as_str().unwrap_or("-"));
    }
    out.push_str(&windows(data));
    let progress = &data["progress"];
    if let Some(message) = progress["message"].as_str() {
        let _ = writeln!(out, "message      {message}");
    }
    if let Some(percent) = progress["percent"].as_u64() {
        let _ = writeln!(out, "progress     {percent} %");
    }
    for session in list(&data["sessions"]) {
        for target in list(&session["wanted"]) {
            let _ = writeln!(
                out,
                "wanted       {} at {}",
                target.as_str().unwrap_or("-"),
                text(session, "registry")
            );
        }
        for route in list(&session["routes"]) {
            let confirmed = route["confirmed"].as_bool() == Some(true);
            let word = if confirmed { "confirmed by the proxy" } else { "not confirmed yet" };
            let _ = writeln!(out, "route        {}: {word}", text(route, "route"));
        }
        for request in list(&session["requests"]) {
            let asked = if request["entering"].as_bool() == Some(true) { "entering" } else { "leaving" };
            let (target, standing) = (text(request, "target"), text(request, "standing"));
            let _ = writeln!(out, "{asked:13}{target} at {}: {standing}", text(session, "registry"));
        }
        if let Some(refusal) = session["refusal"].as_str() {
            let _ = writeln!(out, "because      {refusal}");
        }
    }
    out
}

/// One event as a line.
pub(super) fn event(event: &Value) -> String {
    format!("{:22} {}: {}\n", text(event, "event"), text(event, "registry"), text(event, "message"))
}
