//! What a server sends: replies in the order of the commands, and the lines that may come between them.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::metadata::encode_json;
use super::report::{
    BackendReport, CircuitStatus, Diff, DrainStatus, MaintenanceStatus, RouteEntry, SessionInfo, Stats,
};
use super::{EventKind, Refusal, RouteId, SessionId, Target};

/// Any line from a server.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerLine {
    /// The answer to the oldest command that has none.
    Reply(Reply),
    /// An asynchronous line, which answers nothing.
    Push(Push),
}

/// The answer to one command ([PROTOCOL section 3](crate::spec::protocol#3-commands)).
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// `ACK|S`, to REGISTER.
    Registered(SessionId),
    /// `ACK`, to MAINT_ENTER and MAINT_EXIT: the verdict comes later.
    MaintenanceAck,
    /// `OK`
    Ok,
    /// `REREGISTER`, to RECONNECT: the session is unknown or expired.
    Reregister,
    /// `PONG`
    Pong,
    /// `SESSION_OK|{…}`
    SessionInfo(Box<SessionInfo>),
    /// `SHUTDOWN_OK`
    ShutdownOk,
    /// `ROUTE_OK|r1`, to ROUTE_ADD.
    RouteAdded(RouteId),
    /// `ROUTE_OK`, to ROUTE_UPDATE and ROUTE_REMOVE.
    RouteOk,
    /// `ROUTE_BULK_OK|[…]`, in the order of the command.
    RoutesAdded(Vec<RouteId>),
    /// `ROUTE_LIST_OK|[…]`
    RouteList(Vec<RouteEntry>),
    /// `ROUTE_LIST_OK|…`: base64 of gzip of the JSON, because the peer asked for `compressed`.
    RouteListCompressed(String),
    /// `HEADERS_OK`
    HeadersOk,
    /// `OPTIONS_OK`
    OptionsOk,
    /// `HEALTH_OK`
    HealthOk,
    /// `RATELIMIT_OK`
    RateLimitOk,
    /// `CIRCUIT_OK`
    CircuitOk,
    /// `CIRCUIT_STATUS_OK|{…}`
    CircuitStatus(CircuitStatus),
    /// `DIFF_OK|{…}`
    Diff(Box<Diff>),
    /// `DRAIN_OK|<RFC 3339>`, to DRAIN_START: when it will be complete.
    DrainStarted(String),
    /// `DRAIN_OK`, to DRAIN_CANCEL.
    DrainOk,
    /// `DRAIN_STATUS_OK|{…}`
    DrainStatus(DrainStatus),
    /// `MAINT_STATUS_OK|{…}`
    MaintenanceStatus(MaintenanceStatus),
    /// `STATS_OK|{…}`, for one route.
    Stats(Box<Stats>),
    /// `STATS_OK|[…]`, for all of them.
    StatsAll(Vec<Stats>),
    /// `BACKEND_OK|{…}`
    BackendOk(BackendReport),
    /// `BACKEND_FAIL|{reachable:false,error}`, with the error.
    BackendFail(String),
    /// `SUBSCRIBE_OK`
    SubscribeOk,
    /// `UNSUBSCRIBE_OK`
    UnsubscribeOk,
    /// `ERROR|…`
    Error(Refusal),
}

/// An asynchronous line ([PROTOCOL section 6](crate::spec::protocol#6-asynchronous-lines)).
#[derive(Debug, Clone, PartialEq)]
pub enum Push {
    /// `MAINT_OK|T`: the page, or the backend, answered.
    MaintenanceOk(Target),
    /// `ERROR|timeout waiting for maintenance page to become reachable`
    PageTimeout,
    /// `ERROR|timeout waiting for backend to become reachable`
    BackendTimeout,
    /// `ERROR|maintenance request superseded` (ours)
    MaintenanceSuperseded,
    /// `EVENT|type|{json}`, to subscribed sessions.
    Event(EventKind, serde_json::Value),
    /// `EVENT|…` of a type that this version does not know, with all that follows: a newer server may have more
    /// of them.
    OtherEvent(String),
    /// `SHUTDOWN`: the server is going down.
    Shutdown,
}

/// A line that no server of this protocol sends. It keeps the beginning of the line for a log, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a reply of this protocol: {0:?}")]
pub struct NotAReply(pub String);

