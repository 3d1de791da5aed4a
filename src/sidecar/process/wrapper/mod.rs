//! Runs the wrapped command: carries out what the [`Supervisor`] decides, and feeds it with what happens.
//!
//! The application comes first: the command starts even if no registry answers, and a registry or a name that does
//! not answer delays its stop only within the supervisor's limits.

mod launch;
mod own_sockets;
mod program_file;
mod publisher;
mod running_program;
mod step;

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use signal_hook_tokio::Signals;
use tokio::sync::watch;
use tokio::time::{sleep, sleep_until};
use tracing::{debug, error, info, warn};

use crate::sidecar::config::{CommandConfig, Config, ReadyCheck, Signal, Step};
use crate::sidecar::maintenance::Maintenance;
use crate::sidecar::readiness::{self, Shell, Tried, try_all};
use crate::sidecar::state::{self, CommandStatus, DaemonState, Progress};
use registry_client::Visibility;

use super::exec_check;
use super::reaper::{ChildHandle, Exit, Reaper, Target};
use super::signals::{self, LISTENED, SignalAction};
use super::supervisor::{Effect, Input, Notice, Phase, Policy, StepList, Supervisor, UpdatePolicy};
use publisher::Publisher;

/// One task drains and then leaves, so it may take this much longer than DRAIN_TIMEOUT.
const AFTER_DRAIN: Duration = Duration::from_secs(1);
/// How long one try of one dependency may take.
const DEPENDENCY_TIMEOUT: Duration = Duration::from_secs(2);
/// The first and the longest pause between two tries.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

fn policy(config: &Config, command: &CommandConfig) -> Policy {
    Policy {
        wait: (!command.wait_for.is_empty()).then(|| command.wait_for_timeout.get()),
        steps: command.steps.len(),
        steps_fatal: command.steps_fatal,
        step_timeout: command.step_timeout.map(|limit| limit.get()),
        page: shows_page(config, command),
        update: command.update.as_ref().map(|update| UpdatePolicy {
            every: update.every.get(),
            steps: update.steps.len(),
            timeout: update.timeout.map(|limit| limit.get()),
        }),
        ready_limit: config.readiness.overdue.get(),
        restart: command.restart,
        delay: command.restart_delay.get(),
        every: command.run_every.map(|every| every.get()),
        drain: config.drain_timeout.get() + AFTER_DRAIN,
        grace: command.grace.map(|grace| grace.get()),
    }
}

/// Whether people see the maintenance page before the command has run. Not so where its program is still missing: if
/// no step brings it, nothing should ever have been registered.
fn shows_page(config: &Config, command: &CommandConfig) -> bool {
    let has_page = config.maintenance.port.is_some() || config.maintenance.url.is_some();
    let wanted = has_page && config.registration.is_some() && !command.steps.is_empty();
    match launch::find_program(command) {
        Err(missing) if wanted => {
            warn!("{missing}; nothing is registered before a step of PRE_START has brought it");
            false
        }
        _ => has_page,
    }
}

/// The signals to this process from now on. Call it first of all: PID 1 loses signals to which it does not listen.
///
/// # Errors
/// Where signals cannot be listened to.
pub(crate) fn listen_to_signals(command: &CommandConfig) -> io::Result<Signals> {
    let mut listened = LISTENED.to_vec();
    listened.extend(Signal::realtime().map(Signal::number));
    listened.extend(command.stop_signal.map(Signal::number));
    Signals::new(listened)
}

/// Runs one command for the life of the process.
pub(crate) struct Wrapper {
    config: Arc<Config>,
    command: Arc<CommandConfig>,
    /// Runs checks with the environment, directory and user of the command.
    shell: Shell,
    reaper: Reaper,
    supervisor: Supervisor,
    /// The command or the step that runs.
    process: Option<ChildHandle>,
    /// UPDATE_CHECK while it runs.
    check: Option<ChildHandle>,
    publisher: Publisher,
    waits: Waits,
    state: DaemonState,
    /// The step that runs, such as `step 2 of 3: npm`.
    step: Option<String>,
    /// The result of the last update, in words.
    last_update: Option<String>,
}

