//! What sessions take that others might need: places, and memory for what they stage. Retired sessions take nothing.

use std::collections::HashMap;
use std::net::IpAddr;

/// What the sessions from one address take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// How many there are.
    pub(crate) sessions: usize,
    /// About how many bytes they have staged.
    pub(crate) staged: usize,
}

/// What all sessions take, and those from each address.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    by_address: HashMap<IpAddr, Share>,
    staged: usize,
}

impl Usage {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_address.is_empty() && self.staged == 0
    }

    /// What the sessions from an address take.
    pub(crate) fn of(&self, ip: IpAddr) -> Share {
        self.by_address.get(&ip).copied().unwrap_or_default()
    }

    /// About how many bytes all sessions have staged.
    pub(crate) fn staged(&self) -> usize {
        self.staged
    }

    /// There is one more session from an address, with so much staged.
    pub(super) fn add(&mut self, ip: IpAddr, staged: usize) {
        let share = self.by_address.entry(ip).or_default();
        share.sessions += 1;
        share.staged += staged;
        self.staged += staged;
    }

    /// There is one session less from an address, which had so much staged.
    pub(super) fn remove(&mut self, ip: IpAddr, staged: usize) {
        self.staged -= staged;
        let Some(share) = self.by_address.get_mut(&ip) else { return };
        share.sessions -= 1;
        share.staged -= staged;
        if share.sessions == 0 {
            self.by_address.remove(&ip);
        }
    }

    /// The stage of a session from an address has changed.
    pub(super) fn restage(&mut self, ip: IpAddr, before: usize, after: usize) {
        let Some(share) = self.by_address.get_mut(&ip) else { return };
        share.staged = share.staged - before + after;
        self.staged = self.staged - before + after;
    }
}
