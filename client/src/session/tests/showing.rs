//! What people see: drain, maintenance, and what is asked through the session on the way.

use super::super::*;
use super::showing_at_reference::live_at_reference;
use super::story::{Story, intent, route, routes};
use super::{MAIN, live};
use crate::intent::{MaintenanceAction as Action, MaintenanceRequest, MaintenanceTarget};

pub(super) const PAGE: &str = "http://10.2.2.7:3001/";

fn enter(story: &mut Story, target: MaintenanceTarget) {
    let page = Some(PAGE.parse().unwrap());
    story.session.maintain(target, Action::Enter(page), story.now);
}

fn exit(story: &mut Story, target: MaintenanceTarget) {
    story.session.maintain(target, Action::Exit, story.now);
}

/// In maintenance as a whole, confirmed by our server.
fn in_maintenance() -> Story {
    let mut story = live();
    enter(&mut story, MaintenanceTarget::All);
    story.play(
        "! MAINT_REQUESTED
         > MAINT_ENTER|S1|r1|http://10.2.2.7:3001/
         < ACK
         + 1s
         < MAINT_OK|r1
         ! MAINT_PROXY_ENTERED",
    );
    assert_eq!(story.session.status().shown, Visibility::Maintenance);
    story
}

pub(super) fn main_intent() -> Intent {
    intent(&[("main", route("example.com", MAIN))])
}

#[test]
fn an_application_that_is_lost_is_drained_and_the_drain_is_cancelled_when_it_is_back() {
    let mut story = live();
    story.show(Visibility::Draining);
    story.play("> DRAIN_START|S1|0s\n< DRAIN_OK|2026-01-01T00:00:00Z");
    assert_eq!(story.session.status().shown, Visibility::Draining);
    story.show(Visibility::Live);
    story.play("> DRAIN_CANCEL|S1\n< DRAIN_OK");
    assert_eq!(story.session.status().shown, Visibility::Live);
}

#[test]
fn a_drain_is_asked_for_again_after_a_lost_connection_because_a_restart_forgets_it() {
    let mut story = live();
    story.show(Visibility::Draining);
    story.play(
        "> DRAIN_START|S1|0s
         < DRAIN_OK|2026-01-01T00:00:00Z
         ~ eof
         + 100ms
         ~ dial
         > RECONNECT|S1
         < OK
         > CONFIG_ROLLBACK|S1
         < OK
         > SESSION_INFO|S1
         < INFO|1
         > DRAIN_START|S1|0s
         < DRAIN_OK|2026-01-01T00:00:01Z",
    );
}

#[test]
fn a_drain_that_ended_while_the_answer_was_lost_is_cancelled_to_be_sure() {
    let mut story = live();
    story.show(Visibility::Draining);
    story.play("> DRAIN_START|S1|0s\n~ eof");
    story.show(Visibility::Live);
    story.play(
        "+ 100ms
         ~ dial
         > RECONNECT|S1
         < OK
         > CONFIG_ROLLBACK|S1
         < OK
         > SESSION_INFO|S1
         < INFO|1
         > DRAIN_CANCEL|S1
         < ERROR|no drain in progress",
    );
}

#[test]
fn what_is_not_ready_is_not_registered_in_a_new_session() {
    let mut story = live();
    story.show(Visibility::Draining);
    story.play(
        "> DRAIN_START|S1|0s
         < DRAIN_OK|2026-01-01T00:00:00Z
         ~ eof
         + 100ms
         ~ dial
         > RECONNECT|S1
         < REREGISTER
         > REGISTER|web|web-1|0|{}
         < ACK|S2
         > SESSION_INFO|S2
         < INFO|0",
    );
    story.show(Visibility::Live);
    story.play(
        "> ROUTE_ADD|S2|example.com|/|http://10.2.2.7:8080/|10\n< ROUTE_OK|r1\n> CONFIG_APPLY|S2\n< OK",
    );
    assert!(story.session.status().live);
}

