//! Whether this server leads its replicas, follows, or is alone (docs/internals/cluster.md).
//!
//! A follower has all sessions and routes, its own probes and its own table. What distinguishes it is that it decides
//! nothing about sessions: it commits nothing, ends nobody and answers no command. So a promotion only sets deadlines,
//! and a demotion only forgets what no record has.

use std::time::{Duration, SystemTime};

use crate::server::registry::api::{Effect, LogEvent};
use crate::server::registry::model::{Now, SessionEvent, SessionNo, SessionState, Term};
use crate::server::registry::session::{Lost, Session, Stage};

use super::Engine;
use super::store_decision::STORE_RETRY;
use super::timers::Timer;

/// How long sessions that lost only their leader may take to return before they are lost, and the least time of a leader
/// that a lost session gets. A grace that is shorter counts instead.
const ADOPTION: Duration = Duration::from_secs(120);
/// The least time of a leader that any lost session gets, however often it was prolonged. A client that returned to a
/// leader whose store could not be written is still lost in the records, and has to return once more.
const RETURN: Duration = Duration::from_secs(10);

/// What this server is to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It has no replicas.
    Alone,
    /// It decides for all replicas.
    Leads(Term),
    /// It serves what the records say. Whose records they are; `None`: nobody leads.
    Follows(Option<Term>),
}

impl Role {
    /// Whether it decides about sessions.
    pub(super) fn leads(self) -> bool {
        !matches!(self, Role::Follows(_))
    }

    /// Whether others serve what it decides, or it what others decide.
    pub(super) fn has_replicas(self) -> bool {
        self != Role::Alone
    }
}

impl Engine {
    /// This replica leads from now on. Sessions whose connection the former leader had get a while to return, as those
    /// that were lost already.
    pub(super) fn lead(&mut self, now: Now, term: Term) {
        let was = std::mem::replace(&mut self.role, Role::Leads(term));
        if !matches!(was, Role::Follows(_)) {
            return;
        }
        let led_until = self.led_until.take();
        self.silent_since = None;
        let is_stale = std::mem::take(&mut self.is_stale);
        for no in self.sessions.numbers() {
            self.adopt(now, no, led_until, is_stale);
        }
        self.retire_superseded(now);
        self.end_maintenance_of_the_gone();
        self.push(Effect::Log(LogEvent::Leads(term)));
    }

    fn adopt(&mut self, now: Now, no: SessionNo, led_until: Option<SystemTime>, is_stale: bool) {
        let grace = self.config.grace;
        let adoption = grace.min(ADOPTION);
        let Some(session) = self.sessions.get_mut(no) else { return };
        match session.state {
            SessionState::Remote if is_stale => self.advance(now, no, SessionEvent::Lost),
            SessionState::Remote => self.timers.set(Timer::Orphan(no), now.mono + adoption),
            SessionState::Grace => {
                let lost = session.lost.unwrap_or(Lost { at: now, is_prolonged: false });
                // Time without a leader does not count.
                let until = led_until.unwrap_or(now.wall);
                let elapsed = until.duration_since(lost.at.wall).unwrap_or_default().min(grace);
                let least = if lost.is_prolonged { adoption.min(RETURN) } else { adoption };
                let (left, is_prolonged) = match grace - elapsed {
                    left if left < least => (least, true),
                    left => (left, lost.is_prolonged),
                };
                let at = now.back_by(grace - left);
                session.lost = Some(Lost { at, is_prolonged });
                self.set_grace(no, now.mono + left);
            }
            SessionState::Replaced => self.set_grace(no, now.mono + grace),
            SessionState::Connected | SessionState::Retired | SessionState::Gone => {}
        }
        self.touch(no);
    }

    /// Whether this leader can prove that it leads. Without that it says nothing to anybody, so nobody can come back, and
    /// no time counts that somebody has for that.
    pub(super) fn set_answers(&mut self, now: Now, answers: bool) {
        if !matches!(self.role, Role::Leads(_)) {
            return;
        }
        if !answers {
            self.silent_since.get_or_insert(now);
            return;
        }
        let Some(since) = self.silent_since.take() else { return };
        for no in self.sessions.numbers() {
            self.forgive_silence(now, no, since);
        }
    }

