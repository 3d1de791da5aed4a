//! What goes into the registry and what comes out of it.

use crate::server::registry::model::{
    ClaimPolicy, ConnId, Delta, MemberEvent, Pulse, SessionNo, TestId, Tx, Which, Who,
};
use crate::server::registry::persist::{MaintenanceRecord, SessionRecord};
use crate::server::routing::{MemberId, Probe, ProbeFailure, Table};
use registry_client::protocol::report::BackendReport;
use registry_client::protocol::{
    BackendUrl, Command, Domain, InstanceName, PathPrefix, Push, Refusal, RouteId, ServerLine, ServiceName,
};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What happens to the registry.
#[derive(Debug)]
pub enum Input {
    /// A peer connected, from an address that may.
    Opened(ConnId, IpAddr),
    /// It sent a line: a command, or one whose answer is already known to be this error.
    Line(ConnId, Result<Command, Refusal>),
    /// It is gone, or has sent all it wanted and got all its replies.
    Closed(ConnId),
    /// A deadline may have passed ([`super::Registry::next_deadline`]).
    Tick,
    /// The store holds the change.
    Committed(Tx),
    /// The store does not hold the change, and never will.
    Rejected(Tx),
    /// A watched probe was answered, or why it was not.
    Probed(Probe, Result<(), ProbeFailure>),
    /// A BACKEND_TEST is over: what was seen, or why nothing was.
    Tested(TestId, Result<BackendReport, String>),
    /// Requests to a member fail so often that it is left out for a while, or it has answered again: its load
    /// says which (SEMANTICS section 3).
    Ejection(MemberId),
    /// The proxy has a certificate for these names that it did not have before.
    Certificate {
        /// Whom it is for.
        names: Vec<String>,
        /// Whether it took the place of an older one.
        renewed: bool,
    },
    /// Who may claim what from now on. What is in force stays so.
    Policy(ClaimPolicy),
    /// The server goes down.
    Stop,
}

/// What the registry wants done, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Send a line.
    Send(ConnId, ServerLine),
    /// A session is bound to the connection, which may answer some of what comes for it by itself from now on.
    Bound(ConnId, Arc<Pulse>),
    /// Send an event to all of these. One that does not keep up loses it, and is told how many it has lost.
    Event(Vec<ConnId>, Push),
    /// Send what is queued, then EOF.
    Close(ConnId),
    /// Store a change, and say [`Input::Committed`] or [`Input::Rejected`].
    Commit(Tx, Change),
    /// From now on requests are matched by this table.
    Publish(Table),
    /// Members have left for good: their upgraded connections are to be closed.
    Departure,
    /// Ask this at once and then repeatedly.
    Watch(Probe),
    /// Stop asking.
    Forget(Probe),
    /// Ask a backend once on behalf of a session registered from `peer`, and say [`Input::Tested`].
    Test {
        /// Which test.
        test: TestId,
        /// Whom to ask.
        url: BackendUrl,
        /// Whose address decides what may be reached.
        peer: IpAddr,
    },
    /// Something that people want to read in the log.
    Happened(Happening),
}

/// What a store is asked to hold. It never sees a session's id.
#[derive(Debug, Clone)]
pub enum Change {
    /// A successful CONFIG_APPLY.
    Applied {
        /// The session as this apply leaves it.
        session: Box<SessionRecord>,
        /// Which apply of all this is: they are in the order of these numbers.
        applied: u64,
        /// Its routes that change.
        delta: Arc<Delta>,
        /// Its maintenance, where the store cannot hold it yet: with its first apply.
        maintenance: Option<Box<MaintenanceRecord>>,
    },
    /// MAINT_ENTER or MAINT_EXIT: the whole maintenance of these sessions, each of which the store holds.
    Maintained(Vec<(SessionNo, MaintenanceRecord)>),
    /// The session is over, and so is what it applied.
    Ended(SessionNo),
}

/// What is worth a line in the log.
#[derive(Debug, Clone)]
pub enum Happening {
    /// Somebody wanted to register without the registry's token.
    WrongToken(IpAddr),
    /// Somebody wanted to join a service without its token.
    WrongServiceToken {
        /// Which service.
        service: ServiceName,
        /// As whom.
        instance: InstanceName,
        /// From where.
        peer: IpAddr,
    },
    /// A new session.
    Registered(Who, IpAddr),
    /// What a store held is in force again.
    Restored {
        /// How many sessions.
        sessions: usize,
        /// How many routes they have.
        routes: usize,
        /// Whether their members serve at once, or wait for their sessions.
        serves: bool,
    },
    /// A session was bound to a connection again.
    Resumed(Who, IpAddr),
    /// A session's connection is gone; it ends after this time unless it returns.
    Lost(Who, Duration),
    /// A newer session of the same name and address took over.
    Replaced(Who, SessionNo),
    /// A session left in order.
    ShutDown(Who),
    /// A lost session's grace is over.
    Expired(Who),
    /// A configuration is in force.
    Applied {
        /// Whose.
        who: Who,
        /// How many of its applies have succeeded.
        revision: u64,
        /// How many of its routes changed with it.
        changed: usize,
        /// How many it has now.
        routes: usize,
    },
    /// A path of an apply is one that no request reaches, or makes one of its own service so.
    Hidden {
        /// Whose apply.
        who: Who,
        /// The first of them.
        domain: Domain,
        /// The path that nobody reaches.
        path: PathPrefix,
        /// The shorter one of higher priority.
        by: PathPrefix,
        /// How many there are.
        count: usize,
    },
    /// An apply was refused: another service owns the claim.
    Conflict {
        /// Who was refused.
        who: Who,
        /// Its route.
        route: RouteId,
        /// What it wanted.
        domain: Domain,
        /// What it wanted.
        path: PathPrefix,
        /// Who has it.
        owner: ServiceName,
    },
    /// A service wanted a domain that the policy does not let it claim.
    NotPermitted {
        /// Who.
        who: Who,
        /// What it wanted.
        domain: Domain,
    },
    /// Claims are in force that the policy does not permit: it is newer than they are.
    OutsidePolicy {
        /// How many.
        claims: usize,
        /// One of them.
        domain: Domain,
        /// Whose it is.
        service: ServiceName,
    },
    /// A session joined its service's pool from an address that was not in it (SEMANTICS section 1).
    Joined {
        /// Who.
        who: Who,
        /// From where.
        peer: IpAddr,
        /// The first claim that it joined.
        domain: Domain,
        /// The first claim that it joined.
        path: PathPrefix,
    },
    /// Another service took a claim whose owner was lost and did not answer any more.
    TakenOver {
        /// Who lost it.
        from: SessionNo,
        /// Who took it.
        by: Who,
        /// The claim.
        domain: Domain,
        /// The claim.
        path: PathPrefix,
    },
    /// Requests do not go to this member any more.
    MemberOut {
        /// Which one.
        which: Which,
        /// What took it out.
        event: MemberEvent,
        /// What the probe saw, if one did.
        error: Option<String>,
    },
    /// Requests go to this member for the first time since it answered, or again.
    MemberIn(Which),
    /// Requests to a member failed so often that it is left out for a while, or it has answered again.
    Ejected {
        /// Which one.
        which: Which,
        /// Whether it is left out.
        is_out: bool,
    },
    /// Staged changes were dropped because nobody applied them.
    StageExpired(Who),
    /// The store did not take a change.
    StoreRefused(SessionNo),
    /// A connection was closed, and why.
    Dropped(ConnId, IpAddr, &'static str),
}