#[test]
fn maintenance_is_entered_and_left_when_the_proxy_says_so() {
    let mut story = in_maintenance();
    exit(&mut story, MaintenanceTarget::All);
    story.play(
        "! MAINT_EXIT_REQUESTED
         > MAINT_EXIT|S1|r1
         < ACK
         < MAINT_OK|r1
         ! MAINT_PROXY_EXITED",
    );
    assert_eq!(story.session.status().shown, Visibility::Live);
    assert_eq!(story.session.status().maintenance_wanted, []);
}

#[test]
fn without_the_proxys_word_maintenance_is_local_after_30_s_and_the_word_may_come_later() {
    let mut story = live();
    enter(&mut story, MaintenanceTarget::All);
    story.play("> MAINT_ENTER|S1|r1|http://10.2.2.7:3001/\n< ACK\n+ 29s");
    assert_eq!(story.events().last(), Some(&"MAINT_REQUESTED"));
    story.play("+ 1s\n! MAINT_LOCAL_ENTERED\n> PING|S1\n< PONG\n< MAINT_OK|r1\n! MAINT_PROXY_ENTERED");
}

#[test]
fn without_a_connection_maintenance_is_local_after_30_s_and_sent_when_there_is_one() {
    let mut story = Story::new(main_intent());
    enter(&mut story, MaintenanceTarget::All);
    story.session.link_failed(ConnectError::Refused { address: super::story::PEER }, story.now);
    while story.last_event.is_none() {
        // Every retry fails.
        story.pass_refused();
    }
    let last = story.last_event.as_ref().map(Event::name);
    assert_eq!(last, Some("MAINT_LOCAL_ENTERED"));
}

#[test]
fn maintenance_survives_a_new_session_and_its_routes_start_their_life_in_it() {
    let mut story = in_maintenance();
    story.play(
        "~ eof
         + 100ms
         ~ dial
         > RECONNECT|S1
         < REREGISTER
         > REGISTER|web|web-1|0|{}
         < ACK|S2
         > SESSION_INFO|S2
         < INFO|0
         > ROUTE_ADD|S2|example.com|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r1
         > MAINT_ENTER|S2|r1|http://10.2.2.7:3001/
         < ACK
         > CONFIG_APPLY|S2
         < OK
         < MAINT_OK|r1",
    );
    assert_eq!(story.session.status().shown, Visibility::Maintenance);
}

#[test]
fn a_verdict_that_comes_before_its_route_is_in_force_is_told_when_it_is() {
    let mut intent = main_intent();
    let (target, action) = (MaintenanceTarget::All, Action::Enter(None));
    intent.maintenance.push(MaintenanceRequest { target, action });
    Story::new(intent).play(
        "~ dial
         > REGISTER|web|web-1|0|{}
         < ACK|S1
         > SESSION_INFO|S1
         < INFO|0
         > ROUTE_ADD|S1|example.com|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r1
         > MAINT_ENTER|S1|r1|
         < ACK
         < MAINT_OK|r1
         > CONFIG_APPLY|S1
         < OK
         ! MAINT_PROXY_ENTERED",
    );
}

#[test]
fn of_overlapping_requests_the_last_holds_and_only_one_is_under_way() {
    let mut story = live();
    enter(&mut story, MaintenanceTarget::All);
    story.play("> MAINT_ENTER|S1|r1|http://10.2.2.7:3001/\n< ACK");
    exit(&mut story, MaintenanceTarget::All);
    enter(&mut story, MaintenanceTarget::All);
    exit(&mut story, MaintenanceTarget::All);
    story.play("");
    story.play("< MAINT_OK|r1\n> MAINT_EXIT|S1|r1\n< ACK\n< MAINT_OK|r1\n! MAINT_PROXY_EXITED");
}

#[test]
fn a_verdict_that_does_not_come_holds_up_the_opposite_for_30_s_at_most() {
    let mut story = live();
    enter(&mut story, MaintenanceTarget::All);
    story.play("> MAINT_ENTER|S1|r1|http://10.2.2.7:3001/\n< ACK\n+ 5s");
    exit(&mut story, MaintenanceTarget::All);
    story.play(
        "+ 25s
         > MAINT_EXIT|S1|r1
         < ACK
         > PING|S1
         < ERROR|timeout waiting for maintenance page to become reachable
         < PONG
         < MAINT_OK|r1
         ! MAINT_PROXY_EXITED",
    );
}

