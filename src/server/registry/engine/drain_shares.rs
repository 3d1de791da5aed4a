//! What the proxies of other replicas have left to do for sessions that are being drained.
//!
//! A drain is over when it is over at every replica that is present. A replica's count says so only if it was taken after no
//! new request could begin there, and a replica that has not said anything counts as busy.

use std::collections::BTreeMap;

use crate::server::registry::api::DrainShare;
use crate::server::registry::membership::RemainingWork;
use crate::server::registry::model::SessionNo;

use crate::server::registry::session::Session;

use super::Engine;

/// What each other replica that is present has said last.
#[derive(Debug, Default)]
pub(super) struct DrainShares {
    others: BTreeMap<String, Vec<DrainShare>>,
}

/// What is left to do for a session elsewhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WorkElsewhere {
    pub(crate) left: RemainingWork,
    /// Every replica has said what it has left.
    pub(crate) is_complete: bool,
}

impl DrainShares {
    /// These are present, and nobody else.
    pub(super) fn set_replicas(&mut self, names: Vec<String>) {
        let mut before = std::mem::take(&mut self.others);
        self.others = names
            .into_iter()
            .map(|name| {
                let shares = before.remove(&name).unwrap_or_default();
                (name, shares)
            })
            .collect();
    }

    /// A replica says what it has left. What one says that is not known to be present is forgotten: it says it again.
    pub(super) fn set(&mut self, replica: &str, shares: Vec<DrainShare>) {
        if let Some(known) = self.others.get_mut(replica) {
            *known = shares;
        }
    }

    fn of(&self, no: SessionNo) -> WorkElsewhere {
        let nothing = WorkElsewhere { left: RemainingWork::default(), is_complete: true };
        self.others.values().fold(nothing, |WorkElsewhere { left, is_complete }, shares| {
            let Some(share) = shares.iter().find(|share| share.session == no) else {
                return WorkElsewhere { left, is_complete: false };
            };
            let left = RemainingWork {
                in_flight: left.in_flight + share.in_flight,
                upgraded: left.upgraded + share.upgraded,
                usable: left.usable || !share.is_closed,
            };
            WorkElsewhere { left, is_complete }
        })
    }
}

impl Engine {
    /// What the other replicas have left to do for a session that is being drained.
    pub(crate) fn work_elsewhere(&self, no: SessionNo) -> WorkElsewhere {
        self.drain_shares.of(no)
    }

    /// What this replica has left to do for sessions that are being drained.
    pub(crate) fn drains(&self) -> Vec<DrainShare> {
        let draining = self.sessions.iter().filter(|session| session.drain.is_some());
        let share = |session: &Session| {
            let left = self.membership.remaining_work(session.members.iter());
            DrainShare {
                session: session.no,
                in_flight: left.in_flight,
                upgraded: left.upgraded,
                is_closed: !left.usable,
            }
        };
        draining.map(share).collect()
    }
}
