//! What a route is set to: options, health check, rate limit, circuit breaker (PROTOCOL sections 3 and 5).

use std::fmt;
use std::str::FromStr;

use super::{
    AcceptedStatuses, Auth, ByteLimit, CheckCount, ExactDomain, GoDuration, HealthPath, Invalid, Networks,
    Weight,
};

/// One option of a route with its value ([PROTOCOL section 5](crate::spec::protocol#5-values)).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RouteOption {
    /// How long the response's headers may take, and how long the body may be silent. More than zero.
    Timeout(GoDuration),
    /// The same cell as HEALTH_SET's interval.
    HealthCheckInterval(GoDuration),
    /// The same cell as HEALTH_SET's time-out. More than zero.
    HealthCheckTimeout(GoDuration),
    /// Whether upgrades are passed on.
    Websocket(bool),
    /// Whether the backend sees the client's Host.
    PreserveHost(bool),
    /// Whether the proxy compresses responses.
    Compression(bool),
    /// HTTP/2 to the backend.
    Http2(bool),
    /// Stored without effect.
    Http3(bool),
    /// How long a claim that lost its last usable member is held (ours, [SEMANTICS section 6](crate::spec::semantics#6-drain-and-hold)).
    Hold(GoDuration),
    /// The Host that a health check sends (ours).
    HealthHost(ExactDomain),
    /// The statuses with which a health check passes (ours).
    HealthStatus(AcceptedStatuses),
    /// How many checks in a row bring a member back (ours).
    HealthRise(CheckCount),
    /// How many failed checks in a row take a member out (ours).
    HealthFall(CheckCount),
    /// Whether the route's path is taken off before the backend sees it (ours).
    StripPrefix(bool),
    /// Whether a cookie keeps a client at its instance (ours).
    Sticky(bool),
    /// Where the proxy sends whoever asks for the route (ours).
    Redirect(ExactDomain),
    /// The client addresses that may use the route (ours).
    AllowFrom(Networks),
    /// How many bytes the body of a request may have (ours).
    BodyLimit(ByteLimit),
    /// The instance's share of the requests (ours).
    Weight(Weight),
    /// Who may use the route (ours).
    Auth(Auth),
}

/// The name of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is the variant of RouteOption with its name")]
pub enum OptionKey {
    Timeout,
    HealthCheckInterval,
    HealthCheckTimeout,
    Websocket,
    PreserveHost,
    Compression,
    Http2,
    Http3,
    Hold,
    HealthHost,
    HealthStatus,
    HealthRise,
    HealthFall,
    StripPrefix,
    Sticky,
    Redirect,
    AllowFrom,
    BodyLimit,
    Weight,
    Auth,
}

impl OptionKey {
    /// Every key, in the order of [PROTOCOL section 5](crate::spec::protocol#5-values).
    pub const ALL: [OptionKey; 20] = [
        OptionKey::Timeout,
        OptionKey::HealthCheckInterval,
        OptionKey::HealthCheckTimeout,
        OptionKey::Websocket,
        OptionKey::PreserveHost,
        OptionKey::Compression,
        OptionKey::Http2,
        OptionKey::Http3,
        OptionKey::Hold,
        OptionKey::HealthHost,
        OptionKey::HealthStatus,
        OptionKey::HealthRise,
        OptionKey::HealthFall,
        OptionKey::StripPrefix,
        OptionKey::Sticky,
        OptionKey::Redirect,
        OptionKey::AllowFrom,
        OptionKey::BodyLimit,
        OptionKey::Weight,
        OptionKey::Auth,
    ];

    /// The key's text on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            OptionKey::Timeout => "timeout",
            OptionKey::HealthCheckInterval => "health_check_interval",
            OptionKey::HealthCheckTimeout => "health_check_timeout",
            OptionKey::Websocket => "websocket",
            OptionKey::PreserveHost => "preserve_host",
            OptionKey::Compression => "compression",
            OptionKey::Http2 => "http2",
            OptionKey::Http3 => "http3",
            OptionKey::Hold => "hold",
            OptionKey::HealthHost => "health_host",
            OptionKey::HealthStatus => "health_status",
            OptionKey::HealthRise => "health_rise",
            OptionKey::HealthFall => "health_fall",
            OptionKey::StripPrefix => "strip_prefix",
            OptionKey::Sticky => "sticky",
            OptionKey::Redirect => "redirect",
            OptionKey::AllowFrom => "allow_from",
            OptionKey::BodyLimit => "body_limit",
            OptionKey::Weight => "weight",
            OptionKey::Auth => "auth",
        }
    }

    /// The capability by which a server announces that it acts on the option; `None`: every server does
    /// ([PROTOCOL section 7](crate::spec::protocol#7-extensions-of-ours)).
    pub fn capability(self) -> Option<&'static str> {
        match self {
            OptionKey::Timeout
            | OptionKey::HealthCheckInterval
            | OptionKey::HealthCheckTimeout
            | OptionKey::Websocket
            | OptionKey::PreserveHost
            | OptionKey::Compression
            | OptionKey::Http2
            | OptionKey::Http3 => None,
            OptionKey::HealthHost
            | OptionKey::HealthStatus
            | OptionKey::HealthRise
            | OptionKey::HealthFall => Some("health_options"),
            OptionKey::Hold
            | OptionKey::StripPrefix
            | OptionKey::Sticky
            | OptionKey::Redirect
            | OptionKey::AllowFrom
            | OptionKey::BodyLimit
            | OptionKey::Weight
            | OptionKey::Auth => Some(self.as_str()),
        }
    }

    /// Whether it belongs to the health check, which is a scope and a line of CONFIG_DIFF of its own.
    pub fn is_health(self) -> bool {
        matches!(
            self,
            OptionKey::HealthCheckInterval
                | OptionKey::HealthCheckTimeout
                | OptionKey::HealthHost
                | OptionKey::HealthStatus
                | OptionKey::HealthRise
                | OptionKey::HealthFall
        )
    }
}

