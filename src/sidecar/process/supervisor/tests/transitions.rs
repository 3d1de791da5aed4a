//! Every state with every input: the table of all transitions, and that a stop ends each.

use std::fmt::Write as _;

use super::*;

#[test]
fn whatever_state_the_stop_meets_it_comes_to_an_end() {
    for (name, make) in STATES {
        let mut story = make();
        let mut effects = story.on(Input::Stop);
        for _ in 0..12 {
            let next = effects.iter().find_map(|effect| match effect {
                Effect::EndStep | Effect::KillStep => Some(Input::StepEnded(Exit::Signal(15))),
                Effect::StopCommand | Effect::KillCommand => Some(Input::Exited(Exit::Signal(15))),
                Effect::Start | Effect::RunStep(..) | Effect::AwaitReady | Effect::RunCheck => {
                    panic!("{name}: {effects:?}")
                }
                _ => None,
            });
            if matches!(story.machine.state, State::Done) {
                break;
            }
            let next = match story.machine.state {
                // The command was asked to end before the stop came.
                State::Stopping { .. } if next.is_none() => Some(Input::Exited(Exit::Signal(15))),
                _ => next,
            };
            effects = match (next, story.machine.state) {
                (Some(input), _) => story.on(input),
                (None, State::Starting) => story.on(Input::Spawned),
                (None, _) => story.elapse().1,
            };
        }
        assert_eq!(story.machine.state, State::Done, "{name}");
    }
}

pub(super) type Setup = fn() -> Story;

pub(super) const STATES: &[(&str, Setup)] = &[
    ("new", || Story::new(POLICY)),
    ("waiting for dependencies", || Story::after(POLICY, &STEPS_DONE[..1])),
    ("in the second step", || Story::after(POLICY, &STEPS_DONE[..3])),
    ("ending a step that took too long", || {
        let mut story = Story::after(POLICY, &STEPS_DONE[..2]);
        story.elapse();
        story
    }),
    ("ending a step to stop", || {
        let mut story = Story::after(POLICY, &STEPS_DONE[..2]);
        story.on(Input::Stop);
        story
    }),
    ("starting", || Story::after(POLICY, &STEPS_DONE)),
    ("starting, asked to stop", || {
        let mut story = Story::after(POLICY, &STEPS_DONE);
        story.on(Input::Stop);
        story
    }),
    ("running, not ready", || {
        let mut story = Story::after(POLICY, &STEPS_DONE);
        story.on(Input::Spawned);
        story
    }),
    ("live", || Story::live(POLICY)),
    ("ended by itself, leaving", || {
        let mut story = Story::live(POLICY);
        story.on(Input::Exited(FAILED));
        story
    }),
    ("pausing before a restart", || {
        let mut story = Story::live(PLAIN);
        story.machine.policy.restart = Restart::Always;
        story.on(Input::Exited(FAILED));
        story.on(Input::Settled(Visibility::Absent));
        story
    }),
    ("starting again", || {
        let mut story = Story::live(POLICY);
        story.on(Input::Exited(FAILED));
        story.on(Input::Settled(Visibility::Absent));
        story.elapse();
        story
    }),
    ("pausing in a schedule", || {
        let mut story = Story::new(Policy { every: Some(Duration::from_secs(60)), ..PLAIN });
        story.on(Input::Begin);
        story.on(Input::Spawned);
        story.on(Input::Exited(OK));
        story
    }),
    ("live, with a check that runs", || Story::checking(UPDATES)),
    ("about to stop for an update", || Story::updating(&[])),
    ("stopping for an update", || Story::updating(&[Input::Settled(Visibility::Maintenance)])),
    ("killing for an update", || {
        let mut story = Story::updating(&[Input::Settled(Visibility::Maintenance)]);
        story.elapse();
        story
    }),
    ("in the second step of an update", || Story::updating(&UPDATE[..3])),
    ("ending a step of an update", || {
        let mut story = Story::updating(&UPDATE[..2]);
        story.elapse();
        story
    }),
    ("starting after an update", || Story::updating(&UPDATE[..4])),
    ("running after an update, not ready", || Story::updating(&UPDATE)),
    ("running after an update, not ready in time", || {
        let mut story = Story::updating(&UPDATE);
        story.elapse();
        story
    }),
    ("running after an update that failed, not ready", || {
        let mut story = Story::updating(&UPDATE[..2]);
        story.on(Input::StepEnded(FAILED));
        story.on(Input::Spawned);
        story
    }),
    ("stopped while stopping for an update", || {
        let mut story = Story::updating(&[Input::Settled(Visibility::Maintenance)]);
        story.on(Input::Stop);
        story
    }),
    ("draining", || {
        let mut story = Story::live(POLICY);
        story.on(Input::Stop);
        story
    }),
    ("leaving", || {
        let mut story = Story::live(POLICY);
        story.on(Input::Stop);
        story.on(Input::Settled(Visibility::Draining));
        story
    }),
    ("stopping", || {
        let mut story = Story::live(POLICY);
        story.on(Input::Stop);
        story.on(Input::Settled(Visibility::Draining));
        story.on(Input::Settled(Visibility::Absent));
        story
    }),
    ("done", || {
        let mut story = Story::live(PLAIN);
        story.on(Input::Exited(FAILED));
        story.on(Input::Settled(Visibility::Absent));
        story
    }),
];

