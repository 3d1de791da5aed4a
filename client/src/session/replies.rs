//! What each reply means.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::visibility::Drain;
use super::{Expect, Known, PendingReply, Refused, Session, State};
use crate::backoff::Backoff;
use crate::batch_run::{Blame, Failure, checks_set, outcome_ids, owner_named_by};
use crate::event::{Cause, Event};
use crate::intent::RouteKey;
use crate::plan::{After, Applied, Batch, Dialect};
use crate::protocol::report::SessionInfo;
use crate::protocol::{Refusal, Reply, Request, RouteId, SessionId};

/// A longer name of a cluster is none.
const MAX_CLUSTER_ID: usize = 256;

impl Session {
    pub(super) fn answer(&mut self, reply: Reply, now: Instant) {
        let Some(PendingReply { expect, command, .. }) = self.outstanding.pop_front() else {
            return self.lose(Cause::Unexpected { command: "", reply: reply.redacted() }, now);
        };
        match (expect, reply) {
            // Replies come in order, so this one answers CLIENT_SHUTDOWN, whatever it says.
            (Expect::Shutdown, _) => {
                self.left = true;
                self.stop();
            }
            (Expect::Ignore, _) => self.pump(now),
            (_, _) if matches!(self.state, State::Leaving { .. }) => {}
            (Expect::Register, Reply::Registered(id)) => self.registered(id, now),
            (Expect::Register, Reply::Error(refusal)) => self.lose(Cause::Refused { command, refusal }, now),
            (Expect::Reconnect, Reply::Ok) => {
                self.bound(true, now);
                self.enter(State::Resuming);
                self.send(Request::ConfigRollback, Expect::Rollback, now);
            }
            (_, Reply::Error(Refusal::SessionReplaced)) => self.go_dormant(now),
            (Expect::Reconnect, Reply::Reregister) => self.register(now),
            (Expect::Reconnect, Reply::Error(refusal)) => self.not_resumed(refusal, now),
            (_, Reply::Error(refusal @ (Refusal::NoSession | Refusal::SessionNotFound))) => {
                self.session_lost(command, refusal, now);
            }
            (Expect::Call(ticket), reply) => self.call_answered(ticket, reply, now),
            (Expect::Drain(on), reply) => self.drain_answered(on, command, &reply, now),
            (Expect::Maintain, reply) => self.maintenance_answered(command, &reply, now),
            (Expect::Maintained, reply) => self.maintenance_status_answered(&reply, now),
            (Expect::Subscribe(kind), reply) => self.subscription_answered(kind, command, &reply, now),
            (Expect::Watch(id), reply) => self.watch_answered(id, &reply, now),
            // A repair that is refused is tried again after the next keepalive.
            (Expect::Repair, _) => self.pump(now),
            (Expect::Rollback, Reply::Ok) => self.rolled_back(now),
            (Expect::Info, Reply::SessionInfo(info)) => self.informed(&info, now),
            // A server that does not even have this command is not ours.
            (Expect::Info, Reply::Error(Refusal::UnknownCommand(_))) => {
                self.informed(&SessionInfo::default(), now);
            }
            (Expect::List { revision }, Reply::RouteList(entries)) => {
                self.rebuilt(Applied::from_list(&entries), revision, now);
            }
            // Too long to be listed: a new session replaces this one without a gap.
            (Expect::List { .. }, _) => self.register(now),
            (Expect::Stage(step), reply) => self.staged(step, command, &reply, now),
            (Expect::Apply, Reply::Ok) => self.applied(now),
            (Expect::Apply, Reply::Error(refusal)) => self.apply_refused(&refusal, now),
            (Expect::Ping, Reply::Pong) => {
                self.link_backoff.reset();
                self.converge(now);
            }
            (_, Reply::Error(refusal)) => self.lose(Cause::Refused { command, refusal }, now),
            (_, reply) => self.lose(Cause::Unexpected { command, reply: reply.redacted() }, now),
        }
    }

