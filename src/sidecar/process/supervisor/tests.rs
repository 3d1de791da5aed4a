//! The supervisor's stories.

mod transitions;

use transitions::STATES;

use super::*;
use crate::sidecar::config::Restart;

const POLICY: Policy = Policy {
    wait: Some(Duration::from_secs(60)),
    steps: 2,
    steps_fatal: true,
    step_timeout: Some(Duration::from_secs(600)),
    page: true,
    update: None,
    ready_limit: Duration::from_secs(30),
    restart: Restart::OnFailure,
    delay: Duration::from_secs(5),
    every: None,
    drain: Duration::from_secs(5),
    grace: Some(Duration::from_secs(30)),
};
const PLAIN: Policy = Policy {
    wait: None,
    steps: 0,
    steps_fatal: true,
    step_timeout: None,
    page: false,
    update: None,
    ready_limit: Duration::from_secs(30),
    restart: Restart::No,
    delay: Duration::from_secs(5),
    every: None,
    drain: Duration::from_secs(5),
    grace: None,
};
const MINUTE: Duration = Duration::from_secs(60);
const UPDATES: Policy = Policy {
    update: Some(UpdatePolicy { every: MINUTE, steps: 2, timeout: Some(Duration::from_secs(600)) }),
    grace: Some(Duration::from_secs(30)),
    ..PLAIN
};
const OK: Exit = Exit::Code(0);
const FAILED: Exit = Exit::Code(3);
/// From a proxy that has confirmed the page to a new version that runs.
const UPDATE: [Input; 5] = [
    Input::Settled(Visibility::Maintenance),
    Input::Exited(Exit::Signal(15)),
    Input::StepEnded(OK),
    Input::StepEnded(OK),
    Input::Spawned,
];
const STEPS_DONE: [Input; 4] =
    [Input::Begin, Input::DependenciesReady, Input::StepEnded(OK), Input::StepEnded(OK)];

/// A machine and its clock.
struct Story {
    machine: Supervisor,
    now: Instant,
}

impl Story {
    fn new(policy: Policy) -> Self {
        Story { machine: Supervisor::new(policy), now: Instant::now() }
    }

    fn after(policy: Policy, inputs: &[Input]) -> Self {
        let mut story = Story::new(policy);
        for input in inputs {
            story.on(*input);
        }
        story
    }

    fn on(&mut self, input: Input) -> Vec<Effect> {
        self.machine.on(input, self.now)
    }

    fn later(&mut self, secs: u64) -> &mut Self {
        self.now += Duration::from_secs(secs);
        self
    }

    /// Goes to the next deadline; how long that took, and what it brought.
    fn elapse(&mut self) -> (Duration, Vec<Effect>) {
        let due = self.machine.deadline().unwrap();
        let waited = due.saturating_duration_since(self.now);
        self.now = self.now.max(due);
        (waited, self.on(Input::Elapsed))
    }

    /// A command whose check for updates runs.
    fn checking(policy: Policy) -> Self {
        let mut story = Story::live(policy);
        assert_eq!(story.elapse(), (MINUTE, vec![Effect::RunCheck]));
        story
    }

    /// A command that is being updated, and what has happened so far.
    fn updating(so_far: &[Input]) -> Self {
        let mut story = Story::checking(UPDATES);
        let maintenance = Effect::Publish(Visibility::Maintenance);
        assert_eq!(story.on(Input::CheckEnded(OK)), [Effect::Log(Notice::Updating), maintenance]);
        for input in so_far {
            story.on(*input);
        }
        story
    }

    /// A command that started and answers.
    fn live(policy: Policy) -> Self {
        let mut story = Story::new(policy.clone());
        story.on(Input::Begin);
        if policy.wait.is_some() {
            story.on(Input::DependenciesReady);
        }
        for _ in 0..policy.steps {
            story.on(Input::StepEnded(OK));
        }
        story.on(Input::Spawned);
        assert_eq!(story.on(Input::Ready), [Effect::Publish(Visibility::Live)]);
        story
    }
}

#[test]
fn a_command_starts_at_once_and_ends_us_with_its_own_code_after_its_routes_are_out() {
    let mut story = Story::new(PLAIN);
    assert_eq!(story.on(Input::Begin), [Effect::Start]);
    assert_eq!(story.on(Input::Spawned), [Effect::AwaitReady]);
    assert_eq!(story.on(Input::Ready), [Effect::Publish(Visibility::Live)]);
    story.later(2);
    let ended = Notice::Ended { exit: FAILED, ran: Duration::from_secs(2) };
    assert_eq!(story.on(Input::Exited(FAILED)), [Effect::Log(ended), Effect::Publish(Visibility::Absent)]);
    assert_eq!(story.on(Input::Settled(Visibility::Absent)), [Effect::Exit(3)]);
}

