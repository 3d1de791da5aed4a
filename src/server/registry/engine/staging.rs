//! Changing a stage, and dropping one that nobody applies (PROTOCOL section 4).

use registry_client::protocol::Refusal;

use crate::server::registry::api::LogEvent;
use crate::server::registry::model::{Now, SessionNo};
use crate::server::registry::session::{Session, Stage};

use super::Engine;
use super::store_decision::STORE_RETRY;
use super::timers::Timer;

impl Engine {
    /// CONFIG_ROLLBACK. Route ids that were given out are not given out again.
    pub(crate) fn discard_stage(&mut self, no: SessionNo) -> Result<(), Refusal> {
        let session = self.sessions.get_mut(no).ok_or(Refusal::SessionNotFound)?;
        session.stage = Stage::default();
        self.sessions.count_stage(no);
        self.timers.cancel(Timer::Stage(no));
        Ok(())
    }

    /// Changes a session's stage, if it has room for about `bytes` more. The stage expires some time after its last change.
    pub(crate) fn staging<T>(
        &mut self,
        now: Now,
        no: SessionNo,
        bytes: usize,
        change: impl FnOnce(&mut Session) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let session = self.sessions.get(no).ok_or(Refusal::SessionNotFound)?;
        if !self.may_stage(session, bytes) {
            return Err(Refusal::Other("too many staged changes".to_owned()));
        }
        let session = self.sessions.get_mut(no).ok_or(Refusal::SessionNotFound)?;
        let result = change(session);
        if result.is_ok() && session.stage.is_empty() {
            self.timers.cancel(Timer::Stage(no));
        } else if result.is_ok() {
            self.timers.set(Timer::Stage(no), now.mono + self.config.stage_ttl);
        }
        self.sessions.count_stage(no);
        result
    }

    /// Whether a session may stage about `bytes` more: it may itself, all from its address may, and all may.
    fn may_stage(&self, session: &Session, bytes: usize) -> bool {
        let (limits, usage) = (self.config.limits, self.sessions.usage());
        let fits = |staged: usize, most| staged.saturating_add(bytes) <= most;
        fits(session.stage.bytes(), limits.staged_bytes)
            && (session.peer.is_loopback()
                || fits(usage.of(session.peer).staged, limits.staged_bytes_per_address))
            && fits(usage.staged(), limits.staged_bytes_in_all)
    }

    /// The time of the session's stage is over. While the store decides on an apply, the stage stays: it is needed again if
    /// the store refuses.
    pub(super) fn stage_expired(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        if session.pending.is_some() {
            return self.timers.set(Timer::Stage(no), now.mono + STORE_RETRY);
        }
        session.stage = Stage::default();
        let expired = LogEvent::StageExpired(session.label());
        self.sessions.count_stage(no);
        self.log(expired);
    }
}
