//! How the fields behind each command's name are read.

use serde::{Deserialize, Serialize};

use super::{MAX_BULK_ROUTES, Request, RouteChange, RouteOrAll, RouteSpec};
use crate::protocol::fields::Fields;
use crate::protocol::{
    CircuitBreaker, Domain, Domains, GoDuration, HealthCheck, Invalid, RateLimit, Refusal, RouteId,
    RouteOption,
};

pub(super) type RequestParser = fn(&mut Fields<'_>) -> Result<Request, Refusal>;

/// Every command that is addressed to a session, how many fields must follow the session's id, and how
/// they are read.
#[rustfmt::skip]
pub(super) const REQUESTS: [(&str, usize, RequestParser); 32] = [
    ("PING", 0, |_| Ok(Request::Ping)),
    ("SESSION_INFO", 0, |_| Ok(Request::SessionInfo)),
    ("CLIENT_SHUTDOWN", 0, |_| Ok(Request::ClientShutdown)),
    ("ROUTE_ADD", 4, |f| RouteSpec::parse(f).map(Request::RouteAdd)),
    ("ROUTE_ADD_BULK", 1, |f| parse_bulk(f).map(Request::RouteAddBulk)),
    ("ROUTE_UPDATE", 3, |f| Ok(Request::RouteUpdate { route: route_id(f)?, change: RouteChange::parse(f)? })),
    ("ROUTE_REMOVE", 1, |f| route_id(f).map(Request::RouteRemove)),
    ("ROUTE_LIST", 0, parse_route_list),
    ("HEADERS_SET", 3, |f| Ok(Request::HeadersSet {
        target: f.parse()?, name: f.parse()?, value: f.rest().ok_or(Refusal::InvalidFormat)?.parse()?,
    })),
    ("HEADERS_REMOVE", 2, |f| Ok(Request::HeadersRemove { target: f.parse()?, name: f.parse()? })),
    ("OPTIONS_SET", 3, |f| {
        let (target, key) = (f.parse()?, f.parse()?);
        Ok(Request::OptionsSet { target, option: RouteOption::parse(key, f.required()?)? })
    }),
    ("OPTIONS_REMOVE", 2, |f| Ok(Request::OptionsRemove { target: f.parse()?, key: f.parse()? })),
    ("HEALTH_SET", 4, |f| Ok(Request::HealthSet {
        route: route_id(f)?,
        check: parse_check(f)?,
    })),
    ("RATELIMIT_SET", 3, |f| Ok(Request::RateLimitSet {
        target: RouteOrAll::parse(f.required()?)?,
        limit: parse_limit(f)?,
    })),
    ("CIRCUIT_BREAKER_SET", 4, |f| Ok(Request::CircuitBreakerSet {
        target: RouteOrAll::parse(f.required()?)?, breaker: parse_breaker(f)?,
    })),
    ("CIRCUIT_BREAKER_STATUS", 1, |f| route_id(f).map(Request::CircuitBreakerStatus)),
    ("CIRCUIT_BREAKER_RESET", 1, |f| route_id(f).map(Request::CircuitBreakerReset)),
    ("CONFIG_VALIDATE", 0, |_| Ok(Request::ConfigValidate)),
    ("CONFIG_APPLY", 0, |_| Ok(Request::ConfigApply)),
    ("CONFIG_APPLY_PARTIAL", 1, |f| {
        let scopes = f.required()?.split(',').map(|scope| scope.trim().parse());
        Ok(Request::ConfigApplyPartial(scopes.collect::<Result<_, Invalid>>()?))
    }),
    ("CONFIG_ROLLBACK", 0, |_| Ok(Request::ConfigRollback)),
    ("CONFIG_DIFF", 0, |_| Ok(Request::ConfigDiff)),
    ("DRAIN_START", 1, |f| f.parse().map(Request::DrainStart)),
    ("DRAIN_STATUS", 0, |_| Ok(Request::DrainStatus)),
    ("DRAIN_CANCEL", 0, |_| Ok(Request::DrainCancel)),
    ("MAINT_ENTER", 1, |f| Ok(Request::MaintEnter { target: f.parse()?, page: f.optional()? })),
    ("MAINT_EXIT", 1, |f| f.parse().map(Request::MaintExit)),
    ("MAINT_STATUS", 0, |f| Ok(match parse_page(f)? {
        None => Request::MaintStatus,
        Some(after) => Request::MaintStatusPage { after },
    })),
    ("STATS_GET", 0, |f| {
        let which = match f.next() {
            None | Some("") => RouteOrAll::All,
            Some(selector) => RouteOrAll::parse(selector)?,
        };
        match (which, parse_page(f)?) {
            (RouteOrAll::All, Some(after)) => Ok(Request::StatsPage { after }),
            (which, None) => Ok(Request::StatsGet(which)),
            (RouteOrAll::Route(_), Some(_)) => Err(Refusal::InvalidFormat),
        }
    }),
    ("BACKEND_TEST", 1, |f| f.parse().map(Request::BackendTest)),
    ("SUBSCRIBE", 1, |f| f.parse().map(Request::Subscribe)),
    ("UNSUBSCRIBE", 1, |f| f.parse().map(Request::Unsubscribe)),
];

pub(super) fn request_parser(name: &str) -> Option<(usize, RequestParser)> {
    REQUESTS.iter().find(|(known, ..)| *known == name).map(|(_, required, parser)| (*required, *parser))
}

fn route_id(fields: &mut Fields<'_>) -> Result<RouteId, Refusal> {
    // What is no route id names no route: the text that clients match on.
    fields.required()?.parse().map_err(|_| Refusal::RouteNotFound)
}

fn parse_domains(text: &str) -> Result<Domains, Refusal> {
    // Nothing at all is its own error; an empty domain among others is a mistake of another kind.
    match text.trim() {
        "" => Err(Refusal::NoDomains),
        list => collect_domains(list.split(',').map(str::trim)),
    }
}

fn collect_domains<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Domains, Refusal> {
    let parse = |text: &'a str| {
        // Not by `From<Invalid>`, for which no text is no domains.
        text.parse::<Domain>().map_err(|invalid| Refusal::Other(invalid.to_string()))
    };
    Domains::new(texts.map(parse).collect::<Result<Vec<_>, _>>()?).ok_or(Refusal::NoDomains)
}

