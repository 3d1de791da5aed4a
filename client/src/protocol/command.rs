//! The 34 commands, one variant each: what a client sends and a server reads (PROTOCOL section 3).

mod parse;

use std::fmt::Write as _;

use super::codec::MAX_LINE;
use super::error::is_field_safe;
use super::fields::Fields;
use super::metadata::encode_json;
use super::{
    BackendUrl, CircuitBreaker, Domain, Domains, EventKind, GoDuration, HeaderName, HeaderValue, HealthCheck,
    InstanceName, Invalid, Metadata, OptionKey, PathPrefix, RateLimit, Refusal, RouteId, RouteOption, Scope,
    ServiceName, SessionId, Target,
};

/// One line from a client: the two commands that bind a session to the connection, or a request to one.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// `REGISTER`: a new session, bound to this connection.
    Register(Registration),
    /// `RECONNECT`: the session of this id, bound to this connection.
    Reconnect(SessionId),
    /// Any other command, addressed to a session.
    Request(SessionRef, Request),
}

/// Which session a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionRef {
    /// The connection's own: the field is empty, or missing where it is the only one.
    Own,
    /// The one of this id, from any connection.
    Id(SessionId),
}

/// What REGISTER says.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    /// The service.
    pub service: ServiceName,
    /// Which of its instances.
    pub instance: InstanceName,
    /// Where it serves a maintenance page; `None` for `0` or nothing.
    pub maintenance_port: Option<u16>,
    /// Anything else.
    pub metadata: Metadata,
}

/// What ROUTE_ADD says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// The domains it claims.
    pub domains: Domains,
    /// The path prefix it claims on each of them.
    pub path: PathPrefix,
    /// Where its requests go.
    pub backend: BackendUrl,
    /// Higher wins over a longer path.
    pub priority: i32,
}

/// What ROUTE_UPDATE changes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is the field of RouteSpec with its name")]
pub enum RouteChange {
    Backend(BackendUrl),
    Priority(i32),
    Domains(Domains),
    Path(PathPrefix),
}

/// A route, or the session's default for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteOrAll {
    /// `ALL`.
    All,
    /// One route.
    Route(RouteId),
}

/// The 32 commands that are addressed to a session.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each is the command of PROTOCOL section 3 with its name and fields")]
pub enum Request {
    Ping,
    SessionInfo,
    ClientShutdown,
    RouteAdd(RouteSpec),
    RouteAddBulk(Vec<RouteSpec>),
    RouteUpdate {
        route: RouteId,
        change: RouteChange,
    },
    RouteRemove(RouteId),
    RouteList {
        compressed: bool,
        after: Option<RouteId>,
    },
    HeadersSet {
        target: Target,
        name: HeaderName,
        value: HeaderValue,
    },
    HeadersRemove {
        target: Target,
        name: HeaderName,
    },
    OptionsSet {
        target: Target,
        option: RouteOption,
    },
    OptionsRemove {
        target: Target,
        key: OptionKey,
    },
    HealthSet {
        route: RouteId,
        check: HealthCheck,
    },
    RateLimitSet {
        target: RouteOrAll,
        limit: RateLimit,
    },
    CircuitBreakerSet {
        target: RouteOrAll,
        breaker: CircuitBreaker,
    },
    CircuitBreakerStatus(RouteId),
    CircuitBreakerReset(RouteId),
    ConfigValidate,
    ConfigApply,
    ConfigApplyPartial(Vec<Scope>),
    ConfigRollback,
    ConfigDiff,
    DrainStart(GoDuration),
    DrainStatus,
    DrainCancel,
    MaintEnter {
        target: Target,
        page: Option<BackendUrl>,
    },
    MaintExit(Target),
    MaintStatus,
    /// As many of its routes behind this one as a line holds (ours).
    MaintStatusPage {
        after: RouteId,
    },
    StatsGet(RouteOrAll),
    /// As many of all behind this one as a line holds (ours).
    StatsPage {
        after: RouteId,
    },
    BackendTest(BackendUrl),
    Subscribe(EventKind),
    Unsubscribe(EventKind),
}

/// The most routes that one ROUTE_ADD_BULK may hold; a line bounds it further.
pub const MAX_BULK_ROUTES: usize = 10_000;