    /// The time since `since` does not count for a lost session. One that is expected back is so from now on.
    fn forgive_silence(&mut self, now: Now, no: SessionNo, since: Now) {
        let Some(session) = self.sessions.get_mut(no) else { return };
        if let Some(lost) = &mut session.lost {
            let silence = now.mono.saturating_duration_since(since.mono.max(lost.at.mono));
            lost.at = Now { mono: lost.at.mono + silence, wall: lost.at.wall + silence };
        }
        let since = session.lost.map_or(now, |lost| lost.at).mono;
        match session.state {
            SessionState::Grace | SessionState::Replaced => self.set_grace(no, since + self.grace_of(no)),
            SessionState::Remote => {
                self.timers.set(Timer::Orphan(no), now.mono + self.config.grace.min(ADOPTION));
            }
            SessionState::Connected | SessionState::Retired | SessionState::Gone => {}
        }
        self.touch(no);
    }

    /// Whether nobody can be told anything.
    pub(super) fn is_silent(&self) -> bool {
        self.silent_since.is_some()
    }

    /// What a follower leaves to the leader: sessions in whose place their successors serve are not needed any more.
    fn retire_superseded(&mut self, now: Now) {
        for no in self.sessions.numbers() {
            let Some(session) = self.sessions.get(no) else { continue };
            if session.state == SessionState::Replaced {
                self.retire_if_idle(now, no);
            } else if !session.predecessors.is_empty() {
                for answered in self.membership.answered(&session.members) {
                    self.member_answered(now, &answered);
                }
            }
        }
    }

    /// A session did not return to the new leader in time, so it is lost from now on.
    pub(super) fn orphan_over(&mut self, now: Now, no: SessionNo) {
        if self.sessions.get(no).is_none_or(|session| session.state != SessionState::Remote) {
            return;
        }
        if self.is_silent() {
            return self.timers.set(Timer::Orphan(no), now.mono + STORE_RETRY);
        }
        self.advance(now, no, SessionEvent::Lost);
        // Nothing was suspended while it was expected back. Who came to its addresses meanwhile has them now.
        let Some(session) = self.sessions.get(no) else { return };
        for ip in self.membership.addresses(&session.members) {
            if let Some(other) = self.sessions.connected_from(ip).map(|other| other.no) {
                self.comes_to(ip, other);
            }
        }
    }

    /// This replica follows from now on.
    pub(super) fn follow(&mut self, now: Now, leader: Option<Term>) {
        let was = std::mem::replace(&mut self.role, Role::Follows(leader));
        let silent_since = self.silent_since.take();
        if was.leads() {
            self.step_down(now);
        }
        if leader.is_none() {
            self.led_until.get_or_insert(silent_since.unwrap_or(now).wall);
            return;
        }
        self.led_until = None;
        self.trust_records();
    }

    /// Lets members serve that were restored from records that are too old, because there is a leader now: one that had
    /// found the records stale would have said so in the marks.
    pub(super) fn trust_records(&mut self) {
        if !std::mem::take(&mut self.is_stale) {
            return;
        }
        for no in self.sessions.numbers() {
            let Some(session) = self.sessions.get(no) else { continue };
            if session.state.is_bound() {
                let members: Vec<_> = session.members.iter().collect();
                self.membership.vouch_for(&members);
            }
        }
    }

    /// Forgets what only a leader knows. The caller keeps or closes the connections, and passes everything that the
    /// store holds in next, so that this replica serves what the records say.
    fn step_down(&mut self, now: Now) {
        for no in self.sessions.numbers() {
            self.drop_verdicts(no);
        }
        self.abandon_resumes();
        self.auth_backoff = Default::default();
        self.connections = Default::default();
        self.subscriptions = Default::default();
        self.tests.abandon();
        self.commits.abandon();
        self.abandon_marks();
        self.timers.cancel_all(|timer| !matches!(timer, Timer::Drain(_)));
        for no in self.sessions.numbers() {
            let Some(session) = self.sessions.get_mut(no) else { continue };
            session.conn = None;
            session.is_rebound = session.marks.peer.is_some();
            session.stage = Stage::default();
            session.pending = None;
            session.waiting.clear();
            session.has_new_kin = false;
            self.sessions.count_stage(no);
            let Some(session) = self.sessions.get(no) else { continue };
            let event = match session.state {
                SessionState::Retired => continue,
                _ if session.revision == 0 => SessionEvent::Ended,
                SessionState::Connected => SessionEvent::Followed,
                _ => continue,
            };
            self.advance(now, no, event);
        }
        for no in self.sessions.numbers() {
            let orphaned =
                |session: &&Session| session.state == SessionState::Replaced && session.replaced_by.is_none();
            if self.sessions.get(no).filter(orphaned).is_some() {
                self.advance(now, no, SessionEvent::Followed);
            }
        }
    }
}
