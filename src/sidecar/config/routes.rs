//! The routes: that of DOMAINS, its companion for socket.io, and those of ROUTES, which inherit what they leave out.

use serde_json::{Map, Value};

use crate::environment::{Reader, Reported, nearest, reason_of};
use registry_client::protocol::{
    CircuitBreaker, Domain, Domains, ExactDomain, GoDuration, HeaderName, HeaderValue, HealthCheck, Host,
    Invalid, OptionKey, PathPrefix, RateLimit, RouteOption, Scheme,
};

use super::more_options::{self, MoreOptions};
use super::raw::Raw;
use super::{RouteConfig, RouteOptions, values};

/// The routes that the variables describe.
pub(super) struct Routes {
    /// In the order in which they are registered. Empty only where nothing is to be registered.
    pub(super) list: Vec<RouteConfig>,
    /// PORT, for checks where there is no route.
    pub(super) port: u16,
}

/// Reads the routes; at least one where they are `required`.
pub(super) fn routes(raw: &mut Raw, reader: &mut Reader, required: bool) -> Result<Routes, Reported> {
    let domains = reader.optional("DOMAINS", raw.domains.take(), values::domains);
    let shared = domains.as_ref().ok().cloned().flatten();
    let inherited = inherited(raw, reader, shared.clone());
    let redirect_domains = reader.optional("REDIRECT_DOMAINS", raw.redirect_domains.take(), values::domains);
    let socketio = socketio(raw, reader);
    let items = items(raw.routes.take(), reader);
    if required && matches!(domains, Ok(None)) && matches!(items.as_deref(), Ok([])) {
        let reason = "it is required and not set, nor is SIDECAR_ROUTES";
        return Err(reader.missing("DOMAINS", reason, &["DOMAINS", "ROUTES"]));
    }
    let draft = match &inherited {
        Ok(draft) => draft.clone(),
        // Report the mistakes in ROUTES too, as if the other variables were unset.
        Err(Reported) => self::inherited(&mut Raw::default(), reader, shared)?,
    };
    let listed = listed(&items?, &draft, reader, domains.is_err());
    let redirected = redirected(redirect_domains, &domains, &inherited, reader);
    let (inherited, listed, domains, socketio) = (inherited?, listed?, domains?, socketio?);
    let port = inherited.port;
    let mut list = Vec::new();
    match (domains, socketio) {
        (Some(domains), socketio) => {
            let companion = socketio.map(|path| companion(inherited.clone(), domains.clone(), path));
            list.extend(inherited.routes("DOMAINS".to_owned(), &domains));
            list.extend(companion.into_iter().flatten());
        }
        (None, Some(_)) if required => {
            let reason = "it adds to the route of DOMAINS, which is not set: write the route into ROUTES";
            return Err(reader.refuse("ENABLE_SOCKETIO_ROUTE", reason.to_owned()));
        }
        (None, _) => {}
    }
    list.extend(redirected?);
    list.extend(listed);
    without_repetition(&list, reader)?;
    Ok(Routes { list, port })
}

/// A route that is not complete yet: its domains may be missing.
#[derive(Clone)]
struct Draft {
    domains: Option<Domains>,
    path: PathPrefix,
    scheme: Scheme,
    host: Option<Host>,
    port: u16,
    priority: i32,
    /// With an interval of zero there is no check.
    health: HealthCheck,
    options: RouteOptions,
    more_options: MoreOptions,
    headers: Vec<(HeaderName, HeaderValue)>,
    rate_limit: Option<RateLimit>,
    circuit_breaker: Option<CircuitBreaker>,
}

/// The most domains of one route, and the longest text of them, in bytes: our server takes 256, and the reference server
/// limits a line to 65,535 bytes (PROTOCOL section 1).
const MAX_DOMAINS: usize = 256;
const MAX_DOMAINS_TEXT: usize = 60_000;