type Wait = Pin<Box<dyn Future<Output = Input> + Send>>;

/// The futures that bring the next inputs, beside signals and the supervisor's deadline; at most one of each kind.
struct Waits {
    process: Wait,
    dependencies: Wait,
    ready: Wait,
    settled: Wait,
    check: Wait,
}

impl Default for Waits {
    fn default() -> Self {
        Waits { process: never(), dependencies: never(), ready: never(), settled: never(), check: never() }
    }
}

fn never() -> Wait {
    Box::pin(pending())
}

/// The input that `wait` brings, which then waits for nothing. Cancel-safe.
async fn once(wait: &mut Wait) -> Input {
    let input = wait.as_mut().await;
    *wait = never();
    input
}

impl Wrapper {
    /// Prepares to run `command`, and starts nothing.
    pub(crate) fn new(
        config: Arc<Config>,
        command: CommandConfig,
        reaper: Reaper,
        state: DaemonState,
        maintenance: Maintenance,
    ) -> Self {
        launch::give_streams_to_user(&command);
        let supervisor = Supervisor::new(policy(&config, &command));
        let command = Arc::new(command);
        let checked = Arc::clone(&command);
        let shell = exec_check::shell(reaper.clone(), move |line| launch::shell_as_user(&checked, line));
        Wrapper {
            publisher: Publisher::new(Arc::clone(&config), state.clone(), maintenance, shell.clone()),
            config,
            command,
            shell,
            reaper,
            supervisor,
            process: None,
            check: None,
            waits: Waits::default(),
            state,
            step: None,
            last_update: None,
        }
    }

    /// Runs the command with everything around it, and returns the code to exit with when it has ended for good.
    pub(crate) async fn run(mut self, mut signals: Signals) -> u8 {
        let mut inputs = VecDeque::from([Input::Begin]);
        loop {
            while let Some(input) = inputs.pop_front() {
                for effect in self.supervisor.on(input, now()) {
                    if let Effect::Exit(code) = effect {
                        return code;
                    }
                    inputs.extend(self.carry_out(effect));
                }
                self.publish_status();
            }
            let deadline = self.supervisor.deadline();
            let input = tokio::select! {
                biased;
                Some(signal) = signals.next() => self.on_signal(signal),
                input = once(&mut self.waits.process) => {
                    self.process = None;
                    self.waits.ready = never();
                    Some(input)
                }
                input = once(&mut self.waits.settled) => Some(input),
                input = once(&mut self.waits.check) => Some(input),
                input = once(&mut self.waits.dependencies) => Some(input),
                input = once(&mut self.waits.ready) => Some(input),
                () = until(deadline) => Some(Input::Elapsed),
            };
            inputs.extend(input);
        }
    }

