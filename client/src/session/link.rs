//! The life of a connection and of the session bound to it: connect, register, resume, lose, stop.

use std::time::Instant;

use super::{Effect, Expect, STABLE_AFTER, Session, State};
use crate::error::CallError;
use crate::event::{Cause, Event, Registry, Retry};
use crate::protocol::{Command, Refusal, Registration};

impl Session {
    pub(super) fn register(&mut self, now: Instant) {
        self.forget_requests();
        self.known = None;
        self.refused.clear();
        self.reported_unsupported.clear();
        (self.apply_retry_at, self.apply_refusal) = (None, None);
        self.unbind(now);
        if let Some(link) = &mut self.link {
            link.registered = true;
        }
        self.enter(State::Registering);
        let command = Command::Register(self.registration.clone());
        if !command.fits() {
            let refusal = Refusal::LineTooLong;
            return self.lose(Cause::Refused { command: "REGISTER", refusal }, now);
        }
        self.transmit(command, "REGISTER", Expect::Register, now);
    }

    pub(super) fn reconnect(&mut self, now: Instant) {
        if let Some(known) = &self.known {
            self.transmit(Command::Reconnect(known.id.clone()), "RECONNECT", Expect::Reconnect, now);
        }
    }

    /// The server does not know the session: a new one, and everything again.
    pub(super) fn session_lost(&mut self, command: &'static str, refusal: Refusal, now: Instant) {
        self.ignore_outstanding();
        let again = self.link.as_ref().is_some_and(|link| link.registered);
        if again {
            // It has just answered REGISTER. Registering again at once would only repeat that.
            self.known = None;
            return self.lose(Cause::Refused { command, refusal }, now);
        }
        self.replaced = false;
        self.register(now);
    }

    /// A session is bound to the connection.
    pub(super) fn bound(&mut self, resumed: bool, now: Instant) {
        if let Some(link) = &mut self.link {
            link.bound_since = Some(now);
        }
        (self.replaced, self.cause) = (false, None);
        self.ask_backoff.reset();
        if resumed {
            self.mark_volatile_state_unknown();
        }
        let registry = self.registry();
        let event = match std::mem::replace(&mut self.ever_bound, true) {
            false => Event::Connected { registry },
            true => Event::Reconnected { registry, resumed },
        };
        self.connection_reported = true;
        self.emit(event);
    }

    /// No session is bound to the connection any longer.
    fn unbind(&mut self, now: Instant) {
        let Some(since) = self.link.as_mut().and_then(|link| link.bound_since.take()) else { return };
        if now.saturating_duration_since(since) >= STABLE_AFTER {
            self.link_backoff.reset();
        }
    }

    /// Another process has registered under our name: emit that once, and ask now and then whether the name is free.
    pub(super) fn go_dormant(&mut self, now: Instant) {
        self.ignore_outstanding();
        self.unbind(now);
        if !std::mem::replace(&mut self.replaced, true) {
            let Registration { service, instance, .. } = self.registration.clone();
            self.connection_reported = false;
            self.emit(Event::Replaced { registry: self.registry(), service, instance });
        }
        let ask_at = now + self.ask_backoff.next().wait;
        self.enter(State::Dormant { ask_at });
    }

    /// The connection has ended, is given up, or could not be made: schedule the next attempt.
    pub(super) fn lose(&mut self, cause: Cause, now: Instant) {
        if matches!(self.state, State::Leaving { .. }) {
            return self.stop();
        }
        if cause.blames_the_peer() {
            self.emit(Event::Error { registry: self.registry(), cause: cause.clone() });
        }
        let confused = matches!(cause, Cause::Unexpected { .. } | Cause::LineTooLong);
        if confused && matches!(self.state, State::Resuming) {
            // It would come again: the next try begins afresh.
            self.known = None;
        }
        if let (State::Syncing(sync), Some(known)) = (&self.state, &mut self.known)
            && sync.is_applying()
        {
            known.in_doubt = Some(sync.as_ref().clone().outcome());
        }
        self.fail_calls(&CallError::NoSession);
        self.outstanding.clear();
        self.forget_requests();
        self.unbind(now);
        if let Some(link) = self.link.take() {
            self.effects.push(Effect::Hangup);
            // Also where the session had ended before, and the next one did not come about.
            if std::mem::take(&mut self.connection_reported) {
                let registry = Registry { name: self.name.clone(), peer: Some(link.peer) };
                self.emit(Event::Disconnected { registry, cause: cause.clone() });
            }
        }
        self.cause = Some(cause.clone());
        let delay = self.link_backoff.next();
        let retry = Retry { registry: self.registry(), attempt: delay.attempt, delay: delay.wait, cause };
        self.emit(if delay.at_cap { Event::ExtendedRetry(retry) } else { Event::Retrying(retry) });
        self.enter(State::Disconnected { retry_at: now + delay.wait });
    }

    pub(super) fn stop(&mut self) {
        self.fail_calls(&CallError::Stopped);
        self.outstanding.clear();
        self.link = None;
        self.effects.push(Effect::Hangup);
        self.enter(State::Stopped);
    }
}
