//! How probes, and the loss and return of its session, change a member's state. The table, its probe and the log follow.

use std::time::Instant;

use registry_client::protocol::{Domain, PathPrefix};

use crate::server::registry::api::{Effect, LogEvent};
use crate::server::registry::model::{MemberEvent, SessionNo};
use crate::server::routing::{Member, MemberId, Probe};

use super::Membership;

/// How many failed probes in a row take a member out (SEMANTICS section 3).
const FAILURES_OUT: u8 = 3;

/// A member whose probe passed for the first time since it joined.
pub(crate) struct FirstAnswer {
    pub(crate) session: SessionNo,
    pub(crate) domain: Domain,
    pub(crate) path: PathPrefix,
}

impl Membership {
    /// The result of a probe. Returns the members that answered for the first time since they joined.
    pub(crate) fn probed(&mut self, probe: &Probe, result: &Result<(), String>) -> Vec<FirstAnswer> {
        // A result may still arrive after the probe was forgotten.
        let Some(watchers) = self.probes.watchers(probe) else { return Vec::new() };
        let mut answered = Vec::new();
        for id in watchers.iter() {
            let Some(record) = self.members.get_mut(&id) else { continue };
            let event = match result {
                Ok(()) => {
                    record.failures = 0;
                    MemberEvent::Passed
                }
                Err(_) if record.lost => MemberEvent::FailedInGrace,
                Err(_) => {
                    record.failures = record.failures.saturating_add(1);
                    if record.failures < FAILURES_OUT {
                        continue;
                    }
                    MemberEvent::FailedThrice
                }
            };
            if event == MemberEvent::Passed && record.is_new() {
                let (domain, path) = (record.domain.clone(), record.path.clone());
                answered.push(FirstAnswer { session: record.shared.session, domain, path });
            }
            self.on_event(id, event, result.as_ref().err());
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

    /// Changes a member's state; nothing else does. The table, its probe and the log follow.
    pub(super) fn on_event(&mut self, id: MemberId, event: MemberEvent, error: Option<&String>) {
        let Some(record) = self.members.get_mut(&id) else { return };
        let (was, is) = (record.state, record.state.next(event));
        record.state = is;
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