impl Command {
    /// Reads one line, without its end. The refusal is what the server answers.
    pub fn parse(line: &str) -> Result<Self, Refusal> {
        let mut fields = Fields::new(line);
        let name = fields.next().unwrap_or_default();
        match name {
            "REGISTER" => Registration::parse(fields).map(Command::Register),
            "RECONNECT" => parse_session_id(fields.required()?).map(Command::Reconnect),
            _ => {
                let (required, parser) =
                    parse::request_parser(name).ok_or_else(|| Refusal::UnknownCommand(name.to_owned()))?;
                let session = fields.next().unwrap_or_default();
                // Count the fields before parsing any of them, so that a truncated line has one answer wherever it is cut.
                if !fields.has(required) {
                    return Err(Refusal::InvalidFormat);
                }
                Ok(Command::Request(SessionRef::parse(session)?, parser(&mut fields)?))
            }
        }
    }

    /// The line, without its end, as it goes over the wire. It holds the session's id in clear.
    pub fn encode(&self) -> String {
        self.write(SessionId::reveal, &|metadata| metadata.encode(), RouteOption::value_text)
    }

    /// Whether it makes a line that every server reads: the reference one drops the connection at a longer one
    /// ([PROTOCOL section 1](crate::spec::protocol#1-framing)).
    pub fn fits(&self) -> bool {
        self.encode().len() <= MAX_LINE
    }

    /// The line as it may stand in a log: no session id, no token.
    pub fn redacted(&self) -> String {
        let show_metadata = |metadata: &Metadata| encode_json(&metadata.without_secrets());
        self.write(|_| "[redacted]", &show_metadata, RouteOption::redacted)
    }

    fn write<'a>(
        &'a self,
        show_id: impl Fn(&'a SessionId) -> &'a str,
        show_metadata: &dyn Fn(&Metadata) -> String,
        show_option: fn(&RouteOption) -> String,
    ) -> String {
        match self {
            Command::Register(r) => {
                let port = r.maintenance_port.unwrap_or(0);
                format!("REGISTER|{}|{}|{port}|{}", r.service, r.instance, show_metadata(&r.metadata))
            }
            Command::Reconnect(id) => format!("RECONNECT|{}", show_id(id)),
            Command::Request(session, request) => {
                let id = match session {
                    SessionRef::Own => "",
                    SessionRef::Id(id) => show_id(id),
                };
                let mut line = format!("{}|{id}", request.name());
                request.write_fields(&mut line, show_option);
                line
            }
        }
    }
}

impl SessionRef {
    fn parse(field: &str) -> Result<Self, Refusal> {
        match field {
            "" => Ok(SessionRef::Own),
            id => parse_session_id(id).map(SessionRef::Id),
        }
    }
}

fn parse_session_id(text: &str) -> Result<SessionId, Refusal> {
    // No server issues such an id, so no session has it.
    text.parse().map_err(|_| Refusal::SessionNotFound)
}

impl Registration {
    fn parse(mut fields: Fields<'_>) -> Result<Self, Refusal> {
        let (service, instance, port) = (fields.required()?, fields.required()?, fields.required()?);
        Ok(Registration {
            service: service.parse()?,
            instance: instance.parse()?,
            maintenance_port: parse_maintenance_port(port)?,
            metadata: Metadata::parse(fields.rest().unwrap_or_default())?,
        })
    }
}

fn parse_maintenance_port(text: &str) -> Result<Option<u16>, Invalid> {
    let refusal = || Invalid::new("maintenance port", text, "it is no number up to 65535", "3001");
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(refusal());
    }
    match text {
        "" => Ok(None),
        digits => digits.parse().map(|port| Some(port).filter(|port| *port != 0)).map_err(|_| refusal()),
    }
}

