//! A line of a client's, taken apart (PROTOCOL sections 1 and 3).

use serde_json::Value;

use super::text::{self, Read, Target, exactly};

/// What a line asks for. Durations are milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Command {
    Register {
        service: String,
        instance: String,
        metadata: serde_json::Map<String, Value>,
    },
    Reconnect(String),
    /// The session's field as it stands, and the rest.
    Request(String, Request),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewRoute {
    pub domains: Vec<String>,
    pub path: String,
    pub backend: String,
    pub priority: i32,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RouteChange {
    Backend(String),
    Priority(i32),
    Domains(Vec<String>),
    Path(String),
}

/// `None`: ALL.
pub(crate) type RouteOrAll = Option<u32>;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Request {
    Ping,
    SessionInfo,
    ClientShutdown,
    RouteAdd(NewRoute),
    RouteAddBulk(Vec<NewRoute>),
    RouteUpdate(u32, RouteChange),
    RouteRemove(u32),
    RouteList {
        compressed: bool,
        after: Option<u32>,
    },
    HeadersSet(Target, String, String),
    HeadersRemove(Target, String),
    OptionsSet(Target, String, OptionValue),
    OptionsRemove(Target, String),
    HealthSet(u32, String, u64, u64),
    RateLimitSet(RouteOrAll, u32, u64),
    CircuitSet(RouteOrAll, u32, u64, u32),
    CircuitStatus(u32),
    CircuitReset(u32),
    Validate,
    Apply,
    ApplyPartial(Vec<String>),
    Rollback,
    Diff,
    DrainStart(u64),
    DrainStatus,
    DrainCancel,
    MaintEnter(Target, Option<String>),
    MaintExit(Target),
    /// The id behind which a page is asked for.
    MaintStatus(Option<u32>),
    Stats(RouteOrAll, Option<u32>),
    BackendTest(String),
    Subscribe(String),
    Unsubscribe(String),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum OptionValue {
    Flag(bool),
    Millis(u64),
    Number(u64),
    Text(String),
}

/// Each command's name, and how many fields must follow the name (for a request: the session's id and more).
pub(crate) const COMMANDS: [(&str, usize); 34] = [
    ("REGISTER", 3),
    ("RECONNECT", 1),
    ("PING", 0),
    ("SESSION_INFO", 0),
    ("CLIENT_SHUTDOWN", 0),
    ("ROUTE_ADD", 5),
    ("ROUTE_ADD_BULK", 2),
    ("ROUTE_UPDATE", 4),
    ("ROUTE_REMOVE", 2),
    ("ROUTE_LIST", 0),
    ("HEADERS_SET", 4),
    ("HEADERS_REMOVE", 3),
    ("OPTIONS_SET", 4),
    ("OPTIONS_REMOVE", 3),
    ("HEALTH_SET", 5),
    ("RATELIMIT_SET", 4),
    ("CIRCUIT_BREAKER_SET", 5),
    ("CIRCUIT_BREAKER_STATUS", 2),
    ("CIRCUIT_BREAKER_RESET", 2),
    ("CONFIG_VALIDATE", 0),
    ("CONFIG_APPLY", 0),
    ("CONFIG_APPLY_PARTIAL", 2),
    ("CONFIG_ROLLBACK", 0),
    ("CONFIG_DIFF", 0),
    ("DRAIN_START", 2),
    ("DRAIN_STATUS", 0),
    ("DRAIN_CANCEL", 0),
    ("MAINT_ENTER", 2),
    ("MAINT_EXIT", 2),
    ("MAINT_STATUS", 0),
    ("STATS_GET", 0),
    ("BACKEND_TEST", 2),
    ("SUBSCRIBE", 2),
    ("UNSUBSCRIBE", 2),
];

pub(crate) fn read(line: &str) -> Read<Command> {
    let all: Vec<&str> = line.split('|').collect();
    let (name, fields) = (all[0], &all[1..]);
    let Some((_, required)) = COMMANDS.iter().find(|(known, _)| *known == name) else {
        return exactly(format!("unknown command: {name}"));
    };
    if fields.len() < *required {
        return exactly("invalid format");
    }
    // A field that is not there is empty, and what is in none of a command's fields is ignored.
    let field = |index: usize| fields.get(index).copied().unwrap_or("");
    let rest = |index: usize| fields.get(index..).unwrap_or_default().join("|");
    match name {
        "REGISTER" => Ok(Command::Register {
            service: text::name("service name", field(0))?,
            instance: text::name("instance name", field(1))?,
            metadata: {
                port(field(2))?;
                metadata(&rest(3))?
            },
        }),
        "RECONNECT" if field(0).is_empty() || field(0).len() > 512 => exactly("session not found"),
        "RECONNECT" => Ok(Command::Reconnect(field(0).to_owned())),
        // What can be nobody's id.
        _ if field(0).len() > 512 => exactly("session not found"),
        _ => Ok(Command::Request(field(0).to_owned(), request(name, &field, &rest)?)),
    }
}

fn port(text: &str) -> Read<()> {
    if text.is_empty() || (text.chars().all(|c| c.is_ascii_digit()) && text.parse::<u16>().is_ok()) {
        return Ok(());
    }
    Err(text::Refused::About(format!("invalid maintenance port {text:?}: ")))
}

fn metadata(text: &str) -> Read<serde_json::Map<String, Value>> {
    match serde_json::from_str(if text.is_empty() { "null" } else { text }) {
        Ok(Value::Null) => Ok(serde_json::Map::new()),
        Ok(Value::Object(map)) => Ok(map),
        _ => exactly("invalid metadata json"),
    }
}

fn request<'a>(
    name: &str,
    field: &impl Fn(usize) -> &'a str,
    rest: &impl Fn(usize) -> String,
) -> Read<Request> {
    Ok(match name {
        "PING" => Request::Ping,
        "SESSION_INFO" => Request::SessionInfo,
        "CLIENT_SHUTDOWN" => Request::ClientShutdown,
        "ROUTE_ADD" => Request::RouteAdd(NewRoute {
            domains: text::domain_list(field(1))?,
            path: text::path(field(2))?,
            backend: text::backend(field(3))?,
            priority: text::priority(field(4))?,
        }),
        "ROUTE_ADD_BULK" => Request::RouteAddBulk(bulk(&rest(1))?),
        "ROUTE_UPDATE" => Request::RouteUpdate(text::route(field(1))?, change(field(2), field(3))?),
        "ROUTE_REMOVE" => Request::RouteRemove(text::route(field(1))?),
        "ROUTE_LIST" => route_list(field(1), field(2))?,
        "HEADERS_SET" => Request::HeadersSet(
            text::target(field(1))?,
            text::header_name(field(2))?,
            text::header_value(&rest(3))?,
        ),
        "HEADERS_REMOVE" => Request::HeadersRemove(text::target(field(1))?, text::header_name(field(2))?),
        "OPTIONS_SET" => {
            let target = text::target(field(1))?;
            let key = text::one_of("option", &text::OPTIONS, field(2))?;
            let value = option_value(&key, field(3))?;
            Request::OptionsSet(target, key, value)
        }
        "OPTIONS_REMOVE" => {
            Request::OptionsRemove(text::target(field(1))?, text::one_of("option", &text::OPTIONS, field(2))?)
        }
        "HEALTH_SET" => {
            let (id, path) = (text::route(field(1))?, text::health_path(field(2))?);
            let interval = text::duration(field(3))?;
            Request::HealthSet(id, path, interval, zero_with(interval == 0, field(4))?)
        }
        "RATELIMIT_SET" => {
            let id = route_or_all(field(1))?;
            let requests = text::count("number of requests", field(2))?;
            Request::RateLimitSet(id, requests, zero_with(requests == 0, field(3))?)
        }
        "CIRCUIT_BREAKER_SET" => breaker(field)?,
        "CIRCUIT_BREAKER_STATUS" => Request::CircuitStatus(text::route(field(1))?),
        "CIRCUIT_BREAKER_RESET" => Request::CircuitReset(text::route(field(1))?),
        "CONFIG_VALIDATE" => Request::Validate,
        "CONFIG_APPLY" => Request::Apply,
        "CONFIG_APPLY_PARTIAL" => {
            let scopes = field(1).split(',').map(|scope| text::one_of("scope", &text::SCOPES, scope.trim()));
            Request::ApplyPartial(scopes.collect::<Read<_>>()?)
        }
        "CONFIG_ROLLBACK" => Request::Rollback,
        "CONFIG_DIFF" => Request::Diff,
        "DRAIN_START" => Request::DrainStart(text::duration(field(1))?),
        "DRAIN_STATUS" => Request::DrainStatus,
        "DRAIN_CANCEL" => Request::DrainCancel,
        "MAINT_ENTER" => {
            let page = Some(field(2)).filter(|page| !page.is_empty());
            Request::MaintEnter(text::target(field(1))?, page.map(text::backend).transpose()?)
        }
        "MAINT_EXIT" => Request::MaintExit(text::target(field(1))?),
        "MAINT_STATUS" => Request::MaintStatus(page(field(1))?),
        "STATS_GET" => {
            let which = if field(1).is_empty() { None } else { route_or_all(field(1))? };
            match (which, page(field(2))?) {
                // One is no list that has pages.
                (Some(_), Some(_)) => return exactly("invalid format"),
                (which, after) => Request::Stats(which, after),
            }
        }
        "BACKEND_TEST" => Request::BackendTest(text::backend(field(1))?),
        "SUBSCRIBE" => Request::Subscribe(text::one_of("event type", &text::EVENTS, field(1))?),
        "UNSUBSCRIBE" => Request::Unsubscribe(text::one_of("event type", &text::EVENTS, field(1))?),
        other => unreachable!("{other} is in the table"),
    })
}

fn route_or_all(text: &str) -> Read<RouteOrAll> {
    if text == "ALL" { Ok(None) } else { text::route(text).map(Some) }
}

/// A command that removes a thing by a zero may have zeros in its other fields too.
fn zero_with(removes: bool, text: &str) -> Read<u64> {
    if removes { text::duration(text) } else { text::duration_above_zero(text) }
}

fn breaker<'a>(field: &impl Fn(usize) -> &'a str) -> Read<Request> {
    let id = route_or_all(field(1))?;
    let threshold = text::count("threshold", field(2))?;
    let timeout = zero_with(threshold == 0, field(3))?;
    let half_open = text::count("number of half-open requests", field(4))?;
    if threshold > 0 && half_open == 0 {
        return Err(text::Refused::About("invalid number of half-open requests \"0\": ".to_owned()));
    }
    Ok(Request::CircuitSet(id, threshold, timeout, half_open))
}

