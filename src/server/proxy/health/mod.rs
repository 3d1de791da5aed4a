//! The health of backends: probes that the registry repeats, and BACKEND_TEST.
//!
//! | module | what it does |
//! |---|---|
//! | `schedule` | decides which probe runs when; no clock, no socket |
//! | `pace` | spreads the probes of one address and port |
//! | `prober` | runs the probes and reports their results |
//! | `backend_test` | asks a backend once |
//! | `request` | sends one GET to a backend |
//!
//! It must not know what the registry does with a result.

mod backend_test;
mod pace;
mod prober;
mod request;
mod schedule;

pub use backend_test::{BackendTest, test_backend, test_backend_trusting};
pub use prober::{ProbeCounts, ProbeResult, Prober, ProberHandle};