impl Request {
    /// The command of this name as a constant, if there is one that is addressed to a session.
    pub fn name_of(text: &str) -> Option<&'static str> {
        parse::REQUESTS.iter().map(|(name, ..)| *name).find(|name| *name == text)
    }

    /// The command's name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Request::Ping => "PING",
            Request::SessionInfo => "SESSION_INFO",
            Request::ClientShutdown => "CLIENT_SHUTDOWN",
            Request::RouteAdd(_) => "ROUTE_ADD",
            Request::RouteAddBulk(_) => "ROUTE_ADD_BULK",
            Request::RouteUpdate { .. } => "ROUTE_UPDATE",
            Request::RouteRemove(_) => "ROUTE_REMOVE",
            Request::RouteList { .. } => "ROUTE_LIST",
            Request::HeadersSet { .. } => "HEADERS_SET",
            Request::HeadersRemove { .. } => "HEADERS_REMOVE",
            Request::OptionsSet { .. } => "OPTIONS_SET",
            Request::OptionsRemove { .. } => "OPTIONS_REMOVE",
            Request::HealthSet { .. } => "HEALTH_SET",
            Request::RateLimitSet { .. } => "RATELIMIT_SET",
            Request::CircuitBreakerSet { .. } => "CIRCUIT_BREAKER_SET",
            Request::CircuitBreakerStatus(_) => "CIRCUIT_BREAKER_STATUS",
            Request::CircuitBreakerReset(_) => "CIRCUIT_BREAKER_RESET",
            Request::ConfigValidate => "CONFIG_VALIDATE",
            Request::ConfigApply => "CONFIG_APPLY",
            Request::ConfigApplyPartial(_) => "CONFIG_APPLY_PARTIAL",
            Request::ConfigRollback => "CONFIG_ROLLBACK",
            Request::ConfigDiff => "CONFIG_DIFF",
            Request::DrainStart(_) => "DRAIN_START",
            Request::DrainStatus => "DRAIN_STATUS",
            Request::DrainCancel => "DRAIN_CANCEL",
            Request::MaintEnter { .. } => "MAINT_ENTER",
            Request::MaintExit(_) => "MAINT_EXIT",
            Request::MaintStatus | Request::MaintStatusPage { .. } => "MAINT_STATUS",
            Request::StatsGet(_) | Request::StatsPage { .. } => "STATS_GET",
            Request::BackendTest(_) => "BACKEND_TEST",
            Request::Subscribe(_) => "SUBSCRIBE",
            Request::Unsubscribe(_) => "UNSUBSCRIBE",
        }
    }

    /// Whether every text in it may stand in a field. False only where a header's value holds `|`, which a
    /// reference server would cut ([PROTOCOL section 1](crate::spec::protocol#1-framing)).
    pub fn is_safe_for_reference(&self) -> bool {
        !matches!(self, Request::HeadersSet { value, .. } if !is_field_safe(value.as_str()))
    }

    /// Appends `|field` for each field after the session's id.
    fn write_fields(&self, line: &mut String, show_option: fn(&RouteOption) -> String) {
        // Writing to a String cannot fail.
        let _ = match self {
            Request::RouteAdd(r) => write!(line, "|{}|{}|{}|{}", r.domains, r.path, r.backend, r.priority),
            Request::RouteAddBulk(routes) => write!(line, "|{}", encode_bulk(routes)),
            Request::RouteUpdate { route, change } => {
                let (field, value) = change.name_and_value();
                write!(line, "|{route}|{field}|{value}")
            }
            Request::RouteRemove(id)
            | Request::CircuitBreakerStatus(id)
            | Request::CircuitBreakerReset(id) => {
                write!(line, "|{id}")
            }
            Request::RouteList { compressed: false, after: None } => Ok(()),
            Request::RouteList { compressed, after } => {
                line.push_str(if *compressed { "|compressed" } else { "|" });
                after.map_or(Ok(()), |id| write!(line, "|after={id}"))
            }
            Request::HeadersSet { target, name, value } => write!(line, "|{target}|{name}|{value}"),
            Request::HeadersRemove { target, name } => write!(line, "|{target}|{name}"),
            Request::OptionsSet { target, option } => {
                write!(line, "|{target}|{}|{}", option.key(), show_option(option))
            }
            Request::OptionsRemove { target, key } => write!(line, "|{target}|{key}"),
            Request::HealthSet { route, check } => {
                write!(line, "|{route}|{}|{}|{}", check.path, check.interval, check.timeout)
            }
            Request::RateLimitSet { target, limit } => {
                write!(line, "|{target}|{}|{}", limit.requests, limit.window)
            }
            Request::CircuitBreakerSet { target, breaker: b } => {
                write!(line, "|{target}|{}|{}|{}", b.threshold, b.timeout, b.half_open_requests)
            }
            Request::ConfigApplyPartial(scopes) => {
                let scopes: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
                write!(line, "|{}", scopes.join(","))
            }
            Request::DrainStart(duration) => write!(line, "|{duration}"),
            // The fourth field stands even when it is empty: the reference needs it (PROTOCOL section 8).
            Request::MaintEnter { target, page: None } => write!(line, "|{target}|"),
            Request::MaintEnter { target, page: Some(page) } => write!(line, "|{target}|{page}"),
            Request::MaintExit(target) => write!(line, "|{target}"),
            Request::MaintStatusPage { after } => write!(line, "|after={after}"),
            Request::StatsGet(selector) => write!(line, "|{selector}"),
            Request::StatsPage { after } => write!(line, "||after={after}"),
            Request::BackendTest(url) => write!(line, "|{url}"),
            Request::Subscribe(kind) | Request::Unsubscribe(kind) => write!(line, "|{kind}"),
            Request::Ping
            | Request::SessionInfo
            | Request::ClientShutdown
            | Request::ConfigValidate
            | Request::ConfigApply
            | Request::ConfigRollback
            | Request::ConfigDiff
            | Request::DrainStatus
            | Request::DrainCancel
            | Request::MaintStatus => Ok(()),
        };
    }
}

