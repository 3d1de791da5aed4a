//! Which command runs next.
//!
//! Replies come in the order of the commands. Commands wait behind one that waits for the store, because what they do
//! may depend on the decision. A command also waits while the store decides on a change of its session, if it could get
//! in the way of that. A BACKEND_TEST changes nothing, so commands behind it run at once and only their replies wait: a
//! slow backend must not hold back a drain (PROTOCOL section 1).

use std::net::IpAddr;

use registry_client::protocol::report::BackendReport;
use registry_client::protocol::{Command, Refusal, Reply, Request, SessionRef};

use crate::server::registry::api::Effect;
use crate::server::registry::model::{ConnId, Now, SessionNo, TestId, Tx};

use super::Engine;
use super::connections::{Arrival, Line, Wait};
use super::timers::Timer;

/// What a command comes to.
pub(crate) enum Outcome {
    /// This answer.
    Reply(Reply),
    /// It has been answered.
    Done,
    /// It is answered later, and the commands behind it run after that.
    Wait(Wait),
    /// It is answered when this test is over. The commands behind it run meanwhile.
    Test(TestId),
}

impl From<Result<Reply, Refusal>> for Outcome {
    fn from(result: Result<Reply, Refusal>) -> Self {
        Outcome::Reply(result.unwrap_or_else(Reply::Error))
    }
}

impl Engine {
    pub(super) fn line(&mut self, now: Now, conn: ConnId, line: Line) {
        match self.connections.arrive(conn, line, self.config.limits.queue) {
            Arrival::Run(line) => self.execute(now, conn, line),
            Arrival::Queued | Arrival::Closed => {}
            Arrival::Full => self.drop_connection(now, conn, "too many commands at once"),
        }
    }

    fn execute(&mut self, now: Now, conn: ConnId, line: Line) {
        let command = match line {
            Ok(command) => command,
            Err(refusal) => return self.send(conn, Reply::Error(refusal)),
        };
        let Some(is_first) = self.connections.sent_valid_command(conn) else { return };
        if is_first {
            self.timers.cancel(Timer::Silent(conn));
        }
        match self.command(now, conn, command) {
            Outcome::Reply(reply) => self.send(conn, reply),
            Outcome::Done => {}
            Outcome::Wait(wait) => {
                if self.connections.wait(conn, wait) {
                    self.timers.set(Timer::Wait(conn), now.mono + self.config.longest_wait);
                }
            }
            Outcome::Test(test) => {
                self.connections.expect_test(conn, test);
                self.timers.set(Timer::Test(test), now.mono + self.config.longest_wait);
            }
        }
    }

    /// Carries a command out, unless it has to wait for the store first.
    fn command(&mut self, now: Now, conn: ConnId, command: Command) -> Outcome {
        if let Command::Reconnect(id) | Command::Request(SessionRef::Id(id), _) = &command {
            self.sessions.recognise(id);
        }
        if let Some(no) = self.must_wait_for(conn, &command) {
            if let Some(session) = self.sessions.get_mut(no) {
                session.waiting.push(conn);
            }
            return Outcome::Wait(Wait::Turn(no, Box::new(command)));
        }
        if let Some(no) = self.lacks_ids(conn, &command) {
            return self.reserve_ids(now, conn, no, command);
        }
        (self.carry_out)(self, now, conn, command)
    }

    /// The session that the command is for, if a change of it is with the store and the command could get in its way.
    fn must_wait_for(&self, conn: ConnId, command: &Command) -> Option<SessionNo> {
        if self.commits.is_empty() {
            return None;
        }
        let no = match command {
            Command::Register(_) => return None,
            Command::Request(_, request) if is_indifferent(request) => return None,
            Command::Reconnect(id) => self.resolve(conn, &SessionRef::Id(id.clone())),
            Command::Request(session, _) => self.resolve(conn, session),
        };
        let session = self.sessions.get(no.ok()?)?;
        // An apply may end on another connection than it began on, so RECONNECT need not wait for it: its OK says
        // nothing about what is applied, and the commands behind it wait. A session that ends cannot be resumed.
        let ends = self.commits.ends_session(session.pending?)?;
        (ends || !matches!(command, Command::Reconnect(_))).then_some(session.no)
    }

