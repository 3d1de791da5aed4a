//! BACKEND_TESTs whose answer has not come (PROTOCOL section 3).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::server::registry::model::{ConnId, SessionNo, TestId};

/// How many tests a session may begin within a second.
const OF_SESSION: u32 = 5;

/// How many the sessions from one address may, which is not loopback.
const OF_ADDRESS: u32 = 20;

const WINDOW: Duration = Duration::from_secs(1);

/// Which connection waits for which test.
#[derive(Default)]
pub(super) struct BackendTests {
    last: u64,
    open: HashMap<TestId, ConnId>,
    /// How many tests have begun since then.
    since: Option<Instant>,
    of_session: HashMap<SessionNo, u32>,
    of_address: HashMap<IpAddr, u32>,
}

impl BackendTests {
    pub(super) fn begin(&mut self, conn: ConnId) -> TestId {
        self.last += 1;
        let test = TestId(self.last);
        self.open.insert(test, conn);
        test
    }

    /// Counts a test that a session from `peer` wants. Returns whether it may begin: whoever tests very often scans ports.
    pub(super) fn count(&mut self, now: Instant, no: SessionNo, peer: IpAddr) -> bool {
        if self.since.is_none_or(|since| now >= since + WINDOW) {
            self.since = Some(now);
            self.of_session.clear();
            self.of_address.clear();
        }
        let of_session = self.of_session.entry(no).or_default();
        let of_address = self.of_address.entry(peer).or_default();
        if *of_session >= OF_SESSION || (*of_address >= OF_ADDRESS && !peer.is_loopback()) {
            return false;
        }
        *of_session += 1;
        *of_address += 1;
        true
    }

    /// The test is over, or nobody waits for it any more. Returns who waited.
    pub(super) fn end(&mut self, test: TestId) -> Option<ConnId> {
        self.open.remove(&test)
    }

    /// Nobody waits for any of them any more.
    pub(super) fn abandon(&mut self) {
        self.open.clear();
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}
