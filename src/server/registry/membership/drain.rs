//! Members that are being drained (SEMANTICS section 6).

use std::sync::atomic::Ordering;

use crate::server::routing::{Drain, MemberId};

use super::Membership;

/// The work that members have left.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RemainingWork {
    /// Requests whose response is not over.
    pub(crate) in_flight: u64,
    /// Upgraded connections.
    pub(crate) upgraded: u64,
    /// Whether new requests go to any of them.
    pub(crate) usable: bool,
}

impl Membership {
    /// Begins or ends the drain of a member.
    pub(crate) fn set_drain(&mut self, id: MemberId, drain: Option<Drain>) {
        if let Some(before) = self.members.get(&id).map(|record| record.shared.clone()) {
            let shared = self.with_terms(&before, |terms| terms.drain = drain.map(Box::new));
            self.refresh_as(id, shared, None);
        }
    }

    pub(crate) fn remaining_work(&self, members: impl Iterator<Item = MemberId>) -> RemainingWork {
        members.filter_map(|id| self.members.get(&id)).fold(
            RemainingWork::default(),
            |remaining_work, record| {
                let load = &record.endpoint.load;
                RemainingWork {
                    in_flight: remaining_work.in_flight + u64::from(load.in_flight.load(Ordering::SeqCst)),
                    upgraded: remaining_work.upgraded + u64::from(load.upgraded.load(Ordering::SeqCst)),
                    usable: remaining_work.usable || !load.is_closed(),
                }
            },
        )
    }
}
