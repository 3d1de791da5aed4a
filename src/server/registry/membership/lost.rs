//! Members whose session has lost its connection (SEMANTICS section 4).

use std::collections::BTreeSet;
use std::net::IpAddr;

use registry_client::protocol::BackendUrl;

use crate::server::registry::model::{MemberEvent, MemberSet, MemberState, SessionLabel, SessionNo};
use crate::server::routing::MemberId;

use super::{FirstAnswer, Membership, TrackedMember};

impl Membership {
    /// A member's session has lost its connection, or is back and bound from `peer`.
    pub(crate) fn set_lost(&mut self, id: MemberId, lost: bool, peer: IpAddr) {
        let Some(record) = self.members.get_mut(&id) else { return };
        let before = record.proven_at();
        record.lost = lost;
        self.proven.changed(before, record.proven_at());
        (record.failures, record.passes) = (0, 0);
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

    /// The backends of these members that are suspended.
    pub(crate) fn suspended(&self, members: &MemberSet) -> BTreeSet<BackendUrl> {
        let records = members.iter().filter_map(|id| self.members.get(&id));
        let suspended = records.filter(|record| record.state == MemberState::Suspended);
        suspended.map(|record| record.endpoint.backend.clone()).collect()
    }

    /// Suspends those of these members whose backend is among `backends`, and lets the others that were suspended serve
    /// again: the leader of the replicas has decided so.
    pub(crate) fn set_suspended(&mut self, members: &[MemberId], backends: &BTreeSet<BackendUrl>) {
        for id in members {
            let Some(record) = self.members.get(id) else { continue };
            let (is, wanted) =
                (record.state == MemberState::Suspended, backends.contains(&record.endpoint.backend));
            if is == wanted {
                continue;
            }
            let (domain, path) = (record.domain.clone(), record.path.clone());
            if !wanted {
                self.on_event(*id, MemberEvent::Returned, None);
                continue;
            }
            self.on_event(*id, MemberEvent::AddressTaken, None);
            self.serve_untried(&domain, &path);
        }
    }

    /// Lets these members serve as soon as they answer: a leader vouches for the records that they are from.
    pub(crate) fn vouch_for(&mut self, members: &[MemberId]) {
        for id in members {
            if self.members.get(id).is_some_and(|record| record.state == MemberState::Dormant) {
                self.on_event(*id, MemberEvent::Returned, None);
            }
        }
    }

    /// The addresses of these members' backends.
    pub(crate) fn addresses(&self, members: &MemberSet) -> BTreeSet<IpAddr> {
        members.iter().filter_map(|id| self.members.get(&id)?.ip()).collect()
    }

    /// The members of these that have answered since they joined.
    pub(crate) fn answered(&self, members: &MemberSet) -> Vec<FirstAnswer> {
        let records = members.iter().filter_map(|id| self.members.get(&id).map(|record| &**record));
        let answered = records.filter(|record| record.state == MemberState::Usable);
        let first = |record: &TrackedMember| FirstAnswer {
            session: record.shared.session,
            domain: record.domain.clone(),
            path: record.path.clone(),
        };
        answered.map(first).collect()
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