impl NotAReply {
    fn of(line: &str) -> Self {
        // These two carry the session's id, and a malformed one may carry it anywhere.
        match line.split_once('|') {
            Some((word @ ("ACK" | "SESSION_OK"), _)) => NotAReply(format!("{word}|[redacted]")),
            _ => NotAReply(line.chars().take(80).collect()),
        }
    }
}

const PAGE_TIMEOUT: &str = "timeout waiting for maintenance page to become reachable";
const BACKEND_TIMEOUT: &str = "timeout waiting for backend to become reachable";
const SUPERSEDED: &str = "maintenance request superseded";

impl ServerLine {
    /// Reads one line, without its end.
    pub fn parse(line: &str) -> Result<Self, NotAReply> {
        if let Some(push) = Push::parse(line) {
            return Ok(ServerLine::Push(push));
        }
        Reply::parse(line).map(ServerLine::Reply).ok_or_else(|| NotAReply::of(line))
    }

    /// The line, without its end.
    pub fn encode(&self) -> String {
        match self {
            ServerLine::Reply(reply) => reply.encode(),
            ServerLine::Push(push) => push.encode(),
        }
    }

    /// The line as it may stand in a log: no session id, no token.
    pub fn redacted(&self) -> String {
        match self {
            ServerLine::Reply(reply) => reply.redacted(),
            ServerLine::Push(push) => push.encode(),
        }
    }
}

impl From<Reply> for ServerLine {
    fn from(reply: Reply) -> Self {
        ServerLine::Reply(reply)
    }
}

impl From<Push> for ServerLine {
    fn from(push: Push) -> Self {
        ServerLine::Push(push)
    }
}

/// The replies that are one word, and the errors that the table of refusals does not have.
const WORDS: [(&str, Reply); 14] = [
    ("ACK", Reply::MaintenanceAck),
    ("OK", Reply::Ok),
    ("REREGISTER", Reply::Reregister),
    ("PONG", Reply::Pong),
    ("SHUTDOWN_OK", Reply::ShutdownOk),
    ("ROUTE_OK", Reply::RouteOk),
    ("HEADERS_OK", Reply::HeadersOk),
    ("OPTIONS_OK", Reply::OptionsOk),
    ("HEALTH_OK", Reply::HealthOk),
    ("RATELIMIT_OK", Reply::RateLimitOk),
    ("CIRCUIT_OK", Reply::CircuitOk),
    ("DRAIN_OK", Reply::DrainOk),
    ("SUBSCRIBE_OK", Reply::SubscribeOk),
    ("UNSUBSCRIBE_OK", Reply::UnsubscribeOk),
];

/// One element of ROUTE_BULK_OK.
#[derive(serde::Serialize, serde::Deserialize)]
struct BulkStatus {
    route_id: String,
    status: String,
}

