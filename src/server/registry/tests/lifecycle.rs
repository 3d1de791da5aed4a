//! The transition tables, so that a changed transition is a changed line.

use std::fmt::Debug;

use crate::server::registry::model::{MemberEvent, MemberState, SessionEvent, SessionState};

fn table<S: Debug + Copy + PartialEq, E: Debug + Copy>(
    states: &[S],
    events: &[E],
    next: impl Fn(S, E) -> S,
) -> String {
    let mut lines = Vec::new();
    for state in states {
        for event in events {
            let then = next(*state, *event);
            let then = if then == *state { "-".to_owned() } else { format!("{then:?}") };
            lines.push(format!("{:<10} {:<14} {then}", format!("{state:?}"), format!("{event:?}")));
        }
    }
    lines.join("\n")
}

#[test]
fn what_becomes_of_a_session() {
    use SessionEvent::*;
    use SessionState::{Connected, Gone, Grace, Remote, Retired};
    let states = [Connected, Remote, Grace, SessionState::Replaced, Retired, Gone];
    let events = [Bound, Lost, Replaced, Succeeded, GraceOver, ShutDown, Forgotten, Followed, Ended];
    insta::assert_snapshot!(table(&states, &events, SessionState::next));
}

#[test]
fn what_becomes_of_a_member() {
    use MemberEvent::*;
    use MemberState::*;
    let states = [Provisional, Joining, Usable, Failed, Dormant, Suspended];
    let events = [Passed, FailedInARow, FailedInGrace, AddressTaken, Returned, ClaimUnserved];
    insta::assert_snapshot!(table(&states, &events, MemberState::next));
}
