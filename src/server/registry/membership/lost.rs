//! Members whose session has lost its connection (SEMANTICS section 4).

use std::net::IpAddr;

use crate::server::registry::model::{MemberEvent, SessionLabel, SessionNo};
use crate::server::routing::MemberId;

use super::{Membership, TrackedMember};

impl Membership {
    /// A member's session has lost its connection, or is back and bound from `peer`.
    pub(crate) fn set_lost(&mut self, id: MemberId, lost: bool, peer: IpAddr) {
        let Some(record) = self.members.get_mut(&id) else { return };
        record.lost = lost;
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

    pub(super) fn forget_lost(&mut self, ip: IpAddr, id: MemberId) {
        if let Some(members) = self.lost_at.get_mut(&ip) {
            members.remove(id);
            if members.is_empty() {
                self.lost_at.remove(&ip);
            }
        }
    }

    /// The session `by` came to `ip`: suspends the members there whose sessions are lost, unless they are in its `lineage` or
    /// of the same instance (SEMANTICS section 4).
    pub(crate) fn address_taken(&mut self, ip: IpAddr, by: &SessionLabel, lineage: &[SessionNo]) {
        let Some(lost) = self.lost_at.get(&ip) else { return };
        let is_same = |record: &TrackedMember| {
            let terms = &record.shared.terms;
            terms.instance == by.instance && terms.service == by.service
        };
        let others = |id: &MemberId| {
            let record = self.members.get(id);
            record.is_some_and(|record| !lineage.contains(&record.shared.session) && !is_same(record))
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