#[test]
fn the_verdict_of_a_request_that_was_given_up_is_not_taken_for_the_next_one() {
    let mut story = live();
    story.want(&[("main", route("example.com", MAIN)), ("more", route("example.org", MAIN))]);
    story.play(
        "> ROUTE_ADD|S1|example.org|/|http://10.2.2.7:8080/|10\n< ROUTE_OK|r2\n> CONFIG_APPLY|S1\n< OK",
    );
    enter(&mut story, MaintenanceTarget::Route("main".into()));
    story.play("> MAINT_ENTER|S1|r1|http://10.2.2.7:3001/\n< ACK\n+ 29s");
    story.session.maintain(MaintenanceTarget::Route("more".into()), Action::Enter(None), story.now);
    story.play(
        "+ 1s
         > MAINT_ENTER|S1|r2|
         < ACK
         > PING|S1
         < PONG
         < ERROR|timeout waiting for maintenance page to become reachable
         < MAINT_OK|r2
         ! MAINT_PROXY_ENTERED",
    );
    assert!(story.session.status().maintenance["more"]);
}

#[test]
fn a_page_that_did_not_answer_is_asked_for_again_until_the_proxy_confirms_it() {
    let mut story = live();
    enter(&mut story, MaintenanceTarget::All);
    story.play(
        "> MAINT_ENTER|S1|r1|http://10.2.2.7:3001/
         < ACK
         + 30s
         ! MAINT_LOCAL_ENTERED
         > PING|S1
         < PONG
         < ERROR|timeout waiting for maintenance page to become reachable
         ! ERROR
         + 30s
         > MAINT_ENTER|S1|r1|http://10.2.2.7:3001/
         < ACK
         > PING|S1
         < PONG
         < MAINT_OK|r1
         ! MAINT_PROXY_ENTERED",
    );
}

/// A connection on which the session goes on, up to the question what is in maintenance there.
fn resume(story: &mut Story, in_maintenance: &str, then: &str) {
    story.play(&format!(
        r#"+ 100ms
           ~ dial
           > RECONNECT|S1
           < OK
           > CONFIG_ROLLBACK|S1
           < OK
           > SESSION_INFO|S1
           < INFO|1
           > MAINT_STATUS|S1
           < MAINT_STATUS_OK|{{"in_maintenance":[{in_maintenance}],"maintenance_backend":"","entered_at":""}}
           {then}"#
    ));
}

#[test]
fn a_registry_that_has_forgotten_the_maintenance_of_a_session_it_kept_is_told_again() {
    let mut story = in_maintenance();
    story.play("~ eof");
    resume(&mut story, "", "> MAINT_ENTER|S1|r1|http://10.2.2.7:3001/\n< ACK\n< MAINT_OK|r1");
    assert_eq!(story.session.status().shown, Visibility::Maintenance);
}