const INPUTS: &[Input] = &[
    Input::Begin,
    Input::DependenciesReady,
    Input::StepEnded(OK),
    Input::StepEnded(FAILED),
    Input::Spawned,
    Input::NotSpawned(127),
    Input::Ready,
    Input::Exited(OK),
    Input::Exited(FAILED),
    Input::Settled(Visibility::Draining),
    Input::Settled(Visibility::Maintenance),
    Input::Settled(Visibility::Absent),
    Input::CheckEnded(OK),
    Input::CheckEnded(Exit::Code(1)),
    Input::CheckEnded(Exit::Code(127)),
    Input::Stop,
    Input::Elapsed,
];

#[test]
fn every_state_answers_every_input() {
    let mut table = String::new();
    for (name, make) in STATES {
        let story = make();
        writeln!(table, "{name}: {}", shown(story.machine.state)).unwrap();
        for input in INPUTS {
            let mut story = make();
            let before = story.machine.state;
            let effects = match input {
                Input::Elapsed if story.machine.deadline().is_some() => story.elapse().1,
                input => story.on(*input),
            };
            if story.machine.state == before && effects.is_empty() {
                continue;
            }
            let after = shown(story.machine.state);
            writeln!(table, "    {:<30} -> {after:<24} {effects:?}", format!("{input:?}")).unwrap();
        }
    }
    insta::assert_snapshot!(table);
}

/// The state without its times, which differ from run to run.
fn shown(state: State) -> String {
    match state {
        State::Step { work, index, .. } => format!("{work:?} step {index}"),
        State::EndingStep { work, index, kill_at, .. } => {
            format!("Ending {work:?} step {index}{}", if kill_at.is_some() { ", then kill" } else { "" })
        }
        State::Running { ready, .. } => format!("Running, {}ready", if ready { "" } else { "not " }),
        State::Leaving { asked, .. } => format!("Leaving{}", if asked { ", asked" } else { "" }),
        State::StoppingForUpdate { kill_at } => {
            format!("StoppingForUpdate{}", if kill_at.is_some() { ", then kill" } else { "" })
        }
        State::Stopping { kill_at } => {
            format!("Stopping{}", if kill_at.is_some() { ", then kill" } else { "" })
        }
        State::Withdrawing { then, .. } => format!("Withdrawing, {then:?}"),
        other => format!("{other:?}").split(' ').next().unwrap_or_default().to_owned(),
    }
}
