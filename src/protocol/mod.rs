//! The language of the wire: Registry V2, one message a line, fields separated by `|`.
//!
//! Both ends are here, in both directions: a server parses commands and encodes replies, a client does
//! the reverse. Nothing in this module does I/O, reads a clock or is async, and nothing in it knows what
//! a command *does*.

mod domain;
mod duration;
mod error;
mod url;
mod value;

pub use domain::{Domain, PathPrefix};
pub use duration::GoDuration;
pub use error::{Invalid, is_field_safe};
pub use url::{BackendUrl, Host, Scheme};
pub use value::{
    CircuitBreaker, Domains, EventKind, HeaderName, HeaderValue, HealthCheck, HealthPath, InstanceName,
    OptionKey, RateLimit, RouteId, RouteOption, Scope, ServiceName, SessionId, Target, TargetItem,
    parse_bool,
};