#[test]
fn a_maintenance_whose_verdict_was_lost_is_left_where_it_is_not_wanted_any_more() {
    let mut story = live();
    enter(&mut story, MaintenanceTarget::All);
    story.play("> MAINT_ENTER|S1|r1|http://10.2.2.7:3001/\n< ACK\n~ eof");
    exit(&mut story, MaintenanceTarget::All);
    resume(&mut story, r#""r1""#, "> MAINT_EXIT|S1|r1\n< ACK\n< MAINT_OK|r1\n! MAINT_PROXY_EXITED");
}

#[test]
fn a_request_of_a_handle_is_heard_once_and_its_page_moves_with_the_application() {
    let mut story = live();
    let mut goal = Goal { change: 1, ..main_intent().goal() };
    let page = |url: &str| Action::Enter(Some(url.parse().unwrap()));
    let target = MaintenanceTarget::Route("main".into());
    goal.request(MaintenanceRequest { target, action: page(PAGE) });
    story.session.want(goal.clone(), story.now);
    story.play("! MAINT_REQUESTED\n> MAINT_ENTER|S1|r1|http://10.2.2.7:3001/\n< ACK\n< MAINT_OK|r1");
    story.session.want(goal.clone(), story.now);
    story.play("");
    goal.maintenance[0].request.action = page("http://10.2.2.9:3001/");
    story.session.want(goal, story.now);
    story.play("> MAINT_ENTER|S1|r1|http://10.2.2.9:3001/\n< ACK\n< MAINT_OK|r1");
    assert_eq!(story.events(), ["MAINT_PROXY_ENTERED"]);
}

#[test]
fn paths_and_domains_become_route_ids_before_they_are_sent() {
    let mut admin = route("example.com", MAIN);
    admin.path = "/admin".parse().unwrap();
    let mut story = live();
    story.want(&[("main", route("example.com", MAIN)), ("admin", admin)]);
    story.play(
        "> ROUTE_ADD|S1|example.com|/admin|http://10.2.2.7:8080/|10
         < ROUTE_OK|r2
         > CONFIG_APPLY|S1
         < OK",
    );
    enter(&mut story, MaintenanceTarget::Path("/admin".parse().unwrap()));
    story.play("> MAINT_ENTER|S1|r2|http://10.2.2.7:3001/\n< ACK\n< MAINT_OK|r2\n! MAINT_PROXY_ENTERED");
    enter(&mut story, MaintenanceTarget::Domain("example.com".parse().unwrap()));
    story.play("> MAINT_ENTER|S1|r1|http://10.2.2.7:3001/\n< ACK\n< MAINT_OK|r1");
    assert_eq!(story.session.status().maintenance.len(), 2);
}

#[test]
fn a_registry_that_knows_no_maintenance_is_asked_once_and_it_is_local_at_once() {
    let mut story = live();
    enter(&mut story, MaintenanceTarget::All);
    story.play(
        "> MAINT_ENTER|S1|r1|http://10.2.2.7:3001/
         < ERROR|unknown command: MAINT_ENTER
         ! ERROR
         ! MAINT_LOCAL_ENTERED",
    );
    exit(&mut story, MaintenanceTarget::All);
    story.play("+ 1s");
}

#[test]
fn a_setting_that_the_registry_does_not_know_costs_the_route_that_setting_and_nothing_else() {
    let window = "1m".parse().unwrap();
    let limited =
        route("example.com", MAIN).with_rate_limit(crate::protocol::RateLimit { requests: 5, window });
    let mut story = Story::new(intent(&[("main", limited)]));
    story.play(
        "~ dial
         > REGISTER|web|web-1|0|{}
         < ACK|S1
         > SESSION_INFO|S1
         < INFO|0
         > ROUTE_ADD|S1|example.com|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r1
         > RATELIMIT_SET|S1|r1|5|1m
         < ERROR|unknown command: RATELIMIT_SET
         > CONFIG_ROLLBACK|S1
         < OK
         > ROUTE_ADD|S1|example.com|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r2
         > CONFIG_APPLY|S1
         < OK",
    );
    assert!(story.session.status().live);
    assert!(story.events().contains(&"LOG"));
}

#[test]
fn subscriptions_are_renewed_in_every_session() {
    let mut story = live();
    story.session.subscribe(EventKind::All, true, story.now);
    story.play(
        r#"> SUBSCRIBE|S1|all
           < SUBSCRIBE_OK
           < EVENT|cert_renewed|{"domain":"example.com"}
           ! REGISTRY_EVENT
           ~ eof
           + 100ms
           ~ dial
           > RECONNECT|S1
           < OK
           > CONFIG_ROLLBACK|S1
           < OK
           > SESSION_INFO|S1
           < INFO|1
           > SUBSCRIBE|S1|all
           < SUBSCRIBE_OK"#,
    );
}

#[test]
fn a_drain_does_not_wait_for_the_answer_to_a_backend_test() {
    let mut story = live();
    let test = |story: &mut Story| {
        let url = "http://10.2.2.7:8080/".parse().unwrap();
        story.session.call(Ticket(1), Request::BackendTest(url), story.now);
    };
    test(&mut story);
    story.show(Visibility::Draining);
    story.play(
        r#"> BACKEND_TEST|S1|http://10.2.2.7:8080/
           > DRAIN_START|S1|0s
           + 3s
           < BACKEND_FAIL|{"reachable":false,"error":"slow"}
           < DRAIN_OK|2026-01-01T00:00:00Z"#,
    );
    assert_eq!(story.session.status().shown, Visibility::Draining);
    assert_eq!(story.answered.len(), 1);

    // A reference server carries out one after the other, and has no drain that is none.
    let mut story = live_at_reference(main_intent());
    test(&mut story);
    story.show(Visibility::Draining);
    story.play("> BACKEND_TEST|S1|http://10.2.2.7:8080/");
}

/// The page is shown no longer, whatever the verdict says.
#[test]
fn what_was_left_without_a_good_verdict_is_entered_again_when_that_is_asked_for() {
    let left = "> MAINT_EXIT|S1|r1
         < ACK
         < ERROR|timeout waiting for backend to become reachable
         ! ERROR
         ! MAINT_PROXY_EXITED";
    let mut story = in_maintenance();
    exit(&mut story, MaintenanceTarget::All);
    story.play(left);
    assert_eq!(story.session.status().shown, Visibility::Live);
    story.play("+ 28s");
    enter(&mut story, MaintenanceTarget::All);
    story.play("> MAINT_ENTER|S1|r1|http://10.2.2.7:3001/\n< ACK");
    assert_eq!(story.session.status().maintenance.values().collect::<Vec<_>>(), [&false]);
    story.play("< MAINT_OK|r1\n! MAINT_PROXY_ENTERED");

    let mut story = live_at_reference(main_intent());
    let entered = "> MAINT_ENTER|S1|r2|http://10.2.2.7:3001/\n< ACK\n< MAINT_OK|r2\n! MAINT_PROXY_ENTERED";
    enter(&mut story, MaintenanceTarget::All);
    story.play(entered);
    exit(&mut story, MaintenanceTarget::All);
    story.play(&left.replace("r1", "r2"));
    enter(&mut story, MaintenanceTarget::All);
    story.play(entered);
}

#[test]
fn maintenance_that_is_wanted_again_before_it_was_left_is_asked_for_again() {
    let mut story = in_maintenance();
    exit(&mut story, MaintenanceTarget::All);
    story.play("! MAINT_EXIT_REQUESTED\n> MAINT_EXIT|S1|r1\n< ACK");
    enter(&mut story, MaintenanceTarget::All);
    // The page may be gone at any moment, so nobody is told that it is there.
    story.play("! MAINT_REQUESTED\n+ 1s\n< MAINT_OK|r1\n> MAINT_ENTER|S1|r1|http://10.2.2.7:3001/\n< ACK");
    assert!(!story.events().contains(&"MAINT_PROXY_ENTERED"));
    story.play("< MAINT_OK|r1\n! MAINT_PROXY_ENTERED");

    // The same where the connection is lost in between, and with it the verdict.
    let mut story = in_maintenance();
    exit(&mut story, MaintenanceTarget::All);
    story.play("> MAINT_EXIT|S1|r1\n< ACK\n~ eof");
    enter(&mut story, MaintenanceTarget::All);
    resume(&mut story, r#""r1""#, "> MAINT_ENTER|S1|r1|http://10.2.2.7:3001/\n< ACK\n< MAINT_OK|r1");
}

#[test]
fn another_address_during_maintenance_is_in_maintenance_from_the_start() {
    let mut story = in_maintenance();
    let moved = routes(&[("main", route("example.com", "http://10.2.2.9:8080/"))]);
    story.want(&[("main", moved["main"].clone())]);
    story.play(
        "> ROUTE_ADD|S1|example.com|/|http://10.2.2.9:8080/|10
         < ROUTE_OK|r2
         > MAINT_ENTER|S1|r2|http://10.2.2.7:3001/
         < ACK
         > CONFIG_APPLY|S1
         < OK
         > ROUTE_REMOVE|S1|r1
         < MAINT_OK|r2
         < ROUTE_OK
         > CONFIG_APPLY|S1
         < OK",
    );
    assert_eq!(story.session.status().shown, Visibility::Maintenance);
}