    /// Runs the commands that waited behind one that has been answered.
    pub(super) fn resume(&mut self, now: Now, conn: ConnId) {
        while let Some(line) = self.connections.next_line(conn) {
            self.execute(now, conn, line);
        }
    }

    /// Ends a wait, if `conn` is still in the one that `is` describes.
    pub(super) fn stop_waiting(&mut self, conn: ConnId, is: impl Fn(&Wait) -> bool) -> Option<Wait> {
        let wait = self.connections.stop_waiting(conn, is)?;
        self.timers.cancel(Timer::Wait(conn));
        Some(wait)
    }

    /// Whether the command still waited for the store's decision on `tx`, which ends with this. It does not if it was
    /// refused because the decision took too long.
    pub(super) fn stop_waiting_for_store(&mut self, conn: ConnId, tx: Tx) -> bool {
        self.stop_waiting(conn, |wait| matches!(wait, Wait::Store(of) if *of == tx)).is_some()
    }

    /// Answers the command that waited for the store, unless it was refused because the decision took too long.
    pub(super) fn answer_commit(&mut self, now: Now, conn: ConnId, tx: Tx, reply: Reply) {
        if self.stop_waiting_for_store(conn, tx) {
            self.send(conn, reply);
            self.resume(now, conn);
        }
    }

    /// Runs the commands that waited for a change of this session.
    pub(super) fn release(&mut self, now: Now, no: SessionNo, waiting: Vec<ConnId>) {
        for conn in waiting {
            let wait = self.stop_waiting(conn, |wait| matches!(wait, Wait::Turn(of, _) if *of == no));
            if let Some(Wait::Turn(_, command)) = wait {
                self.execute(now, conn, Ok(*command));
                self.resume(now, conn);
            }
        }
    }

    /// Begins a BACKEND_TEST for a command, which waits for its result. `None`: there were too many within a second.
    pub(crate) fn begin_test(
        &mut self,
        now: Now,
        conn: ConnId,
        no: SessionNo,
        peer: IpAddr,
    ) -> Option<TestId> {
        self.tests.count(now.mono, no, peer).then(|| self.tests.begin(conn))
    }

    /// A test is over, or is given up. Its result is sent, and the replies that waited behind it.
    pub(super) fn tested(&mut self, test: TestId, result: Result<BackendReport, String>) {
        self.timers.cancel(Timer::Test(test));
        let Some(conn) = self.tests.end(test) else { return };
        let reply = result.map_or_else(Reply::BackendFail, Reply::BackendOk);
        for line in self.connections.test_answered(conn, test, reply) {
            self.push(Effect::Send(conn, line));
        }
    }

    /// Gives up the tests that a connection waits for, because no more is sent there than what is due now.
    pub(super) fn give_up_tests(&mut self, conn: ConnId) {
        for test in self.connections.tests(conn) {
            self.tested(test, Err("the connection ends".to_owned()));
        }
    }

    /// Refuses a command that has waited as long as one may (PROTOCOL section 1). What it waited for may still happen;
    /// a client sees it in the session's revision.
    pub(super) fn waited_too_long(&mut self, now: Now, conn: ConnId) {
        let Some(wait) = self.stop_waiting(conn, |_| true) else { return };
        self.drop_resume(conn);
        let reply = match wait {
            Wait::Store(_) | Wait::Turn(..) => Reply::Error(Refusal::StoreUnavailable),
            Wait::Resume => Reply::Reregister,
        };
        self.send(conn, reply);
        self.resume(now, conn);
    }
}

/// Whether a command neither changes what its session has applied or staged nor shows it, so that a slow store does
/// not delay it. SESSION_INFO is none of these: a client that lost the reply to an apply decides by its revision
/// whether to repeat the apply, so it must not be one that is about to change.
fn is_indifferent(request: &Request) -> bool {
    matches!(
        request,
        Request::Ping | Request::BackendTest(_) | Request::Subscribe(_) | Request::Unsubscribe(_)
    )
}