impl FromStr for OptionKey {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        OptionKey::ALL
            .into_iter()
            .find(|key| key.as_str() == text)
            .ok_or_else(|| Invalid::new("option", text, "there is no option of this name", "timeout"))
    }
}

impl fmt::Display for OptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl RouteOption {
    /// The option `key` with the value that `text` says.
    pub fn parse(key: OptionKey, text: &str) -> Result<Self, Invalid> {
        let flag = || parse_bool("option value", text);
        let duration = || text.parse::<GoDuration>();
        Ok(match key {
            OptionKey::Timeout => RouteOption::Timeout(GoDuration::above_zero(text)?),
            OptionKey::HealthCheckInterval => RouteOption::HealthCheckInterval(duration()?),
            OptionKey::HealthCheckTimeout => RouteOption::HealthCheckTimeout(GoDuration::above_zero(text)?),
            OptionKey::Websocket => RouteOption::Websocket(flag()?),
            OptionKey::PreserveHost => RouteOption::PreserveHost(flag()?),
            OptionKey::Compression => RouteOption::Compression(flag()?),
            OptionKey::Http2 => RouteOption::Http2(flag()?),
            OptionKey::Http3 => RouteOption::Http3(flag()?),
            OptionKey::Hold => RouteOption::Hold(duration()?),
            OptionKey::HealthHost => RouteOption::HealthHost(text.parse()?),
            OptionKey::HealthStatus => RouteOption::HealthStatus(text.parse()?),
            OptionKey::HealthRise => RouteOption::HealthRise(text.parse()?),
            OptionKey::HealthFall => RouteOption::HealthFall(text.parse()?),
            OptionKey::StripPrefix => RouteOption::StripPrefix(flag()?),
            OptionKey::Sticky => RouteOption::Sticky(flag()?),
            OptionKey::Redirect => RouteOption::Redirect(text.parse()?),
            OptionKey::AllowFrom => RouteOption::AllowFrom(text.parse()?),
            OptionKey::BodyLimit => RouteOption::BodyLimit(text.parse()?),
            OptionKey::Weight => RouteOption::Weight(text.parse()?),
            OptionKey::Auth => RouteOption::Auth(text.parse()?),
        })
    }

    /// Its name.
    pub fn key(&self) -> OptionKey {
        match self {
            RouteOption::Timeout(_) => OptionKey::Timeout,
            RouteOption::HealthCheckInterval(_) => OptionKey::HealthCheckInterval,
            RouteOption::HealthCheckTimeout(_) => OptionKey::HealthCheckTimeout,
            RouteOption::Websocket(_) => OptionKey::Websocket,
            RouteOption::PreserveHost(_) => OptionKey::PreserveHost,
            RouteOption::Compression(_) => OptionKey::Compression,
            RouteOption::Http2(_) => OptionKey::Http2,
            RouteOption::Http3(_) => OptionKey::Http3,
            RouteOption::Hold(_) => OptionKey::Hold,
            RouteOption::HealthHost(_) => OptionKey::HealthHost,
            RouteOption::HealthStatus(_) => OptionKey::HealthStatus,
            RouteOption::HealthRise(_) => OptionKey::HealthRise,
            RouteOption::HealthFall(_) => OptionKey::HealthFall,
            RouteOption::StripPrefix(_) => OptionKey::StripPrefix,
            RouteOption::Sticky(_) => OptionKey::Sticky,
            RouteOption::Redirect(_) => OptionKey::Redirect,
            RouteOption::AllowFrom(_) => OptionKey::AllowFrom,
            RouteOption::BodyLimit(_) => OptionKey::BodyLimit,
            RouteOption::Weight(_) => OptionKey::Weight,
            RouteOption::Auth(_) => OptionKey::Auth,
        }
    }

