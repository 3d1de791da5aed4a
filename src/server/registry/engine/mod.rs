//! The registry's state, and the rules by which it changes.
//!
//! [`Engine::handle`] takes one input and queues the effects. What a command means is not known here: commands are
//! carried out by the function that [`Engine::new`] is given, which reads the engine and calls the methods that it
//! offers. Each part of the state is a type of its own that keeps its fields to itself.
//!
//! | file | what it decides |
//! |---|---|
//! | `mod` (this) | which rule an input is for |
//! | `peers`, `connections` | connections come and go; what is known of each |
//! | `queue` | which command runs next, and what it has to wait for |
//! | `kin` | sessions that share an address and do not suspend each other there |
//! | `bind`, `resume`, `replace`, `transitions` | which session a connection has; sessions succeed each other; their states change |
//! | `auth_backoff` | whoever gives a wrong secret waits |
//! | `permissions`, `staging`, `route_ids` | what a session may claim and stage, and under which ids |
//! | `validate`, `commit`, `install` | the three steps of an apply |
//! | `pending_commits`, `pending_claims`, `store_decision` | what is with the store; what follows when it decides |
//! | `hidden_routes` | paths that no request reaches |
//! | `maintenance`, `maintenance_store`, `drain` | pages instead of members, what the store holds of it; draining |
//! | `subscriptions`, `events` | who subscribed to what, and what they are sent |
//! | `outbox`, `timers`, `backend_tests` | effects in order, deadlines, open tests |
//! | `overview` | what people are shown, and what an operator has it do |
//! | `role`, `marks` | whether this server leads its replicas; what it tells them of sessions |
//! | `follow`, `resync` | a follower takes up what the leader decided, change by change or as a whole |
//! | `restore` | from what a store held to a registry that serves |

mod auth_backoff;
mod backend_tests;
mod bind;
mod commit;
mod connections;
mod drain;
mod drain_shares;
mod events;
mod follow;
mod hidden_routes;
mod install;
mod kin;
mod maintenance;
mod maintenance_store;
mod marks;
mod outbox;
mod overview;
mod peers;
mod pending_claims;
mod pending_commits;
mod permissions;
mod queue;
mod replace;
mod restore;
mod resume;
mod resync;
mod role;
mod route_ids;
mod staging;
mod store_decision;
mod subscriptions;
mod timers;
mod transitions;
mod validate;

use std::collections::HashMap;
use std::time::{Instant, SystemTime};

use registry_client::protocol::{Command, Refusal};

use crate::server::registry::api::{Effect, Input};
use crate::server::registry::config::RegistryConfig;
use crate::server::registry::membership::Membership;
use crate::server::registry::model::{ConnId, ExclusiveHosts, Now, SessionNo, StoreRevision};
use crate::server::registry::session::{Session, SessionIndex};
use crate::server::routing::MemberId;

pub(crate) use bind::NewSession;
pub(crate) use queue::Outcome;

use auth_backoff::AuthBackoff;
use backend_tests::BackendTests;
use connections::Connections;
use drain_shares::DrainShares;
use marks::MarkQueue;
use pending_commits::Commits;
use resume::Resumes;
use role::Role;
use subscriptions::Subscriptions;
use timers::{Timer, Timers};

/// Where 128 bits of a session's id come from. `None`: the system has none at the moment.
pub type Random = Box<dyn FnMut() -> Option<u128> + Send>;

/// Carries a command out that came on a connection and does not have to wait.
pub(crate) type CarryOut = fn(&mut Engine, Now, ConnId, Command) -> Outcome;

/// Every session, what each has staged and applied, and the routing table that follows from it.
pub(crate) struct Engine {
    config: RegistryConfig,
    random: Random,
    carry_out: CarryOut,
    connections: Connections,
    sessions: SessionIndex,
    membership: Membership,
    timers: Timers,
    commits: Commits,
    tests: BackendTests,
    resumes: Resumes,
    auth_backoff: AuthBackoff,
    /// The sessions whose maintenance requests wait for a probe, by the id under which it is asked.
    verdicts: HashMap<MemberId, SessionNo>,
    subscriptions: Subscriptions,
    drain_shares: DrainShares,
    role: Role,
    /// The revision of the shared store that this follower serves.
    store_revision: StoreRevision,
    /// Until when there was a leader, if there is none and there was one.
    led_until: Option<SystemTime>,
    /// Since when this leader cannot prove that it leads.
    silent_since: Option<Now>,
    /// What was restored is too old to be served, and no leader has vouched for it.
    is_stale: bool,
    marks: MarkQueue,
    stopping: bool,
    effects: Vec<Effect>,
}

impl Engine {
    /// An engine without sessions.
    pub(crate) fn new(config: RegistryConfig, random: Random, carry_out: CarryOut) -> Self {
        let mut membership = Membership::new(config.hold);
        membership.set_exclusive(ExclusiveHosts::new(config.exclusive_hosts, config.policy.as_ref()));
        Engine {
            membership,
            config,
            random,
            carry_out,
            connections: Connections::default(),
            sessions: SessionIndex::default(),
            timers: Timers::default(),
            commits: Commits::default(),
            tests: BackendTests::default(),
            resumes: Resumes::default(),
            auth_backoff: AuthBackoff::default(),
            verdicts: HashMap::new(),
            subscriptions: Subscriptions::default(),
            drain_shares: DrainShares::default(),
            role: Role::Alone,
            store_revision: StoreRevision::default(),
            led_until: None,
            silent_since: None,
            is_stale: false,
            marks: MarkQueue::default(),
            stopping: false,
            effects: Vec::new(),
        }
    }

