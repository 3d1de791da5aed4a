//! The routing table: claims with their members, in one immutable value.
//!
//! The registry derives claims from what sessions applied and puts them into a [`Table`]. The proxy reads a snapshot
//! of it for each request. Neither knows the other. Nothing here does I/O or reads a clock.
//!
//! | module | what it is |
//! |---|---|
//! | `table`, `host_trie` | the table; its claims by host |
//! | `normalise` | paths and hosts in the form in which they are matched |
//! | `claim`, `members` | a claim; the list of its members |
//! | `member` | a member with its settings |
//! | `choose`, `sticky` | which member gets a request; the cookie that keeps a client there |
//! | `guards` | what is asked of a request before it goes to a member |
//! | `load`, `in_flight` | what is counted for a member; a request that counts |
//! | `ejection` | leaves out a member that fails request after request |
//! | `outage` | a member that cannot be connected to |
//! | `breaker`, `admission` | a route's circuit breaker; a request that it lets through |
//! | `route_state`, `route_stats` | what the proxy finds out about a route; its statistics |
//! | `rate_limit`, `hold`, `drain_share` | limits for each client; waiting for a member; the falling share of a member that drains |
//! | `response_headers`, `via` | the headers that a route sets; the header that names the proxy |
//! | `backend_policy`, `probe` | which addresses a backend may have; what a health check asks |

mod admission;
mod backend_policy;
mod breaker;
mod choose;
mod claim;
mod drain_share;
mod ejection;
mod guards;
mod hold;
mod host_trie;
mod in_flight;
mod load;
mod member;
mod members;
mod normalise;
mod outage;
mod probe;
mod rate_limit;
mod response_headers;
mod route_state;
mod route_stats;
mod sticky;
mod table;
mod via;

pub use admission::Admission;
pub use backend_policy::BackendPolicy;
pub(crate) use backend_policy::is_private;
pub use breaker::{Breaker, BreakerEvent, BreakerStatus, MAX_FAILURES, MAX_TRIALS, SharedBreaker};
pub use claim::Claim;
pub use drain_share::Drain;
pub use ejection::{Ejection, FAILURES_TO_EJECT, FIRST_EJECTION, LONGEST_EJECTION, Outcome};
pub use guards::Guards;
pub use hold::{Hold, MAX_WAITING, Waiting};
pub use in_flight::{Chosen, InFlight, Upgraded};
pub use load::MemberLoad;
pub use member::{Endpoint, ExtraSettings, Extras, Maintenance, Member, MemberId, Settings, Terms};
pub use members::Members;
pub use normalise::{AmbiguousPath, normalise};
pub use outage::Outage;
pub use probe::{Probe, ProbeFailure, ProbeKind};
pub(crate) use rate_limit::network;
pub use rate_limit::{AddressLimit, MAX_BUCKETS, MAX_REQUESTS, RateBuckets};
pub use response_headers::ResponseHeaders;
pub use route_state::RouteState;
pub use route_stats::{FinishedRequest, RouteStats, Summary};
pub use sticky::{STICKY_COOKIE, StickyId, StickyKey};
pub use table::Table;
pub use via::{NoName, Via};

#[cfg(test)]
mod fixture;
