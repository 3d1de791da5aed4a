//! ROUTEIDS

use super::Engine;
use super::commits::Pending;
use super::connections::Wait;
use super::queue::Outcome;
use crate::server::registry::api::Change;
use crate::server::registry::model::{ConnId, Delta, Now, SessionNo};
use crate::server::registry::persist::SessionRecord;
use crate::server::registry::session::Session;
use registry_client::protocol::{Command, Refusal, Request};
use std::sync::Arc;

/// How many route ids a session may give out beyond those that the store knows of: at least as many as one command
/// may add.
pub(crate) const RESERVED: u32 = 10_000;

const _: () = assert!(registry_client::protocol::MAX_BULK_ROUTES <= RESERVED as usize);

impl Engine {
    /// The session that has to reserve route ids before this command can be carried out.
    pub(super) fn lacks_ids(&self, conn: ConnId, command: &Command) -> Option<SessionNo> {
        let Command::Request(of, request) = command else { return None };
        let wanted = match request {
            Request::RouteAdd(_) => 1,
            Request::RouteAddBulk(specs) => u32::try_from(specs.len()).unwrap_or(u32::MAX),
            _ => return None,
        };
        let session = self.sessions.get(self.resolve(conn, of).ok()?)?;
        let last = session.last_route.saturating_add(wanted);
        // What the store does not hold is not there after a restart.
        let is_kept = session.revision > 0;
        (is_kept && last > session.kept_route.saturating_add(RESERVED)).then_some(session.no)
    }

    /// Tells the store how many ids were given out. The command is carried out when it knows.
    pub(super) fn reserve_ids(&mut self, now: Now, conn: ConnId, no: SessionNo, command: Command) -> Outcome {
        let Some(session) = self.sessions.get_mut(no) else { return Err(Refusal::SessionNotFound).into() };
        let pending = Pending::Reserving { session: no, conn, last: session.last_route };
        session.waiting.push(conn);
        let (session, delta) = (record(session, now), Delta { routes: Vec::new(), defaults: None });
        let session = SessionRecord {
            shared_address: !self.sessions.is_one_container(session.peer),
            replaced: self.sessions.get(no).map(|of| self.sessions.replaced_by(of)).unwrap_or_default(),
            ..session
        };
        let (session, applied) = (Box::new(session), self.commits.next_number());
        let change = Change::Applied { session, applied, delta: Arc::new(delta), maintenance: None };
        self.commit(no, change, pending);
        Outcome::Wait(Wait::Turn(no, Box::new(command)))
    }

    /// The store has decided. Without it the command that asked is refused.
    pub(super) fn reserved(&mut self, now: Now, no: SessionNo, conn: ConnId, last: Option<u32>) {
        if let Some(last) = last {
            if let Some(session) = self.sessions.get_mut(no) {
                session.kept_route = last;
            }
        } else if self.stop_waiting(conn, |wait| matches!(wait, Wait::Turn(of, _) if *of == no)).is_some() {
            self.send(conn, registry_client::protocol::Reply::Error(Refusal::StoreUnavailable));
            self.resume(now, conn);
        }
    }
}

/// The session as its last apply left it.
fn record(session: &Session, now: Now) -> SessionRecord {
    let last_apply = session.last_apply.unwrap_or(now.wall);
    SessionRecord { revision: session.revision, last_apply, ..session.record(now) }
}
