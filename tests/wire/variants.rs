//! A name for each variant. The matches are exhaustive, so that a new variant does not compile until it is
//! named here, and the properties then fail until a strategy generates it.

use registry_client::protocol::{
    Command, EventKind, Host, Push, Refusal, Reply, Request, RouteChange, RouteOrAll, Scheme, Scope,
    ServerLine, SessionRef, Target, TargetItem,
};

macro_rules! variants {
    ($(#[$doc:meta])* $name:ident, $all:ident: $type:ty { $($pattern:pat => $text:literal,)+ }) => {
        $(#[$doc])*
        pub(super) fn $name(value: &$type) -> &'static str {
            match value { $($pattern => $text,)+ }
        }
        pub(super) const $all: &[&str] = &[$($text,)+];
    };
}

variants!(reply, REPLIES: Reply {
    Reply::Registered(_) => "Registered",
    Reply::MaintenanceAck => "MaintenanceAck",
    Reply::Ok => "Ok",
    Reply::Reregister => "Reregister",
    Reply::Pong => "Pong",
    Reply::SessionInfo(_) => "SessionInfo",
    Reply::ShutdownOk => "ShutdownOk",
    Reply::RouteAdded(_) => "RouteAdded",
    Reply::RouteOk => "RouteOk",
    Reply::RoutesAdded(_) => "RoutesAdded",
    Reply::RouteList(_) => "RouteList",
    Reply::RouteListCompressed(_) => "RouteListCompressed",
    Reply::HeadersOk => "HeadersOk",
    Reply::OptionsOk => "OptionsOk",
    Reply::HealthOk => "HealthOk",
    Reply::RateLimitOk => "RateLimitOk",
    Reply::CircuitOk => "CircuitOk",
    Reply::CircuitStatus(_) => "CircuitStatus",
    Reply::Diff(_) => "Diff",
    Reply::DrainStarted(_) => "DrainStarted",
    Reply::DrainOk => "DrainOk",
    Reply::DrainStatus(_) => "DrainStatus",
    Reply::MaintenanceStatus(_) => "MaintenanceStatus",
    Reply::Stats(_) => "Stats",
    Reply::StatsAll(_) => "StatsAll",
    Reply::BackendOk(_) => "BackendOk",
    Reply::BackendFail(_) => "BackendFail",
    Reply::SubscribeOk => "SubscribeOk",
    Reply::UnsubscribeOk => "UnsubscribeOk",
    Reply::Error(_) => "Error",
});

variants!(push, PUSHES: Push {
    Push::MaintenanceOk(_) => "MaintenanceOk",
    Push::PageTimeout => "PageTimeout",
    Push::BackendTimeout => "BackendTimeout",
    Push::MaintenanceSuperseded => "MaintenanceSuperseded",
    Push::Event(..) => "Event",
    Push::OtherEvent(_) => "OtherEvent",
    Push::Shutdown => "Shutdown",
});

variants!(refusal, REFUSALS: Refusal {
    Refusal::NoSession => "NoSession",
    Refusal::SessionNotFound => "SessionNotFound",
    Refusal::SessionReplaced => "SessionReplaced",
    Refusal::UnknownCommand(_) => "UnknownCommand",
    Refusal::InvalidFormat => "InvalidFormat",
    Refusal::InvalidMetadataJson => "InvalidMetadataJson",
    Refusal::InvalidJson => "InvalidJson",
    Refusal::RouteNotFound => "RouteNotFound",
    Refusal::UnknownField => "UnknownField",
    Refusal::NoDomains => "NoDomains",
    Refusal::EmptyPath => "EmptyPath",
    Refusal::InvalidBackendUrl => "InvalidBackendUrl",
    Refusal::CircuitBreakerNotFound => "CircuitBreakerNotFound",
    Refusal::NoDrain => "NoDrain",
    Refusal::UnknownTarget(_) => "UnknownTarget",
    Refusal::InvalidDuration(_) => "InvalidDuration",
    Refusal::NotAllowed(_) => "NotAllowed",
    Refusal::StoreUnavailable => "StoreUnavailable",
    Refusal::LineTooLong => "LineTooLong",
    Refusal::ResponseTooLarge => "ResponseTooLarge",
    Refusal::Other(_) => "Other",
});

variants!(target_item, TARGET_ITEMS: TargetItem {
    TargetItem::Route(_) => "item Route",
    TargetItem::Path(_) => "item Path",
    TargetItem::Domain(_) => "item Domain",
    TargetItem::Service => "item Service",
});

variants!(route_change, ROUTE_CHANGES: RouteChange {
    RouteChange::Backend(_) => "change Backend",
    RouteChange::Priority(_) => "change Priority",
    RouteChange::Domains(_) => "change Domains",
    RouteChange::Path(_) => "change Path",
});

variants!(route_or_all, ROUTE_OR_ALL: RouteOrAll {
    RouteOrAll::All => "all routes",
    RouteOrAll::Route(_) => "one route",
});

variants!(host, HOSTS: Host {
    Host::Name(_) => "host Name",
    Host::Ip(std::net::IpAddr::V4(_)) => "host IPv4",
    Host::Ip(std::net::IpAddr::V6(_)) => "host IPv6",
});

variants!(scheme, SCHEMES: Scheme {
    Scheme::Http => "http",
    Scheme::Https => "https",
    Scheme::H2c => "h2c",
});

/// The 34 names, in the order of the document.
pub(super) const COMMANDS: [&str; 34] = [
    "REGISTER",
    "RECONNECT",
    "PING",
    "SESSION_INFO",
    "CLIENT_SHUTDOWN",
    "ROUTE_ADD",
    "ROUTE_ADD_BULK",
    "ROUTE_UPDATE",
    "ROUTE_REMOVE",
    "ROUTE_LIST",
    "HEADERS_SET",
    "HEADERS_REMOVE",
    "OPTIONS_SET",
    "OPTIONS_REMOVE",
    "HEALTH_SET",
    "RATELIMIT_SET",
    "CIRCUIT_BREAKER_SET",
    "CIRCUIT_BREAKER_STATUS",
    "CIRCUIT_BREAKER_RESET",
    "CONFIG_VALIDATE",
    "CONFIG_APPLY",
    "CONFIG_APPLY_PARTIAL",
    "CONFIG_ROLLBACK",
    "CONFIG_DIFF",
    "DRAIN_START",
    "DRAIN_STATUS",
    "DRAIN_CANCEL",
    "MAINT_ENTER",
    "MAINT_EXIT",
    "MAINT_STATUS",
    "STATS_GET",
    "BACKEND_TEST",
    "SUBSCRIBE",
    "UNSUBSCRIBE",
];

/// The command's name.
pub(super) fn command(command: &Command) -> &'static str {
    match command {
        Command::Register(_) => "REGISTER",
        Command::Reconnect(_) => "RECONNECT",
        Command::Request(_, request) => request.name(),
    }
}

