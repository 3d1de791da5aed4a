//! The states of sessions and members, and the tables of their transitions. Snapshots in the tests show both tables, so
//! that a changed transition is a changed line in review.

/// The state of a session (PROTOCOL section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionState {
    /// Bound to a connection.
    Connected,
    /// Not bound here, and not lost as far as the records say: the leader of the replicas knows its connection. Under a
    /// leader that is new nobody does yet.
    Remote,
    /// Its connection is gone; it may return until its grace ends.
    Grace,
    /// A newer session has its name. Its members serve until those of the newer session do, or its grace ends.
    Replaced,
    /// Replaced, and it has no members. Its id is remembered as long as its successor lives.
    Retired,
    /// Over.
    Gone,
}

/// What happens to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEvent {
    /// It was bound to a connection by REGISTER or RECONNECT.
    Bound,
    /// Its connection is gone, or was bound to another session.
    Lost,
    /// A session of the same name registered from the same address.
    Replaced,
    /// The session that replaced it serves in its place.
    Succeeded,
    /// It did not return in time.
    GraceOver,
    /// CLIENT_SHUTDOWN.
    ShutDown,
    /// The session that replaced it is gone, or has too many predecessors.
    Forgotten,
    /// This replica follows, and the records do not say that the session is lost.
    Followed,
    /// This replica follows, and the records do not have the session any more.
    Ended,
}

impl SessionState {
    pub(crate) fn next(self, event: SessionEvent) -> Self {
        use SessionEvent as E;
        use SessionState::{Connected, Gone, Grace, Remote, Replaced, Retired};
        match (self, event) {
            (_, E::Ended) => Gone,
            (Connected | Remote | Grace, E::Bound) => Connected,
            (Connected | Remote | Grace, E::Lost) => Grace,
            (Connected | Remote | Grace, E::Replaced) => Replaced,
            (Connected | Remote | Grace, E::ShutDown) => Gone,
            (Connected | Grace, E::Followed) => Remote,
            // Its successor has applied nothing, so the records do not know of it.
            (Replaced, E::Followed) => Grace,
            (Grace, E::GraceOver) => Gone,
            (Replaced, E::Succeeded | E::GraceOver | E::ShutDown) => Retired,
            (Retired, E::Forgotten) => Gone,
            (state, _) => state,
        }
    }

    /// Whether commands reach it.
    pub(crate) fn lives(self) -> bool {
        matches!(self, SessionState::Connected | SessionState::Remote | SessionState::Grace)
    }

    /// Whether it is bound to a connection, here or, as far as is known, at the leader.
    pub(crate) fn is_bound(self) -> bool {
        matches!(self, SessionState::Connected | SessionState::Remote)
    }
}

/// The state of a member (SEMANTICS sections 1, 3 and 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberState {
    /// It has not answered yet and serves all the same, because no other member of the claim does.
    Provisional,
    /// It has not answered yet. It serves as soon as it does.
    Joining,
    /// It answered, and serves.
    Usable,
    /// Its probe failed as often in a row as takes it out. It serves again as soon as it has answered often enough in a row.
    Failed,
    /// It failed while its session was lost. It waits for its session: another container may answer at its address.
    Dormant,
    /// Another session came to its address while its own was lost. It waits for its session, and keeps its claim while a
    /// backend answers there.
    Suspended,
}

/// What happens to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberEvent {
    /// Its probe passed.
    Passed,
    /// Its probe failed as often in a row as takes it out.
    FailedInARow,
    /// Its probe failed while its session was lost.
    FailedInGrace,
    /// Another session came to its address while its own was lost.
    AddressTaken,
    /// Its session returned, or applied its route anew.
    Returned,
    /// No member of its claim serves any more.
    ClaimUnserved,
}

impl MemberState {
    pub(crate) fn next(self, event: MemberEvent) -> Self {
        use MemberEvent as E;
        use MemberState::{Dormant, Failed, Joining, Provisional, Suspended, Usable};
        match (self, event) {
            (Provisional | Joining | Usable | Failed, E::Passed) => Usable,
            (Provisional | Joining, E::FailedInARow) => Joining,
            (Usable | Failed, E::FailedInARow) => Failed,
            (Provisional | Joining | Usable | Failed, E::FailedInGrace) => Dormant,
            (Provisional | Joining | Usable | Failed, E::AddressTaken) => Suspended,
            (Dormant | Suspended, E::Returned) => Joining,
            (Joining, E::ClaimUnserved) => Provisional,
            (state, _) => state,
        }
    }

    /// Whether requests go to it.
    pub(crate) fn serves(self) -> bool {
        matches!(self, MemberState::Provisional | MemberState::Usable)
    }

    /// Whether it waits for its session and is not probed.
    pub(crate) fn waits_for_session(self) -> bool {
        matches!(self, MemberState::Dormant | MemberState::Suspended)
    }
}
