//! What the registry says and the proxy does: claims with their members, in one immutable table.
//!
//! The registry derives claims from what sessions applied and puts them into a [`Table`]; the proxy reads
//! a snapshot of it for each request. Neither knows the other. Nothing here does I/O or reads a clock.

mod member;
mod policy;
mod probe;
mod table;

pub use member::{Member, MemberId, MemberLoad, Settings};
pub use policy::BackendPolicy;
pub use probe::{Probe, ProbeKind};
pub use table::{Claim, Table};
