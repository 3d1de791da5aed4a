//! Sessions, staging, apply: one pure state machine (PROTOCOL sections 1 to 5, SEMANTICS sections 1, 3, 4).
//!
//! [`Registry::handle`] takes an input and the time at which it came, and queues the effects that follow. There is no
//! socket, clock, task or lock in here, and the store is an effect like any other: what a session applies is in force, and
//! answered, when the store has said that it holds it.
//!
//! | room | what it is | names |
//! |---|---|---|
//! | `commands` | what each command does, one file a family | `engine` and what is below it |
//! | `engine` | the state, and the rules by which it changes | `session`, `membership`, `api` |
//! | `session` | one session: its registration, stage, drain and maintenance | `persist`, `model` |
//! | `membership` | members of claims, their probes, the routing table | `api`, `model` |
//! | `api` | inputs, effects, lines for the log | `persist`, `model` |
//! | [`persist`] | the records in which sessions outlive the server | `model` |
//! | `model` | identifiers, routes and settings, the two lifecycles | nothing here |

mod api;
mod commands;
mod config;
mod engine;
mod membership;
mod model;
pub mod persist;
mod session;
#[cfg(test)]
mod tests;

use std::time::Instant;

use persist::SavedState;

pub use api::{DrainShare, Effect, Input, LogEvent};
pub use config::{Limits, RegistryConfig};
pub use engine::Random;
pub use model::{
    ClaimPolicy, CompactSettings, ConnId, Delta, DrainOverview, Keepalive, MaintenanceOverview, MemberEvent,
    MemberLabel, MemberOverview, MemberState, Now, Overview, PolicyError, ReadSecret, Route, RouteSettings,
    ServiceToken, SessionLabel, SessionNo, SessionOverview, Standing, StoreRevision, Term, TestId, Token, Tx,
};

pub use persist::{EndReason, StoreChange};

use engine::Engine;

/// Every session, what each has staged and applied, and the routing table that follows from it.
///
/// The caller passes each input in with the time at which it came, and carries out the effects.
pub struct Registry(Engine);

impl Registry {
    /// A registry without sessions.
    pub fn new(config: RegistryConfig, random: Random) -> Self {
        Registry(Engine::new(config, random, commands::carry_out))
    }

    /// Takes up what a store held. To be called before anything else.
    pub fn restore(&mut self, now: Now, saved: SavedState) {
        self.0.restore(now, saved);
    }

    /// Decides what follows from an input. What is to be done is in [`Registry::effects`].
    pub fn handle(&mut self, now: Now, input: Input) {
        self.0.handle(now, input);
    }

    /// What is to be done, in order. What the caller does not take is kept for the next call.
    pub fn effects(&mut self) -> std::vec::Drain<'_, Effect> {
        self.0.effects()
    }

    /// How many sessions there are, lost ones in grace included.
    pub fn session_count(&self) -> usize {
        self.0.session_count()
    }

    /// The registry as people are shown it, with at most `most` sessions.
    pub fn overview(&self, now: Now, most: usize) -> Overview {
        self.0.overview(now, most)
    }

    /// The revision of the shared store that this replica serves, if it follows.
    pub fn store_revision(&self) -> StoreRevision {
        self.0.store_revision()
    }

    /// What this server's proxy has left to do for sessions that are being drained.
    pub fn drains(&self) -> Vec<DrainShare> {
        self.0.drains()
    }

    /// When to pass [`Input::Tick`] at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.0.next_deadline()
    }

    /// Whether nothing is kept of anybody.
    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
