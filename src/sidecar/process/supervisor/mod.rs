//! A state machine that decides what happens to the wrapped command: dependencies, steps before the start, start,
//! restarts, a schedule, updates in place, and the orderly stop (SEMANTICS section 10, "Stop").
//!
//! ```text
//! Waiting -> Step -> Starting -> Running --stop--> Draining -> Leaving -> Stopping -> Done
//!             ^         ^           |
//!             |         |           +-- the command ends --> Withdrawing --> Done
//!             |         +------------ Pausing <-------------------+
//!             |                     |
//!             |                     +-- an update --> EnteringMaintenance --+
//!             +----------------------------- StoppingForUpdate <------------+
//! ```
//!
//! It is pure: each input returns the effects to carry out, in their order. What people are to see is one value,
//! [`Visibility`]; how sessions make it true is not known here.

mod activity;
mod notice;
mod settings;
#[cfg(test)]
mod tests;
mod update;

use std::time::{Duration, Instant};

pub(crate) use activity::Phase;
pub(crate) use notice::Notice;
pub(crate) use settings::{Policy, UpdatePolicy};

use registry_client::Visibility;

use crate::sidecar::process::reaper::Exit;
use update::{UpdateCheck, Updating};

/// How long leaving the registries may take. Each has 500 ms to answer (SEMANTICS section 8); the rest is for the
/// work around that.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);
/// How long a step has to end after its time-out, before it is killed.
const STEP_KILL_DELAY: Duration = Duration::from_secs(10);
/// The exit code of a step that timed out, as `timeout` of the core utilities has it.
const TIMED_OUT: u8 = 124;
/// The exit code where the dependencies were not ready in time, by the convention of sysexits.
const UNAVAILABLE: u8 = 69;

/// The list that a step belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepList {
    /// PRE_START
    PreStart,
    /// UPDATE_COMMAND
    Update,
}

/// An event that the supervisor reacts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// Begin. It comes once.
    Begin,
    /// All dependencies accept connections.
    DependenciesReady,
    /// The step has ended. One that could not be started counts as ended with 126 or 127.
    StepEnded(Exit),
    /// The command was started.
    Spawned,
    /// The command could not be started, for which a shell exits with this code: 126 or 127.
    NotSpawned(u8),
    /// The application is ready.
    Ready,
    /// The command has ended.
    Exited(Exit),
    /// What [`Effect::Publish`] asked for is in force, as far as possible.
    Settled(Visibility),
    /// UPDATE_CHECK has ended; exit code 0 means that there is an update. One that could not be started counts as
    /// ended with 126 or 127.
    CheckEnded(Exit),
    /// A signal asks for the stop.
    Stop,
    /// The deadline may have passed.
    Elapsed,
}

/// Something for the caller to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Wait for the dependencies and report [`Input::DependenciesReady`].
    AwaitDependencies,
    /// Run the step with this index and report [`Input::StepEnded`].
    RunStep(StepList, usize),
    /// Send the step SIGTERM.
    EndStep,
    /// Send SIGKILL to the step's process group.
    KillStep,
    /// Start the command and report [`Input::Spawned`] or [`Input::NotSpawned`], then [`Input::Exited`].
    Start,
    /// Wait until the application is ready and report [`Input::Ready`]. Stop waiting when the command ends.
    AwaitReady,
    /// Let people see this, and report [`Input::Settled`] when it is in force; for maintenance, once the proxy has
    /// confirmed it and nothing is in flight any more.
    Publish(Visibility),
    /// Run UPDATE_CHECK and report [`Input::CheckEnded`].
    RunCheck,
    /// Send SIGKILL to the check's process group, and forget the check.
    EndCheck,
    /// Send the command its stop signal.
    StopCommand,
    /// Send SIGKILL to the command's process group.
    KillCommand,
    /// Log this.
    Log(Notice),
    /// Exit with this code. No effect follows it.
    Exit(u8),
}

/// The states; the drawing above has the usual ways through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    /// It waits for the dependencies.
    Waiting {
        until: Instant,
    },
    Step {
        work: StepList,
        index: usize,
        until: Option<Instant>,
    },
    EndingStep {
        work: StepList,
        index: usize,
        timed_out: bool,
        kill_at: Option<Instant>,
    },
    Starting,
    Running {
        since: Instant,
        ready: bool,
        /// After an update: when a command that is not ready yet is warned about.
        ready_limit: Option<Instant>,
    },
    /// There is an update: the proxy is to confirm the maintenance page before the command is stopped.
    EnteringMaintenance {
        until: Instant,
    },
    /// The command has been asked to end for an update.
    StoppingForUpdate {
        kill_at: Option<Instant>,
    },
    Draining {
        until: Instant,
    },
    /// The routes are taken out. The command still runs and answers late requests.
    Leaving {
        until: Instant,
        /// The command has been sent its stop signal already.
        asked: bool,
    },
    Stopping {
        kill_at: Option<Instant>,
    },
    /// The command has ended; its routes are taken out before anything else happens.
    Withdrawing {
        then: After,
        until: Instant,
    },
    /// It waits before a restart or the next run of a schedule.
    Pausing {
        until: Instant,
    },
    Done,
}