/// The domains, spread over as many parts as it takes.
fn spread(domains: &Domains) -> Vec<Domains> {
    let mut parts: Vec<Vec<Domain>> = vec![Vec::new()];
    let mut length = 0;
    for domain in domains.as_slice() {
        let text = domain.as_str().len() + 1;
        let part = parts.last().map_or(0, Vec::len);
        if part >= MAX_DOMAINS || (part > 0 && length + text > MAX_DOMAINS_TEXT) {
            parts.push(Vec::new());
            length = 0;
        }
        length += text;
        parts.last_mut().into_iter().for_each(|part| part.push(domain.clone()));
    }
    parts.into_iter().filter_map(Domains::new).collect()
}

impl Draft {
    /// One route for these domains, or several where one cannot have so many.
    fn routes(self, origin: String, domains: &Domains) -> Vec<RouteConfig> {
        let name = |number: usize| match number {
            0 => origin.clone(),
            number => format!("{origin} ({})", number + 1),
        };
        let parts = spread(domains).into_iter().enumerate();
        parts.map(|(number, part)| self.clone().route(name(number), part)).collect()
    }

    fn route(self, origin: String, domains: Domains) -> RouteConfig {
        let has_check = !self.health.interval.is_zero();
        RouteConfig {
            origin,
            domains,
            path: self.path,
            scheme: self.scheme,
            host: self.host,
            port: self.port,
            priority: self.priority,
            health: has_check.then_some(self.health),
            options: self.options,
            more_options: self
                .more_options
                .into_values()
                .filter(|option| has_check || !option.key().is_health())
                .collect(),
            headers: self.headers,
            rate_limit: self.rate_limit,
            circuit_breaker: self.circuit_breaker,
        }
    }
}

/// What the routes of ROUTES inherit from the other variables.
fn inherited(raw: &mut Raw, reader: &mut Reader, domains: Option<Domains>) -> Result<Draft, Reported> {
    let path = reader.value("ROUTE_PATH", raw.route_path.take(), values::wire);
    let scheme = reader.value("BACKEND_SCHEME", raw.backend_scheme.take(), values::scheme);
    let port = port(raw, reader);
    let priority = reader.value("PRIORITY", raw.priority.take(), values::priority);
    let health = health(raw, reader);
    let options = options(raw, reader);
    let more_options = more_options::from_variables(raw, reader);
    let headers = reader.optional("RESPONSE_HEADERS", raw.response_headers.take(), values::headers);
    let rate_limit = reader.optional("RATE_LIMIT", raw.rate_limit.take(), values::rate_limit);
    let breaker = reader.optional("CIRCUIT_BREAKER", raw.circuit_breaker.take(), values::circuit_breaker);
    Ok(Draft {
        domains,
        path: path?,
        scheme: scheme?,
        host: None,
        port: port?,
        priority: priority?,
        health: health?,
        options: options?,
        more_options: more_options?,
        headers: headers?.unwrap_or_default(),
        rate_limit: rate_limit?,
        circuit_breaker: breaker?,
    })
}

/// APP_PORT wins over PORT, unless only PORT has our prefix: an image may set an APP_PORT of its own.
fn port(raw: &mut Raw, reader: &mut Reader) -> Result<u16, Reported> {
    let app_port = reader.optional("APP_PORT", raw.app_port.take(), values::port);
    let port = reader.value("PORT", raw.port.take(), values::port);
    let prefixed_port_only = reader.is_prefixed("PORT") && !reader.is_prefixed("APP_PORT");
    match (app_port?, port?) {
        (Some(app_port), _) if !prefixed_port_only => Ok(app_port),
        (_, port) => Ok(port),
    }
}

fn health(raw: &mut Raw, reader: &mut Reader) -> Result<HealthCheck, Reported> {
    let path = reader.value("HEALTH_PATH", raw.health_path.take(), values::wire);
    let interval = reader.value("HEALTH_INTERVAL", raw.health_interval.take(), values::duration);
    let timeout = reader.value("HEALTH_TIMEOUT", raw.health_timeout.take(), values::positive);
    Ok(HealthCheck { path: path?, interval: interval?, timeout: timeout? })
}

