//! What a handle's calls fail with.

use super::intent::RouteKey;
use crate::protocol::Refusal;

/// The client has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client has stopped")]
pub struct Stopped;

/// A change of the intent that contradicts it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// [`Client::add_route`](super::Client::add_route) with a key that is there.
    #[error("there is a route {0} already")]
    Exists(RouteKey),
    /// [`Client::update_route`](super::Client::update_route) or [`Client::remove_route`](super::Client::remove_route) with a key that is not there.
    #[error("there is no route {0}")]
    Unknown(RouteKey),
    /// The client has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Why a call brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// This registry cannot do that: the command, or the part of it, that it does not know.
    #[error("this registry does not know {0}")]
    Unsupported(&'static str),
    /// The registry refused.
    #[error("the registry refused: {0}")]
    Refused(Refusal),
    /// The answer does not belong to the question; without secrets.
    #[error("unexpected answer: {0}")]
    Unexpected(String),
    /// There is no such route in force.
    #[error("there is no route {0} in force")]
    NoRoute(RouteKey),
    /// There is no session, or it ended before the answer.
    #[error("there is no session with a registry")]
    NoSession,
    /// Too many calls are waiting.
    #[error("too many calls are waiting")]
    TooMany,
    /// The client has stopped.
    #[error("the client has stopped")]
    Stopped,
}

/// Why BACKEND_TEST brought no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendTestError {
    /// The proxy cannot reach the backend.
    #[error("the proxy cannot reach the backend: {0}")]
    Unreachable(String),
    /// The registry refused to try.
    #[error("the registry refused the test: {0}")]
    Refused(Refusal),
    /// This registry does not know this kind of URL.
    #[error("this registry does not know the scheme h2c")]
    Unsupported,
    /// There is no session, or it ended before the answer.
    #[error("there is no session with a registry")]
    NoSession,
    /// Too many calls are waiting.
    #[error("too many backend tests are waiting")]
    TooMany,
    /// The client has stopped.
    #[error("the client has stopped")]
    Stopped,
}
