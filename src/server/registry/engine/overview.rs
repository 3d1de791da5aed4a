//! What people are shown of the registry, and what an operator has it do.

use registry_client::protocol::{Command, Refusal, Request, SessionRef};

use crate::server::registry::model::{
    ConnId, DrainOverview, MaintenanceOverview, Now, Overview, SessionNo, SessionOverview, SessionState,
    Standing,
};
use crate::server::registry::session::Session;

use super::Engine;
use super::timers::Timer;

impl Engine {
    /// The registry as it is now, with at most so many sessions.
    pub(crate) fn overview(&self, now: Now, most: usize) -> Overview {
        let mut shown: Vec<&Session> = self.sessions.iter().filter(|session| is_shown(session)).collect();
        let sessions_total = shown.len();
        shown.sort_unstable_by_key(|session| {
            (&session.registration.service, &session.registration.instance, session.no)
        });
        shown.truncate(most);
        let sessions = shown.into_iter().map(|session| self.session_overview(now, session)).collect();
        Overview { sessions, sessions_total, members: self.membership.overview() }
    }

    fn session_overview(&self, now: Now, session: &Session) -> SessionOverview {
        let no = session.no;
        let standing = match session.state {
            SessionState::Connected => Standing::Connected,
            SessionState::Remote => Standing::Remote,
            SessionState::Replaced => Standing::Replaced,
            SessionState::Grace | SessionState::Retired | SessionState::Gone => {
                let end = self.timers.at(Timer::Grace(no));
                Standing::Lost(end.map(|end| end.saturating_duration_since(now.mono)))
            }
        };
        SessionOverview {
            no,
            service: session.registration.service.clone(),
            instance: session.registration.instance.clone(),
            peer: session.peer,
            standing,
            since: session.connected_at.wall,
            routes: session.applied.len(),
            revision: session.revision,
            drain: self.drain_overview(now, session),
            maintenance: maintenance_overview(session),
        }
    }

    fn drain_overview(&self, now: Now, session: &Session) -> Option<DrainOverview> {
        let draining = session.drain?;
        let here = self.membership.remaining_work(session.members.iter());
        let elsewhere = self.work_elsewhere(session.no).left;
        let elapsed = now.mono.saturating_duration_since(draining.drain.since);
        Some(DrainOverview {
            since: draining.started_at,
            time: draining.asked,
            remaining: draining.drain.time.saturating_sub(elapsed),
            in_flight: here.in_flight + elsewhere.in_flight,
            upgraded: here.upgraded + elsewhere.upgraded,
        })
    }

    /// An operator's request for a session, on a connection that the operator has opened. It runs as if the session's own
    /// client had sent it, but it is no sign of life of that client.
    pub(super) fn operator(&mut self, now: Now, conn: ConnId, no: SessionNo, request: Request) {
        let unknown = "its client has not come back since the server started";
        let line = match self.sessions.get(no).filter(|session| session.state.lives()) {
            None => Err(Refusal::SessionNotFound),
            Some(session) => match session.id() {
                Some(id) => Ok(Command::Request(SessionRef::Id(id.clone()), request)),
                None => Err(Refusal::Other(unknown.to_owned())),
            },
        };
        self.line(now, conn, line);
    }
}

fn is_shown(session: &Session) -> bool {
    !matches!(session.state, SessionState::Retired | SessionState::Gone)
}

fn maintenance_overview(session: &Session) -> Option<MaintenanceOverview> {
    let mut entered = session.applied.keys().filter_map(|id| session.maintenance.entered(*id)).peekable();
    let first = *entered.peek()?;
    let page = first.shown.page.as_ref().map(|page| page.backend.to_string());
    Some(MaintenanceOverview { since: first.at, page, by: first.by, routes: entered.count() })
}
