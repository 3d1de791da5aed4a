//! The language of the wire: Registry V2, one message a line, fields separated by `|`.
//!
//! Both ends are here, in both directions: a server parses [`Command`]s and encodes [`Reply`]s and
//! [`Push`]es, a client does the reverse. Nothing in this module does I/O, reads a clock or is async,
//! and nothing in it knows what a command *does*.

mod auth;
mod codec;
mod command;
mod domain;
mod duration;
mod error;
mod fields;
mod metadata;
mod option_value;
mod refusal;
mod reply;
pub mod report;
mod setting;
mod url;
mod value;

pub use auth::{Auth, ForwardAuth, Users};
pub use codec::{Line, LineCodec, MAX_CLIENT_LINE, MAX_LINE, looks_like_http};
pub use command::{
    Command, MAX_BULK_ROUTES, Registration, Request, RouteChange, RouteOrAll, RouteSpec, SessionRef,
};
pub use domain::{Domain, PathPrefix};
pub use duration::GoDuration;
pub use error::{Invalid, is_field_safe};
pub use metadata::{Metadata, SECRET_KEYS};
pub use option_value::{AcceptedStatuses, ByteLimit, CheckCount, ExactDomain, Networks, Weight};
pub use refusal::Refusal;
pub use reply::{NotAReply, Push, Reply, ServerLine};
pub use setting::{CircuitBreaker, HealthCheck, OptionKey, RateLimit, RouteOption, parse_bool};
pub use url::{BackendUrl, Host, Scheme};
pub use value::{
    Domains, EventKind, HeaderName, HeaderValue, HealthPath, InstanceName, RouteId, Scope, ServiceName,
    SessionId, Target, TargetItem,
};