    /// Decides what follows from an input. The effects are in [`Engine::effects`].
    pub(crate) fn handle(&mut self, now: Now, input: Input) {
        self.membership.set_time(now.mono);
        match input {
            Input::Opened(conn, peer) => self.opened(now, conn, peer),
            Input::Announced(conn, peer, id) => self.announced(now, conn, peer, &id),
            Input::Line(conn, line) => self.line(now, conn, line),
            Input::Operator(conn, no, request) => self.operator(now, conn, no, request),
            Input::Closed(conn) => self.closed(now, conn),
            Input::Tick => self.tick(now),
            Input::Committed(tx) => self.store_decided(now, tx, true),
            Input::Rejected(tx) => self.store_decided(now, tx, false),
            Input::Probed(probe, result) => {
                let waiting = self.membership.waiting_for(&probe);
                self.resume_probed(now, &waiting, result.is_ok());
                if result.is_ok() {
                    self.maintenance_probe_passed(now, waiting);
                }
                for answered in self.membership.probed(&probe, &result) {
                    self.member_answered(now, &answered);
                }
            }
            Input::Tested(test, result) => self.tested(test, result),
            Input::Ejection(member) => self.membership.ejection(member, now.mono),
            Input::Certificate { names, renewed } => self.tell_certificate(&names, renewed),
            Input::Policy(policy) => self.set_policy(policy),
            Input::Stop => self.stop(now),
            Input::Answers(answers) => self.set_answers(now, answers),
            Input::Replicas(names) => self.drain_shares.set_replicas(names),
            Input::Drains(replica, shares) => self.drain_shares.set(&replica, shares),
            Input::Lead(term) => self.lead(now, term),
            Input::Follow(leader) => self.follow(now, leader),
            Input::Replicated(revision, changes) => self.replicate(now, revision, changes),
            Input::Loaded(revision, saved) => self.load(now, revision, *saved),
        }
        self.note_kin(now);
        self.write_marks(now);
        self.flush_membership(true);
        self.tell_health();
    }

    fn tick(&mut self, now: Now) {
        self.membership.tick();
        while let Some(timer) = self.timers.pop(now.mono) {
            match timer {
                Timer::Silent(conn) => self.drop_connection(now, conn, "no valid command in time"),
                Timer::Test(test) => self.tested(test, Err("no answer in time".to_owned())),
                Timer::Wait(conn) => self.waited_too_long(now, conn),
                Timer::Orphan(no) => self.orphan_over(now, no),
                Timer::MarkLost(no) => self.touch(no),
                Timer::Marks => {}
                Timer::Grace(no) => self.grace_over(now, no),
                Timer::Stage(no) => self.stage_expired(now, no),
                Timer::Forget(no) => self.forget_in_store(no),
                Timer::StoreMaintenance(no) => self.store_maintenance(no),
                Timer::Verdict(no) => self.verdict_due(now, no),
                Timer::Drain(no) => self.drain_over(no),
                Timer::AuthBackoff(peer) => self.forget_wrong_secrets(peer),
            }
        }
    }

    /// What is to be done, in order. What the caller does not take is kept for the next call.
    pub(crate) fn effects(&mut self) -> std::vec::Drain<'_, Effect> {
        self.effects.drain(..)
    }

    /// How many sessions there are, lost ones in grace included.
    pub(crate) fn session_count(&self) -> usize {
        self.sessions.active()
    }

    /// When to pass [`Input::Tick`] at the latest.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.next().into_iter().chain(self.membership.next_deadline()).min()
    }

    /// The revision of the shared store that this follower serves.
    pub(crate) fn store_revision(&self) -> StoreRevision {
        self.store_revision
    }

    pub(crate) fn config(&self) -> &RegistryConfig {
        &self.config
    }

    pub(crate) fn sessions(&self) -> &SessionIndex {
        &self.sessions
    }

    pub(crate) fn membership(&self) -> &Membership {
        &self.membership
    }

    pub(crate) fn session(&self, no: SessionNo) -> Result<&Session, Refusal> {
        self.sessions.get(no).ok_or(Refusal::SessionNotFound)
    }

    /// 128 random bits.
    pub(crate) fn random(&mut self) -> Option<u128> {
        (self.random)()
    }

    /// Whether nothing is kept of anybody.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.connections.is_empty()
            && self.commits.is_clear()
            && self.tests.is_empty()
            && self.resumes.is_empty()
            && self.auth_backoff.is_empty()
            && self.verdicts.is_empty()
            && self.subscriptions.is_empty()
            && self.sessions.is_empty()
            && self.membership.is_empty()
    }

    /// Whether a maintenance request waits for a probe.
    #[cfg(test)]
    pub(crate) fn waits_for_probes(&self) -> bool {
        !self.verdicts.is_empty()
    }
}
