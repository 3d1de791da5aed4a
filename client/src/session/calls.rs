//! Calls and subscriptions of handles: one at a time, when no other command is outstanding. Each call is answered, also
//! when the session ends.

use std::time::Instant;

use super::{Effect, Expect, MAX_CALLS, Session, State, Ticket};
use crate::error::CallError;
use crate::event::{Cause, Event};
use crate::plan::Dialect;
use crate::protocol::{EventKind, Refusal, Reply, Request, Scheme};

impl Session {
    /// A call of a handle.
    pub(crate) fn call(&mut self, ticket: Ticket, request: Request, now: Instant) {
        let error = match &self.state {
            State::Live { .. } | State::Syncing(_) if self.calls.len() >= MAX_CALLS => CallError::TooMany,
            State::Live { .. } | State::Syncing(_) => match self.forbidden(&request) {
                Some(error) => error,
                None => {
                    self.calls.push_back((ticket, request));
                    return self.pump(now);
                }
            },
            State::Stopped | State::Leaving { .. } => CallError::Stopped,
            _ => CallError::NoSession,
        };
        self.effects.push(Effect::Answer(ticket, Err(error)));
    }

    /// Why a request must not be sent to this registry; `None`: it may.
    fn forbidden(&self, request: &Request) -> Option<CallError> {
        match (self.dialect(), request) {
            // A URL that it does not understand crashes it (PROTOCOL section 8, 4).
            (Dialect::Reference, Request::BackendTest(url)) if url.scheme() == Scheme::H2c => {
                Some(CallError::Unsupported("BACKEND_TEST of h2c"))
            }
            (dialect, request) if dialect.lacks(request.name()) => {
                Some(CallError::Unsupported(request.name()))
            }
            (_, request) if !self.fits(request) => Some(CallError::Refused(Refusal::LineTooLong)),
            _ => None,
        }
    }

    pub(super) fn call_answered(&mut self, ticket: Ticket, reply: Reply, now: Instant) {
        let result = match reply {
            Reply::Error(Refusal::UnknownCommand(name)) => {
                let known = Request::name_of(&name);
                Err(known.map_or(CallError::Refused(Refusal::UnknownCommand(name)), CallError::Unsupported))
            }
            Reply::Error(refusal) => Err(CallError::Refused(refusal)),
            reply => Ok(reply),
        };
        self.effects.push(Effect::Answer(ticket, result));
        self.pump(now);
    }

    pub(super) fn fail_calls(&mut self, error: &CallError) {
        let mut tickets: Vec<_> = self.calls.drain(..).map(|(ticket, _)| ticket).collect();
        for sent in &mut self.outstanding {
            if let Expect::Call(ticket) = sent.expect {
                tickets.push(ticket);
                sent.expect = Expect::Ignore;
            }
        }
        self.effects.extend(tickets.into_iter().map(|ticket| Effect::Answer(ticket, Err(error.clone()))));
    }

    /// These events of the registry's are wanted from now on, in every session.
    pub(crate) fn subscribe(&mut self, kind: EventKind, on: bool, now: Instant) {
        if on {
            self.subscriptions.insert(kind);
        } else {
            self.subscriptions.remove(&kind);
        }
        self.version += 1;
        self.pump(now);
    }

    pub(super) fn next_subscription(&self) -> Option<(Request, Expect)> {
        let known = self.known.as_ref()?;
        let mut missing = self.subscriptions.difference(&known.subscribed);
        if let Some(kind) = missing.find(|_| !self.dialect().lacks("SUBSCRIBE")) {
            return Some((Request::Subscribe(*kind), Expect::Subscribe(*kind)));
        }
        let kind = known.subscribed.difference(&self.subscriptions).next()?;
        Some((Request::Unsubscribe(*kind), Expect::Subscribe(*kind)))
    }

    pub(super) fn subscription_answered(
        &mut self,
        kind: EventKind,
        command: &'static str,
        reply: &Reply,
        now: Instant,
    ) {
        let registry = self.registry();
        let Some(known) = &mut self.known else { return };
        match reply {
            Reply::SubscribeOk => drop(known.subscribed.insert(kind)),
            Reply::UnsubscribeOk => drop(known.subscribed.remove(&kind)),
            Reply::Error(refusal) => {
                // Asking again would bring the same refusal: drop the subscription and emit the refusal.
                known.subscribed.remove(&kind);
                self.subscriptions.remove(&kind);
                let cause = Cause::Refused { command, refusal: refusal.clone() };
                self.emit(Event::Error { registry, cause });
            }
            reply => return self.lose(Cause::Unexpected { command, reply: reply.redacted() }, now),
        }
        self.version += 1;
        self.pump(now);
    }
}
