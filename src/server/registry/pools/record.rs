//! A member as the registry knows it.

use std::net::IpAddr;
use std::sync::Arc;

use crate::protocol::{Domain, Host, PathPrefix};
use crate::server::routing::{Member, Probe};

use super::super::io::SessionNo;
use super::super::lifecycle::MemberState;
use super::super::route::{Plan, Rare, probe};
use super::routes::Routes;

/// What the registry knows of a member beyond what the proxy sees.
pub(super) struct Record {
    pub(super) session: SessionNo,
    pub(super) domain: Domain,
    pub(super) path: PathPrefix,
    /// The session's routes that lead here; the settings are the last one's.
    pub(super) routes: Routes,
    pub(super) state: MemberState,
    /// Failed probes in a row.
    pub(super) failures: u8,
    pub(super) lost: bool,
    /// The data plane was last known to leave it out because requests failed.
    pub(super) ejected: bool,
    pub(super) priority: i32,
    /// What few routes say.
    pub(super) rare: Option<Box<Rare>>,
    /// Which apply of all it was applied with last.
    pub(super) applied: u64,
    /// Members with the same question share it.
    pub(super) asked: Option<Arc<Probe>>,
    pub(super) shown: Arc<Member>,
}

impl Record {
    /// What the route says that it shows.
    pub(super) fn take_plan(&mut self, plan: &Plan) {
        self.priority = plan.priority;
        self.rare.clone_from(&plan.rare);
        if self.shown.settings != plan.settings || self.shown.extras != plan.extras {
            let (settings, extras) = (plan.settings, plan.extras.clone());
            self.shown = Arc::new(Member { settings, extras, ..Member::clone(&self.shown) });
        }
    }

    /// Whether requests may go to it, its siblings aside.
    pub(super) fn serves(&self) -> bool {
        self.state.serves() && self.shown.extras.maintenance().is_none()
    }

    /// Whether it has not answered since it joined.
    pub(super) fn is_new(&self) -> bool {
        matches!(self.state, MemberState::Hopeful | MemberState::Joining)
    }

    /// The backend's address, where it is given as one.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        match self.shown.backend.host() {
            Host::Ip(ip) => Some(ip.to_canonical()),
            Host::Name(_) => None,
        }
    }

    /// What decides whether it serves.
    pub(super) fn question(&self) -> Option<Probe> {
        let quick = self.lost || self.is_new();
        let check = self.rare.as_ref().and_then(|rare| rare.check.as_ref());
        let settled = self.state == MemberState::Usable && !quick;
        if self.state.waits_for_session() || (settled && check.is_none()) {
            return None;
        }
        Some(probe(&self.shown.backend, self.shown.peer, check, quick))
    }
}
