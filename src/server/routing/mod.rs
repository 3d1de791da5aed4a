//! What the registry says and the proxy does: claims with their members, in one immutable table.
//!
//! The registry derives claims from what sessions applied and puts them into a [`Table`]; the proxy reads
//! a snapshot of it for each request. Neither knows the other. Nothing here does I/O or reads a clock.

mod breaker;
mod choose;
mod drain;
mod ejection;
mod extras;
mod hold;
mod hosts;
mod limit;
mod maintenance;
mod member;
mod members;
mod policy;
mod probe;
mod stats;
mod table;
mod target;

pub use breaker::{Admission, Breaker, BreakerStatus, Event, MOST_FAILURES, MOST_TRIALS, SharedBreaker};
pub use drain::Drain;
pub use ejection::{Ejection, FAILURES_TO_EJECT, FIRST_EJECTION, LONGEST_EJECTION, Outcome};
pub use extras::{Extras, ResponseHeaders, RouteState, Said};
pub use hold::{Hold, MAX_WAITING, Waiting};
pub use limit::{AddressLimit, Buckets, MOST_BUCKETS, MOST_REQUESTS};
pub use maintenance::Maintenance;
pub use member::{Chosen, Endpoint, InFlight, Member, MemberId, MemberLoad, Settings, Terms, Upgraded};
pub use members::Members;
pub use policy::BackendPolicy;
pub(crate) use policy::is_private;
pub use probe::{Probe, ProbeKind};
pub use stats::{RouteStats, Seen, Summary};
pub use table::{Claim, Table};
pub use target::{AmbiguousPath, normalise};

#[cfg(test)]
mod fixture;