#[test]
fn the_stop_goes_in_order_and_the_command_hears_of_it_last() {
    let mut story = Story::live(PLAIN);
    assert_eq!(story.on(Input::Stop), [Effect::Publish(Visibility::Draining)]);
    assert_eq!(story.on(Input::Settled(Visibility::Draining)), [Effect::Publish(Visibility::Absent)]);
    assert_eq!(story.on(Input::Settled(Visibility::Absent)), [Effect::StopCommand]);
    // Without a grace period the command may take any time.
    assert_eq!(story.machine.deadline(), None);
    assert_eq!(story.on(Input::Exited(Exit::Signal(15))), [Effect::Exit(143)]);
}

#[test]
fn a_drain_and_registries_that_never_end_delay_the_stop_by_their_limits() {
    let mut story = Story::live(PLAIN);
    story.on(Input::Stop);
    assert_eq!(story.elapse(), (PLAIN.drain, vec![Effect::Publish(Visibility::Absent)]));
    assert_eq!(story.elapse(), (LEAVE_LIMIT, vec![Effect::StopCommand]));
}

#[test]
fn with_a_grace_period_what_is_left_is_killed_a_second_before_its_end() {
    let mut story = Story::live(Policy { grace: Some(Duration::from_secs(10)), ..PLAIN });
    let asked = story.now;
    story.on(Input::Stop);
    story.elapse();
    story.elapse();
    let (_, effects) = story.elapse();
    assert_eq!(effects, [Effect::Log(Notice::Killing), Effect::KillCommand]);
    assert_eq!(story.now - asked, Duration::from_secs(9));
    assert_eq!(story.on(Input::Exited(Exit::Signal(9))), [Effect::Exit(137)]);
}

#[test]
fn a_second_signal_ends_the_drain_and_a_third_kills() {
    let mut story = Story::live(PLAIN);
    story.on(Input::Stop);
    assert_eq!(story.on(Input::Stop), [Effect::Publish(Visibility::Absent)]);
    assert_eq!(story.on(Input::Stop), [Effect::Log(Notice::Killing), Effect::KillCommand]);
    assert_eq!(story.on(Input::Exited(Exit::Signal(9))), [Effect::Exit(137)]);
}

#[test]
fn a_command_that_crashes_again_and_again_is_started_ever_more_slowly() {
    let mut story = Story::live(Policy { wait: None, steps: 0, ..POLICY });
    let mut pauses = Vec::new();
    for _ in 0..4 {
        story.on(Input::Exited(FAILED));
        story.on(Input::Settled(Visibility::Absent));
        let (pause, effects) = story.elapse();
        assert_eq!(effects, [Effect::Start]);
        pauses.push(pause.as_secs());
        story.on(Input::Spawned);
    }
    assert_eq!(pauses, [5, 10, 20, 40]);
    // After a minute of running the first pause is the shortest again.
    story.later(60).on(Input::Exited(FAILED));
    assert_eq!(story.elapse().0, Duration::from_secs(5));
    // With on-failure, an exit with 0 is final.
    story.on(Input::Spawned);
    assert!(story.on(Input::Exited(OK)).contains(&Effect::Exit(0)));
}

#[test]
fn a_schedule_runs_at_once_then_on_its_grid_and_never_twice_at_a_time() {
    let minute = Duration::from_secs(60);
    let mut story = Story::new(Policy { every: Some(minute), ..PLAIN });
    assert_eq!(story.on(Input::Begin), [Effect::Start]);
    story.on(Input::Spawned);
    story.later(10).on(Input::Exited(OK));
    assert_eq!(story.elapse(), (Duration::from_secs(50), vec![Effect::Start]));
    story.on(Input::Spawned);
    // A failed run does not end the schedule; a long one skips the runs that it overlaps, and a notice says so.
    let asked = story.later(130).on(Input::Exited(FAILED));
    let overran = Notice::Overran { took: Duration::from_secs(130), every: minute };
    assert!(asked.contains(&Effect::Log(overran)), "{asked:?}");
    assert_eq!(story.elapse(), (Duration::from_secs(50), vec![Effect::Start]));
    story.on(Input::Spawned);
    story.later(1).on(Input::Exited(OK));
    assert_eq!(story.on(Input::Stop), [Effect::Exit(0)]);
}

