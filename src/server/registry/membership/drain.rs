//! Members that are being drained (SEMANTICS section 6).

use super::Pools;
use crate::server::routing::{Drain, MemberId};
use std::sync::atomic::Ordering;

/// What members have to do.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Busy {
    /// Requests whose response is not over.
    pub(crate) in_flight: u64,
    /// Upgraded connections.
    pub(crate) upgraded: u64,
    /// Whether new requests go to any of them.
    pub(crate) usable: bool,
}

impl Pools {
    /// Drains a member, or no longer.
    pub(crate) fn set_drain(&mut self, id: MemberId, drain: Option<Drain>) {
        if let Some(before) = self.members.get(&id).map(|record| record.says.clone()) {
            let says = self.with_terms(&before, |terms| terms.drain = drain.map(Box::new));
            self.show_as(id, says, None);
        }
    }

    pub(crate) fn busy(&self, members: impl Iterator<Item = MemberId>) -> Busy {
        members.filter_map(|id| self.members.get(&id)).fold(Busy::default(), |busy, record| {
            let load = &record.endpoint.load;
            Busy {
                in_flight: busy.in_flight + u64::from(load.in_flight.load(Ordering::SeqCst)),
                upgraded: busy.upgraded + u64::from(load.upgraded.load(Ordering::SeqCst)),
                usable: busy.usable || !load.is_closed(),
            }
        })
    }
}
