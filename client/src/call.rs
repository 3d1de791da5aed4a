//! Questions to the registry through a handle, with typed answers.
//!
//! The client makes the registry agree with the intent by itself; these calls are for reports, and for commands that are
//! not part of an intent.

use std::time::Duration;

use tokio::sync::oneshot;

use super::driver::TaskRequest;
use super::error::{BackendTestError, CallError, Stopped};
use super::event::Event;
use super::handle::Client;
use super::intent::RouteKey;
use super::status::RouteStatus;
use crate::protocol::report::{
    BackendReport, CircuitStatus, Diff, DrainStatus, MaintenanceStatus, RouteEntry, Stats,
};
use crate::protocol::{BackendUrl, EventKind, GoDuration, Reply, Request, RouteId, RouteOrAll};

/// Each of these waits for its turn and then at most REQUEST_TIMEOUT. Dropping one gives up the answer, not the
/// command.
impl Client {
    /// Asks the proxy to try a URL (BACKEND_TEST). The answer says whether the proxy, not this host, can reach it.
    ///
    /// # Errors
    /// [`BackendTestError`]
    pub async fn backend_test(&self, url: BackendUrl) -> Result<BackendReport, BackendTestError> {
        match self.call(Request::BackendTest(url)).await {
            Ok(Reply::BackendOk(report)) => Ok(report),
            Ok(Reply::BackendFail(error)) => Err(BackendTestError::Unreachable(error)),
            Ok(_) | Err(CallError::NoSession | CallError::NoRoute(_) | CallError::Unexpected(_)) => {
                Err(BackendTestError::NoSession)
            }
            Err(CallError::Refused(refusal)) => Err(BackendTestError::Refused(refusal)),
            Err(CallError::Unsupported(_)) => Err(BackendTestError::Unsupported),
            Err(CallError::TooMany) => Err(BackendTestError::TooMany),
            Err(CallError::Stopped) => Err(BackendTestError::Stopped),
        }
    }

