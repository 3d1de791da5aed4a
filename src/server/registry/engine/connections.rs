//! Open connections, and the commands that wait on each (PROTOCOL section 1).

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use registry_client::protocol::{Command, Refusal, Reply, ServerLine};

use crate::server::registry::model::{ConnId, SessionNo, TestId, Tx};

/// A command as the listener read it, or why it is none.
pub(super) type Line = Result<Command, Refusal>;

/// Every open connection.
#[derive(Default)]
pub(super) struct Connections {
    open: HashMap<ConnId, Connection>,
    /// How many of them come from an address.
    by_address: HashMap<IpAddr, usize>,
}

struct Connection {
    peer: IpAddr,
    /// Its own session. Another session may have replaced it since.
    bound: Option<SessionNo>,
    /// The session that was bound here until another connection bound it.
    taken_over: Option<SessionNo>,
    /// It has sent a valid command.
    is_known: bool,
    /// What its oldest command that has not run waits for.
    wait: Option<Wait>,
    /// From the oldest BACKEND_TEST without an answer on: everything that was to be sent since, in order.
    due: VecDeque<Due>,
    /// How many verdicts on maintenance requests it has not been sent.
    verdicts: usize,
    /// The commands behind the one that waits.
    queue: VecDeque<Line>,
}

/// What is to be sent on a connection in its turn.
enum Due {
    /// The answer to a BACKEND_TEST, which is not there yet.
    Answer(TestId),
    /// This line, when all answers before it are there.
    Line(ServerLine),
}

/// What a command waits for.
pub(crate) enum Wait {
    /// The store's decision.
    Store(Tx),
    /// The answer of a backend that a session may have left behind. RECONNECT waits for it.
    Resume,
    /// The store's decision on an earlier change of the same session. The command runs after it.
    Turn(SessionNo, Box<Command>),
}

/// What becomes of a line that came on a connection.
pub(super) enum Arrival {
    /// Nothing waits on the connection: the command runs now.
    Run(Line),
    /// It waits behind another command.
    Queued,
    /// Too many commands or replies wait there already.
    Full,
    /// The connection is closed.
    Closed,
}

/// What a connection leaves behind that has been closed.
pub(super) struct Closed {
    pub(super) bound: Option<SessionNo>,
    /// The BACKEND_TESTs that it waited for.
    pub(super) tests: Vec<TestId>,
}

