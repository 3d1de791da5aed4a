//! Before a session gives out more route ids than it may, the store is told how many it has given out.

use registry_client::protocol::{Command, Refusal, Request};

use crate::server::registry::model::{ConnId, Now, SessionNo};

use super::Engine;
use super::connections::Wait;
use super::pending_commits::Pending;
use super::queue::Outcome;

impl Engine {
    /// The session that has to reserve route ids before it can carry this command out.
    pub(super) fn lacks_ids(&self, conn: ConnId, command: &Command) -> Option<SessionNo> {
        let Command::Request(of, request) = command else { return None };
        let wanted = match request {
            Request::RouteAdd(_) => 1,
            Request::RouteAddBulk(specs) => u32::try_from(specs.len()).unwrap_or(u32::MAX),
            _ => return None,
        };
        let session = self.sessions.get(self.resolve(conn, of).ok()?)?;
        // A session that the store does not hold is not there after a restart.
        (session.revision > 0 && session.ids.must_reserve(wanted)).then_some(session.no)
    }

    /// Tells the store how many ids were given out. The command runs when the store knows.
    pub(super) fn reserve_ids(&mut self, now: Now, conn: ConnId, no: SessionNo, command: Command) -> Outcome {
        let Some(session) = self.sessions.get_mut(no) else { return Err(Refusal::SessionNotFound).into() };
        let pending = Pending::Reserving { session: no, conn, last: session.ids.given() };
        session.waiting.push(conn);
        let Some(change) = self.unchanged(now, no) else { return Err(Refusal::SessionNotFound).into() };
        self.commit(no, change, pending);
        Outcome::Wait(Wait::Turn(no, Box::new(command)))
    }

    /// The store has decided. `last`: it knows of so many ids. `None`: it refused, and so is the command that waits.
    pub(super) fn reserved(&mut self, now: Now, no: SessionNo, conn: ConnId, last: Option<u32>) {
        if let Some(last) = last {
            if let Some(session) = self.sessions.get_mut(no) {
                session.ids.set_stored(last);
            }
        } else if self.stop_waiting(conn, |wait| matches!(wait, Wait::Turn(of, _) if *of == no)).is_some() {
            self.send(conn, registry_client::protocol::Reply::Error(Refusal::StoreUnavailable));
            self.resume(now, conn);
        }
    }
}