    /// Any refusal means a new session ([PROTOCOL section 2](crate::spec::protocol#2-sessions)), with two exceptions: an
    /// unavailable store says nothing about the session, and a replaced client registers only when the registry no longer
    /// knows the session.
    fn not_resumed(&mut self, refusal: Refusal, now: Instant) {
        match refusal {
            Refusal::NoSession | Refusal::SessionNotFound => self.register(now),
            _ if self.replaced => self.go_dormant(now),
            Refusal::StoreUnavailable => self.lose(Cause::Refused { command: "RECONNECT", refusal }, now),
            _ => self.register(now),
        }
    }

    fn registered(&mut self, id: SessionId, now: Instant) {
        self.known = Some(Known {
            id,
            dialect: None,
            cluster: None,
            revision: None,
            applied: Applied::default(),
            in_doubt: None,
            drain: Drain::Off,
            maintained: BTreeMap::new(),
            is_uncertain: false,
            subscribed: BTreeSet::new(),
        });
        self.bound(false, now);
        self.send(Request::SessionInfo, Expect::Info, now);
    }

    /// The stage is empty: of a resumed session, or after a refusal.
    fn rolled_back(&mut self, now: Instant) {
        match &self.state {
            State::Syncing(sync) => {
                let failures = sync.failures().to_vec();
                self.rolled_back_maintenance();
                failures.into_iter().for_each(|failure| self.blame(failure, now));
                let in_doubt = |known: &Known| known.in_doubt.is_some() && known.revision.is_some();
                if self.known.as_ref().is_some_and(in_doubt) {
                    self.enter(State::Resuming);
                    return self.send(Request::SessionInfo, Expect::Info, now);
                }
                self.converge(now);
            }
            _ => self.send(Request::SessionInfo, Expect::Info, now),
        }
    }

    /// SESSION_INFO tells which server this is, and whether its revision is the one we expect.
    fn informed(&mut self, info: &SessionInfo, now: Instant) {
        let resumed = matches!(self.state, State::Resuming);
        let Some(known) = &mut self.known else { return };
        known.dialect = Some(Dialect::of(info));
        known.cluster =
            info.cluster_id.as_ref().filter(|id| id.len() <= MAX_CLUSTER_ID).map(|id| id.as_str().into());
        self.version += 1;
        self.update_visibility(now);
        if let Some(siblings) = info.siblings.filter(|siblings| *siblings > 0 && !resumed) {
            let (registry, service) = (self.registry(), self.registration.service.clone());
            self.emit(Event::Joined { registry, service, siblings });
        }
        let Some(known) = &mut self.known else { return };
        if !resumed {
            known.revision = info.revision;
            return self.converge(now);
        }
        // Until it is clear what is in force, no revision is the right one: the connection may end again.
        let (expected, in_doubt) = (known.revision.take(), known.in_doubt.take());
        match (expected, info.revision, in_doubt) {
            (Some(expected), Some(actual), _) if actual == expected => {
                known.revision = info.revision;
                self.converge(now);
            }
            (Some(expected), Some(actual), Some((batch, ids))) if actual == expected + 1 => {
                known.revision = info.revision;
                self.commit(&batch, &ids);
                self.converge(now);
            }
            (_, revision, _) => {
                let list = Request::RouteList { compressed: false, after: None };
                self.send(list, Expect::List { revision }, now);
            }
        }
    }

    /// Somebody else has changed the session: only the ids of its routes are known, so that all are replaced.
    fn rebuilt(&mut self, applied: Applied, revision: Option<u64>, now: Instant) {
        if let Some(known) = &mut self.known {
            (known.applied, known.revision) = (applied, revision);
        }
        self.converge(now);
    }

    fn staged(&mut self, step: usize, command: &'static str, reply: &Reply, now: Instant) {
        let (State::Syncing(sync), Some(known)) = (&mut self.state, &self.known) else { return };
        let maintained = sync.maintained_by(step).filter(|_| *reply == Reply::MaintenanceAck);
        match sync.staged(step, reply, &known.applied) {
            Ok(()) => {
                self.staged_maintenance(maintained, now);
                self.pump(now);
            }
            Err(_) => self.lose(Cause::Unexpected { command, reply: reply.redacted() }, now),
        }
    }

