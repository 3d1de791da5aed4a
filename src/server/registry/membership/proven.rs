//! Which connected sessions have backends at an address that have answered (SEMANTICS section 4).
//!
//! If there are two at one address, neither came in the place of the other: the address is that of a host, or of several
//! applications in one network namespace. The sessions are then kin there, which the engine remembers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::server::registry::model::SessionNo;

/// How many members of a connected session at an address have answered.
#[derive(Default)]
pub(super) struct Proven {
    members: BTreeMap<(IpAddr, SessionNo), u32>,
    /// The addresses at which a session has met another one.
    met: Vec<IpAddr>,
}

impl Proven {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Where a member was proven before a change, and where it is after it.
    pub(super) fn changed(
        &mut self,
        before: Option<(IpAddr, SessionNo)>,
        after: Option<(IpAddr, SessionNo)>,
    ) {
        if before == after {
            return;
        }
        if let Some(place) = before
            && let Some(count) = self.members.get_mut(&place)
        {
            *count -= 1;
            if *count == 0 {
                self.members.remove(&place);
            }
        }
        // Loopback addresses are never given to anybody else.
        if let Some((ip, session)) = after.filter(|(ip, _)| !ip.is_loopback()) {
            let count = self.members.entry((ip, session)).or_default();
            *count += 1;
            if *count == 1 && self.at(ip).nth(1).is_some() {
                self.met.push(ip);
            }
        }
    }

    /// The sessions that are proven at an address, oldest first.
    pub(super) fn at(&self, ip: IpAddr) -> impl Iterator<Item = SessionNo> {
        let all = (ip, SessionNo(0))..=(ip, SessionNo(u64::MAX));
        self.members.range(all).map(|((_, session), _)| *session)
    }

    /// The addresses at which sessions have met since the last call.
    pub(super) fn take_met(&mut self) -> Vec<IpAddr> {
        std::mem::take(&mut self.met)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sessions_meet_where_both_are_proven_at_once() {
        let (here, there) = (IpAddr::from([10, 2, 2, 7]), IpAddr::from([10, 2, 2, 8]));
        let place = |ip, no| Some((ip, SessionNo(no)));
        let mut proven = Proven::default();
        proven.changed(None, place(here, 1));
        proven.changed(None, place(here, 1));
        proven.changed(None, place(there, 2));
        proven.changed(place(there, 2), None);
        assert!(proven.take_met().is_empty());
        proven.changed(None, place(here, 3));
        assert_eq!(proven.take_met(), [here]);
        assert_eq!(proven.at(here).collect::<Vec<_>>(), [SessionNo(1), SessionNo(3)]);
        proven.changed(place(here, 1), None);
        assert_eq!(proven.at(here).count(), 2, "it has another member there");
        proven.changed(place(here, 1), None);
        proven.changed(place(here, 3), None);
        assert!(proven.is_empty() && proven.take_met().is_empty());
    }
}