    /// Carries out one effect, and returns an input that follows from it at once.
    fn carry_out(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::AwaitDependencies => {
                self.waits.dependencies =
                    Box::pin(await_dependencies(Arc::clone(&self.command), self.shell.clone()));
            }
            Effect::RunStep(work, index) => return self.run_step(work, index),
            Effect::EndStep => self.signal(Target::Group, Signal::TERM),
            Effect::KillStep | Effect::KillCommand => self.signal(Target::Group, Signal::KILL),
            Effect::Start => return Some(self.start()),
            Effect::AwaitReady => {
                self.waits.ready =
                    Box::pin(await_ready(Arc::clone(&self.config), self.shell.clone(), self.state.clone()));
            }
            Effect::Publish(wanted) => self.publish(wanted),
            Effect::StopCommand => self.stop_command(),
            Effect::RunCheck => return self.run_check(),
            Effect::EndCheck => self.end_check(),
            Effect::Log(notice) => self.log(notice),
            Effect::Exit(_) => {}
        }
        None
    }

    fn start(&mut self) -> Input {
        // Only after steps: the message of a failed update stays until the application is ready.
        if self.state.progress().percent.is_some() {
            let message = Some("the application starts".to_owned());
            self.state.set_progress(Progress { message, percent: Some(100) });
        }
        match launch::launch(&self.reaper, &self.command) {
            Ok(mut child) => {
                self.state.count_start();
                self.process = Some(child.handle());
                self.waits.process = Box::pin(async move { Input::Exited(child.wait().await) });
                Input::Spawned
            }
            Err(failed) => {
                error!("{failed}");
                Input::NotSpawned(failed.code)
            }
        }
    }

    fn run_step(&mut self, work: StepList, index: usize) -> Option<Input> {
        let steps = self.steps(work);
        let Some(step) = steps.get(index) else { return Some(Input::StepEnded(Exit::Code(0))) };
        let label = label(work, index, steps.len());
        let message = match &step.name {
            Some(name) => format!("{label}: {name}"),
            None => label.clone(),
        };
        let percent = u8::try_from(index * 100 / steps.len()).ok();
        info!("{label}: {}", step.line);
        launch::make_directory(&self.command);
        let started = step::run(&self.reaper, &self.command, &label, &step.line, step::OutputLevel::Info);
        self.step = Some(message.clone());
        self.state.set_progress(Progress { message: Some(message), percent });
        match started {
            Ok(step) => {
                self.process = Some(step.handle());
                self.waits.process = Box::pin(async move { Input::StepEnded(step.wait().await) });
                None
            }
            Err(failed) => {
                error!("{failed}");
                Some(Input::StepEnded(Exit::Code(failed.code)))
            }
        }
    }

    fn steps(&self, work: StepList) -> &[Step] {
        match work {
            StepList::PreStart => &self.command.steps,
            StepList::Update => self.command.update.as_ref().map_or(&[], |update| &update.steps),
        }
    }

    fn run_check(&mut self) -> Option<Input> {
        let line = self.command.update.as_ref().map_or("false", |update| &update.check);
        match step::run(&self.reaper, &self.command, "update check", line, step::OutputLevel::Debug) {
            Ok(check) => {
                self.check = Some(check.handle());
                self.waits.check = Box::pin(async move { Input::CheckEnded(check.wait().await) });
                None
            }
            Err(failed) => {
                error!("update check: {failed}");
                Some(Input::CheckEnded(Exit::Code(failed.code)))
            }
        }
    }

    fn end_check(&mut self) {
        self.waits.check = never();
        if let Some(check) = self.check.take() {
            check.signal(Target::Group, Signal::KILL);
        }
    }

    fn publish(&mut self, wanted: Visibility) {
        let work = match self.supervisor.activity().updating {
            true => state::Work::Update,
            false => state::Work::Preparation,
        };
        let settling = self.publisher.publish(wanted, work);
        if wanted == Visibility::Live {
            self.state.set_progress(Progress::default());
        }
        self.waits.settled = Box::pin(async move {
            settling.await;
            Input::Settled(wanted)
        });
    }

    /// Logs a notice. Those about an update also go to the status and the maintenance page.
    fn log(&mut self, notice: Notice) {
        if notice.is_warning() {
            warn!("{notice}")
        } else {
            info!("{notice}")
        }
        if notice.is_about_update() {
            let text = notice.to_string();
            self.state.set_progress(Progress { message: Some(text.clone()), percent: None });
            self.last_update = Some(text);
        }
    }

    fn publish_status(&mut self) {
        let activity = self.supervisor.activity();
        if activity.step.is_none() {
            self.step = None;
        }
        self.state.set_command(CommandStatus {
            doing: doing(activity.phase, self.step.as_deref()).map(str::to_owned),
            updating: activity.updating,
            last_update: self.last_update.clone(),
            healthy: activity.healthy,
        });
    }

    fn on_signal(&mut self, raw: i32) -> Option<Input> {
        let signal = Signal::from_number(raw)?;
        let Some(rewritten) = signals::rewritten(signal, &self.command.rewrite) else {
            debug!("{signal} is dropped, as SIGNAL_REWRITE says");
            return None;
        };
        match signals::action(signal, self.stop_signal()) {
            SignalAction::Stop => {
                info!("{signal}: stopping in order");
                Some(Input::Stop)
            }
            SignalAction::Forward(_) => {
                self.signal(self.target(), rewritten);
                None
            }
        }
    }

    fn stop_command(&self) {
        let stop = self.stop_signal();
        // A rule that drops it is about signals that come: without any the command would never end.
        let signal = signals::rewritten(stop, &self.command.rewrite).unwrap_or(stop);
        info!("sending {signal} to the command");
        self.signal(self.target(), signal);
    }

    /// The command's stop signal: the configured one, or that of the program that runs now.
    fn stop_signal(&self) -> Signal {
        self.command.stop_signal.unwrap_or_else(|| {
            let program = self.process.as_ref().and_then(|process| running_program::name_of(process.pid()));
            program.map_or(Signal::TERM, |name| signals::stop_signal_of(&name))
        })
    }

    fn target(&self) -> Target {
        if self.command.group { Target::Group } else { Target::Process }
    }

    fn signal(&self, target: Target, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(target, signal);
        }
    }
}

