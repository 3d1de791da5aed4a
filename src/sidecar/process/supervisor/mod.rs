//! What to do with the wrapped command, as a state machine: dependencies, steps before the start, start,
//! restarts, a schedule, updates in place, and the stop in order (SEMANTICS section 10, "Stop").
//!
//! ```text
//! Waiting -> Step -> Starting -> Running --stop--> Draining -> Leaving -> Stopping -> Done
//!             ^         ^         |   | it ends by itself
//!             |         +- Pausing <-- Withdrawing --> Done
//!             +- Halting <- Covering <+ an update is there
//! ```
//!
//! It decides and does nothing else: each input returns the effects to carry out, in their order. What is to
//! be seen from outside meets in one value, [`Wanted`]; how that comes true is not known here.

mod activity;
mod notice;
mod policy;
#[cfg(test)]
mod tests;
mod update;

use std::time::{Duration, Instant};

pub(crate) use activity::Phase;
pub(crate) use notice::Notice;
pub(crate) use policy::{Policy, UpdatePolicy};

use crate::client::Wanted;

use crate::sidecar::process::reaper::Exit;
use update::{Check, Updating};

/// How long the registries may take to let us go. They are given 500 ms each (SEMANTICS section 8); this is
/// for the time around it.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);
/// After a step has been asked to end because its time is over.
const STEP_KILL_DELAY: Duration = Duration::from_secs(10);
/// What `timeout` of the core utilities exits with.
const TIMED_OUT: u8 = 124;
/// The dependencies did not come.
const UNAVAILABLE: u8 = 69;

/// What a step belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// PRE_START
    PreStart,
    /// UPDATE_COMMAND
    Update,
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// The beginning, once.
    Begin,
    /// All dependencies accept connections.
    DependenciesReady,
    /// The step has ended; one that could not be started counts as ended with 127.
    StepEnded(Exit),
    /// The command runs.
    Spawned,
    /// The command cannot be started: 126 or 127.
    NotSpawned(u8),
    /// The application answers.
    Ready,
    /// The command has ended.
    Exited(Exit),
    /// What was wanted is so, as far as it can be.
    Settled(Wanted),
    /// UPDATE_CHECK has ended: 0 means that there is an update. One that could not be started has ended with
    /// 127.
    CheckEnded(Exit),
    /// A signal that asks for the stop.
    Stop,
    /// The deadline may be over.
    Elapsed,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Wait for the dependencies and report [`Input::DependenciesReady`].
    AwaitDependencies,
    /// Run the step with this index and report [`Input::StepEnded`].
    RunStep(Work, usize),
    /// Ask the step to end.
    EndStep,
    /// SIGKILL to the step and its group.
    KillStep,
    /// Start the command and report [`Input::Spawned`] or [`Input::NotSpawned`], then [`Input::Exited`].
    Start,
    /// Wait until the application answers and report [`Input::Ready`]. Obsolete when the command ends.
    AwaitReady,
    /// Let this be seen and report [`Input::Settled`]: of maintenance when the proxy has confirmed it and nothing
    /// is in flight any more.
    Publish(Wanted),
    /// Run UPDATE_CHECK and report [`Input::CheckEnded`].
    RunCheck,
    /// SIGKILL to the check and its group. Its end is not waited for.
    EndCheck,
    /// Send the command its stop signal.
    StopCommand,
    /// SIGKILL to the command and its group.
    KillCommand,
    /// Tell people.
    Say(Notice),
    /// End with this code. The last effect there is.
    Exit(u8),
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    /// For dependencies.
    Waiting {
        until: Instant,
    },
    Step {
        work: Work,
        index: usize,
        until: Option<Instant>,
    },
    EndingStep {
        work: Work,
        index: usize,
        timed_out: bool,
        kill_at: Option<Instant>,
    },
    Starting,
    Running {
        since: Instant,
        ready: bool,
        /// An update is over when it is ready; until then it has this long.
        patience: Option<Instant>,
    },
    /// There is an update: nobody is to see the command when it stops.
    Covering {
        until: Instant,
    },
    /// The command has been asked to end for an update.
    Halting {
        kill_at: Option<Instant>,
    },
    Draining {
        until: Instant,
    },
    /// The command still runs, so that what arrives meanwhile is answered.
    Leaving {
        until: Instant,
        /// It has been asked to end already.
        told: bool,
    },
    Stopping {
        kill_at: Option<Instant>,
    },
    /// No command runs any more; the routes go out before anything else happens.
    Withdrawing {
        then: After,
        until: Instant,
    },
    /// Before a restart, or before the next run of a schedule.
    Pausing {
        until: Instant,
    },
    Done,
}

