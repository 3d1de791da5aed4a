//! One client's connection: what it waits for, and whether the next leader may take it over.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Instant;

use registry_client::protocol::{Command, EventKind, Push, Reply, Request, SessionId, SessionRef};

use super::Line;

/// A client's connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: IpAddr,
    /// The session that the leader has bound to it.
    pub(super) session: Option<SessionId>,
    /// Lines that wait for a leader.
    pub(super) queue: Vec<Line>,
    /// Since when it waits for one.
    pub(super) waits_since: Option<Instant>,
    /// Something may be staged that only the leader knows.
    pub(super) staged: bool,
    /// What the commands without an answer will have done, oldest first.
    unanswered: VecDeque<Meaning>,
    /// How many verdicts on maintenance are still to come.
    verdicts: usize,
    subscribed: BTreeSet<EventKind>,
}

/// What a command does to the connection if it is not refused.
#[derive(Debug)]
enum Meaning {
    Nothing,
    Stage(SessionRef, StageChange),
    /// REGISTER: a session without a stage.
    Registers,
    /// RECONNECT: a session with the stage that it had.
    Resumes,
    Subscribes(EventKind),
    Unsubscribes(EventKind),
}

/// What becomes of a session's stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StageChange {
    /// Something is staged.
    Made,
    /// Nothing is.
    Cleared,
}

impl Connection {
    pub(super) fn new(peer: IpAddr) -> Self {
        Connection {
            peer,
            session: None,
            queue: Vec::new(),
            waits_since: None,
            staged: false,
            unanswered: VecDeque::new(),
            verdicts: 0,
            subscribed: BTreeSet::new(),
        }
    }

    /// Whether the next leader can take the connection over as if nothing had happened.
    pub(super) fn may_be_kept(&self) -> bool {
        self.unanswered.is_empty() && !self.staged && self.verdicts == 0 && self.subscribed.is_empty()
    }

    /// The leader is told this line, and will answer.
    pub(super) fn expect_reply(&mut self, line: &Line) {
        self.unanswered.push_back(line.as_ref().map_or(Meaning::Nothing, meaning));
    }

    /// The leader answers the oldest command. Returns what that has done to the stage of a session.
    pub(super) fn replied(&mut self, reply: &Reply) -> Option<(SessionRef, StageChange)> {
        self.verdicts += usize::from(*reply == Reply::MaintenanceAck);
        let meaning = self.unanswered.pop_front()?;
        if matches!(reply, Reply::Error(_) | Reply::Reregister) {
            return None;
        }
        match meaning {
            Meaning::Nothing => {}
            Meaning::Registers => self.staged = false,
            Meaning::Resumes => self.staged = true,
            Meaning::Subscribes(kind) => drop(self.subscribed.insert(kind)),
            Meaning::Unsubscribes(EventKind::All) => self.subscribed.clear(),
            Meaning::Unsubscribes(kind) => drop(self.subscribed.remove(&kind)),
            Meaning::Stage(session, change) => {
                self.staged = change == StageChange::Made;
                return Some((session, change));
            }
        }
        None
    }

    /// The leader sends a line that answers no command.
    pub(super) fn pushed(&mut self, push: &Push) {
        if matches!(
            push,
            Push::MaintenanceOk(_) | Push::PageTimeout | Push::BackendTimeout | Push::MaintenanceSuperseded
        ) {
            self.verdicts = self.verdicts.saturating_sub(1);
        }
    }
}

fn meaning(command: &Command) -> Meaning {
    let (session, request) = match command {
        Command::Register(_) => return Meaning::Registers,
        Command::Reconnect(_) => return Meaning::Resumes,
        Command::Request(session, request) => (session, request),
    };
    match request {
        Request::RouteAdd(_)
        | Request::RouteAddBulk(_)
        | Request::RouteUpdate { .. }
        | Request::RouteRemove(_)
        | Request::HeadersSet { .. }
        | Request::HeadersRemove { .. }
        | Request::OptionsSet { .. }
        | Request::OptionsRemove { .. }
        | Request::HealthSet { .. }
        | Request::RateLimitSet { .. }
        | Request::CircuitBreakerSet { .. } => Meaning::Stage(session.clone(), StageChange::Made),
        Request::ConfigApply | Request::ConfigRollback => {
            Meaning::Stage(session.clone(), StageChange::Cleared)
        }
        Request::Subscribe(kind) => Meaning::Subscribes(*kind),
        Request::Unsubscribe(kind) => Meaning::Unsubscribes(*kind),
        // A partial apply leaves the rest of the stage as it is.
        Request::ConfigApplyPartial(_)
        | Request::Ping
        | Request::SessionInfo
        | Request::ClientShutdown
        | Request::RouteList { .. }
        | Request::CircuitBreakerStatus(_)
        | Request::CircuitBreakerReset(_)
        | Request::ConfigValidate
        | Request::ConfigDiff
        | Request::DrainStart(_)
        | Request::DrainStatus
        | Request::DrainCancel
        | Request::MaintEnter { .. }
        | Request::MaintExit(_)
        | Request::MaintStatus
        | Request::MaintStatusPage { .. }
        | Request::StatsGet(_)
        | Request::StatsPage { .. }
        | Request::BackendTest(_) => Meaning::Nothing,
    }
}
