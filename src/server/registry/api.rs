//! The registry's interface: inputs, effects and lines for the log.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use registry_client::protocol::report::BackendReport;
use registry_client::protocol::{
    BackendUrl, Command, Domain, InstanceName, PathPrefix, Push, Refusal, Request, RouteId, ServerLine,
    ServiceName, SessionId,
};

use crate::server::registry::model::{
    ClaimPolicy, ConnId, Keepalive, MemberEvent, MemberLabel, SessionLabel, SessionNo, StoreRevision, Term,
    TestId, Tx,
};
use crate::server::registry::persist::{SavedState, StoreChange};
use crate::server::routing::{MemberId, Probe, ProbeFailure, Table};

/// Something that the registry is told.
#[derive(Debug)]
pub enum Input {
    /// A peer connected from an address that is allowed to.
    Opened(ConnId, IpAddr),
    /// A peer is connected to another replica, and a former leader had bound this session to its connection.
    Announced(ConnId, IpAddr, SessionId),
    /// It sent a line: a command, or one that is answered with this error.
    Line(ConnId, Result<Command, Refusal>),
    /// An operator has a session do this. The answer goes to the connection, which the operator opened for it.
    Operator(ConnId, SessionNo, Request),
    /// It has closed the connection, or has sent everything and received all replies.
    Closed(ConnId),
    /// A deadline may have passed ([`super::Registry::next_deadline`]).
    Tick,
    /// The store holds the change.
    Committed(Tx),
    /// The store does not hold the change and never will.
    Rejected(Tx),
    /// The result of a watched probe: an answer, or why there is none.
    Probed(Probe, Result<(), ProbeFailure>),
    /// The result of a BACKEND_TEST: a report, or why there is none.
    Tested(TestId, Result<BackendReport, String>),
    /// The data plane leaves a member out because requests to it fail, or has had an answer from it again. The member's
    /// load says which (SEMANTICS section 3).
    Ejection(MemberId),
    /// The proxy has a certificate for these names that it did not have before.
    Certificate {
        /// The names that it is for.
        names: Vec<String>,
        /// Whether it replaces an older certificate.
        renewed: bool,
    },
    /// The new REGISTRY_POLICY. Claims that are in force stay.
    Policy(ClaimPolicy),
    /// The server stops.
    Stop,
    /// This replica leads from now on: it answers commands, and what it commits is what all replicas serve.
    Lead(Term),
    /// This replica follows: it answers no command, commits nothing, and serves what the records say. Whose records they
    /// are; `None`: nobody leads.
    Follow(Option<Term>),
    /// For a leader: whether it can prove that it leads. Without that it can say nothing to anybody.
    Answers(bool),
    /// For a leader: the other replicas that are present, by their names.
    Replicas(Vec<String>),
    /// For a leader: all that the proxy of this replica has left to do for sessions that it knows to be drained.
    Drains(Arc<str>, Vec<DrainShare>),
    /// For a follower: the changes that the shared store holds since the revision before this one, in their order.
    Replicated(StoreRevision, Vec<StoreChange>),
    /// For a follower: everything that the shared store holds at this revision. It is what a replica begins with, and
    /// what it is told again where it has missed changes. Members that are in both stay as they are.
    Loaded(StoreRevision, Box<SavedState>),
}

/// What a replica's proxy has left to do for a session that is being drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainShare {
    /// The session.
    pub session: SessionNo,
    /// Requests whose response is not over.
    pub in_flight: u64,
    /// Upgraded connections.
    pub upgraded: u64,
    /// Whether no new request goes to the session's members. What was counted then only falls.
    pub is_closed: bool,
}

/// Something that the caller is to do. Effects are carried out in their order.
#[derive(Debug)]
pub enum Effect {
    /// Send a line.
    Send(ConnId, ServerLine),
    /// A session is bound to the connection. From now on the connection may answer its PINGs.
    Bound(ConnId, Arc<Keepalive>),
    /// No session is bound to the connection any more, which may be closed already. It stopped to answer PINGs before this.
    Unbound(ConnId),
    /// Send an event to all of these. A peer that does not keep up loses it, and is told how many it has lost.
    Event(Vec<ConnId>, Push),
    /// Send what is queued, then EOF.
    Close(ConnId),
    /// Ask the store to hold a change, and pass [`Input::Committed`] or [`Input::Rejected`].
    Commit(Tx, StoreChange),
    /// Put this routing table in force.
    Publish(Table),
    /// Members have left for good: close their upgraded connections.
    Departure,
    /// Ask this probe at once and then repeatedly.
    Watch(Probe),
    /// Stop asking this probe.
    Forget(Probe),
    /// Test a backend once and pass [`Input::Tested`].
    Test {
        /// Which test.
        test: TestId,
        /// The backend.
        url: BackendUrl,
        /// The address of the session that asks. It decides what may be reached.
        peer: IpAddr,
    },
    /// Write a line to the log.
    Log(LogEvent),
}