/// What follows once the routes are out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// The command has ended like this: end as well, start it again, or wait for its next run.
    Decide(Exit),
    /// End with this code.
    Exit(u8),
}

/// The machine. One for the life of the process.
#[derive(Debug, Clone)]
pub(crate) struct Supervisor {
    policy: Policy,
    state: State,
    wanted: Wanted,
    /// How often the stop has been asked for, and when it was first.
    stops: u32,
    asked_at: Option<Instant>,
    /// Ends in a row of which none came after a minute of health.
    crashes: u32,
    last: Option<Exit>,
    /// When the present run of a schedule was due.
    slot: Option<Instant>,
    /// UPDATE_CHECK, and the update that goes on.
    check: Check,
    updating: Option<Updating>,
    /// Updates in a row that failed.
    failed_updates: u32,
}

impl Supervisor {
    /// A machine that has not begun.
    pub(crate) fn new(policy: Policy) -> Self {
        Supervisor {
            policy,
            state: State::New,
            wanted: Wanted::Absent,
            stops: 0,
            asked_at: None,
            crashes: 0,
            last: None,
            slot: None,
            check: Check::Never,
            updating: None,
            failed_updates: 0,
        }
    }

    /// When [`Input::Elapsed`] is due, if ever.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until }
            | State::Covering { until }
            | State::Draining { until }
            | State::Leaving { until, .. }
            | State::Withdrawing { until, .. }
            | State::Pausing { until } => Some(until),
            State::Step { until, .. } => until,
            State::EndingStep { kill_at, .. } | State::Halting { kill_at } | State::Stopping { kill_at } => {
                kill_at
            }
            State::Running { patience, .. } => patience.into_iter().chain(self.check.deadline()).min(),
            State::New | State::Starting | State::Done => None,
        }
    }

    /// Takes an input and returns what to do. What comes too late or out of place changes nothing.
    pub(crate) fn on(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        let mut out = Vec::new();
        match (self.state, input) {
            (State::New, Input::Begin) => self.begin(now, &mut out),
            (State::Waiting { .. }, Input::DependenciesReady) => self.step(Work::PreStart, 0, now, &mut out),
            (State::Step { work, index, .. }, Input::StepEnded(exit)) => {
                self.step_ended(work, index, exit, now, &mut out);
            }
            (State::EndingStep { work, index, timed_out, .. }, Input::StepEnded(_)) => match timed_out {
                _ if self.stops > 0 => self.finish(0, now, &mut out),
                _ => self.step_ended(work, index, Exit::Code(TIMED_OUT), now, &mut out),
            },
            (State::Starting, Input::Spawned) => self.spawned(now, &mut out),
            (State::Starting, Input::NotSpawned(code)) => self.finish(code, now, &mut out),
            (State::Running { since, ready: false, .. }, Input::Ready) => self.ready(since, &mut out),
            (State::Running { .. }, Input::CheckEnded(exit)) => self.checked(exit, now, &mut out),
            (_, Input::Exited(exit)) => self.exited(exit, now, &mut out),
            (State::Covering { .. }, Input::Settled(Wanted::Maintenance)) => self.halt(now, &mut out),
            (State::Draining { .. }, Input::Settled(Wanted::Draining)) => self.leave(false, now, &mut out),
            (State::Leaving { told, .. }, Input::Settled(Wanted::Absent)) => {
                self.stop_command(told, &mut out);
            }
            (State::Withdrawing { then, .. }, Input::Settled(Wanted::Absent)) => {
                self.withdrawn(then, now, &mut out);
            }
            (_, Input::Stop) => self.stop(now, &mut out),
            (_, Input::Elapsed) if self.deadline().is_some_and(|due| due <= now) => {
                self.elapsed(now, &mut out);
            }
            _ => {}
        }
        out
    }

    fn begin(&mut self, now: Instant, out: &mut Vec<Effect>) {
        match self.policy.wait {
            Some(limit) => {
                self.state = State::Waiting { until: now + limit };
                out.push(Effect::AwaitDependencies);
            }
            None => self.step(Work::PreStart, 0, now, out),
        }
    }

    /// The step `index`, or the command when all are done. Who has a maintenance page shows it meanwhile.
    fn step(&mut self, work: Work, index: usize, now: Instant, out: &mut Vec<Effect>) {
        let (count, limit) = self.policy.steps_of(work);
        if index >= count {
            return self.start(now, out);
        }
        self.state = State::Step { work, index, until: limit.map(|limit| now + limit) };
        if self.policy.page {
            self.publish(Wanted::Maintenance, out);
        }
        out.push(Effect::RunStep(work, index));
    }

    fn step_ended(&mut self, work: Work, index: usize, exit: Exit, now: Instant, out: &mut Vec<Effect>) {
        if exit.is_success() {
            return self.step(work, index + 1, now, out);
        }
        if work == Work::Update {
            return self.update_failed(index, exit, now, out);
        }
        let fatal = self.policy.steps_fatal;
        out.push(Effect::Say(Notice::StepFailed { index, exit, fatal }));
        if fatal { self.finish(exit.code(), now, out) } else { self.step(work, index + 1, now, out) }
    }

    fn start(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.state = State::Starting;
        self.slot = self.policy.every.map(|_| now);
        out.push(Effect::Start);
    }

    fn spawned(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let patience = self.updating.map(|_| now + self.policy.patience);
        self.state = State::Running { since: now, ready: false, patience };
        if self.stops == 0 {
            self.schedule_check(now);
            return out.push(Effect::AwaitReady);
        }
        self.leave(false, now, out);
        if self.stops > 2 {
            self.kill(out);
        }
    }

    fn ready(&mut self, since: Instant, out: &mut Vec<Effect>) {
        self.state = State::Running { since, ready: true, patience: None };
        self.update_over(out);
        self.publish(Wanted::Live, out);
    }

    fn exited(&mut self, exit: Exit, now: Instant, out: &mut Vec<Effect>) {
        match self.state {
            State::Running { since, .. } => {
                let ran = now.saturating_duration_since(since);
                self.crashes = if ran >= Policy::HEALTHY { 0 } else { self.crashes };
                out.push(Effect::Say(Notice::Ended { exit, ran }));
                self.end_check(now, out);
                self.update_lost(exit, out);
            }
            // Whether it was asked to or not: it is out of the way.
            State::Covering { .. } | State::Halting { .. } => return self.step(Work::Update, 0, now, out),
            State::Draining { .. } | State::Leaving { .. } | State::Stopping { .. } => {}
            _ => return,
        }
        self.last = Some(exit);
        match self.state {
            // It has left already, and said so; or a third signal does not wait for that.
            State::Stopping { .. } => self.done(exit.code(), out),
            _ => self.withdraw(After::Decide(exit), now, out),
        }
    }

    /// Takes the routes out, if there are any, and goes on with `then`.
    fn withdraw(&mut self, then: After, now: Instant, out: &mut Vec<Effect>) {
        let leaving = matches!(self.state, State::Leaving { .. });
        if self.wanted == Wanted::Absent && !leaving {
            return self.withdrawn(then, now, out);
        }
        self.state = State::Withdrawing { then, until: now + LEAVE_LIMIT };
        self.publish(Wanted::Absent, out);
    }

    fn withdrawn(&mut self, then: After, now: Instant, out: &mut Vec<Effect>) {
        let exit = match then {
            After::Exit(code) => return self.done(code, out),
            After::Decide(exit) => exit,
        };
        if self.stops > 0 {
            return self.done(exit.code(), out);
        }
        if let (Some(every), Some(slot)) = (self.policy.every, self.slot) {
            let next = policy::next_slot(slot, every, now);
            if next > slot + every {
                out.push(Effect::Say(Notice::Overran { took: now.saturating_duration_since(slot), every }));
            }
            self.slot = Some(next);
            self.state = State::Pausing { until: next };
            return;
        }
        if !self.policy.restarts(exit) {
            return self.done(exit.code(), out);
        }
        let pause = self.policy.pause(self.crashes);
        self.crashes = self.crashes.saturating_add(1);
        out.push(Effect::Say(Notice::Restarting { pause }));
        self.state = State::Pausing { until: now + pause };
    }

    /// One more signal that asks for the stop: the first starts it, the second ends the drain, the third
    /// kills.
    fn stop(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if matches!(self.state, State::Done) {
            return;
        }
        self.stops = self.stops.saturating_add(1);
        let asked_at = *self.asked_at.get_or_insert(now);
        self.end_check(now, out);
        match (self.stops, self.state) {
            (1, State::New | State::Waiting { .. } | State::Pausing { .. }) => {
                self.finish(self.last.map_or(0, Exit::code), now, out);
            }
            (1, State::Step { work, index, .. }) => {
                let kill_at = self.policy.kill_after().map(|after| asked_at + after);
                self.state = State::EndingStep { work, index, timed_out: false, kill_at };
                out.push(Effect::EndStep);
            }
            (1, State::Running { .. }) if self.wanted == Wanted::Live => {
                self.state = State::Draining { until: now + self.policy.drain_limit() };
                self.publish(Wanted::Draining, out);
            }
            (1, State::Running { .. } | State::Covering { .. }) | (2, State::Draining { .. }) => {
                self.leave(false, now, out);
            }
            (1, State::Halting { .. }) => self.leave(true, now, out),
            (3.., State::Draining { .. } | State::Leaving { .. } | State::Stopping { .. }) => self.kill(out),
            (3.., State::EndingStep { .. }) => out.push(Effect::KillStep),
            (2.., State::Withdrawing { then, .. }) => self.withdrawn(then, now, out),
            _ => {}
        }
    }

    /// Takes the routes out, and then asks the command to end unless it was `told` to.
    fn leave(&mut self, told: bool, now: Instant, out: &mut Vec<Effect>) {
        if self.wanted == Wanted::Absent {
            return self.stop_command(told, out);
        }
        self.state = State::Leaving { until: now + LEAVE_LIMIT, told };
        self.publish(Wanted::Absent, out);
    }

    fn stop_command(&mut self, told: bool, out: &mut Vec<Effect>) {
        let kill_at = self.asked_at.zip(self.policy.kill_after()).map(|(asked_at, after)| asked_at + after);
        self.state = State::Stopping { kill_at };
        if !told {
            out.push(Effect::StopCommand);
        }
    }

    fn kill(&mut self, out: &mut Vec<Effect>) {
        self.publish(Wanted::Absent, out);
        self.state = State::Stopping { kill_at: None };
        out.push(Effect::Say(Notice::Killing));
        out.push(Effect::KillCommand);
    }

    fn elapsed(&mut self, now: Instant, out: &mut Vec<Effect>) {
        match self.state {
            State::Waiting { .. } => {
                out.push(Effect::Say(Notice::DependenciesMissing));
                self.finish(UNAVAILABLE, now, out);
            }
            State::Step { work, index, .. } => {
                let kill_at = Some(now + STEP_KILL_DELAY);
                self.state = State::EndingStep { work, index, timed_out: true, kill_at };
                out.push(Effect::Say(Notice::StepOverdue { work, index }));
                out.push(Effect::EndStep);
            }
            State::EndingStep { work, index, timed_out, .. } => {
                self.state = State::EndingStep { work, index, timed_out, kill_at: None };
                out.push(Effect::KillStep);
            }
            State::Running { .. } => self.running_elapsed(now, out),
            State::Covering { .. } => {
                out.push(Effect::Say(Notice::NotCovered));
                self.halt(now, out);
            }
            State::Halting { .. } => {
                self.state = State::Halting { kill_at: None };
                out.push(Effect::Say(Notice::Killing));
                out.push(Effect::KillCommand);
            }
            State::Draining { .. } => self.leave(false, now, out),
            State::Leaving { told, .. } => self.stop_command(told, out),
            State::Stopping { .. } => self.kill(out),
            State::Withdrawing { then, .. } => self.withdrawn(then, now, out),
            State::Pausing { .. } => {
                self.state = State::Starting;
                out.push(Effect::Start);
            }
            State::New | State::Starting | State::Done => {}
        }
    }

    fn finish(&mut self, code: u8, now: Instant, out: &mut Vec<Effect>) {
        self.withdraw(After::Exit(code), now, out);
    }

    fn done(&mut self, code: u8, out: &mut Vec<Effect>) {
        self.state = State::Done;
        out.push(Effect::Exit(code));
    }

    /// The only place that changes what is wanted.
    fn publish(&mut self, wanted: Wanted, out: &mut Vec<Effect>) {
        if self.wanted != wanted {
            self.wanted = wanted;
            out.push(Effect::Publish(wanted));
        }
    }
}