/// The command's name and everything of interest inside it.
pub(super) fn inside(line: &Command) -> Vec<&'static str> {
    let mut seen = vec![command(line)];
    let Command::Request(session, request) = line else { return seen };
    seen.push(match session {
        SessionRef::Own => "own session",
        SessionRef::Id(_) => "session by id",
    });
    match request {
        Request::RouteAdd(route) => {
            seen.extend([host(route.backend.host()), scheme(&route.backend.scheme())]);
        }
        Request::RouteUpdate { change, .. } => seen.push(route_change(change)),
        Request::OptionsSet { option, .. } => seen.push(option.key().as_str()),
        Request::RateLimitSet { target, .. } => seen.push(route_or_all(target)),
        Request::ConfigApplyPartial(scopes) => seen.extend(scopes.iter().map(|scope| scope.as_str())),
        Request::Subscribe(kind) => seen.push(kind.as_str()),
        Request::MaintExit(Target::All) => seen.push("target ALL"),
        Request::MaintExit(Target::Some(items)) => seen.extend(items.iter().map(target_item)),
        _ => {}
    }
    seen
}

/// Everything that [`inside`] can say.
pub(super) fn all_inside() -> Vec<&'static str> {
    let lists: [&[&str]; 7] =
        [&COMMANDS, TARGET_ITEMS, ROUTE_CHANGES, ROUTE_OR_ALL, HOSTS, SCHEMES, &["target ALL"]];
    let mut all: Vec<&str> = lists.concat();
    all.extend(["own session", "session by id"]);
    all.extend(registry_client::protocol::OptionKey::ALL.map(|key| key.as_str()));
    all.extend(Scope::ALL_KEYWORDS.iter().map(|scope| scope.as_str()));
    all.extend(EventKind::ALL_KEYWORDS.iter().map(|kind| kind.as_str()));
    all
}

/// The variant of a server's line, and of the refusal in it.
pub(super) fn inside_server_line(line: &ServerLine) -> Vec<&'static str> {
    match line {
        ServerLine::Reply(Reply::Error(error)) => vec!["Error", refusal(error)],
        ServerLine::Reply(other) => vec![reply(other)],
        ServerLine::Push(line) => vec![push(line)],
    }
}
