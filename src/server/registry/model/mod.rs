//! Identifiers, routes and their settings, the two lifecycles: the terms in which the registry's rooms talk.
//!
//! Data and pure functions of it. Nothing here knows a session's state, the table or a command.
//!
//! | file | what it holds |
//! |---|---|
//! | `ids` | the identifiers, the time of an input, and how the log names sessions and members |
//! | `id_hash` | the SHA-256 under which stores know a session's id |
//! | `encoding` | how values are written as text in a record |
//! | `settings`, `route`, `applied`, `delta` | a route with its own settings, in force; what an apply changes |
//! | `plan`, `probe_spec`, `owner` | what a route means for its members, the probes of backends, and what members know of their session |
//! | `lifecycle` | the transition tables of sessions and members |
//! | `keepalive` | what a connection may answer for its session by itself |
//! | `overview` | what people are shown of the registry |
//! | `member_set` | sets of members that take little memory |
//! | `policy`, `token` | which service may claim which domains; the secrets asked of those who register |

mod applied;
mod delta;
mod encoding;
mod id_hash;
mod ids;
mod keepalive;
mod lifecycle;
mod member_set;
mod overview;
mod owner;
mod plan;
mod policy;
mod probe_spec;
mod route;
mod settings;
mod token;

pub(crate) use applied::Applied;
pub use delta::Delta;
pub(crate) use encoding::{text, text_or_none};
pub use id_hash::IdHash;
pub use ids::{ConnId, MemberLabel, Now, SessionLabel, SessionNo, StoreRevision, Term, TestId, Tx};
pub use keepalive::Keepalive;
pub use lifecycle::{MemberEvent, MemberState};
pub(crate) use lifecycle::{SessionEvent, SessionState};
pub(crate) use member_set::MemberSet;
pub use overview::{DrainOverview, MaintenanceOverview, MemberOverview, Overview, SessionOverview, Standing};
pub(crate) use owner::Owner;
pub(crate) use plan::{FALL, HealthQuestion, MemberPlan, RISE, RareSettings, host_of_checks};
pub(crate) use policy::ExclusiveHosts;
pub use policy::{ClaimPolicy, PolicyError, ReadSecret};
pub(crate) use probe_spec::{address_of, page_probe, probe};
pub use route::Route;
pub(crate) use settings::breaker;
pub use settings::{CompactSettings, RouteSettings};
pub use token::{ServiceToken, Token};