/// Something that is worth a line in the log.
#[derive(Debug, Clone)]
pub enum LogEvent {
    /// A registration did not give the registry's token.
    WrongToken {
        /// Its address.
        peer: IpAddr,
        /// How many registrations from there were refused unseen since the last such line.
        unseen: u64,
    },
    /// A registration did not give its service's token.
    WrongServiceToken {
        /// Which service.
        service: ServiceName,
        /// The instance that it is from.
        instance: InstanceName,
        /// Its address.
        peer: IpAddr,
        /// How many registrations from there were refused unseen since the last such line.
        unseen: u64,
    },
    /// A registration gave a service's token while instances without one are there.
    TokenNotAdded {
        /// Which service.
        service: ServiceName,
        /// The instance that it is from.
        instance: InstanceName,
        /// Its address.
        peer: IpAddr,
    },
    /// A session was registered.
    Registered(SessionLabel, IpAddr),
    /// The sessions and routes that the store held are in force again.
    Restored {
        /// How many sessions.
        sessions: usize,
        /// How many routes they have.
        routes: usize,
        /// Whether their members serve at once, or wait for their sessions.
        serves: bool,
    },
    /// A session was bound to a connection again.
    Resumed(SessionLabel, IpAddr),
    /// A session's connection is gone. The session ends after this time unless it returns.
    Lost(SessionLabel, Duration),
    /// A newer session of the same name and address took over.
    Replaced(SessionLabel, SessionNo),
    /// A session ended with CLIENT_SHUTDOWN.
    ShutDown(SessionLabel),
    /// A lost session's grace is over.
    Expired(SessionLabel),
    /// An apply is in force.
    Applied {
        /// The session.
        who: SessionLabel,
        /// How many of its applies have succeeded.
        revision: u64,
        /// How many of its routes the apply changed.
        changed: usize,
        /// How many routes it has now.
        routes: usize,
    },
    /// An apply made a claim that no request reaches: another claim of the same service hides it.
    Hidden {
        /// The session that applied.
        who: SessionLabel,
        /// The domain of the first one.
        domain: Domain,
        /// The path that no request reaches.
        path: PathPrefix,
        /// The shorter path of higher priority.
        by: PathPrefix,
        /// How many there are.
        count: usize,
    },
    /// An apply was refused: another service owns the claim.
    Conflict {
        /// The session that was refused.
        who: SessionLabel,
        /// Its route.
        route: RouteId,
        /// The domain of the claim.
        domain: Domain,
        /// The path of the claim.
        path: PathPrefix,
        /// The service that owns it.
        owner: ServiceName,
    },
    /// A session was refused a domain that the policy does not let its service claim.
    NotPermitted {
        /// The session.
        who: SessionLabel,
        /// The domain.
        domain: Domain,
    },
    /// Claims are in force that the new policy does not permit.
    OutsidePolicy {
        /// How many.
        claims: usize,
        /// The domain of one of them.
        domain: Domain,
        /// The service that has it.
        service: ServiceName,
    },
    /// A session joined its service's claims from an address that had no member there (SEMANTICS section 1).
    Joined {
        /// The session.
        who: SessionLabel,
        /// From where.
        peer: IpAddr,
        /// The domain of the first claim that it joined.
        domain: Domain,
        /// The path of the first claim that it joined.
        path: PathPrefix,
    },
    /// A service took over a claim whose owner was lost and did not answer any more.
    TakenOver {
        /// The session that lost it.
        from: SessionNo,
        /// The session that took it over.
        by: SessionLabel,
        /// The domain of the claim.
        domain: Domain,
        /// The path of the claim.
        path: PathPrefix,
    },
    /// A member does not serve any more.
    MemberOut {
        /// The member.
        which: MemberLabel,
        /// What took it out.
        event: MemberEvent,
        /// The error of the probe, if a probe took it out.
        error: Option<String>,
    },
    /// A member serves now, or again.
    MemberIn(MemberLabel),
    /// The data plane leaves a member out because requests to it fail, or has had an answer from it again.
    Ejected {
        /// The member.
        which: MemberLabel,
        /// Whether it is left out.
        is_out: bool,
    },
    /// This replica leads.
    Leads(Term),
    /// Staged changes were dropped because the session did not apply them in time.
    StageExpired(SessionLabel),
    /// The store rejected a change of this session.
    StoreRefused(SessionNo),
    /// A connection was closed, and why.
    Dropped(ConnId, IpAddr, &'static str),
}
