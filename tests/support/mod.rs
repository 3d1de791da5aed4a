//! What several tests need. Each test uses a part of it.
#![allow(dead_code, clippy::unwrap_used, reason = "helpers of tests; not every test uses all of them")]

pub(crate) mod fake_registry;