/// What to do once the routes are out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    /// The command has ended like this: exit as well, restart it, or wait for its next run.
    Decide(Exit),
    /// Exit with this code.
    Exit(u8),
}

/// Decides what happens to one command, for the life of the process.
#[derive(Debug, Clone)]
pub(crate) struct Supervisor {
    policy: Policy,
    state: State,
    wanted: Visibility,
    /// How often the stop was asked for, and when for the first time.
    stops: u32,
    asked_at: Option<Instant>,
    /// How often in a row the command ended within a minute of its start.
    crashes: u32,
    last: Option<Exit>,
    /// When the current run of a schedule was due.
    slot: Option<Instant>,
    /// When UPDATE_CHECK is due, and the update that goes on.
    check: UpdateCheck,
    updating: Option<Updating>,
    /// How many updates in a row have failed.
    failed_updates: u32,
}

impl Supervisor {
    /// A supervisor that has not begun.
    pub(crate) fn new(policy: Policy) -> Self {
        Supervisor {
            policy,
            state: State::New,
            wanted: Visibility::Absent,
            stops: 0,
            asked_at: None,
            crashes: 0,
            last: None,
            slot: None,
            check: UpdateCheck::Never,
            updating: None,
            failed_updates: 0,
        }
    }

    /// When [`Input::Elapsed`] is due, if ever.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until }
            | State::EnteringMaintenance { until }
            | State::Draining { until }
            | State::Leaving { until, .. }
            | State::Withdrawing { until, .. }
            | State::Pausing { until } => Some(until),
            State::Step { until, .. } => until,
            State::EndingStep { kill_at, .. }
            | State::StoppingForUpdate { kill_at }
            | State::Stopping { kill_at } => kill_at,
            State::Running { ready_limit, .. } => ready_limit.into_iter().chain(self.check.deadline()).min(),
            State::New | State::Starting | State::Done => None,
        }
    }

    /// Takes an input and returns what to do. An input that does not fit the state changes nothing.
    pub(crate) fn on(&mut self, input: Input, now: Instant) -> Vec<Effect> {
        let mut out = Vec::new();
        match (self.state, input) {
            (State::New, Input::Begin) => self.begin(now, &mut out),
            (State::Waiting { .. }, Input::DependenciesReady) => {
                self.step(StepList::PreStart, 0, now, &mut out)
            }
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
            (State::EnteringMaintenance { .. }, Input::Settled(Visibility::Maintenance)) => {
                self.stop_for_update(now, &mut out)
            }
            (State::Draining { .. }, Input::Settled(Visibility::Draining)) => {
                self.leave(false, now, &mut out)
            }
            (State::Leaving { asked, .. }, Input::Settled(Visibility::Absent)) => {
                self.stop_command(asked, &mut out);
            }
            (State::Withdrawing { then, .. }, Input::Settled(Visibility::Absent)) => {
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
            None => self.step(StepList::PreStart, 0, now, out),
        }
    }

    /// Starts step `index` of the list, or the command after the last. People see the maintenance page meanwhile, if
    /// there is one.
    fn step(&mut self, work: StepList, index: usize, now: Instant, out: &mut Vec<Effect>) {
        let (count, limit) = self.policy.steps_in(work);
        if index >= count {
            return self.start(now, out);
        }
        self.state = State::Step { work, index, until: limit.map(|limit| now + limit) };
        if self.policy.page {
            self.publish(Visibility::Maintenance, out);
        }
        out.push(Effect::RunStep(work, index));
    }

    fn step_ended(&mut self, work: StepList, index: usize, exit: Exit, now: Instant, out: &mut Vec<Effect>) {
        if exit.is_success() {
            return self.step(work, index + 1, now, out);
        }
        if work == StepList::Update {
            return self.update_failed(index, exit, now, out);
        }
        let fatal = self.policy.steps_fatal;
        out.push(Effect::Log(Notice::StepFailed { index, exit, fatal }));
        if fatal { self.finish(exit.code(), now, out) } else { self.step(work, index + 1, now, out) }
    }

    fn start(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.state = State::Starting;
        self.slot = self.policy.every.map(|_| now);
        out.push(Effect::Start);
    }

    fn spawned(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let ready_limit = self.updating.map(|_| now + self.policy.ready_limit);
        self.state = State::Running { since: now, ready: false, ready_limit };
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
        self.state = State::Running { since, ready: true, ready_limit: None };
        self.update_over(out);
        self.publish(Visibility::Live, out);
    }

    fn exited(&mut self, exit: Exit, now: Instant, out: &mut Vec<Effect>) {
        match self.state {
            State::Running { since, .. } => {
                let ran = now.saturating_duration_since(since);
                self.crashes = if ran >= Policy::HEALTHY { 0 } else { self.crashes };
                out.push(Effect::Log(Notice::Ended { exit, ran }));
                self.end_check(now, out);
                self.update_lost(exit, out);
            }
            // It does not matter whether it was asked to end: the steps of the update can run now.
            State::EnteringMaintenance { .. } | State::StoppingForUpdate { .. } => {
                return self.step(StepList::Update, 0, now, out);
            }
            State::Draining { .. } | State::Leaving { .. } | State::Stopping { .. } => {}
            _ => return,
        }
        self.last = Some(exit);
        match self.state {
            // The routes are out already, or a third signal wants no more waiting.
            State::Stopping { .. } => self.done(exit.code(), out),
            _ => self.withdraw(After::Decide(exit), now, out),
        }
    }

    /// Takes the routes out, if there are any, and continues with `then`.
    fn withdraw(&mut self, then: After, now: Instant, out: &mut Vec<Effect>) {
        let leaving = matches!(self.state, State::Leaving { .. });
        if self.wanted == Visibility::Absent && !leaving {
            return self.withdrawn(then, now, out);
        }
        self.state = State::Withdrawing { then, until: now + LEAVE_LIMIT };
        self.publish(Visibility::Absent, out);
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
            let next = settings::next_slot(slot, every, now);
            if next > slot + every {
                out.push(Effect::Log(Notice::Overran { took: now.saturating_duration_since(slot), every }));
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
        out.push(Effect::Log(Notice::Restarting { pause }));
        self.state = State::Pausing { until: now + pause };
    }

    /// A signal asks for the stop: the first begins it, the second ends the drain, the third kills.
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
            (1, State::Running { .. }) if self.wanted == Visibility::Live => {
                self.state = State::Draining { until: now + self.policy.drain_limit() };
                self.publish(Visibility::Draining, out);
            }
            (1, State::Running { .. } | State::EnteringMaintenance { .. }) | (2, State::Draining { .. }) => {
                self.leave(false, now, out);
            }
            (1, State::StoppingForUpdate { .. }) => self.leave(true, now, out),
            (3.., State::Draining { .. } | State::Leaving { .. } | State::Stopping { .. }) => self.kill(out),
            (3.., State::EndingStep { .. }) => out.push(Effect::KillStep),
            (2.., State::Withdrawing { then, .. }) => self.withdrawn(then, now, out),
            _ => {}
        }
    }

    /// Takes the routes out, and then sends the command its stop signal, unless it was `asked` to end already.
    fn leave(&mut self, asked: bool, now: Instant, out: &mut Vec<Effect>) {
        if self.wanted == Visibility::Absent {
            return self.stop_command(asked, out);
        }
        self.state = State::Leaving { until: now + LEAVE_LIMIT, asked };
        self.publish(Visibility::Absent, out);
    }

    fn stop_command(&mut self, asked: bool, out: &mut Vec<Effect>) {
        let kill_at = self.asked_at.zip(self.policy.kill_after()).map(|(asked_at, after)| asked_at + after);
        self.state = State::Stopping { kill_at };
        if !asked {
            out.push(Effect::StopCommand);
        }
    }

    fn kill(&mut self, out: &mut Vec<Effect>) {
        self.publish(Visibility::Absent, out);
        self.state = State::Stopping { kill_at: None };
        out.push(Effect::Log(Notice::Killing));
        out.push(Effect::KillCommand);
    }

    fn elapsed(&mut self, now: Instant, out: &mut Vec<Effect>) {
        match self.state {
            State::Waiting { .. } => {
                out.push(Effect::Log(Notice::DependenciesMissing));
                self.finish(UNAVAILABLE, now, out);
            }
            State::Step { work, index, .. } => {
                let kill_at = Some(now + STEP_KILL_DELAY);
                self.state = State::EndingStep { work, index, timed_out: true, kill_at };
                out.push(Effect::Log(Notice::StepOverdue { work, index }));
                out.push(Effect::EndStep);
            }
            State::EndingStep { work, index, timed_out, .. } => {
                self.state = State::EndingStep { work, index, timed_out, kill_at: None };
                out.push(Effect::KillStep);
            }
            State::Running { .. } => self.running_elapsed(now, out),
            State::EnteringMaintenance { .. } => {
                out.push(Effect::Log(Notice::MaintenanceUnconfirmed));
                self.stop_for_update(now, out);
            }
            State::StoppingForUpdate { .. } => {
                self.state = State::StoppingForUpdate { kill_at: None };
                out.push(Effect::Log(Notice::Killing));
                out.push(Effect::KillCommand);
            }
            State::Draining { .. } => self.leave(false, now, out),
            State::Leaving { asked, .. } => self.stop_command(asked, out),
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

    /// The only function that changes what people are to see.
    fn publish(&mut self, wanted: Visibility, out: &mut Vec<Effect>) {
        if self.wanted != wanted {
            self.wanted = wanted;
            out.push(Effect::Publish(wanted));
        }
    }
}
