//! What people are told of members.

use std::collections::HashMap;

use crate::server::registry::model::{MemberOverview, MemberState};
use crate::server::routing::MemberId;

use super::Membership;

impl Membership {
    /// The members about which there is something to say.
    pub(crate) fn overview(&self) -> HashMap<MemberId, MemberOverview> {
        let is_plain = |state: MemberState, is_lost: bool, failures: u8| {
            state == MemberState::Usable && !is_lost && failures == 0
        };
        let told = self.members.iter().filter(|(_, m)| !is_plain(m.state, m.lost, m.failures));
        let overview = told.map(|(id, record)| {
            let overview = MemberOverview {
                state: record.state,
                is_lost: record.lost,
                failures: record.failures,
                error: record.error.as_deref().map(|failure| failure.reason.clone()),
            };
            (*id, overview)
        });
        overview.collect()
    }
}
