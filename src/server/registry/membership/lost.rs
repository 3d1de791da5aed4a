//! Members whose session has lost its connection (SEMANTICS section 4).

use super::{Pools, Record};
use crate::server::registry::model::{MemberEvent, SessionNo, Who};
use crate::server::routing::MemberId;
use std::net::IpAddr;

impl Pools {
    /// A member's session lost its connection, or is back. `peer` is where it is registered from now.
    pub(crate) fn set_lost(&mut self, id: MemberId, lost: bool, peer: IpAddr) {
        let Some(record) = self.members.get_mut(&id) else { return };
        record.lost = lost;
        record.failures = 0;
        record.is_rejected = false;
        if record.says.terms.peer != peer {
            let before = record.says.clone();
            let says = self.with_terms(&before, |terms| terms.peer = peer);
            self.show_as(id, says, None);
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

    /// Another session, `by`, came to `ip`: suspends the members there whose own sessions are lost and not among
    /// its `kin` (SEMANTICS section 4). The same instance, registered from two addresses, is no stranger to itself.
    pub(crate) fn address_taken(&mut self, ip: IpAddr, by: &Who, kin: &[SessionNo]) {
        let Some(lost) = self.lost_at.get(&ip) else { return };
        let is_same = |record: &Record| {
            let terms = &record.says.terms;
            terms.instance == by.instance && terms.service == by.service
        };
        let others = |id: &MemberId| {
            let record = self.members.get(id);
            record.is_some_and(|record| !kin.contains(&record.says.session) && !is_same(record))
        };
        let others: Vec<MemberId> = lost.iter().filter(others).collect();
        for id in others {
            self.on_event(id, MemberEvent::AddressTaken, None);
            let place = self.place(id).map(|(domain, path)| (domain.clone(), path.clone()));
            if let Some((domain, path)) = place {
                self.hope(&domain, &path);
            }
        }
    }
}
