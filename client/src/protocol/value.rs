//! Names, ids, targets and the other values that stand in fields.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::error::is_field_safe;
use super::{Domain, Invalid, PathPrefix};

/// A service's or an instance's name: what the two have in common.
fn check_name(kind: &'static str, text: &str, example: &'static str) -> Result<(), Invalid> {
    let refuse = |reason: &'static str| Err(Invalid::new(kind, text, reason, example));
    if text.trim().is_empty() {
        return refuse("it is empty");
    }
    if text.len() > 255 {
        return refuse("longer than 255 bytes");
    }
    if !is_field_safe(text) || text.chars().any(char::is_control) {
        return refuse("'|', line ends and control characters may not stand in it");
    }
    Ok(())
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $example:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text as it stands on the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                let check: fn(&'static str, &str, &'static str) -> Result<(), Invalid> = $check;
                check($kind, text, $example)?;
                Ok($name(text.into()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_type!(
    /// The name under which a service's instances form one pool.
    ServiceName, "service name", "my-service", check_name
);
text_type!(
    /// What tells one instance of a service from another; stable across its restarts.
    InstanceName, "instance name", "my-service-1", check_name
);
text_type!(
    /// The name of a response header: a token of RFC 9110.
    HeaderName, "header name", "X-Frame-Options", |kind, text, example| {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`~".contains(&b);
        if text.is_empty() || text.len() > 256 || !text.bytes().all(token) {
            return Err(Invalid::new(kind, text, "it is no token of at most 256 characters", example));
        }
        Ok(())
    }
);
text_type!(
    /// The value of a response header: visible ASCII, spaces and tabs. It may hold `|`.
    HeaderValue, "header value", "SAMEORIGIN", |kind, text, example| {
        let visible = |b: u8| (0x20..0x7f).contains(&b) || b == b'\t';
        if !text.bytes().all(visible) {
            return Err(Invalid::new(kind, text, "only visible ASCII, spaces and tabs may stand in it", example));
        }
        Ok(())
    }
);
text_type!(
    /// A path for a health check; it may have a query.
    HealthPath, "health path", "/health", |kind, text, example| {
        let refuse = |reason: &'static str| Err(Invalid::new(kind, text, reason, example));
        if !text.starts_with('/') {
            return refuse("it must start with '/'");
        }
        if text.len() > 1024 {
            return refuse("longer than 1024 characters");
        }
        if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'|' && b != b'#') {
            return refuse("only visible ASCII without '|' and '#' may stand in it");
        }
        Ok(())
    }
);

/// A session's id: a bearer secret, opaque to clients. `Debug` and `Display` do not show it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(String);

impl SessionId {
    /// The secret itself: for the wire and nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for SessionId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() || text.len() > 512 || !is_field_safe(text) {
            // The text is kept out of the error: it may be somebody's secret.
            return Err(Invalid::new("session id", "[redacted]", "it is empty, too long or no field", "S"));
        }
        Ok(SessionId(text.to_owned()))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A route's id within its session: `r1`, `r2`, …
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteId(pub u32);

impl FromStr for RouteId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let digits = text.strip_prefix('r').filter(|digits| !digits.starts_with(['0', '+']));
        match digits.and_then(|digits| digits.parse().ok()) {
            Some(number) => Ok(RouteId(number)),
            None => Err(Invalid::new("route id", text, "it is no 'r' with a number", "r1")),
        }
    }
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// What a command is about ([PROTOCOL section 3](crate::spec::protocol#3-commands)).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// `ALL`: the session's default, for routes added later too.
    All,
    /// One or more, separated by commas; never empty.
    Some(Vec<TargetItem>),
}

/// One part of a [`Target`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TargetItem {
    /// A route by id.
    Route(RouteId),
    /// Every route of the session with this path (ours). A path with a comma cannot be named here, because a
    /// comma separates targets: such a route goes by its id.
    Path(PathPrefix),
    /// Every route of the session with this domain (ours). A domain that reads as a route id (`r1`) is read
    /// as that.
    Domain(Domain),
    /// `SERVICE`: all instances of the session's service (ours).
    Service,
}

impl Target {
    /// A single route.
    pub fn route(id: RouteId) -> Self {
        Target::Some(vec![TargetItem::Route(id)])
    }
}

impl FromStr for Target {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "ALL" {
            return Ok(Target::All);
        }
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Target::Some)
    }
}

impl FromStr for TargetItem {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let unknown = || Invalid::new("target", text, "it is no route id, path or domain", "r1");
        let text = text.trim();
        match text {
            "SERVICE" => Ok(TargetItem::Service),
            _ if text.contains(',') => Err(unknown()),
            _ if text.starts_with('/') => text.parse().map(TargetItem::Path).map_err(|_| unknown()),
            _ => match (text.parse(), text.parse::<Domain>()) {
                (Ok(id), _) => Ok(TargetItem::Route(id)),
                // A domain is lower-case: `R1` would be sent as the route r1.
                (_, Ok(domain)) if domain.as_str().parse::<RouteId>().is_err() => {
                    Ok(TargetItem::Domain(domain))
                }
                _ => Err(unknown()),
            },
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::All => f.write_str("ALL"),
            Target::Some(items) => write_joined(f, items),
        }
    }
}

impl fmt::Display for TargetItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetItem::Route(id) => id.fmt(f),
            TargetItem::Path(path) => path.fmt(f),
            TargetItem::Domain(domain) => domain.fmt(f),
            TargetItem::Service => f.write_str("SERVICE"),
        }
    }
}

/// Writes `items` with commas between them.
pub(super) fn write_joined<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(",")?;
        }
        item.fmt(f)?;
    }
    Ok(())
}

/// A route's domains: at least one, each once, in the order given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Domains(List);

/// Most routes have one, which then takes no more than itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum List {
    One(Domain),
    Many(Arc<[Domain]>),
}

impl From<Domain> for Domains {
    fn from(domain: Domain) -> Self {
        Domains(List::One(domain))
    }
}

impl Domains {
    /// The domains; `None` where there are none. Repetitions are dropped.
    pub fn new(domains: impl IntoIterator<Item = Domain>) -> Option<Self> {
        // A line can hold ten thousand: a set, so that their number costs no more than itself.
        let mut seen = HashSet::new();
        let kept: Vec<Domain> = domains.into_iter().filter(|domain| seen.insert(domain.clone())).collect();
        match <[Domain; 1]>::try_from(kept) {
            Ok([one]) => Some(Domains(List::One(one))),
            Err(none) if none.is_empty() => None,
            Err(many) => Some(Domains(List::Many(many.into()))),
        }
    }

    /// The domains in the order given.
    pub fn as_slice(&self) -> &[Domain] {
        match &self.0 {
            List::One(domain) => std::slice::from_ref(domain),
            List::Many(domains) => domains,
        }
    }

    /// The name by which a health check calls the route: the first that is no wildcard, or the first with `www` in the
    /// star's place, because an application that serves only such names refuses any other. `None` where the latter would
    /// be too long for a name.
    pub fn to_call(&self) -> Option<Domain> {
        let exact = self.as_slice().iter().find(|domain| !domain.is_wildcard()).cloned();
        let below = || format!("www{}", self.as_slice().first()?.as_str().strip_prefix('*')?).parse().ok();
        exact.or_else(below)
    }
}

impl fmt::Display for Domains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_joined(f, self.as_slice())
    }
}

macro_rules! keyword_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $example:literal, { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every one of them.
            pub const ALL_KEYWORDS: &'static [$name] = &[$($name::$variant,)+];

            /// Its text on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                match text {
                    $($text => Ok($name::$variant),)+
                    _ => Err(Invalid::new($kind, text, "there is none of this name", $example)),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

keyword_type!(
    /// What CONFIG_APPLY_PARTIAL applies.
    Scope, "scope", "routes", {
        /// Additions, changes and removals of routes.
        Routes = "routes",
        /// Response headers.
        Headers = "headers",
        /// Options.
        Options = "options",
        /// Health checks.
        Health = "health",
        /// Rate limits.
        RateLimit = "ratelimit",
        /// Circuit breakers.
        Circuit = "circuit",
    }
);

keyword_type!(
    /// What a session may subscribe to.
    EventKind, "event type", "all", {
        /// A backend was taken out by its check, or came back.
        BackendHealthChanged = "backend_health_changed",
        /// Another session applied a configuration.
        GlobalConfigChanged = "global_config_changed",
        /// A certificate was loaded anew.
        CertRenewed = "cert_renewed",
        /// Every one of these.
        All = "all",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_any_text_that_fits_a_field() {
        assert_eq!("my service".parse::<ServiceName>().unwrap().as_str(), "my service");
        for refused in ["", "  ", "a|b", "a\nb", "a\u{7}b", &"x".repeat(256)] {
            assert!(refused.parse::<ServiceName>().is_err(), "{refused:?}");
            assert!(refused.parse::<InstanceName>().is_err(), "{refused:?}");
        }
    }

    #[test]
    fn a_route_is_called_by_a_name_that_its_application_knows() {
        let called = |names: &[&str]| {
            let domains = Domains::new(names.iter().map(|name| name.parse().unwrap())).unwrap();
            domains.to_call().map(|domain| domain.to_string())
        };
        assert_eq!(called(&["*.a.de", "b.de"]).as_deref(), Some("b.de"));
        assert_eq!(called(&["*.a.de", "*.b.de"]).as_deref(), Some("www.a.de"));
        let long =
            format!("*.{}", ["x".repeat(62), "x".repeat(62), "x".repeat(62), "x".repeat(62)].join("."));
        assert_eq!(called(&[&long]), None);
    }

    #[test]
    fn a_session_id_is_never_shown() {
        let id: SessionId = "web-1-1734690123456-77aa".parse().unwrap();
        assert_eq!(format!("{id:?} {id}"), "[redacted] [redacted]");
        let refused = "secret|secret".parse::<SessionId>().unwrap_err();
        assert!(!refused.to_string().contains("secret|"));
        assert!("".parse::<SessionId>().is_err());
        assert!("x".repeat(513).parse::<SessionId>().is_err());
    }

    #[test]
    fn route_ids_have_one_spelling() {
        assert_eq!("r12".parse::<RouteId>().unwrap(), RouteId(12));
        for refused in ["", "r", "r0", "r01", "r-1", "r+1", "12", "R1", "r99999999999"] {
            assert!(refused.parse::<RouteId>().is_err(), "{refused:?}");
        }
    }

    #[test]
    fn a_target_is_all_or_a_list_of_ids_paths_domains_or_the_service() {
        assert_eq!("ALL".parse::<Target>().unwrap(), Target::All);
        assert_eq!(
            "r1,/admin,admin.example.com,SERVICE".parse::<Target>().unwrap(),
            Target::Some(vec![
                TargetItem::Route(RouteId(1)),
                TargetItem::Path("/admin".parse().unwrap()),
                TargetItem::Domain("admin.example.com".parse().unwrap()),
                TargetItem::Service,
            ])
        );
        for refused in ["", "r1,", ",", "r1,a b", "/a b", "R1"] {
            assert!(refused.parse::<Target>().is_err(), "{refused:?}");
        }
        assert!("/a,b".parse::<TargetItem>().is_err(), "it would be sent as two");
    }

    #[test]
    fn domains_are_kept_once_in_the_order_given() {
        let parsed = ["b.de", "a.de", "B.de", "a.de"].map(|domain| domain.parse().unwrap());
        assert_eq!(Domains::new(parsed).unwrap().to_string(), "b.de,a.de");
        assert_eq!(Domains::new([]), None);
    }

    #[test]
    fn headers_are_tokens_and_visible_text() {
        assert!("X-Frame-Options".parse::<HeaderName>().is_ok());
        assert!("a | b".parse::<HeaderValue>().is_ok());
        for refused in ["", "a b", "a:b", "ä"] {
            assert!(refused.parse::<HeaderName>().is_err(), "{refused:?}");
        }
        for refused in ["a\nb", "ä", "\u{1}"] {
            assert!(refused.parse::<HeaderValue>().is_err(), "{refused:?}");
        }
        for refused in ["", "health", "/a|b", "/a b", "/a#b"] {
            assert!(refused.parse::<HealthPath>().is_err(), "{refused:?}");
        }
    }
}