fn parse_priority(text: &str) -> Result<i32, Refusal> {
    let refusal = || Invalid::new("priority", text, "it is no whole number of 32 bits", "10").into();
    text.parse().map_err(|_| refusal())
}

fn parse_route_list(fields: &mut Fields<'_>) -> Result<Request, Refusal> {
    let compressed = match fields.next() {
        None | Some("") => false,
        Some("compressed") => true,
        Some(_) => return Err(Refusal::InvalidFormat),
    };
    Ok(Request::RouteList { compressed, after: parse_page(fields)? })
}

/// `after=r500`: what is behind that route, as much as a line holds.
fn parse_page(fields: &mut Fields<'_>) -> Result<Option<RouteId>, Refusal> {
    let Some(page) = fields.next().filter(|page| !page.is_empty()) else { return Ok(None) };
    match page.strip_prefix("after=").ok_or(Refusal::InvalidFormat)? {
        // No route has this id: it asks for the first page.
        "r0" => Ok(Some(RouteId(0))),
        id => id.parse().map(Some).map_err(|_| Refusal::InvalidFormat),
    }
}

// A setting of zero takes the thing away. What the other fields say is then without effect, so that a zero
// is sense in them too.

fn parse_check(fields: &mut Fields<'_>) -> Result<HealthCheck, Refusal> {
    let (path, interval): (_, GoDuration) = (fields.parse()?, fields.parse()?);
    Ok(HealthCheck { path, interval, timeout: non_zero_unless(interval.is_zero(), fields.required()?)? })
}

fn parse_limit(fields: &mut Fields<'_>) -> Result<RateLimit, Refusal> {
    let requests = fields.number("number of requests")?;
    Ok(RateLimit { requests, window: non_zero_unless(requests == 0, fields.required()?)? })
}

fn non_zero_unless(removed: bool, text: &str) -> Result<GoDuration, Invalid> {
    if removed { text.parse() } else { GoDuration::above_zero(text) }
}

fn parse_breaker(fields: &mut Fields<'_>) -> Result<CircuitBreaker, Refusal> {
    let threshold = fields.number("threshold")?;
    let timeout = non_zero_unless(threshold == 0, fields.required()?)?;
    let half_open_requests = fields.number("number of half-open requests")?;
    if threshold > 0 && half_open_requests == 0 {
        let reason = "with none it would stay open for ever";
        return Err(Invalid::new("number of half-open requests", "0", reason, "3").into());
    }
    Ok(CircuitBreaker { threshold, timeout, half_open_requests })
}

/// A route as ROUTE_ADD_BULK's JSON has it.
#[derive(Serialize, Deserialize)]
pub(super) struct BulkRoute {
    pub(super) domains: Vec<String>,
    pub(super) path: String,
    pub(super) backend_url: String,
    #[serde(default)]
    pub(super) priority: i32,
}

fn parse_bulk(fields: &mut Fields<'_>) -> Result<Vec<RouteSpec>, Refusal> {
    let json = fields.rest().ok_or(Refusal::InvalidFormat)?;
    let routes: Vec<BulkRoute> = serde_json::from_str(json).map_err(|_| Refusal::InvalidJson)?;
    if routes.len() > MAX_BULK_ROUTES {
        return Err(Refusal::Other(format!("more than {MAX_BULK_ROUTES} routes in one command")));
    }
    let parse = |route: BulkRoute| {
        Ok(RouteSpec {
            domains: collect_domains(route.domains.iter().map(String::as_str))?,
            path: route.path.parse()?,
            backend: route.backend_url.parse()?,
            priority: route.priority,
        })
    };
    routes.into_iter().map(parse).collect()
}

impl RouteSpec {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, Refusal> {
        let (domains, path, backend, priority) =
            (fields.required()?, fields.required()?, fields.required()?, fields.required()?);
        Ok(RouteSpec {
            domains: parse_domains(domains)?,
            path: path.parse()?,
            backend: backend.parse()?,
            priority: parse_priority(priority)?,
        })
    }
}

impl RouteChange {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, Refusal> {
        let (field, value) = (fields.required()?, fields.required()?);
        match field {
            "backend_url" => Ok(RouteChange::Backend(value.parse()?)),
            "priority" => Ok(RouteChange::Priority(parse_priority(value)?)),
            "domains" => Ok(RouteChange::Domains(parse_domains(value)?)),
            "path" => Ok(RouteChange::Path(value.parse()?)),
            _ => Err(Refusal::UnknownField),
        }
    }
}

impl RouteOrAll {
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        match text {
            "ALL" => Ok(RouteOrAll::All),
            id => id.parse().map(RouteOrAll::Route).map_err(|_| Refusal::RouteNotFound),
        }
    }
}