    fn applied(&mut self, now: Instant) {
        let State::Syncing(sync) = &self.state else { return };
        let (batch, ids) = sync.as_ref().clone().outcome();
        if let Some(revision) = self.known.as_mut().and_then(|known| known.revision.as_mut()) {
            *revision += 1;
        }
        self.commit(&batch, &ids);
        self.converge(now);
    }

    /// The batch is in force.
    fn commit(&mut self, batch: &Batch, ids: &BTreeMap<RouteKey, RouteId>) {
        self.apply_backoff.reset();
        (self.apply_retry_at, self.apply_refusal) = (None, None);
        self.version += 1;
        let Some(known) = &mut self.known else { return };
        let mut events = Vec::new();
        for (id, after) in outcome_ids(batch, ids) {
            match after {
                After::Absent(_) if known.applied.is_provisional(id) => {}
                After::Present { provisional: true, .. } => {}
                After::Absent(_) => {
                    events.push(Event::RouteRemoved { key: known.applied.key_of(id).cloned(), id });
                }
                After::Present { at, key, route, .. } => {
                    let (key, route) = (key.clone(), route.clone());
                    let check = checks_set(batch, at).then(|| Event::HealthCheckSet { key: key.clone(), id });
                    self.refused.remove(&key);
                    events.push(match ids.contains_key(&key) {
                        true => Event::RouteAdded { key, id, route },
                        false => Event::RouteUpdated { key, id, route },
                    });
                    events.extend(check);
                }
            }
        }
        known.applied.commit(batch, ids);
        let (routes, revision) = (known.applied.len(), known.revision);
        known.maintained.retain(|id, _| known.applied.has(*id));
        if !events.is_empty() {
            events.push(Event::ConfigApplied { routes, revision });
        }
        events.into_iter().for_each(|event| self.emit(event));
        self.committed_maintenance();
    }

    fn apply_refused(&mut self, refusal: &Refusal, now: Instant) {
        if let (State::Syncing(sync), Some(known)) = (&mut self.state, &mut self.known) {
            if *refusal == Refusal::StoreUnavailable {
                // The server may only have stopped waiting, and the apply still happen: the revision will tell.
                known.in_doubt = Some(sync.as_ref().clone().outcome());
            }
            sync.apply_refused(refusal, &known.applied);
        }
        self.pump(now);
    }

    /// Schedules the next try of what was refused: of one route where the refusal names one
    /// ([SEMANTICS section 1](crate::spec::semantics#1-claims-pools-members)), else of the whole configuration.
    fn blame(&mut self, Failure { blame, refusal }: Failure, now: Instant) {
        match blame {
            Blame::Missing(id) => {
                if let Some(known) = &mut self.known {
                    known.applied.forget(id);
                }
            }
            Blame::Command(command) => {
                if let Some(dialect) = self.known.as_mut().and_then(|known| known.dialect.as_mut()) {
                    dialect.learn_lack(command);
                }
            }
            Blame::Route(key) => {
                let (min, max) = (self.timing.reconnect_min, self.timing.reconnect_max);
                let entry = self.refused.entry(key.clone()).or_insert_with(|| Refused {
                    refusal: refusal.clone(),
                    backoff: Backoff::new(min, max, self.rng.u64(..)),
                    retry_at: now,
                });
                let delay = entry.backoff.next().wait;
                (entry.retry_at, entry.refusal) = (now + delay, refusal.clone());
                let owner = owner_named_by(&refusal);
                self.emit(Event::RouteRefused { key, refusal, owner, delay });
            }
            Blame::Batch => {
                let delay = self.apply_backoff.next().wait;
                self.apply_retry_at = Some(now + delay);
                self.apply_refusal = Some(refusal.clone());
                self.emit(Event::ApplyRefused { refusal, delay });
            }
        }
    }
}
