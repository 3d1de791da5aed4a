//! Changing a stage, and dropping one that nobody applies (PROTOCOL section 4).

use super::Engine;
use super::timers::Timer;
use crate::server::registry::api::Happening;
use crate::server::registry::model::{Now, SessionNo};
use crate::server::registry::session::{Session, Stage};
use registry_client::protocol::Refusal;

use super::decided::STORE_RETRY;

impl Engine {
    /// CONFIG_ROLLBACK. Route ids that were given out stay so.
    pub(crate) fn discard_stage(&mut self, no: SessionNo) -> Result<(), Refusal> {
        let session = self.sessions.get_mut(no).ok_or(Refusal::SessionNotFound)?;
        session.stage = Stage::default();
        self.timers.cancel(Timer::Stage(no));
        Ok(())
    }

    /// Changes a stage that has room for about `bytes` more. Staged changes expire some time after the last one.
    pub(crate) fn staging<T>(
        &mut self,
        now: Now,
        no: SessionNo,
        bytes: usize,
        change: impl FnOnce(&mut Session) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let session = self.sessions.get_mut(no).ok_or(Refusal::SessionNotFound)?;
        if session.stage.bytes().saturating_add(bytes) > self.config.limits.staged_bytes {
            return Err(Refusal::Other("too many staged changes".to_owned()));
        }
        let result = change(session)?;
        if session.stage.is_empty() {
            self.timers.cancel(Timer::Stage(no));
        } else {
            self.timers.set(Timer::Stage(no), now.mono + self.config.stage_ttl);
        }
        Ok(result)
    }

    /// Nobody applied what was staged. What is on its way to the store is as it was if that refuses it.
    pub(super) fn stage_expired(&mut self, now: Now, no: SessionNo) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        if session.pending.is_some() {
            return self.timers.set(Timer::Stage(no), now.mono + STORE_RETRY);
        }
        session.stage = Stage::default();
        let expired = Happening::StageExpired(session.who());
        self.log(expired);
    }
}