#[test]
fn a_step_that_fails_is_the_end_or_a_warning() {
    let run = |steps_fatal| {
        let mut story = Story::new(Policy { wait: None, steps_fatal, ..POLICY });
        let maintenance = Effect::Publish(Visibility::Maintenance);
        assert_eq!(story.on(Input::Begin), [maintenance, Effect::RunStep(StepList::PreStart, 0)]);
        story.on(Input::StepEnded(FAILED))
    };
    let failed = |fatal| Effect::Log(Notice::StepFailed { index: 0, exit: FAILED, fatal });
    assert_eq!(run(false), [failed(false), Effect::RunStep(StepList::PreStart, 1)]);
    assert_eq!(run(true), [failed(true), Effect::Publish(Visibility::Absent)]);
}

#[test]
fn a_step_that_hangs_is_asked_to_end_and_then_killed() {
    let mut story = Story::after(POLICY, &STEPS_DONE[..2]);
    let (waited, effects) = story.elapse();
    assert_eq!((Some(waited), effects.last()), (POLICY.step_timeout, Some(&Effect::EndStep)));
    assert_eq!(story.elapse(), (STEP_KILL_DELAY, vec![Effect::KillStep]));
    story.on(Input::StepEnded(Exit::Signal(9)));
    assert_eq!(story.on(Input::Settled(Visibility::Absent)), [Effect::Exit(TIMED_OUT)]);
}

#[test]
fn an_update_happens_behind_a_page_that_the_proxy_has_confirmed() {
    let mut story = Story::updating(&[]);
    assert_eq!(story.on(Input::Settled(Visibility::Maintenance)), [Effect::StopCommand]);
    let run = |index| Effect::RunStep(StepList::Update, index);
    assert_eq!(story.on(Input::Exited(Exit::Signal(15))), [run(0)]);
    assert_eq!(story.on(Input::StepEnded(OK)), [run(1)]);
    assert_eq!(story.on(Input::StepEnded(OK)), [Effect::Start]);
    assert_eq!(story.on(Input::Spawned), [Effect::AwaitReady]);
    assert_eq!(story.on(Input::Ready), [Effect::Log(Notice::Updated), Effect::Publish(Visibility::Live)]);
    // The end for the update is no end of the command, and the next check comes as usual.
    assert_eq!(story.elapse().1, [Effect::RunCheck]);
}

#[test]
fn without_an_update_nothing_happens_and_the_next_check_comes_as_ever() {
    let mut story = Story::checking(UPDATES);
    assert_eq!(story.on(Input::CheckEnded(Exit::Code(1))), []);
    assert_eq!(story.elapse(), (MINUTE, vec![Effect::RunCheck]));
    // A check that cannot run is logged, one that hangs is killed; both are made again.
    let failed = Notice::CheckFailed { exit: Exit::Code(127) };
    assert_eq!(story.on(Input::CheckEnded(Exit::Code(127))), [Effect::Log(failed)]);
    story.elapse();
    assert_eq!(story.elapse().1, [Effect::Log(Notice::CheckOverdue), Effect::EndCheck]);
    assert_eq!(story.on(Input::CheckEnded(OK)), [], "nobody asks for it any more");
    assert_eq!(story.elapse(), (MINUTE, vec![Effect::RunCheck]));
}

#[test]
fn an_update_that_fails_says_so_and_what_was_there_before_is_started_again() {
    let mut story = Story::updating(&UPDATE[..2]);
    let failed = Notice::UpdateFailed { index: 0, exit: FAILED };
    assert_eq!(story.on(Input::StepEnded(FAILED)), [Effect::Log(failed), Effect::Start]);
    story.on(Input::Spawned);
    let restored = Notice::Restored { index: 0, exit: FAILED };
    assert_eq!(story.on(Input::Ready), [Effect::Log(restored), Effect::Publish(Visibility::Live)]);
}

#[test]
fn an_update_that_fails_again_and_again_is_tried_ever_more_rarely() {
    let mut story = Story::checking(UPDATES);
    let mut pauses = Vec::new();
    for _ in 0..4 {
        story.on(Input::CheckEnded(OK));
        for input in UPDATE[..2].iter().chain(&[Input::StepEnded(FAILED), Input::Spawned, Input::Ready]) {
            story.on(*input);
        }
        let (pause, effects) = story.elapse();
        assert_eq!(effects, [Effect::RunCheck]);
        pauses.push(pause.as_secs() / 60);
    }
    assert_eq!(pauses, [2, 4, 8, 16]);
    // After an update that works, the interval is the usual one again.
    story.on(Input::CheckEnded(OK));
    for input in UPDATE.iter().chain(&[Input::Ready]) {
        story.on(*input);
    }
    story.elapse();
    story.on(Input::CheckEnded(Exit::Code(1)));
    assert_eq!(story.elapse(), (MINUTE, vec![Effect::RunCheck]));
}

