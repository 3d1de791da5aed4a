//! Which sequences of events a client may tell.

use std::collections::BTreeMap;

use registry_client::protocol::RouteId;
use registry_client::{Event, RouteKey};

/// Where a client's story stands.
#[derive(Debug, Default)]
pub(crate) struct Grammar {
    ever_bound: bool,
    bound: bool,
    /// The name was taken, and it was said.
    replaced: bool,
    /// The connection was lost and the retry is not announced yet.
    retry_is_due: bool,
    attempts: u32,
    /// What is in force, as told. `None`: it was found there and is nobody's.
    routes: BTreeMap<RouteId, RouteKey>,
    /// Something was changed since the last `CONFIG_APPLIED`.
    changed: bool,
    last: Option<&'static str>,
}

impl Grammar {
    /// The next event, or why it may not stand here.
    pub(crate) fn take(&mut self, event: &Event) -> Result<(), String> {
        let legal = self.step(event);
        let found = legal.map_err(|why| format!("{} after {:?}: {why}", event.name(), self.last));
        self.last = Some(event.name());
        found
    }

    fn step(&mut self, event: &Event) -> Result<(), String> {
        if self.retry_is_due && !matches!(event, Event::Retrying(_) | Event::ExtendedRetry(_)) {
            return Err("DISCONNECTED is followed by its retry".to_owned());
        }
        if self.changed && !is_about_a_change(event) {
            return Err("what changed is summed up by CONFIG_APPLIED first".to_owned());
        }
        match event {
            Event::Connected { .. } => self.bind(false, true),
            Event::Reconnected { resumed, .. } => self.bind(true, !resumed),
            Event::Disconnected { .. } => {
                must(self.bound, "there is a session to lose")?;
                (self.bound, self.retry_is_due) = (false, true);
                Ok(())
            }
            Event::Retrying(retry) | Event::ExtendedRetry(retry) => {
                must(!self.bound, "without a session only")?;
                let next = retry.attempt == self.attempts + 1 || retry.attempt == 1;
                (self.attempts, self.retry_is_due) = (retry.attempt, false);
                must(next, "attempts are counted")
            }
            Event::Replaced { .. } => {
                must(!self.replaced, "once")?;
                (self.replaced, self.bound) = (true, false);
                Ok(())
            }
            Event::RouteAdded { .. }
            | Event::RouteUpdated { .. }
            | Event::RouteRemoved { .. }
            | Event::HealthCheckSet { .. }
            | Event::ConfigApplied { .. } => self.route(event),
            Event::RouteRefused { .. } | Event::ApplyRefused { .. } => must(self.bound, "in a session only"),
            Event::Joined { siblings, .. } => {
                let is_first = matches!(self.last, Some("CONNECTED" | "RECONNECTED"));
                must(self.bound && is_first && *siblings > 0, "first of all in a new session")
            }
            Event::Error { .. } => Ok(()),
            other => Err(format!("nobody asked for it: {other:?}")),
        }
    }

    fn bind(&mut self, again: bool, fresh: bool) -> Result<(), String> {
        // A session may end under a living connection; the next one on it says so.
        must(!self.bound || fresh, "there is a session already")?;
        must(self.ever_bound == again, "CONNECTED is the first, RECONNECTED every other")?;
        (self.bound, self.ever_bound, self.replaced) = (true, true, false);
        if fresh {
            self.routes.clear();
        }
        Ok(())
    }

    fn route(&mut self, event: &Event) -> Result<(), String> {
        must(self.bound, "in a session only")?;
        match event {
            Event::RouteAdded { key, id, .. } => {
                let before = self.routes.insert(*id, key.clone());
                must(before.is_none(), "the id is new")?;
            }
            Event::RouteUpdated { key, id, .. } => {
                must(self.routes.get(id) == Some(key), "it is in force under this id")?;
            }
            Event::RouteRemoved { key: Some(key), id } => {
                must(self.routes.remove(id).as_ref() == Some(key), "it was in force under this id")?;
            }
            // It was found there: an apply whose outcome nobody heard of.
            Event::RouteRemoved { key: None, id } => drop(self.routes.remove(id)),
            Event::HealthCheckSet { key, id } => {
                must(self.routes.get(id) == Some(key), "its route is in force")?;
                must(matches!(self.last, Some("ROUTE_ADDED" | "ROUTE_UPDATED")), "right behind its route")?;
            }
            _ => {
                must(self.changed, "behind what changed")?;
                self.changed = false;
                return Ok(());
            }
        }
        self.changed = true;
        Ok(())
    }
}

fn is_about_a_change(event: &Event) -> bool {
    matches!(
        event,
        Event::RouteAdded { .. }
            | Event::RouteUpdated { .. }
            | Event::RouteRemoved { .. }
            | Event::HealthCheckSet { .. }
            | Event::ConfigApplied { .. }
    )
}

fn must(holds: bool, rule: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}