/// What goes on, for the status; `None` while the command simply runs.
fn doing(phase: Phase, step: Option<&str>) -> Option<&str> {
    match phase {
        Phase::Steps => step,
        Phase::Waiting => Some("waiting for dependencies"),
        Phase::StoppingForUpdate => Some("the command is stopped for an update"),
        Phase::Starting => Some("the command starts"),
        Phase::Pausing => Some("waiting for the next start"),
        Phase::Stopping => Some("stopping"),
        Phase::Idle | Phase::Running => None,
    }
}

/// The name of a step in the log and on the page.
fn label(work: StepList, index: usize, count: usize) -> String {
    let of = match work {
        StepList::PreStart => "step",
        StepList::Update => "update step",
    };
    format!("{of} {} of {count}", index + 1)
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}

/// Waits until the application, or a part of it, is ready; where nothing is registered it does not wait.
async fn await_ready(config: Arc<Config>, shell: Shell, state: DaemonState) -> Input {
    if config.registration.is_none() || !config.readiness.wait {
        return Input::Ready;
    }
    // What was seen of an earlier run says nothing about this one.
    state.retain_places(|_| false);
    // The sender may go: without replicas the places stay the same.
    let (_, places) = watch::channel(config.places(None));
    let mut seen = state.watch_places();
    let tried = |tried: Tried<'_>| {
        state.set_place(tried.place, tried.is_ready, tried.problem);
    };
    tokio::select! {
        () = readiness::follow(&config.readiness, Some(&shell), places, |_| false, tried) => {}
        _ = seen.wait_for(|places| places.values().any(|place| place.ready)) => {}
    }
    Input::Ready
}

/// Returns when the checks of all dependencies pass. A failure is logged only when it changes.
async fn await_dependencies(command: Arc<CommandConfig>, shell: Shell) -> Input {
    let (mut pause, mut logged) = (FIRST_PAUSE, String::new());
    let names: Vec<String> = command.wait_for.iter().map(ReadyCheck::to_string).collect();
    while let Err(failure) = try_all(&command.wait_for, DEPENDENCY_TIMEOUT, Some(&shell)).await {
        let failed = failure.to_string();
        if failed != logged {
            info!("waiting for {}, at most {}: {failed}", names.join(" and "), command.wait_for_timeout);
            logged = failed;
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Input::DependenciesReady
}
