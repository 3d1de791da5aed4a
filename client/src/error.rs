//! What a handle's calls fail with.

use std::time::Duration;

use super::event::Cause;
use super::intent::{MaintenanceTarget, RouteKey};
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

/// A request for maintenance that nothing can come of.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MaintenanceError {
    /// None of the wanted routes is meant.
    #[error("no route is meant by {0}")]
    UnknownTarget(MaintenanceTarget),
    /// The client has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Why a wait ended without what it waited for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// It did not come about in time.
    #[error("not within {after:?}{}", .cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default())]
    TimedOut {
        /// The limit.
        after: Duration,
        /// Why there is no session; `None` where there is one.
        cause: Option<Cause>,
    },
    /// Another process has registered under this name. See [`Client::take_over`](crate::Client::take_over).
    #[error("another process has registered under this name")]
    Replaced,
    /// The registry refused REGISTER.
    #[error("the registry refused the registration: {0}")]
    RegistrationRefused(Refusal),
    /// The registry refused a route.
    #[error("the registry refused route {key}: {refusal}")]
    RouteRefused {
        /// The route.
        key: RouteKey,
        /// The registry's words.
        refusal: Refusal,
    },
    /// This registry cannot do what the route asks for.
    #[error("this registry cannot do what route {0} asks for")]
    RouteUnsupported(RouteKey),
    /// The registry refused the configuration as a whole.
    #[error("the registry refused the configuration: {0}")]
    ApplyRefused(Refusal),
    /// The registry refused the maintenance, or could not reach the page or the backend in time.
    #[error("the registry did not do as the maintenance request asked: {0}")]
    MaintenanceRefused(String),
    /// No such route is wanted.
    #[error("there is no route {0}")]
    UnknownRoute(RouteKey),
    /// [`Visibility::Absent`](crate::Visibility::Absent) is wanted, so that no route is registered.
    #[error("no route is to be registered")]
    Absent,
    /// The client has stopped.
    #[error("the client has stopped")]
    Stopped,
}

/// Why a drain did not end with nothing in flight.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// This registry cannot drain without an outage.
    #[error("this registry cannot drain without an outage")]
    Unsupported,
    /// The limit has passed.
    #[error("not drained in time{}", .in_flight.map(|count| format!(", requests in flight: {count}")).unwrap_or_default())]
    TimedOut {
        /// How many requests were in flight when the registry was last asked; `None` where it has not said.
        in_flight: Option<u64>,
    },
    /// There is no session, or it ended before the drain.
    #[error("there is no session with a registry")]
    NoSession,
    /// The client has stopped.
    #[error("the client has stopped")]
    Stopped,
}

impl From<WaitError> for DrainError {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Stopped => DrainError::Stopped,
            WaitError::TimedOut { .. } => DrainError::TimedOut { in_flight: None },
            _ => DrainError::NoSession,
        }
    }
}

impl From<Stopped> for DrainError {
    fn from(_: Stopped) -> Self {
        DrainError::Stopped
    }
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
