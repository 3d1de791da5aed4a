//! The transition table: every state, every input, what becomes of it. A change of the machine is a change of
//! a line in the snapshot.

use std::fmt::Write as _;

use super::super::*;
use super::story::{PEER, Story, intent, line, route, routes};
use super::{MAIN, live, reply_lost};

type Setup = fn() -> Story;
type Input = fn(&mut Session, Instant);

fn fresh() -> Story {
    Story::new(intent(&[("main", route("example.com", MAIN))]))
}

fn then(mut story: Story, script: &str) -> Story {
    story.play(script);
    story
}

fn dormant() -> Story {
    then(live(), "+ 30s\n> PING|S1\n< ERROR|session replaced")
}

fn staging() -> Story {
    let mut story = live();
    story.want(&[("main", route("example.net", MAIN))]);
    then(story, "> ROUTE_UPDATE|S1|r1|domains|example.net")
}

fn leaving() -> Story {
    let mut story = live();
    story.session.leave(story.now);
    then(story, "> CLIENT_SHUTDOWN|S1")
}

fn stopped() -> Story {
    let mut story = live();
    story.session.leave(story.now);
    then(story, "> CLIENT_SHUTDOWN|S1\n< SHUTDOWN_OK")
}

const STATES: [(&str, Setup); 17] = [
    ("disconnected", || then(live(), "~ eof")),
    ("connecting", fresh),
    ("registering", || then(fresh(), "~ dial\n> REGISTER|web|web-1|0|{}")),
    ("registered", || then(fresh(), "~ dial\n> REGISTER|web|web-1|0|{}\n< ACK|S1\n> SESSION_INFO|S1")),
    ("reconnecting", || then(live(), "~ eof\n+ 100ms\n~ dial\n> RECONNECT|S1")),
    ("resumed", || then(live(), "~ eof\n+ 100ms\n~ dial\n> RECONNECT|S1\n< OK\n> CONFIG_ROLLBACK|S1")),
    ("comparing", reply_lost),
    ("listing", || then(reply_lost(), "< INFO|9\n> ROUTE_LIST|S1")),
    ("staging", staging),
    ("applying", || then(staging(), "< ROUTE_OK\n> CONFIG_APPLY|S1")),
    ("rolling back", || then(staging(), "< ERROR|invalid format\n> CONFIG_ROLLBACK|S1")),
    ("live", live),
    ("pinging", || then(live(), "+ 30s\n> PING|S1")),
    ("dormant", dormant),
    ("asking", || then(dormant(), "+ 100ms\n> RECONNECT|S1")),
    ("leaving", leaving),
    ("stopped", stopped),
];

fn says(session: &mut Session, text: &str, now: Instant) {
    session.receive(Received::Line(line(text)), now);
}

const INPUTS: [(&str, Input); 17] = [
    ("link up", |session, now| session.link_up(PEER, now)),
    ("link failed", |session, now| session.link_failed(ConnectError::Refused { address: PEER }, now)),
    ("EOF", |session, now| session.link_down(Cause::Closed, now)),
    ("timer", |session, now| {
        let due = session.deadline().unwrap_or(now);
        session.tick(due);
    }),
    ("OK", |session, now| says(session, "OK", now)),
    ("INFO|2", |session, now| says(session, "INFO|2", now)),
    ("REREGISTER", |session, now| says(session, "REREGISTER", now)),
    ("ERROR|no session", |session, now| says(session, "ERROR|no session", now)),
    ("ERROR|session replaced", |session, now| says(session, "ERROR|session replaced", now)),
    ("ERROR|store unavailable", |session, now| says(session, "ERROR|store unavailable", now)),
    ("SHUTDOWN", |session, now| says(session, "SHUTDOWN", now)),
    ("HTTP", |session, now| session.receive(Received::Http, now)),
    ("garbage", |session, now| session.receive(Received::Garbage("220 smtp".to_owned()), now)),
    ("other routes", |session, now| {
        let (change, routes) = (1, routes(&[]));
        session.want(Goal { change, routes, ..intent(&[]).goal() }, now);
    }),
    ("take over", Session::take_over),
    ("network changed", Session::network_changed),
    ("leave", Session::leave),
];

fn shown(effect: Effect) -> String {
    match effect {
        Effect::Dial { .. } => "dial".to_owned(),
        Effect::Send(command) => command.redacted().split('|').next().unwrap_or_default().to_owned(),
        Effect::Hangup => "hang up".to_owned(),
        Effect::Event(event) => format!("!{}", event.name()),
        Effect::Answer(..) => "answer".to_owned(),
    }
}

#[test]
fn every_state_answers_every_input() {
    let mut table = String::new();
    for (name, setup) in STATES {
        for (input, apply) in INPUTS {
            let Story { mut session, now, .. } = setup();
            let before = session.version();
            apply(&mut session, now);
            let effects: Vec<_> = session.take_effects().into_iter().map(shown).collect();
            let line = match (effects.is_empty(), session.version() == before) {
                (true, true) => "-".to_owned(),
                _ => format!("{:?}: {}", session.status().phase, effects.join(", ")),
            };
            writeln!(table, "{name:13} {input:24} {}", line.trim_end_matches([' ', ':'])).unwrap();
        }
        table.push('\n');
    }
    insta::assert_snapshot!(table);
}
