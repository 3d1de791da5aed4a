//! One batch in progress: which command comes next, what its reply means, which part a refusal is about.

use std::collections::BTreeMap;

use super::intent::RouteKey;
use super::plan::{After, Applied, Batch, RouteRef, Step};
use crate::protocol::{BackendUrl, Refusal, Reply, Request, RouteId};

/// A batch that is being staged and applied.
#[derive(Debug, Clone)]
pub(super) struct BatchRun {
    batch: Batch,
    /// The ids that the routes of this batch were given.
    ids: BTreeMap<RouteKey, RouteId>,
    sent: usize,
    stage: Stage,
    failures: Vec<Failure>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Staging,
    Applying,
    RollingBack,
}

/// Something that the server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) blame: Blame,
    pub(super) refusal: Refusal,
}

/// What a refusal is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Blame {
    /// This route, as it is wanted.
    Route(RouteKey),
    /// This id, which the server does not have.
    Missing(RouteId),
    /// This command, which the server does not know.
    Command(&'static str),
    /// The apply as a whole.
    Batch,
}

/// What to send next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Stage(usize),
    Apply,
    Rollback,
}

/// The reply does not belong to the command.
#[derive(Debug)]
pub(super) struct WrongReply;

impl BatchRun {
    pub(super) fn new(batch: Batch) -> Self {
        BatchRun { batch, ids: BTreeMap::new(), sent: 0, stage: Stage::Staging, failures: Vec::new() }
    }

    /// The next command, if one may be sent now. `idle`: none is waiting for its reply.
    pub(super) fn next(&mut self, idle: bool) -> Option<(Next, Request)> {
        if self.stage != Stage::Staging {
            return None;
        }
        if !self.failures.is_empty() {
            // What was staged so far must go, once all replies are in.
            return idle.then(|| {
                self.stage = Stage::RollingBack;
                (Next::Rollback, Request::ConfigRollback)
            });
        }
        match self.batch.steps.get(self.sent) {
            Some(step) => {
                let request = step.request(&self.ids)?;
                self.sent += 1;
                Some((Next::Stage(self.sent - 1), request))
            }
            None => idle.then(|| {
                self.stage = Stage::Applying;
                (Next::Apply, Request::ConfigApply)
            }),
        }
    }

    /// The reply to a step.
    pub(super) fn staged(&mut self, step: usize, reply: &Reply, applied: &Applied) -> Result<(), WrongReply> {
        let Some(step) = self.batch.steps.get(step) else { return Err(WrongReply) };
        match (step, reply) {
            (_, Reply::Error(refusal)) => self.failures.push(blame(step, refusal, applied)),
            (Step::Add { key, .. }, Reply::RouteAdded(id)) => {
                self.ids.insert(key.clone(), *id);
            }
            (Step::Update { .. } | Step::Remove { .. }, Reply::RouteOk) => {}
            // The reference answers ROUTE_UPDATE and ROUTE_REMOVE with the id behind it.
            (Step::Update { .. } | Step::Remove { .. }, Reply::RouteAdded(_)) => {}
            (Step::SetOption { .. } | Step::RemoveOption { .. }, Reply::OptionsOk) => {}
            (Step::SetHealth { .. }, Reply::HealthOk) => {}
            (Step::SetHeader { .. } | Step::RemoveHeader { .. }, Reply::HeadersOk) => {}
            (Step::SetRateLimit { .. }, Reply::RateLimitOk) => {}
            (Step::SetCircuitBreaker { .. }, Reply::CircuitOk) => {}
            (Step::Maintain { .. }, Reply::MaintenanceAck) => {}
            _ => return Err(WrongReply),
        }
        Ok(())
    }

    /// The apply was refused: `route r2: why` names a route, anything else means all of it.
    pub(super) fn apply_refused(&mut self, refusal: &Refusal, applied: &Applied) {
        let key = route_named_by(refusal).and_then(|id| self.key_of(id, applied));
        let blame = key.map_or(Blame::Batch, Blame::Route);
        self.failures.push(Failure { blame, refusal: refusal.clone() });
        self.stage = Stage::Staging;
    }

    fn key_of(&self, id: RouteId, applied: &Applied) -> Option<RouteKey> {
        let new = self.ids.iter().find(|(_, given)| **given == id).map(|(key, _)| key);
        new.or_else(|| applied.key_of(id)).cloned()
    }

    /// The routes that this step of the batch lets start in maintenance, with the page.
    pub(super) fn maintained_by(&self, step: usize) -> Option<(Vec<RouteId>, Option<BackendUrl>)> {
        let Some(Step::Maintain { keys, page }) = self.batch.steps.get(step) else { return None };
        Some((keys.iter().filter_map(|key| self.ids.get(key).copied()).collect(), page.clone()))
    }

    pub(super) fn is_applying(&self) -> bool {
        self.stage == Stage::Applying
    }

    pub(super) fn failures(&self) -> &[Failure] {
        &self.failures
    }

    /// What the batch was to bring, and the ids that were given on the way.
    pub(super) fn outcome(self) -> (Batch, BTreeMap<RouteKey, RouteId>) {
        (self.batch, self.ids)
    }
}

/// The keys whose health check a batch sets.
pub(super) fn checks_set(batch: &Batch, at: &RouteRef) -> bool {
    batch.steps.iter().any(
        |step| matches!(step, Step::SetHealth { route, check } if route == at && !check.interval.is_zero()),
    )
}

/// The route's key of each thing that an apply leaves behind.
pub(super) fn outcome_ids<'a>(
    batch: &'a Batch,
    ids: &'a BTreeMap<RouteKey, RouteId>,
) -> impl Iterator<Item = (RouteId, &'a After)> {
    batch.after.iter().filter_map(|after| match after {
        After::Absent(id) => Some((*id, after)),
        After::Present { at, .. } => Some((at.resolve(ids)?, after)),
    })
}

/// Who is to blame where a step is refused.
fn blame(step: &Step, refusal: &Refusal, applied: &Applied) -> Failure {
    let blame = match (step.route(), refusal) {
        (_, Refusal::UnknownCommand(_)) if step.may_be_lacking().is_some() => {
            step.may_be_lacking().map_or(Blame::Batch, Blame::Command)
        }
        (Some(RouteRef::New(key)), _) => Blame::Route(key),
        (Some(RouteRef::Id(id)), Refusal::RouteNotFound) => Blame::Missing(id),
        (Some(RouteRef::Id(id)), _) => applied.key_of(id).cloned().map_or(Blame::Batch, Blame::Route),
        (None, _) => Blame::Batch,
    };
    Failure { blame, refusal: refusal.clone() }
}

/// The id in `route r2: example.com/ belongs to service X`.
fn route_named_by(refusal: &Refusal) -> Option<RouteId> {
    let Refusal::Other(text) = refusal else { return None };
    text.strip_prefix("route ")?.split_once(':')?.0.parse().ok()
}

/// The service in `route r2: example.com/ belongs to service X`.
pub(super) fn owner_named_by(refusal: &Refusal) -> Option<String> {
    let Refusal::Other(text) = refusal else { return None };
    let (_, owner) = text.split_once(" belongs to service ")?;
    Some(owner.to_owned())
}