    /// Whether it says what holds at a server of ours when nothing is set
    /// ([PROTOCOL section 5](crate::spec::protocol#5-values)). Other servers have defaults of their own.
    pub fn is_default(&self) -> bool {
        match self {
            RouteOption::Timeout(timeout) => *timeout == GoDuration::from_secs(60),
            RouteOption::Websocket(on) | RouteOption::PreserveHost(on) => *on,
            RouteOption::Compression(on)
            | RouteOption::Http2(on)
            | RouteOption::Http3(on)
            | RouteOption::StripPrefix(on)
            | RouteOption::Sticky(on) => !on,
            RouteOption::BodyLimit(limit) => limit.get().is_none(),
            RouteOption::Weight(weight) => *weight == Weight::default(),
            RouteOption::HealthCheckInterval(_)
            | RouteOption::HealthCheckTimeout(_)
            | RouteOption::Hold(_)
            | RouteOption::HealthHost(_)
            | RouteOption::HealthStatus(_)
            | RouteOption::HealthRise(_)
            | RouteOption::HealthFall(_)
            | RouteOption::Redirect(_)
            | RouteOption::AllowFrom(_)
            | RouteOption::Auth(_) => false,
        }
    }

    /// How many bytes of text the value keeps. Numbers, durations and booleans keep none.
    pub fn text_bytes(&self) -> usize {
        match self {
            RouteOption::HealthHost(_)
            | RouteOption::HealthStatus(_)
            | RouteOption::Redirect(_)
            | RouteOption::AllowFrom(_)
            | RouteOption::Auth(_) => self.value_text().len(),
            _ => 0,
        }
    }

    /// The value's text. Booleans are `true` and `false`, the only ones the reference understands.
    pub fn value_text(&self) -> String {
        match self {
            RouteOption::Timeout(d)
            | RouteOption::HealthCheckInterval(d)
            | RouteOption::HealthCheckTimeout(d)
            | RouteOption::Hold(d) => d.to_string(),
            RouteOption::Websocket(b)
            | RouteOption::PreserveHost(b)
            | RouteOption::Compression(b)
            | RouteOption::Http2(b)
            | RouteOption::Http3(b)
            | RouteOption::StripPrefix(b)
            | RouteOption::Sticky(b) => b.to_string(),
            RouteOption::HealthHost(host) | RouteOption::Redirect(host) => host.to_string(),
            RouteOption::HealthStatus(statuses) => statuses.to_string(),
            RouteOption::HealthRise(count) | RouteOption::HealthFall(count) => count.to_string(),
            RouteOption::AllowFrom(networks) => networks.to_string(),
            RouteOption::BodyLimit(limit) => limit.to_string(),
            RouteOption::Weight(weight) => weight.to_string(),
            RouteOption::Auth(auth) => auth.value_text(),
        }
    }

    /// The value's text as it may stand in a log: without hashes of passwords.
    pub fn redacted(&self) -> String {
        match self {
            RouteOption::Auth(auth) => auth.redacted(),
            other => other.value_text(),
        }
    }
}

/// A boolean as people write it: `1/0`, `true/false`, `yes/no`, `on/off`, in any case.
pub fn parse_bool(kind: &'static str, text: &str) -> Result<bool, Invalid> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(Invalid::new(kind, text, "it is none of true, false, yes, no, on, off, 1, 0", "true")),
    }
}

/// What HEALTH_SET says: where the proxy asks, how often, and how long it waits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    /// The path that is asked for.
    pub path: HealthPath,
    /// From one probe to the next; zero takes the check away (ours).
    pub interval: GoDuration,
    /// How long one probe may take. More than zero, unless it is taken away.
    pub timeout: GoDuration,
}

/// What RATELIMIT_SET says, per client address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// How many requests a window allows; zero takes the limit away (ours).
    pub requests: u32,
    /// The window. More than zero, unless it is taken away.
    pub window: GoDuration,
}

/// What CIRCUIT_BREAKER_SET says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CircuitBreaker {
    /// How many failures in a row open it; zero takes it away (ours).
    pub threshold: u32,
    /// How long it stays open before trials. More than zero, unless it is taken away.
    pub timeout: GoDuration,
    /// How many trials are let through when half open. More than zero, unless it is taken away.
    pub half_open_requests: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_typed_values() {
        assert_eq!(RouteOption::parse(OptionKey::Websocket, "on"), Ok(RouteOption::Websocket(true)));
        for (key, value) in [
            (OptionKey::Timeout, "0s"),
            (OptionKey::Timeout, "soon"),
            (OptionKey::HealthCheckTimeout, "0"),
            (OptionKey::Compression, "perhaps"),
            (OptionKey::Hold, "-1s"),
            (OptionKey::HealthHost, "*.example.com"),
            (OptionKey::HealthStatus, "2xx"),
            (OptionKey::HealthRise, "0"),
            (OptionKey::HealthFall, "101"),
        ] {
            assert!(RouteOption::parse(key, value).is_err(), "{key}={value}");
        }
        assert!("colour".parse::<OptionKey>().is_err());
    }
}
