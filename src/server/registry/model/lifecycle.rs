//! What sessions and members can be, and how one becomes the other. Nothing else changes a state; the
//! tables are snapshots in the tests, so that a changed transition is a changed line.

/// What a session is (PROTOCOL section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionState {
    /// Bound to a connection.
    Connected,
    /// Its connection is gone; it may return until its grace ends.
    Grace,
    /// A newer session took its name; its members serve until the newer one's do, or its grace ends.
    Replaced,
    /// Replaced, and nothing of it serves; its id is remembered as long as its replacer lives.
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
    /// Its replacer serves in its place.
    Succeeded,
    /// It did not return in time.
    GraceOver,
    /// CLIENT_SHUTDOWN.
    ShutDown,
    /// The newest of its replacers is gone, or has had too many predecessors.
    Forgotten,
}

impl SessionState {
    pub(crate) fn next(self, event: SessionEvent) -> Self {
        use SessionEvent as E;
        use SessionState::{Connected, Gone, Grace, Replaced, Retired};
        match (self, event) {
            (Connected | Grace, E::Bound) => Connected,
            (Connected | Grace, E::Lost) => Grace,
            (Connected | Grace, E::Replaced) => Replaced,
            (Connected | Grace, E::ShutDown) => Gone,
            (Grace, E::GraceOver) => Gone,
            (Replaced, E::Succeeded | E::GraceOver | E::ShutDown) => Retired,
            (Retired, E::Forgotten) => Gone,
            (state, _) => state,
        }
    }

    /// Whether commands reach it.
    pub(crate) fn lives(self) -> bool {
        matches!(self, SessionState::Connected | SessionState::Grace)
    }
}

/// What a member is (SEMANTICS sections 1, 3 and 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberState {
    /// The claim had nobody else: it serves, though it has not answered yet.
    Hopeful,
    /// It serves as soon as it answers.
    Joining,
    /// It answered, and serves.
    Usable,
    /// Its check failed three times; it serves again as soon as it answers.
    Failed,
    /// It failed while its session was lost: whoever answers there now may be somebody else.
    Dormant,
    /// Its address was given to another session while its own was lost.
    Suspended,
}

/// What happens to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberEvent {
    /// Its probe passed.
    Passed,
    /// Its probe failed for the third time in a row.
    FailedThrice,
    /// Its probe failed while its session was lost.
    FailedInGrace,
    /// Another session came to its address while its own was lost.
    AddressTaken,
    /// Its session returned, or applied its route anew.
    Returned,
    /// Nobody serves any more, and nothing speaks against it.
    LeftAlone,
}

impl MemberState {
    pub(crate) fn next(self, event: MemberEvent) -> Self {
        use MemberEvent as E;
        use MemberState::{Dormant, Failed, Hopeful, Joining, Suspended, Usable};
        match (self, event) {
            (Hopeful | Joining | Usable | Failed, E::Passed) => Usable,
            (Hopeful | Joining, E::FailedThrice) => Joining,
            (Usable | Failed, E::FailedThrice) => Failed,
            (Hopeful | Joining | Usable | Failed, E::FailedInGrace) => Dormant,
            (_, E::AddressTaken) => Suspended,
            (Dormant | Suspended, E::Returned) => Joining,
            (Joining, E::LeftAlone) => Hopeful,
            (state, _) => state,
        }
    }

    /// Whether requests go to it.
    pub(crate) fn serves(self) -> bool {
        matches!(self, MemberState::Hopeful | MemberState::Usable)
    }

    /// Whether it waits for its session and is not asked anything.
    pub(crate) fn waits_for_session(self) -> bool {
        matches!(self, MemberState::Dormant | MemberState::Suspended)
    }
}