fn options(raw: &mut Raw, reader: &mut Reader) -> Result<RouteOptions, Reported> {
    let compression = reader.value("COMPRESSION", raw.compression.take(), values::flag);
    let websocket = reader.value("ENABLE_WEBSOCKET", raw.enable_websocket.take(), values::flag);
    let preserve_host = reader.value("PRESERVE_HOST", raw.preserve_host.take(), values::flag);
    let http2 = reader.value("BACKEND_HTTP2", raw.backend_http2.take(), values::flag);
    let timeout = reader.optional("BACKEND_TIMEOUT", raw.backend_timeout.take(), values::positive);
    Ok(RouteOptions {
        compression: compression?,
        websocket: websocket?,
        preserve_host: preserve_host?,
        http2: http2?,
        timeout: timeout?,
    })
}

/// The path of the route for socket.io, if there is one.
fn socketio(raw: &mut Raw, reader: &mut Reader) -> Result<Option<PathPrefix>, Reported> {
    let enabled = reader.value("ENABLE_SOCKETIO_ROUTE", raw.enable_socketio_route.take(), values::flag);
    let path = reader.value("SOCKETIO_PATH", raw.socketio_path.take(), values::wire);
    let (enabled, path) = (enabled?, path?);
    Ok(enabled.then_some(path))
}

/// The routes of REDIRECT_DOMAINS: every path of these hosts leads to the first of DOMAINS.
fn redirected(
    hosts: Result<Option<Domains>, Reported>,
    domains: &Result<Option<Domains>, Reported>,
    inherited: &Result<Draft, Reported>,
    reader: &mut Reader,
) -> Result<Vec<RouteConfig>, Reported> {
    let (Some(hosts), Ok(domains), Ok(draft)) = (hosts?, domains, inherited) else { return Ok(Vec::new()) };
    let first = domains.as_ref().and_then(|domains| domains.as_slice().first());
    let Some(Ok(host)) = first.map(|first| first.as_str().parse::<ExactDomain>()) else {
        let reason = "it leads to the first of DOMAINS, which is not set or is a wildcard";
        return Err(reader.refuse("REDIRECT_DOMAINS", reason.to_owned()));
    };
    let mut draft = Draft { path: PathPrefix::root(), ..draft.clone() };
    draft.health.interval = GoDuration::ZERO;
    draft.more_options = [(OptionKey::Redirect, RouteOption::Redirect(host))].into();
    Ok(draft.routes("REDIRECT_DOMAINS".to_owned(), &hosts))
}

/// The route that carries the websockets of socket.io.
fn companion(mut draft: Draft, domains: Domains, path: PathPrefix) -> Vec<RouteConfig> {
    draft.path = path;
    draft.options.websocket = true;
    // socket.io answers at its own path.
    draft.more_options.remove(&OptionKey::StripPrefix);
    draft.routes("SOCKETIO_PATH".to_owned(), &domains)
}

/// The items of ROUTES; none where it is not set.
fn items(text: Option<String>, reader: &mut Reader) -> Result<Vec<Value>, Reported> {
    let Some(text) = text else { return Ok(Vec::new()) };
    let reason = match serde_json::from_str(&text) {
        Ok(Value::Array(items)) if !items.is_empty() => return Ok(items),
        Ok(Value::Array(_)) => "there is no route in it".to_owned(),
        Ok(_) => "it is JSON, but no array of objects".to_owned(),
        Err(error) => format!("it is no JSON ({error})"),
    };
    Err(reader.refuse("ROUTES", reason))
}