    /// CONFIG_VALIDATE: whether the registry would accept what is staged. The client stages only to apply at
    /// once, so this is about what others have staged in this session. Tells [`Event::ConfigValidated`] or
    /// [`Event::ConfigInvalid`].
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::Refused`] with the registry's reason.
    pub async fn validate(&self) -> Result<(), CallError> {
        let result = self.ok(Request::ConfigValidate).await;
        match &result {
            Ok(()) => self.announce(Event::ConfigValidated),
            Err(CallError::Refused(refusal)) => {
                self.announce(Event::ConfigInvalid { refusal: refusal.clone() });
            }
            Err(_) => {}
        }
        result
    }

    /// CONFIG_DIFF: what is staged and not in force.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn diff(&self) -> Result<Diff, CallError> {
        match self.call(Request::ConfigDiff).await? {
            Reply::Diff(diff) => Ok(*diff),
            reply => unexpected(&reply),
        }
    }

    /// CONFIG_ROLLBACK: forgets what others have staged in this session.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn rollback(&self) -> Result<(), CallError> {
        self.ok(Request::ConfigRollback).await
    }

    /// ROUTE_LIST: the routes as the registry has them.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn registered_routes(&self) -> Result<Vec<RouteEntry>, CallError> {
        match self.call(Request::RouteList { compressed: false, after: None }).await? {
            Reply::RouteList(routes) => Ok(routes),
            reply => unexpected(&reply),
        }
    }

    /// STATS_GET: what has gone through each route.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn stats(&self) -> Result<Vec<Stats>, CallError> {
        match self.call(Request::StatsGet(RouteOrAll::All)).await? {
            Reply::StatsAll(stats) => Ok(stats),
            Reply::Stats(stats) => Ok(vec![*stats]),
            reply => unexpected(&reply),
        }
    }

    /// CIRCUIT_BREAKER_STATUS of a route.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn circuit_breaker_status(&self, key: impl Into<RouteKey>) -> Result<CircuitStatus, CallError> {
        match self.call(Request::CircuitBreakerStatus(self.route_id(key.into())?)).await? {
            Reply::CircuitStatus(status) => Ok(status),
            reply => unexpected(&reply),
        }
    }

    /// CIRCUIT_BREAKER_RESET of a route.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn circuit_breaker_reset(&self, key: impl Into<RouteKey>) -> Result<(), CallError> {
        match self.call(Request::CircuitBreakerReset(self.route_id(key.into())?)).await? {
            Reply::CircuitOk => Ok(()),
            reply => unexpected(&reply),
        }
    }

    /// DRAIN_START: the weight of this instance falls to nothing over `duration`. For a drain that survives the
    /// connection, see [`Client::set_visibility`].
    ///
    /// # Errors
    /// [`CallError`]. A reference server is never asked, because its drain is an outage ([PROTOCOL section 8](crate::spec::protocol#8-what-our-client-bears-from-the-reference-server), 9).
    pub async fn drain_start(&self, duration: Duration) -> Result<(), CallError> {
        if !self.status().ours {
            return Err(CallError::Unsupported("a drain without an outage"));
        }
        let duration = GoDuration::try_from(duration).unwrap_or(GoDuration::ZERO);
        match self.call(Request::DrainStart(duration)).await? {
            Reply::DrainStarted(_) => Ok(()),
            reply => unexpected(&reply),
        }
    }

    /// DRAIN_STATUS: how far a drain is.
    ///
    /// # Errors
    /// [`CallError`]; [`Refusal::NoDrain`](crate::protocol::Refusal::NoDrain) without one.
    pub async fn drain_status(&self) -> Result<DrainStatus, CallError> {
        match self.call(Request::DrainStatus).await? {
            Reply::DrainStatus(status) => Ok(status),
            reply => unexpected(&reply),
        }
    }

    /// DRAIN_CANCEL
    ///
    /// # Errors
    /// [`CallError`]; [`Refusal::NoDrain`](crate::protocol::Refusal::NoDrain) without one.
    pub async fn drain_cancel(&self) -> Result<(), CallError> {
        match self.call(Request::DrainCancel).await? {
            Reply::DrainOk => Ok(()),
            reply => unexpected(&reply),
        }
    }

    /// MAINT_STATUS: what the registry keeps in maintenance. What the client wants is in its
    /// [`Status`](crate::Status).
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn maintenance_status(&self) -> Result<MaintenanceStatus, CallError> {
        match self.call(Request::MaintStatus).await? {
            Reply::MaintenanceStatus(status) => Ok(status),
            reply => unexpected(&reply),
        }
    }

    /// Subscribes to the registry's own events of this kind, in this session and every later one. They come as
    /// [`Event::Registry`].
    ///
    /// # Errors
    /// [`Stopped`]. When the registry refuses, an [`Event::Error`] says so.
    pub async fn subscribe(&self, kind: EventKind) -> Result<(), Stopped> {
        self.ask(TaskRequest::Subscribe(kind, true)).await
    }

    /// Ends the subscription to the events of this kind.
    ///
    /// # Errors
    /// [`Stopped`]
    pub async fn unsubscribe(&self, kind: EventKind) -> Result<(), Stopped> {
        self.ask(TaskRequest::Subscribe(kind, false)).await
    }

    fn route_id(&self, key: RouteKey) -> Result<RouteId, CallError> {
        match self.status().routes.get(&key) {
            Some(RouteStatus::Applied(id)) => Ok(*id),
            _ => Err(CallError::NoRoute(key)),
        }
    }

    async fn ok(&self, request: Request) -> Result<(), CallError> {
        match self.call(request).await? {
            Reply::Ok => Ok(()),
            reply => unexpected(&reply),
        }
    }

    async fn call(&self, request: Request) -> Result<Reply, CallError> {
        let (reply, answer) = oneshot::channel();
        self.try_ask(TaskRequest::Call(request, reply))?;
        answer.await.unwrap_or(Err(CallError::Stopped))
    }
}

fn unexpected<T>(reply: &Reply) -> Result<T, CallError> {
    Err(CallError::Unexpected(reply.redacted()))
}