impl Reply {
    /// Reads a reply. `None`: the line is not a reply.
    fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once('|').unwrap_or((line, ""));
        match word {
            "ERROR" => return Some(Reply::Error(Refusal::from_text(rest))),
            "ACK" if !rest.is_empty() => return first_field(rest).parse().ok().map(Reply::Registered),
            "ROUTE_OK" if !rest.is_empty() => return first_field(rest).parse().ok().map(Reply::RouteAdded),
            "DRAIN_OK" if !first_field(rest).is_empty() => {
                return Some(Reply::DrainStarted(first_field(rest).to_owned()));
            }
            "SESSION_OK" => return object(rest).map(Reply::SessionInfo),
            "ROUTE_BULK_OK" => return parse_bulk(rest),
            "ROUTE_LIST_OK" if rest.starts_with('[') => return json(rest).map(Reply::RouteList),
            // An empty Go slice is written as null.
            "ROUTE_LIST_OK" if rest.is_empty() || rest == "null" => {
                return Some(Reply::RouteList(Vec::new()));
            }
            "ROUTE_LIST_OK" if rest.bytes().all(is_base64_byte) => {
                return Some(Reply::RouteListCompressed(rest.to_owned()));
            }
            "ROUTE_LIST_OK" => return None,
            "CIRCUIT_STATUS_OK" => return object(rest).map(Reply::CircuitStatus),
            "DIFF_OK" => return object(rest).map(Reply::Diff),
            "DRAIN_STATUS_OK" => return object(rest).map(Reply::DrainStatus),
            "MAINT_STATUS_OK" => return object(rest).map(Reply::MaintenanceStatus),
            "STATS_OK" if rest.starts_with('[') => return json(rest).map(Reply::StatsAll),
            "STATS_OK" if rest == "null" => return Some(Reply::StatsAll(Vec::new())),
            "STATS_OK" => return object(rest).map(Reply::Stats),
            "BACKEND_OK" => return object(rest).map(Reply::BackendOk),
            "BACKEND_FAIL" => return Some(Reply::BackendFail(parse_failure(rest))),
            _ => {}
        }
        WORDS.iter().find(|(known, _)| *known == word).map(|(_, reply)| reply.clone())
    }

    /// The line, without its end. `ACK|S` holds the session's id in clear.
    pub fn encode(&self) -> String {
        match self {
            Reply::Registered(id) => format!("ACK|{}", id.reveal()),
            Reply::RouteAdded(id) => format!("ROUTE_OK|{id}"),
            Reply::DrainStarted(at) => format!("DRAIN_OK|{at}"),
            Reply::Error(refusal) => format!("ERROR|{}", refusal.text()),
            Reply::SessionInfo(info) => with_json("SESSION_OK", info),
            Reply::RoutesAdded(ids) => {
                let ok = |id: &RouteId| BulkStatus { route_id: id.to_string(), status: "ok".to_owned() };
                with_json("ROUTE_BULK_OK", &ids.iter().map(ok).collect::<Vec<_>>())
            }
            Reply::RouteList(routes) => with_json("ROUTE_LIST_OK", routes),
            Reply::RouteListCompressed(text) => format!("ROUTE_LIST_OK|{text}"),
            Reply::CircuitStatus(status) => with_json("CIRCUIT_STATUS_OK", status),
            Reply::Diff(diff) => with_json("DIFF_OK", diff),
            Reply::DrainStatus(status) => with_json("DRAIN_STATUS_OK", status),
            Reply::MaintenanceStatus(status) => with_json("MAINT_STATUS_OK", status),
            Reply::Stats(stats) => with_json("STATS_OK", stats),
            Reply::StatsAll(stats) => with_json("STATS_OK", stats),
            Reply::BackendOk(report) => with_json("BACKEND_OK", report),
            Reply::BackendFail(error) => {
                with_json("BACKEND_FAIL", &serde_json::json!({ "reachable": false, "error": error }))
            }
            word => WORDS
                .iter()
                .find(|(_, reply)| reply == word)
                .map_or_else(|| unreachable!("a test encodes every reply"), |(text, _)| (*text).to_owned()),
        }
    }

    /// The line as it may stand in a log: no session id, no token.
    pub fn redacted(&self) -> String {
        match self {
            Reply::Registered(_) => "ACK|[redacted]".to_owned(),
            Reply::SessionInfo(info) => with_json("SESSION_OK", &info.redacted()),
            other => other.encode(),
        }
    }
}

impl Push {
    /// Reads an asynchronous line. `None`: the line is a reply.
    fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once('|').unwrap_or((line, ""));
        match word {
            "MAINT_OK" => first_field(rest).parse().ok().map(Push::MaintenanceOk),
            "SHUTDOWN" => Some(Push::Shutdown),
            "EVENT" => {
                let (kind, body) = rest.split_once('|').unwrap_or((rest, ""));
                match kind.parse() {
                    Ok(kind) => Some(Push::Event(kind, serde_json::from_str(body).ok()?)),
                    Err(_) => (!kind.is_empty()).then(|| Push::OtherEvent(rest.to_owned())),
                }
            }
            "ERROR" => match rest {
                PAGE_TIMEOUT => Some(Push::PageTimeout),
                BACKEND_TIMEOUT => Some(Push::BackendTimeout),
                SUPERSEDED => Some(Push::MaintenanceSuperseded),
                _ => None,
            },
            _ => None,
        }
    }

    /// The line, without its end.
    pub fn encode(&self) -> String {
        match self {
            Push::MaintenanceOk(target) => format!("MAINT_OK|{target}"),
            Push::PageTimeout => format!("ERROR|{PAGE_TIMEOUT}"),
            Push::BackendTimeout => format!("ERROR|{BACKEND_TIMEOUT}"),
            Push::MaintenanceSuperseded => format!("ERROR|{SUPERSEDED}"),
            Push::Event(kind, body) => format!("EVENT|{kind}|{}", encode_json(body)),
            Push::OtherEvent(rest) => format!("EVENT|{rest}"),
            Push::Shutdown => "SHUTDOWN".to_owned(),
        }
    }
}

fn is_base64_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"+/=".contains(&b)
}