/// The routes of ROUTES, with every mistake in each of them reported. `domains_refused` says that DOMAINS was
/// refused, so that a missing domain is not reported a second time.
fn listed(
    items: &[Value],
    inherited: &Draft,
    reader: &mut Reader,
    domains_refused: bool,
) -> Result<Vec<RouteConfig>, Reported> {
    let mut routes = Vec::new();
    let mut outcome = Ok(());
    for (index, item) in items.iter().enumerate() {
        let mut entry =
            Entry { place: format!("[{index}]"), draft: inherited.clone(), reader, outcome: Ok(()) };
        match item {
            Value::Object(fields) => entry.fields(fields),
            other => entry.refuse("", Some(other), "it is no JSON object".to_owned()),
        }
        let Entry { draft, outcome: entry_outcome, .. } = entry;
        match (entry_outcome, draft.domains.clone()) {
            (Err(Reported), _) => outcome = Err(Reported),
            (Ok(()), Some(domains)) => routes.extend(draft.routes(format!("ROUTES[{index}]"), &domains)),
            (Ok(()), None) if domains_refused => outcome = Err(Reported),
            (Ok(()), None) => {
                let reason = "it has no domains, and DOMAINS is not set".to_owned();
                outcome = Err(reader.refuse_part("ROUTES", &format!("[{index}]"), None, reason));
            }
        }
    }
    outcome.map(|()| routes)
}

/// The keys of a route in ROUTES.
const KEYS: [&str; 23] = [
    "domains",
    "path",
    "port",
    "host",
    "scheme",
    "priority",
    "health",
    "compression",
    "websocket",
    "preserve_host",
    "http2",
    "timeout",
    "headers",
    "rate_limit",
    "circuit_breaker",
    "strip_prefix",
    "sticky",
    "redirect",
    "allow_from",
    "body_limit",
    "weight",
    "basic_auth",
    "forward_auth",
];
/// The keys of its `health`.
const HEALTH_KEYS: [&str; 7] = ["path", "interval", "timeout", "host", "status", "rise", "fall"];

/// One item of ROUTES while it is read.
struct Entry<'a> {
    /// Its place in ROUTES, such as `[1]`.
    place: String,
    draft: Draft,
    reader: &'a mut Reader,
    outcome: Result<(), Reported>,
}

impl Entry<'_> {
    fn fields(&mut self, fields: &Map<String, Value>) {
        for (key, value) in fields {
            // A null value is inherited.
            if value.is_null() {
                continue;
            }
            if key == "health" {
                self.health(value);
            } else if let Some(set) = more_options::auth_from_json(&mut self.draft.more_options, key, value) {
                // The value may hold what is to be kept secret.
                if let Err(reason) = set {
                    self.refuse(&format!(".{key}"), None, reason);
                }
            } else if let Err(reason) = self.draft.set(key, value) {
                self.refuse(&format!(".{key}"), Some(value), reason);
            }
        }
    }

    fn health(&mut self, value: &Value) {
        let fields = match value {
            Value::Bool(false) => {
                self.draft.health.interval = GoDuration::ZERO;
                return;
            }
            Value::Object(fields) => fields,
            _ => {
                let reason = format!("it is neither false nor an object with {}", HEALTH_KEYS.join(", "));
                return self.refuse(".health", Some(value), reason);
            }
        };
        for (key, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            let (health, options) = (&mut self.draft.health, &mut self.draft.more_options);
            let set = match key.as_str() {
                "path" => scalar(value, values::wire).map(|path| health.path = path),
                "interval" => scalar(value, values::duration).map(|interval| health.interval = interval),
                "timeout" => scalar(value, values::positive).map(|timeout| health.timeout = timeout),
                _ => match more_options::HEALTH.iter().find(|(name, _)| name == key) {
                    Some((_, option)) => more_options::from_json(options, *option, value),
                    None => Err(unknown_key(key, &HEALTH_KEYS)),
                },
            };
            if let Err(reason) = set {
                self.refuse(&format!(".health.{key}"), Some(value), reason);
            }
        }
    }

    fn refuse(&mut self, place: &str, value: Option<&Value>, reason: String) {
        let shown = value.map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        let place = format!("{}{place}", self.place);
        self.outcome = Err(self.reader.refuse_part("ROUTES", &place, shown.as_deref(), reason));
    }
}