impl RouteChange {
    fn name_and_value(&self) -> (&'static str, String) {
        match self {
            RouteChange::Backend(backend) => ("backend_url", backend.to_string()),
            RouteChange::Priority(priority) => ("priority", priority.to_string()),
            RouteChange::Domains(domains) => ("domains", domains.to_string()),
            RouteChange::Path(path) => ("path", path.to_string()),
        }
    }
}

impl std::fmt::Display for RouteOrAll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RouteOrAll::All => f.write_str("ALL"),
            RouteOrAll::Route(id) => id.fmt(f),
        }
    }
}

fn encode_bulk(routes: &[RouteSpec]) -> String {
    let bulk = |route: &RouteSpec| parse::BulkRoute {
        domains: route.domains.as_slice().iter().map(Domain::to_string).collect(),
        path: route.path.to_string(),
        backend_url: route.backend.to_string(),
        priority: route.priority,
    };
    encode_json(&routes.iter().map(bulk).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_fields_are_an_invalid_format_whatever_the_fields_say() {
        for line in [
            "HEALTH_SET|S|no-id|no-path",
            "RATELIMIT_SET|S|r1|many",
            "CIRCUIT_BREAKER_SET|S|no-id|5|30s",
            "OPTIONS_SET|S|ALL|colour",
            "HEADERS_SET|S||X-A",
            "ROUTE_UPDATE|S|no-id|colour",
            "ROUTE_REMOVE|S",
        ] {
            assert_eq!(Command::parse(line), Err(Refusal::InvalidFormat), "{line}");
        }
    }

    #[test]
    fn a_maintenance_port_is_digits_and_any_zero_is_none() {
        let port = |text: &str| match Command::parse(&format!("REGISTER|s|i|{text}|")) {
            Ok(Command::Register(registration)) => Ok(registration.maintenance_port),
            Ok(other) => unreachable!("{other:?}"),
            Err(refusal) => Err(refusal),
        };
        for none in ["", "0", "00"] {
            assert_eq!(port(none), Ok(None), "{none:?}");
        }
        assert_eq!(port("3001"), Ok(Some(3001)));
        for refused in ["+80", "-1", "65536", "8a", " 80"] {
            assert!(port(refused).unwrap_err().to_string().starts_with("invalid maintenance port "));
        }
    }

    #[test]
    fn an_id_that_could_never_have_been_issued_is_not_found() {
        let too_long = "x".repeat(513);
        for line in [format!("RECONNECT|{too_long}"), "RECONNECT|".to_owned(), format!("PING|{too_long}")] {
            assert_eq!(Command::parse(&line), Err(Refusal::SessionNotFound));
        }
        assert_eq!(Command::parse("RECONNECT"), Err(Refusal::InvalidFormat));
    }

    #[test]
    fn what_is_taken_away_may_have_zeros_throughout_and_what_is_set_may_not() {
        for removing in
            ["HEALTH_SET|S|r1|/|0s|0s", "RATELIMIT_SET|S|ALL|0|0s", "CIRCUIT_BREAKER_SET|S|r1|0|0s|0"]
        {
            let command = Command::parse(removing).unwrap();
            assert_eq!(command.encode(), removing);
        }
        for senseless in
            ["HEALTH_SET|S|r1|/|1s|0s", "RATELIMIT_SET|S|ALL|1|0s", "CIRCUIT_BREAKER_SET|S|r1|1|0s|1"]
        {
            assert_eq!(Command::parse(senseless), Err(Refusal::InvalidDuration("0s".to_owned())));
        }
        assert!(Command::parse("CIRCUIT_BREAKER_SET|S|r1|1|1s|0").is_err());
    }

    #[test]
    fn an_empty_domain_among_others_is_refused_and_a_domain_never_split() {
        let add = |domains: &str| Command::parse(&format!("ROUTE_ADD|S|{domains}|/|http://h:80/|10"));
        let bulk = |domains: &str| {
            let route = format!(r#"{{"domains":{domains},"path":"/","backend_url":"http://h:80/"}}"#);
            Command::parse(&format!("ROUTE_ADD_BULK|S|[{route}]"))
        };
        for refused in
            [add("a.de,,b.de"), add("a.de,"), add(","), bulk(r#"["a.de",""]"#), bulk(r#"["a.de,b.de"]"#)]
        {
            let text = refused.unwrap_err().to_string();
            assert!(text.starts_with("invalid domain "), "{text}");
        }
        for none in [add(""), add(" "), bulk("[]")] {
            assert_eq!(none, Err(Refusal::NoDomains));
        }
        assert!(add(" a.de , b.de ").is_ok());
    }
}
