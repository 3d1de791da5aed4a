//! Members whose session has lost its connection (SEMANTICS section 4).

use std::net::IpAddr;

use crate::server::registry::model::{MemberEvent, MemberState, SessionLabel, SessionNo};
use crate::server::routing::MemberId;

use super::{Membership, TrackedMember};

impl Membership {
    /// A member's session has lost its connection, or is back and bound from `peer`.
    pub(crate) fn set_lost(&mut self, id: MemberId, lost: bool, peer: IpAddr) {
        let Some(record) = self.members.get_mut(&id) else { return };
        let before = record.proven_at();
        record.lost = lost;
        self.proven.changed(before, record.proven_at());
        record.failures = 0;
        record.is_rejected = false;
        if record.shared.terms.peer != peer {
            let before = record.shared.clone();
            let shared = self.with_terms(&before, |terms| terms.peer = peer);
            self.refresh_as(id, shared, None);
        }
        let Some(record) = self.members.get(&id) else { return };
        if let Some(ip) = record.ip() {
            if lost {
                self.lost_at.entry(ip).or_default().insert(id);
            } else {
                self.forget_lost(ip, id);
            }
        }
        if lost {
            self.ask(id);
        } else {
            self.on_event(id, MemberEvent::Returned, None);
        }
    }

    /// Nobody answers for these members at `ip` any more, from where their session has moved away.
    pub(crate) fn failed_at(&mut self, members: &[MemberId], ip: IpAddr) {
        for id in members {
            if self.members.get(id).is_some_and(|record| record.ip() == Some(ip)) {
                self.on_event(*id, MemberEvent::FailedInGrace, None);
            }
        }
    }

    /// Whether one of these members was suspended at `ip`.
    pub(crate) fn is_suspended_at(&self, members: &[MemberId], ip: IpAddr) -> bool {
        let mut records = members.iter().filter_map(|id| self.members.get(id));
        records.any(|record| record.ip() == Some(ip) && record.state == MemberState::Suspended)
    }

    pub(super) fn forget_lost(&mut self, ip: IpAddr, id: MemberId) {
        if let Some(members) = self.lost_at.get_mut(&ip) {
            members.remove(id);
            if members.is_empty() {
                self.lost_at.remove(&ip);
            }
        }
    }

    /// The session `by` came to `ip`: suspends the members there whose sessions are lost, unless these are `kin` or of the
    /// same instance (SEMANTICS section 4).
    pub(crate) fn address_taken(&mut self, ip: IpAddr, by: &SessionLabel, kin: impl Fn(SessionNo) -> bool) {
        let Some(lost) = self.lost_at.get(&ip) else { return };
        let is_same = |record: &TrackedMember| {
            let terms = &record.shared.terms;
            terms.instance == by.instance && terms.service == by.service
        };
        let others = |id: &MemberId| {
            let record = self.members.get(id);
            record.is_some_and(|record| !kin(record.shared.session) && !is_same(record))
        };
        let others: Vec<MemberId> = lost.iter().filter(others).collect();
        for id in others {
            self.on_event(id, MemberEvent::AddressTaken, None);
            let place = self.place(id).map(|(domain, path)| (domain.clone(), path.clone()));
            if let Some((domain, path)) = place {
                self.serve_untried(&domain, &path);
            }
        }
    }
}
