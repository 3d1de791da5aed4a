//! RECONNECT from another address than before (SEMANTICS section 4).

use std::net::IpAddr;

use super::serving::{QUICK, Watched};
use super::text::host_of;
use super::{Model, Waiting};

/// How many backends are asked at most.
const MOST_ASKED: usize = 4;
/// How long each has to accept a connection.
const PATIENCE: u64 = 1_000;

impl Model {
    pub(super) fn reconnect(&mut self, conn: usize, id: &str) {
        let s = match self.resumable(conn, id) {
            Ok(s) => s,
            Err(reply) => return self.exactly(conn, reply),
        };
        let (old, new) = (self.sessions[s].peer, self.connection(conn).expect("it is open").peer);
        let asked = if old == new || old.is_loopback() { Vec::new() } else { self.left_behind(s, old) };
        if asked.is_empty() {
            return self.resume_session(conn, s);
        }
        if self.is_suspended_at(s, old) {
            return self.register_again(conn, s);
        }
        self.resumes += 1;
        let waiting = Waiting::Resume { id: id.to_owned(), asked, number: self.resumes, since: self.now };
        self.connection_mut(conn).expect("it is open").waiting = Some(waiting);
    }

    /// The session to resume, or the reply where there is none.
    fn resumable(&self, conn: usize, id: &str) -> Result<usize, &'static str> {
        match self.find_session(conn, id) {
            // One that lost a claim to another service has to ask for it again.
            Ok(s) if self.sessions[s].robbed => Err("REREGISTER"),
            Ok(s) => Ok(s),
            Err("session replaced") => Err("ERROR|session replaced"),
            Err(_) => Err("REREGISTER"),
        }
    }

    fn resume_session(&mut self, conn: usize, s: usize) {
        let connection = self.connection(conn).expect("it is open");
        let (former, peer) = (connection.session, connection.peer);
        if former != Some(s) {
            if let Some(former) = former {
                self.unbind(conn, former);
            }
            self.bind(conn, s);
            self.suspend_at(peer, s);
        }
        self.exactly(conn, "OK");
    }

    /// The questions to the backends that a session has at an address.
    fn left_behind(&self, s: usize, old: IpAddr) -> Vec<Watched> {
        let mut asked = Vec::new();
        for route in &self.sessions[s].applied.routes {
            let backend = route.backend.clone();
            let question = Watched { backend, peer: old, get: None, interval: QUICK, timeout: PATIENCE };
            if host_of(&route.backend).parse() == Ok(old) && !asked.contains(&question) {
                asked.push(question);
            }
        }
        asked.truncate(MOST_ASKED);
        asked
    }

    pub(super) fn resume_probes(&self) -> Vec<Watched> {
        let waiting = self.connections.iter().filter_map(|c| c.waiting.as_ref());
        let asked = waiting.filter_map(|waiting| match waiting {
            Waiting::Resume { asked, .. } => Some(asked.clone()),
            _ => None,
        });
        asked.flatten().collect()
    }

    /// One backend that answers is enough.
    pub(super) fn resume_probed(&mut self, probe: &Watched, passed: bool) {
        let mut asking: Vec<(u64, usize)> = Vec::new();
        for connection in &self.connections {
            if let Some(Waiting::Resume { asked, number, .. }) = &connection.waiting
                && asked.contains(probe)
            {
                asking.push((*number, connection.number));
            }
        }
        asking.sort_unstable();
        for (_, conn) in asking {
            let Some(connection) = self.connection_mut(conn) else { continue };
            let Some(Waiting::Resume { asked, id, .. }) = &mut connection.waiting else { continue };
            asked.retain(|question| question != probe);
            if !passed && !asked.is_empty() {
                continue;
            }
            let id = id.clone();
            connection.waiting = None;
            match self.resumable(conn, &id) {
                Ok(s) if passed => self.resume_session(conn, s),
                Ok(s) => self.register_again(conn, s),
                Err(reply) => self.exactly(conn, reply),
            }
            self.proceed(conn);
        }
    }

    /// What the session had where it was is gone, or another's. It is lost until its client has a new one.
    fn register_again(&mut self, conn: usize, s: usize) {
        let old = self.sessions[s].peer;
        let bound: Vec<usize> =
            self.connections.iter().filter(|c| c.session == Some(s)).map(|c| c.number).collect();
        for other in bound {
            self.unbind(other, s);
            self.connection_mut(other).expect("it is open").robbed_of = Some(s);
        }
        self.fail_at(s, old);
        self.exactly(conn, "REREGISTER");
    }
}
