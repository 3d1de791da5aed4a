//! BACKEND_TESTs whose answer has not come (PROTOCOL section 3).

use std::collections::HashMap;

use crate::server::registry::model::{ConnId, TestId};

/// Which connection waits for which test.
#[derive(Default)]
pub(super) struct BackendTests {
    last: u64,
    open: HashMap<TestId, ConnId>,
}

impl BackendTests {
    pub(super) fn begin(&mut self, conn: ConnId) -> TestId {
        self.last += 1;
        let test = TestId(self.last);
        self.open.insert(test, conn);
        test
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
