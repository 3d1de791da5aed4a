//! The records that replicas share beyond what is applied: how they are written, and what a change does to a state.

use std::time::{Duration, SystemTime};

use crate::server::registry::persist::{
    DrainRecord, EndReason, LostRecord, PlaceRecord, SavedState, SessionMarks, StoreChange,
};
use crate::server::registry::{Delta, SessionNo};

use super::*;

#[test]
fn marks_are_written_by_name_and_what_is_not_there_is_not_written() {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let marks = SessionMarks {
        lost: Some(LostRecord { at, is_prolonged: true }),
        drain: Some(DrainRecord { at, asked: Duration::from_secs(5), time: Duration::from_millis(1) }),
        suspended: ["http://10.2.2.7:80".parse().unwrap()].into(),
        peer: Some("10.2.2.9".parse().unwrap()),
        shared_address: true,
        superseded: [PlaceRecord { domain: "a.de".parse().unwrap(), path: "/".parse().unwrap() }].into(),
    };
    let json = concat!(
        r#"{"lost":{"at":"2023-11-14T22:13:20Z","is_prolonged":true},"#,
        r#""drain":{"at":"2023-11-14T22:13:20Z","asked_ms":5000,"time_ms":1},"#,
        r#""suspended":["http://10.2.2.7/"],"peer":"10.2.2.9","shared_address":true,"#,
        r#""superseded":[{"domain":"a.de","path":"/"}]}"#
    );
    assert_eq!(serde_json::to_string(&marks).unwrap(), json);
    assert_eq!(serde_json::from_str::<SessionMarks>(json).unwrap(), marks);
    assert_eq!(serde_json::to_string(&SessionMarks::default()).unwrap(), "{}");
    let newer = json.replace("\"peer\"", "\"colour\"");
    assert!(serde_json::from_str::<SessionMarks>(&newer).is_err(), "a part that is not known is refused");
    assert_eq!(serde_json::to_string(&EndReason::ShutDown).unwrap(), r#""shut_down""#);
}

#[test]
fn a_state_takes_changes_in_any_order_of_sessions_and_forgets_all_of_one_that_ends() {
    let mut world = World::new();
    world.live("web", "web-1", "10.2.2.7", "a.de", "http://10.2.2.7:80");
    world.live("web", "web-2", "10.2.2.8", "a.de", "http://10.2.2.8:80");
    let all = world.paper.clone();
    let change = |at: usize| StoreChange::Applied {
        session: Box::new(all.sessions[at].session.clone()),
        applied: 1,
        delta: Arc::new(Delta { routes: Vec::new(), defaults: None }),
        maintenance: None,
    };
    let mut state = SavedState::default();
    state.apply(&change(1));
    state.apply(&change(0));
    let numbers =
        |state: &SavedState| state.sessions.iter().map(|saved| saved.session.no).collect::<Vec<_>>();
    assert_eq!(numbers(&state), [1, 2]);
    let marks = SessionMarks { shared_address: true, ..SessionMarks::default() };
    state.apply(&StoreChange::Marked([1, 2, 3].map(|no| (SessionNo(no), marks.clone())).to_vec()));
    assert_eq!(numbers(&state), [1, 2], "nothing is kept of a session that is not held");
    assert!(state.sessions.iter().all(|saved| saved.marks == marks));
    state.apply(&StoreChange::Ended(SessionNo(1), EndReason::Expired));
    state.apply(&StoreChange::Ended(SessionNo(1), EndReason::Expired));
    assert_eq!(numbers(&state), [2]);
}