impl Connections {
    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.by_address.is_empty()
    }

    pub(super) fn contains(&self, conn: ConnId) -> bool {
        self.open.contains_key(&conn)
    }

    /// All of them, oldest first.
    pub(super) fn all(&self) -> Vec<ConnId> {
        let mut all: Vec<ConnId> = self.open.keys().copied().collect();
        all.sort_unstable();
        all
    }

    /// Adds a connection. Returns how many come from its address, this one included.
    pub(super) fn add(&mut self, conn: ConnId, peer: IpAddr) -> usize {
        let connection = Connection {
            peer,
            bound: None,
            taken_over: None,
            is_known: false,
            wait: None,
            due: VecDeque::new(),
            verdicts: 0,
            queue: VecDeque::new(),
        };
        self.open.insert(conn, connection);
        let from_there = self.by_address.entry(peer).or_default();
        *from_there += 1;
        *from_there
    }

    pub(super) fn remove(&mut self, conn: ConnId) -> Option<Closed> {
        let connection = self.open.remove(&conn)?;
        if let Some(from_there) = self.by_address.get_mut(&connection.peer) {
            *from_there -= 1;
            if *from_there == 0 {
                self.by_address.remove(&connection.peer);
            }
        }
        Some(Closed { bound: connection.bound, tests: connection.tests().collect() })
    }

    pub(super) fn peer(&self, conn: ConnId) -> Option<IpAddr> {
        self.open.get(&conn).map(|connection| connection.peer)
    }

    /// The connection's own session.
    pub(super) fn bound(&self, conn: ConnId) -> Option<SessionNo> {
        self.open.get(&conn)?.bound
    }

    /// Takes the connection's own session away from it.
    pub(super) fn take_bound(&mut self, conn: ConnId) -> Option<SessionNo> {
        self.open.get_mut(&conn)?.bound.take()
    }

    /// Gives a connection its own session. Returns its address; `None`: it is closed.
    pub(super) fn bind(&mut self, conn: ConnId, no: SessionNo) -> Option<IpAddr> {
        let connection = self.open.get_mut(&conn)?;
        connection.bound = Some(no);
        connection.taken_over = None;
        Some(connection.peer)
    }

    /// Another connection has bound the session that was bound here.
    pub(super) fn lose_bound(&mut self, conn: ConnId, no: SessionNo) {
        if let Some(connection) = self.open.get_mut(&conn) {
            connection.bound = None;
            connection.taken_over = Some(no);
        }
    }

    /// Whether another connection took this session over from `conn`.
    pub(super) fn was_taken_over(&self, conn: ConnId, no: SessionNo) -> bool {
        self.open.get(&conn).is_some_and(|connection| connection.taken_over == Some(no))
    }

    /// Takes in a line. At most `limit` commands and replies wait behind a command that has no answer yet.
    pub(super) fn arrive(&mut self, conn: ConnId, line: Line, limit: usize) -> Arrival {
        let Some(connection) = self.open.get_mut(&conn) else { return Arrival::Closed };
        let is_idle = connection.wait.is_none() && connection.due.is_empty();
        if !is_idle && connection.queue.len() + connection.due.len().saturating_sub(1) >= limit {
            Arrival::Full
        } else if connection.wait.is_none() {
            Arrival::Run(line)
        } else {
            connection.queue.push_back(line);
            Arrival::Queued
        }
    }

    /// The line, if it may be sent now. Otherwise it is kept until the answers before it are there.
    pub(super) fn in_turn(&mut self, conn: ConnId, line: ServerLine) -> Option<ServerLine> {
        match self.open.get_mut(&conn) {
            Some(connection) if !connection.due.is_empty() => {
                connection.due.push_back(Due::Line(line));
                None
            }
            _ => Some(line),
        }
    }

    /// The next reply is the result of this test.
    pub(super) fn expect_test(&mut self, conn: ConnId, test: TestId) {
        if let Some(connection) = self.open.get_mut(&conn) {
            connection.due.push_back(Due::Answer(test));
        }
    }

    /// The answer to a test is there. Returns the lines that may be sent now.
    pub(super) fn test_answered(&mut self, conn: ConnId, test: TestId, reply: Reply) -> Vec<ServerLine> {
        let Some(connection) = self.open.get_mut(&conn) else { return Vec::new() };
        let is_it = |due: &&mut Due| matches!(due, Due::Answer(of) if *of == test);
        if let Some(due) = connection.due.iter_mut().find(is_it) {
            *due = Due::Line(reply.into());
        }
        let is_line = |due: &Due| matches!(due, Due::Line(_));
        let count = connection.due.iter().take_while(|due| is_line(due)).count();
        let lines = connection.due.drain(..count).filter_map(|due| match due {
            Due::Line(line) => Some(line),
            Due::Answer(_) => None,
        });
        lines.collect()
    }

    /// The tests whose answers a connection waits for, oldest first.
    pub(super) fn tests(&self, conn: ConnId) -> Vec<TestId> {
        self.open.get(&conn).map_or(Vec::new(), |connection| connection.tests().collect())
    }

    /// The connection has sent a valid command. Returns whether it is its first; `None`: it is closed.
    pub(super) fn sent_valid_command(&mut self, conn: ConnId) -> Option<bool> {
        let connection = self.open.get_mut(&conn)?;
        Some(!std::mem::replace(&mut connection.is_known, true))
    }

    /// The connection's command waits. Returns false if it is closed.
    pub(super) fn wait(&mut self, conn: ConnId, wait: Wait) -> bool {
        let Some(connection) = self.open.get_mut(&conn) else { return false };
        connection.wait = Some(wait);
        true
    }

    /// Ends the wait that `is` describes, if the connection is still in it.
    pub(super) fn stop_waiting(&mut self, conn: ConnId, is: impl Fn(&Wait) -> bool) -> Option<Wait> {
        self.open.get_mut(&conn)?.wait.take_if(|wait| is(wait))
    }

    /// The next command of the connection, unless one is still without an answer.
    pub(super) fn next_line(&mut self, conn: ConnId) -> Option<Line> {
        let connection = self.open.get_mut(&conn)?;
        if connection.wait.is_some() {
            return None;
        }
        connection.queue.pop_front()
    }

    /// How many verdicts on maintenance requests the connection has not been sent.
    pub(super) fn verdicts(&self, conn: ConnId) -> usize {
        self.open.get(&conn).map_or(0, |connection| connection.verdicts)
    }

    pub(super) fn count_verdicts(&mut self, conn: ConnId, more: isize) {
        if let Some(connection) = self.open.get_mut(&conn) {
            connection.verdicts = connection.verdicts.saturating_add_signed(more);
        }
    }
}

impl Connection {
    fn tests(&self) -> impl Iterator<Item = TestId> + '_ {
        self.due.iter().filter_map(|due| match due {
            Due::Answer(test) => Some(*test),
            Due::Line(_) => None,
        })
    }
}
