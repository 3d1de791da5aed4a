//! Waiting for what is wanted to be in force.

use std::time::Duration;

use tokio::time::timeout;

use super::error::WaitError;
use super::event::{Cause, Mode};
use super::handle::Client;
use super::intent::{MaintenanceTarget, RouteKey, Visibility};
use super::status::{Phase, RouteStatus, Status};
use crate::protocol::{Refusal, RouteId};

/// Each of these ends: with what it waits for, with a refusal that only a change of the intent or of the registry's
/// policy will mend, or after `limit` with [`WaitError::TimedOut`], which says why there is no session if there is
/// none. A refusal ends the wait, not the client, which tries again as its events tell.
///
/// All are cancel safe: dropping one changes nothing.
impl Client {
    /// Waits until a session with the registry is bound, so that calls are answered and [`Client::local_ip`] is known.
    ///
    /// # Errors
    /// [`WaitError::RegistrationRefused`], [`WaitError::Replaced`], [`WaitError::TimedOut`], [`WaitError::Stopped`]
    pub async fn wait_connected(&self, limit: Duration) -> Result<(), WaitError> {
        self.wait(limit, |status| is_connected(status).then_some(Ok(()))).await
    }

    /// Waits until the registry has confirmed everything that is wanted at the moment of the call ([`Status::settled`]):
    /// the routes, what people are to see of them, and maintenance. With [`Visibility::Absent`] that means that no
    /// route is registered, and with [`Visibility::Draining`] that the registry has acknowledged the drain.
    ///
    /// # Errors
    /// Those of [`Client::wait_connected`]; [`WaitError::RouteRefused`], [`WaitError::RouteUnsupported`],
    /// [`WaitError::ApplyRefused`], [`WaitError::MaintenanceRefused`].
    pub async fn wait_settled(&self, limit: Duration) -> Result<(), WaitError> {
        self.wait(limit, |status| {
            if status.settled {
                return Some(Ok(()));
            }
            let of_routes = status.routes.iter().find_map(|(key, route)| route_refusal(key, route));
            of_routes.or_else(|| refusal_of_all(status)).map(Err)
        })
        .await
    }

    /// Waits until the route of this key is in force as it is wanted at the moment of the call, and returns its id in
    /// the present session.
    ///
    /// # Errors
    /// Those of [`Client::wait_connected`]; [`WaitError::UnknownRoute`], also when the route is removed meanwhile;
    /// [`WaitError::Absent`], [`WaitError::RouteRefused`], [`WaitError::RouteUnsupported`],
    /// [`WaitError::ApplyRefused`].
    pub async fn wait_route(&self, key: impl Into<RouteKey>, limit: Duration) -> Result<RouteId, WaitError> {
        let key = key.into();
        self.wait(limit, |status| {
            let Some(route) = status.routes.get(&key) else {
                return Some(Err(WaitError::UnknownRoute(key.clone())));
            };
            if status.visibility_wanted == Visibility::Absent {
                return Some(Err(WaitError::Absent));
            }
            match route {
                RouteStatus::Applied(id) if is_connected(status) => Some(Ok(*id)),
                route => route_refusal(&key, route).or_else(|| apply_refusal(status)).map(Err),
            }
        })
        .await
    }

    /// Waits until what was last asked of the maintenance of `target` is carried out: it is entered, or left. The
    /// mode says whether the proxy has confirmed it, or has not within 30 s so that it only holds here
    /// ([`Event::MaintenanceEntered`](crate::Event::MaintenanceEntered)); its word may still come.
    ///
    /// Where a later request about [`MaintenanceTarget::All`] overrides the one about `target`, it is waited for. Where
    /// nothing is asked about `target`, it is in no maintenance that could be waited for: [`Mode::Proxy`].
    ///
    /// # Errors
    /// Those of [`Client::wait_connected`]; [`WaitError::MaintenanceRefused`].
    pub async fn wait_maintenance(
        &self,
        target: &MaintenanceTarget,
        limit: Duration,
    ) -> Result<Mode, WaitError> {
        self.wait(limit, |status| {
            let of = |target: &MaintenanceTarget| {
                status.maintenance_requests.iter().rfind(|request| request.target == *target)
            };
            match of(target).or_else(|| of(&MaintenanceTarget::All)).map(|request| request.mode) {
                None => Some(Ok(Mode::Proxy)),
                Some(Some(mode)) => Some(Ok(mode)),
                Some(None) => status.maintenance_refusal.clone().map(WaitError::MaintenanceRefused).map(Err),
            }
        })
        .await
    }

    /// Waits until `done` decides about a status that reflects the intent at the moment of the call, or the client will
    /// not get there.
    pub(super) async fn wait<T, E: From<WaitError>>(
        &self,
        limit: Duration,
        mut done: impl FnMut(&Status) -> Option<Result<T, E>>,
    ) -> Result<T, E> {
        let (change, mut watched) = (self.goal().change, self.watch());
        let decided = async {
            loop {
                let decision = {
                    let status = watched.borrow_and_update();
                    match status.intent >= change || status.phase == Phase::Stopped {
                        true => done(&status).or_else(|| hopeless(&status).map(|error| Err(error.into()))),
                        false => None,
                    }
                };
                if let Some(decision) = decision {
                    return decision;
                }
                if watched.changed().await.is_err() {
                    return Err(WaitError::Stopped.into());
                }
            }
        };
        match timeout(limit, decided).await {
            Ok(decision) => decision,
            Err(_) => Err(WaitError::TimedOut { after: limit, cause: self.status().cause }.into()),
        }
    }
}

/// Whether calls are answered.
fn is_connected(status: &Status) -> bool {
    status.bound && matches!(status.phase, Phase::Syncing | Phase::Live)
}

/// Why there will be no session without somebody's doing something about it.
fn hopeless(status: &Status) -> Option<WaitError> {
    match &status.cause {
        _ if status.phase == Phase::Stopped => Some(WaitError::Stopped),
        _ if status.replaced => Some(WaitError::Replaced),
        Some(Cause::Refused { command: "REGISTER", refusal }) if is_final(refusal) => {
            Some(WaitError::RegistrationRefused(refusal.clone()))
        }
        _ => None,
    }
}

/// Whether a refusal is more than a moment's.
fn is_final(refusal: &Refusal) -> bool {
    *refusal != Refusal::StoreUnavailable
}

fn route_refusal(key: &RouteKey, route: &RouteStatus) -> Option<WaitError> {
    match route {
        RouteStatus::Refused(refusal) if is_final(refusal) => {
            Some(WaitError::RouteRefused { key: key.clone(), refusal: refusal.clone() })
        }
        RouteStatus::Unsupported => Some(WaitError::RouteUnsupported(key.clone())),
        _ => None,
    }
}

fn apply_refusal(status: &Status) -> Option<WaitError> {
    status.apply_refusal.clone().filter(is_final).map(WaitError::ApplyRefused)
}

fn refusal_of_all(status: &Status) -> Option<WaitError> {
    apply_refusal(status).or_else(|| status.maintenance_refusal.clone().map(WaitError::MaintenanceRefused))
}