fn change(field: &str, value: &str) -> Read<RouteChange> {
    match field {
        "backend_url" => text::backend(value).map(RouteChange::Backend),
        "priority" => text::priority(value).map(RouteChange::Priority),
        "domains" => text::domain_list(value).map(RouteChange::Domains),
        "path" => text::path(value).map(RouteChange::Path),
        _ => exactly("unknown field"),
    }
}

fn route_list(compressed: &str, after: &str) -> Read<Request> {
    let compressed = match compressed {
        "" => false,
        "compressed" => true,
        _ => return exactly("invalid format"),
    };
    Ok(Request::RouteList { compressed, after: page(after)? })
}

/// The route behind which a page begins; that of the first is `r0`.
fn page(text: &str) -> Read<Option<u32>> {
    match text.strip_prefix("after=") {
        _ if text.is_empty() => Ok(None),
        Some("r0") => Ok(Some(0)),
        Some(id) => text::route_id(id).map_or_else(|| exactly("invalid format"), |id| Ok(Some(id))),
        None => exactly("invalid format"),
    }
}

fn option_value(key: &str, value: &str) -> Read<OptionValue> {
    match key {
        "timeout" | "health_check_timeout" => text::duration_above_zero(value).map(OptionValue::Millis),
        "health_check_interval" | "hold" => text::duration(value).map(OptionValue::Millis),
        "allow_from" => text::networks(value).map(OptionValue::Text),
        "body_limit" => text::size(value).map(OptionValue::Number),
        "auth" => text::auth(value).map(OptionValue::Text),
        "weight" => text::weight(value).map(OptionValue::Number),
        "health_host" | "redirect" => text::exact_domain(value).map(OptionValue::Text),
        "health_status" => text::statuses(value).map(OptionValue::Text),
        "health_rise" | "health_fall" => text::checks(value).map(OptionValue::Number),
        _ => text::boolean(value).map(OptionValue::Flag),
    }
}

fn bulk(json: &str) -> Read<Vec<NewRoute>> {
    let invalid = || exactly("invalid json");
    let Ok(Value::Array(routes)) = serde_json::from_str(json) else { return invalid() };
    let mut read = Vec::new();
    for route in &routes {
        let priority = match route.get("priority") {
            None => Some(0),
            Some(number) => number.as_i64().and_then(|number| i32::try_from(number).ok()),
        };
        let domains: Option<Vec<&str>> =
            route["domains"].as_array().and_then(|all| all.iter().map(Value::as_str).collect());
        let (Some(domains), Some(path), Some(backend), Some(priority)) =
            (domains, route["path"].as_str(), route["backend_url"].as_str(), priority)
        else {
            return invalid();
        };
        read.push((domains, path, backend, priority));
    }
    let new_route = |(domains, path, backend, priority): (Vec<&str>, &str, &str, i32)| {
        Ok(NewRoute {
            domains: text::domains(domains.into_iter())?,
            path: text::path(path)?,
            backend: text::backend(backend)?,
            priority,
        })
    };
    read.into_iter().map(new_route).collect()
}
