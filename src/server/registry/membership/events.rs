//! How probes, and the loss and return of its session, change a member's state. The table, its probe and the log follow.

use std::sync::Arc;
use std::time::Instant;

use registry_client::protocol::{Domain, PathPrefix};

use crate::server::registry::api::{Effect, LogEvent};
use crate::server::registry::model::{MemberEvent, MemberState, SessionNo};
use crate::server::routing::{Claim, Member, MemberId, Probe, ProbeFailure};

use super::Membership;

/// A member whose probe passed for the first time since it joined.
pub(crate) struct FirstAnswer {
    pub(crate) session: SessionNo,
    pub(crate) domain: Domain,
    pub(crate) path: PathPrefix,
}

impl Membership {
    /// The result of a probe. Returns the members that answered for the first time since they joined.
    pub(crate) fn probed(&mut self, probe: &Probe, result: &Result<(), ProbeFailure>) -> Vec<FirstAnswer> {
        // A result may still arrive after the probe was forgotten.
        let Some(watchers) = self.probes.watchers(probe) else { return Vec::new() };
        let mut answered = Vec::new();
        for id in watchers.iter() {
            let Some(record) = self.members.get_mut(&id) else { continue };
            record.answers = result.is_ok();
            record.error = result.as_ref().err().cloned().map(Box::new);
            let event = match result {
                Ok(()) => {
                    record.failures = 0;
                    record.passes = record.passes.saturating_add(1);
                    if record.state == MemberState::Failed && record.passes < record.rise() {
                        continue;
                    }
                    MemberEvent::Passed
                }
                Err(_) if record.lost => MemberEvent::FailedInGrace,
                Err(failure) => {
                    record.passes = 0;
                    record.failures = record.failures.saturating_add(1);
                    record.is_rejected |= !failure.is_slow;
                    let is_slow = record.is_merely_slow();
                    let is_out = record.failures >= record.fall();
                    let place = is_slow.then(|| (record.domain.clone(), record.path.clone()));
                    if let Some((domain, path)) = place
                        && !self.has_proven(&domain, &path)
                    {
                        self.let_slow_serve(&domain, &path);
                        continue;
                    }
                    if !is_out {
                        continue;
                    }
                    MemberEvent::FailedInARow
                }
            };
            let Some(record) = self.members.get(&id) else { continue };
            if event == MemberEvent::Passed && record.is_new() {
                let (domain, path) = (record.domain.clone(), record.path.clone());
                answered.push(FirstAnswer { session: record.shared.session, domain, path });
            }
            self.on_event(id, event, result.as_ref().err().map(|failure| &failure.reason));
        }
        answered
    }

    /// The data plane leaves a member out because requests to it fail, or has had an answer from it again.
    pub(crate) fn ejection(&mut self, id: MemberId, now: Instant) {
        let Some(record) = self.members.get_mut(&id) else { return };
        let is_out = record.endpoint.load.is_ejected(now);
        if std::mem::replace(&mut record.ejected, is_out) == is_out {
            return;
        }
        let which = record.label();
        let ejected = LogEvent::Ejected { which, is_out };
        self.effects.push(Effect::Log(ejected));
    }

    /// Whether a session has a member in the claim that has not answered yet, or waits for its session.
    pub(crate) fn awaits_answer(&self, session: SessionNo, domain: &Domain, path: &PathPrefix) -> bool {
        let Some(claim) = self.table.get(domain, path) else { return false };
        let record = |member: &Member| self.members.get(&member.id);
        let mut records = claim.members.iter().filter_map(record);
        records.any(|r| r.shared.session == session && (r.is_new() || r.state.waits_for_session()))
    }

    /// If no member of the claim serves, those that have not answered yet serve at once, as the first member of a claim does.
    /// So a session that replaces its backend leaves no gap.
    pub(crate) fn serve_untried(&mut self, domain: &Domain, path: &PathPrefix) {
        let Some(claim) = self.table.get(domain, path).filter(|claim| !claim.has_usable()) else { return };
        let untried = |member: &&Member| {
            self.members.get(&member.id).is_some_and(|record| record.failures == 0 && !record.lost)
        };
        let untried: Vec<MemberId> = claim.members.iter().filter(untried).map(|member| member.id).collect();
        for id in untried {
            self.on_event(id, MemberEvent::ClaimUnserved, None);
        }
    }

    /// Whether requests go to a member of the claim that has passed its probe.
    fn has_proven(&self, domain: &Domain, path: &PathPrefix) -> bool {
        let is_proven = |member: &Member| {
            let record = self.members.get(&member.id);
            member.usable && record.is_some_and(|record| record.state == MemberState::Usable)
        };
        self.table.get(domain, path).is_some_and(|claim| claim.members.iter().any(is_proven))
    }

    /// Where nobody serves and no page is asked for, whoever joined and is merely slow serves: the load that makes it
    /// slow would otherwise keep it out for as long as it lasts. Whoever refused a connection, answered with a status
    /// that does not pass, failed after it had served, is suspended or drained does not.
    pub(super) fn let_slow_serve(&mut self, domain: &Domain, path: &PathPrefix) {
        let is_lonely = |claim: &&Arc<Claim>| !claim.has_usable() && claim.maintenance().is_none();
        let Some(claim) = self.table.get(domain, path).filter(is_lonely) else { return };
        let is_slow = |id: &MemberId| self.members.get(id).is_some_and(|record| record.is_merely_slow());
        let slow: Vec<MemberId> = claim.members.iter().map(|member| member.id).filter(is_slow).collect();
        for id in slow {
            self.on_event(id, MemberEvent::ClaimUnserved, None);
        }
    }

    /// Changes a member's state; nothing else does. The table, its probe and the log follow.
    pub(super) fn on_event(&mut self, id: MemberId, event: MemberEvent, error: Option<&String>) {
        let Some(record) = self.members.get_mut(&id) else { return };
        let (was, is) = (record.state, record.state.next(event));
        let before = record.proven_at();
        record.state = is;
        self.proven.changed(before, record.proven_at());
        if (was == MemberState::Suspended) != (is == MemberState::Suspended) {
            self.suspensions.push(record.shared.session);
        }
        if was.serves() != is.serves() {
            let which = record.label();
            self.effects.push(Effect::Log(if is.serves() {
                LogEvent::MemberIn(which)
            } else {
                LogEvent::MemberOut { which, event, error: error.cloned() }
            }));
            self.refresh(id);
        }
        self.ask(id);
    }

    /// Asks the probe that decides about the member now, and stops asking the one before.
    pub(super) fn ask(&mut self, id: MemberId) {
        let Some(record) = self.members.get_mut(&id) else { return };
        let wanted = record.wanted_probe();
        if record.asked.as_deref() == wanted.as_ref() {
            return;
        }
        let before = record.asked.take();
        self.probes.stop(id, before, &mut self.effects);
        let Some(probe) = wanted else { return };
        let shared = self.probes.start(id, probe, &mut self.effects);
        if let Some(record) = self.members.get_mut(&id) {
            record.asked = Some(shared);
        }
    }
}