#[test]
fn a_proxy_that_never_confirms_delays_an_update_and_a_command_that_never_ends_is_killed() {
    let mut story = Story::updating(&[]);
    let (waited, effects) = story.elapse();
    assert_eq!(effects, [Effect::Log(Notice::MaintenanceUnconfirmed), Effect::StopCommand]);
    assert_eq!(waited, Duration::from_secs(35));
    let (waited, effects) = story.elapse();
    assert_eq!(effects, [Effect::Log(Notice::Killing), Effect::KillCommand]);
    assert_eq!(waited, Duration::from_secs(29), "a second less than STOP_GRACE_PERIOD");
    assert_eq!(story.on(Input::Exited(Exit::Signal(9))), [Effect::RunStep(StepList::Update, 0)]);
}

#[test]
fn a_command_that_ends_by_itself_before_its_update_is_updated_all_the_same() {
    let mut story = Story::updating(&[]);
    assert_eq!(story.on(Input::Exited(FAILED)), [Effect::RunStep(StepList::Update, 0)]);
}

#[test]
fn a_command_that_does_not_come_back_after_an_update_is_told_and_treated_like_any_that_ended() {
    let mut story = Story::updating(&UPDATE);
    assert_eq!(story.elapse(), (UPDATES.ready_limit, vec![Effect::Log(Notice::NotReadyAfterUpdate)]));
    let effects = story.on(Input::Exited(FAILED));
    assert!(effects.contains(&Effect::Log(Notice::ExitedAfterUpdate { exit: FAILED })), "{effects:?}");
    assert_eq!(story.on(Input::Settled(Visibility::Absent)), [Effect::Exit(3)]);
}

#[test]
fn a_stop_in_the_middle_of_an_update_never_asks_the_command_twice() {
    let mut story = Story::updating(&[Input::Settled(Visibility::Maintenance)]);
    assert_eq!(story.on(Input::Stop), [Effect::Publish(Visibility::Absent)]);
    assert_eq!(story.on(Input::Settled(Visibility::Absent)), []);
    assert_eq!(story.on(Input::Exited(Exit::Signal(15))), [Effect::Exit(143)]);
}

#[test]
fn a_stop_ends_a_check_that_runs() {
    let mut story = Story::checking(UPDATES);
    assert_eq!(story.on(Input::Stop), [Effect::EndCheck, Effect::Publish(Visibility::Draining)]);
}

#[test]
fn only_a_page_makes_steps_seen_and_it_stays_until_the_command_answers() {
    for page in [true, false] {
        let mut story = Story::new(Policy { page, wait: None, ..POLICY });
        let shown = story.on(Input::Begin).contains(&Effect::Publish(Visibility::Maintenance));
        assert_eq!(shown, page);
        for _ in 0..2 {
            story.on(Input::StepEnded(OK));
        }
        assert_eq!(story.on(Input::Spawned), [Effect::AwaitReady]);
        assert_eq!(story.on(Input::Ready), [Effect::Publish(Visibility::Live)]);
    }
}

#[test]
fn steps_updates_and_schedules_are_healthy_while_they_are_as_they_should_be() {
    let healthy = |name: &str| {
        let (_, make) = STATES.iter().find(|(known, _)| *known == name).unwrap();
        make().machine.activity().healthy
    };
    let fine = [
        "in the second step",
        "about to stop for an update",
        "stopping for an update",
        "in the second step of an update",
        "starting after an update",
        "running after an update, not ready",
        "pausing in a schedule",
    ];
    for name in fine {
        assert_eq!(healthy(name), Some(true), "{name}");
    }
    for name in [
        "waiting for dependencies",
        "running, not ready",
        "live",
        "running after an update, not ready in time",
    ] {
        assert_eq!(healthy(name), None, "{name}: that is for the application to say");
    }
    let mut schedule = Story::new(Policy { every: Some(MINUTE), ..PLAIN });
    for (exit, healthy) in [(OK, true), (FAILED, false), (OK, true)] {
        schedule.on(Input::Begin);
        schedule.on(Input::Spawned);
        schedule.on(Input::Exited(exit));
        assert_eq!(schedule.machine.activity().healthy, Some(healthy));
        schedule.elapse();
    }
}

#[test]
fn dependencies_that_do_not_come_are_the_end() {
    let mut story = Story::after(POLICY, &[Input::Begin]);
    let (waited, effects) = story.elapse();
    assert_eq!(Some(waited), POLICY.wait);
    assert_eq!(effects, [Effect::Log(Notice::DependenciesMissing), Effect::Exit(UNAVAILABLE)]);
}
