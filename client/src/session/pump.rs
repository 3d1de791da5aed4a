//! Decides what to send next; has the one function that changes the state.

use std::collections::BTreeSet;
use std::time::Instant;

use super::{Effect, Expect, Known, PendingReply, Session, State};
use crate::batch_run::{BatchRun, Next};
use crate::error::CallError;
use crate::event::Event;
use crate::plan::{Batch, Dialect, Unsupported, plan};
use crate::protocol::{Command, Refusal, Reply, Request, SessionRef};

impl Session {
    /// Plans again, and begins to stage the first batch if there is one.
    pub(super) fn converge(&mut self, now: Instant) {
        let ping_at = now + self.timing.keepalive_interval;
        match self.next_batch(now) {
            Some(batch) => self.enter(State::Syncing(Box::new(BatchRun::new(batch)))),
            None => self.enter(State::Live { ping_at }),
        }
        // What is in force now may confirm a maintenance request.
        self.report_maintenance(now);
        self.pump(now);
    }

    pub(super) fn next_batch(&mut self, now: Instant) -> Option<Batch> {
        if self.apply_retry_at.is_some_and(|until| now < until) {
            return None;
        }
        self.apply_retry_at = None;
        let Known { applied, dialect: Some(dialect), .. } = self.known.as_ref()? else { return None };
        let waiting = self.refused.iter().filter(|(_, refused)| now < refused.retry_at);
        let held: BTreeSet<_> = waiting.map(|(key, _)| key.clone()).collect();
        let plan = plan(self.desired(), applied, &held, dialect);
        for note in plan.unsupported {
            if self.reported_unsupported.insert(note.clone()) {
                let Unsupported { key, what } = note;
                self.effects.push(Effect::Event(Event::Unsupported { key, what }));
            }
        }
        let mut batch = plan.batches.into_iter().next();
        self.start_in_maintenance(&mut batch);
        if batch.is_none() {
            // A route whose retry is due and that needs no change is no longer refused.
            self.refused.retain(|_, refused| now < refused.retry_at);
        }
        batch
    }

    /// Sends what may be sent now.
    pub(super) fn pump(&mut self, now: Instant) {
        loop {
            let waiting = self.outstanding.len();
            let may_drain = self.waits_only_for_tests();
            match &mut self.state {
                State::Syncing(sync) => {
                    if waiting >= self.known.as_ref().map_or(1, Known::window) {
                        return;
                    }
                    let Some((next, request)) = sync.next(waiting == 0) else { return };
                    match next {
                        Next::Stage(step) if !self.fits(&request) => self.too_long(step),
                        next => self.send(request, next.into(), now),
                    }
                }
                State::Live { ping_at } if waiting == 0 => {
                    let ping_at = *ping_at;
                    if let Some(batch) = self.next_batch(now) {
                        self.enter(State::Syncing(Box::new(BatchRun::new(batch))));
                    } else if let Some((request, expect)) = self.next_chore(now) {
                        self.send(request, expect, now);
                    } else if let Some((ticket, request)) = self.calls.pop_front() {
                        self.send(request, Expect::Call(ticket), now);
                    } else if ping_at <= now {
                        self.send(Request::Ping, Expect::Ping, now);
                    } else if let Some((request, expect)) = self.next_watch(now) {
                        self.send(request, expect, now);
                    } else {
                        return;
                    }
                }
                State::Live { .. } if may_drain => match self.next_drain() {
                    Some((request, expect)) => self.send(request, expect, now),
                    None => return,
                },
                _ => return,
            }
        }
    }

    /// Whether the only replies that are due are those to BACKEND_TESTs. A server of ours carries out what comes behind
    /// them at once ([PROTOCOL section 1](crate::spec::protocol#1-framing)), so a drain need not wait for a slow backend.
    fn waits_only_for_tests(&self) -> bool {
        let is_ours = matches!(self.dialect(), Dialect::Ours { .. });
        is_ours && self.outstanding.iter().all(|sent| sent.command == "BACKEND_TEST")
    }

    /// Whether a request fits into a line of this session.
    pub(super) fn fits(&self, request: &Request) -> bool {
        Command::Request(self.own_id(), request.clone()).fits()
    }

    /// A step whose line would be too long is not sent, and is treated as refused for that reason.
    fn too_long(&mut self, step: usize) {
        if let (State::Syncing(sync), Some(known)) = (&mut self.state, &self.known) {
            // A refusal is a reply to every command.
            drop(sync.staged(step, &Reply::Error(Refusal::LineTooLong), &known.applied));
        }
    }

    fn own_id(&self) -> SessionRef {
        match &self.known {
            Some(known) => SessionRef::Id(known.id.clone()),
            None => SessionRef::Own,
        }
    }

    pub(super) fn send(&mut self, request: Request, expect: Expect, now: Instant) {
        let (session, name) = (self.own_id(), request.name());
        self.transmit(Command::Request(session, request), name, expect, now);
    }

    pub(super) fn transmit(&mut self, command: Command, name: &'static str, expect: Expect, now: Instant) {
        let deadline = now + self.timing.request_timeout;
        self.outstanding.push_back(PendingReply { expect, command: name, deadline });
        self.effects.push(Effect::Send(command));
    }

    /// The one place where the state changes.
    pub(super) fn enter(&mut self, state: State) {
        self.version += 1;
        self.state = state;
    }

    /// Tells the listeners. What they are told of is a change of the status as well.
    pub(super) fn emit(&mut self, event: Event) {
        self.version += 1;
        self.effects.push(Effect::Event(event));
    }

    /// Ignores the replies that are still to come: they belong to a session that is no longer ours.
    pub(super) fn ignore_outstanding(&mut self) {
        self.fail_calls(&CallError::NoSession);
        self.outstanding.iter_mut().for_each(|sent| sent.expect = Expect::Ignore);
    }
}

impl From<Next> for Expect {
    fn from(next: Next) -> Self {
        match next {
            Next::Stage(step) => Expect::Stage(step),
            Next::Apply => Expect::Apply,
            Next::Rollback => Expect::Rollback,
        }
    }
}