fn first_field(rest: &str) -> &str {
    rest.split_once('|').map_or(rest, |(first, _)| first)
}

fn json<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

/// As [`json`], but not from an array, which serde also takes for a struct.
fn object<T: DeserializeOwned>(text: &str) -> Option<T> {
    if text.trim_start().starts_with('{') { json(text) } else { None }
}

fn with_json<T: Serialize>(word: &str, value: &T) -> String {
    format!("{word}|{}", encode_json(value))
}

fn parse_bulk(text: &str) -> Option<Reply> {
    let statuses: Option<Vec<BulkStatus>> = json(text)?;
    let statuses = statuses.unwrap_or_default();
    statuses.iter().map(|status| status.route_id.parse().ok()).collect::<Option<_>>().map(Reply::RoutesAdded)
}

/// The error of BACKEND_FAIL: its JSON's field, else the text as it stands.
fn parse_failure(text: &str) -> String {
    let error = |value: serde_json::Value| value.get("error")?.as_str().map(str::to_owned);
    json(text).and_then(error).unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_go_writes_null_for_an_empty_list_it_is_one() {
        for (line, plain) in [
            (
                r#"ROUTE_LIST_OK|[{"route_id":"r1","domains":null,"path":"/","status":"active"}]"#,
                r#"ROUTE_LIST_OK|[{"route_id":"r1","domains":[],"path":"/","status":"active"}]"#,
            ),
            ("ROUTE_LIST_OK|null", "ROUTE_LIST_OK|[]"),
            ("ROUTE_BULK_OK|null", "ROUTE_BULK_OK|[]"),
            ("STATS_OK|null", "STATS_OK|[]"),
            (r#"DIFF_OK|{"routes":{"added":null,"removed":2}}"#, r#"DIFF_OK|{"routes":{"removed":2}}"#),
            (r#"SESSION_OK|{"metadata":null,"capabilities":null}"#, "SESSION_OK|{}"),
            (r#"MAINT_STATUS_OK|{"in_maintenance":null}"#, "MAINT_STATUS_OK|{}"),
        ] {
            assert_eq!(ServerLine::parse(line).unwrap(), ServerLine::parse(plain).unwrap(), "{line}");
        }
    }

    #[test]
    fn a_drain_starts_with_a_time_and_is_cancelled_without() {
        let parsed = |line: &str| ServerLine::parse(line).unwrap();
        assert_eq!(
            parsed("DRAIN_OK|2025-01-01T00:00:30Z"),
            Reply::DrainStarted("2025-01-01T00:00:30Z".into()).into()
        );
        for cancelled in ["DRAIN_OK", "DRAIN_OK|", "DRAIN_OK||x"] {
            assert_eq!(parsed(cancelled), Reply::DrainOk.into());
        }
    }

    #[test]
    fn a_body_that_should_be_an_object_is_no_array() {
        for word in ["SESSION_OK", "DIFF_OK", "MAINT_STATUS_OK"] {
            assert!(ServerLine::parse(&format!("{word}|{{}}")).is_ok());
            assert!(ServerLine::parse(&format!("{word}|[]")).is_err());
        }
    }

    #[test]
    fn a_list_that_is_neither_json_nor_base64_is_no_reply() {
        assert!(ServerLine::parse("ROUTE_LIST_OK|H4sIAAAAAAAA/4uOBQApu0wNAgAAAA==").is_ok());
        for garbage in ["ROUTE_LIST_OK|{}", "ROUTE_LIST_OK|[", "ROUTE_LIST_OK|a b", "ROUTE_LIST_OK|H4sI|x"] {
            assert!(ServerLine::parse(garbage).is_err(), "{garbage}");
        }
    }

    #[test]
    fn nothing_that_may_be_logged_shows_an_id_or_a_token() {
        let echoed = r#"SESSION_OK|{"session_id":"s3cret","metadata":{"token":"s3cret","service_token":"s3cret","v":1}}"#;
        let line = ServerLine::parse(echoed).unwrap();
        assert!(line.redacted().contains(r#""v":1"#));
        let malformed_id = format!("ACK|s3cret{}", "x".repeat(512));
        let malformed = [&malformed_id, r#"SESSION_OK|{"session_id":"s3cret","uptime_seconds":"?"}"#];
        let errors = malformed.map(|line| ServerLine::parse(line).unwrap_err());
        for shown in [line.redacted(), format!("{line:?}"), format!("{errors:?}"), errors[1].to_string()] {
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }
}
