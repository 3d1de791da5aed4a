//! The connection, and the session that is bound to it: how one is got, lost, taken away and given up.

use std::time::Instant;

use super::{Effect, Expect, LIVED, Session, State};
use crate::error::CallError;
use crate::event::{Cause, Event, Registry, Retry};
use crate::protocol::{Command, Refusal, Registration};

impl Session {
    pub(super) fn register(&mut self, now: Instant) {
        self.forget_requests();
        self.known = None;
        self.refused.clear();
        self.noted.clear();
        (self.hold_until, self.apply_refusal) = (None, None);
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
            // It has just been told. Asking at once, again and again, helps nobody.
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
            self.doubt_what_does_not_survive();
        }
        let registry = self.registry();
        let event = match std::mem::replace(&mut self.ever_bound, true) {
            false => Event::Connected { registry },
            true => Event::Reconnected { registry, resumed },
        };
        self.told_bound = true;
        self.tell(event);
    }

    /// No session is bound to the connection any longer.
    fn unbind(&mut self, now: Instant) {
        let Some(since) = self.link.as_mut().and_then(|link| link.bound_since.take()) else { return };
        if now.saturating_duration_since(since) >= LIVED {
            self.link_backoff.reset();
        }
    }

    /// Somebody else has our name. We say so once, and wait.
    pub(super) fn go_dormant(&mut self, now: Instant) {
        self.ignore_outstanding();
        self.unbind(now);
        if !std::mem::replace(&mut self.replaced, true) {
            let Registration { service, instance, .. } = self.registration.clone();
            self.told_bound = false;
            self.tell(Event::Replaced { registry: self.registry(), service, instance });
        }
        let ask_at = now + self.ask_backoff.next().wait;
        self.enter(State::Dormant { ask_at });
    }

    /// The connection is gone, or is given up, or could not be made.
    pub(super) fn lose(&mut self, cause: Cause, now: Instant) {
        if matches!(self.state, State::Leaving { .. }) {
            return self.stop();
        }
        if cause.blames_the_peer() {
            self.tell(Event::Error { registry: self.registry(), cause: cause.clone() });
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
            if std::mem::take(&mut self.told_bound) {
                let registry = Registry { name: self.name.clone(), peer: Some(link.peer) };
                self.tell(Event::Disconnected { registry, cause: cause.clone() });
            }
        }
        self.cause = Some(cause.clone());
        let delay = self.link_backoff.next();
        let retry = Retry { registry: self.registry(), attempt: delay.attempt, delay: delay.wait, cause };
        self.tell(if delay.at_cap { Event::ExtendedRetry(retry) } else { Event::Retrying(retry) });
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