impl Draft {
    /// Sets one key; the error is the reason for refusing it.
    fn set(&mut self, key: &str, value: &Value) -> Result<(), String> {
        match key {
            "domains" => self.domains = Some(domain_list(value)?),
            "path" => self.path = scalar(value, values::wire)?,
            "port" => self.port = scalar(value, values::port)?,
            "host" => self.host = Some(scalar(value, values::host)?),
            "scheme" => self.scheme = scalar(value, values::scheme)?,
            "priority" => self.priority = scalar(value, values::priority)?,
            "compression" => self.options.compression = scalar(value, values::flag)?,
            "websocket" => self.options.websocket = scalar(value, values::flag)?,
            "preserve_host" => self.options.preserve_host = scalar(value, values::flag)?,
            "http2" => self.options.http2 = scalar(value, values::flag)?,
            "timeout" => self.options.timeout = Some(scalar(value, values::positive)?),
            "headers" => self.headers = header_object(value)?,
            "rate_limit" => self.rate_limit = unless_false(value, values::rate_limit)?,
            "circuit_breaker" => self.circuit_breaker = unless_false(value, values::circuit_breaker)?,
            _ => match more_options::KEYS.iter().find(|(name, _)| *name == key) {
                Some((_, option)) => more_options::from_json(&mut self.more_options, *option, value)?,
                None => return Err(unknown_key(key, &KEYS)),
            },
        }
        Ok(())
    }
}

/// Parses a string, a number or a boolean as the variable of the same meaning is parsed.
fn scalar<T>(value: &Value, parse: fn(&str) -> Result<T, Invalid>) -> Result<T, String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            return Err("it is no string, number or boolean".to_owned());
        }
    };
    parse(&text).map_err(|refused| reason_of(&refused, &text))
}

/// Parses a value that `false` turns off, even if it would be inherited.
fn unless_false<T>(value: &Value, parse: fn(&str) -> Result<T, Invalid>) -> Result<Option<T>, String> {
    if *value == Value::Bool(false) { Ok(None) } else { scalar(value, parse).map(Some) }
}

fn domain_list(value: &Value) -> Result<Domains, String> {
    match value {
        Value::Array(items) => {
            let names = items.iter().map(|item| item.as_str().ok_or("it holds what is no string"));
            let text = names.collect::<Result<Vec<_>, _>>()?.join(",");
            values::domains(&text).map_err(|refused| reason_of(&refused, &text))
        }
        _ => scalar(value, values::domains),
    }
}

fn header_object(value: &Value) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let Value::Object(map) = value else { return Err("it is no JSON object".to_owned()) };
    values::header_list(map).map_err(|refused| reason_of(&refused, ""))
}

fn unknown_key(key: &str, known: &[&'static str]) -> String {
    match nearest(key, known.iter().copied()) {
        Some(near) => format!("unknown key, did you mean {near}?"),
        None => format!("unknown key; there are {}", known.join(", ")),
    }
}

/// Refuses two routes with a domain and a path in common, because they would be one route.
fn without_repetition(list: &[RouteConfig], reader: &mut Reader) -> Result<(), Reported> {
    let mut outcome = Ok(());
    for (index, route) in list.iter().enumerate() {
        let shared = list.iter().take(index).find_map(|earlier| {
            let domains = earlier.domains.as_slice();
            let domain = route.domains.as_slice().iter().find(|domain| domains.contains(domain))?;
            (earlier.path == route.path).then_some((earlier, domain))
        });
        let Some((earlier, domain)) = shared else { continue };
        let reason = format!("{domain}{} is the route of {} already", route.path, earlier.origin);
        outcome = Err(match route.origin.strip_prefix("ROUTES") {
            Some(place) => {
                let place = place.split(' ').next().unwrap_or(place);
                reader.refuse_part("ROUTES", place, None, reason)
            }
            None if route.origin.starts_with("REDIRECT_DOMAINS") => reader.refuse("REDIRECT_DOMAINS", reason),
            None => reader.refuse("SOCKETIO_PATH", reason),
        });
    }
    outcome
}
