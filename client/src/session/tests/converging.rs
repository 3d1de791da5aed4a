//! How what is wanted comes into force, whatever the registry refuses and whenever the intent changes.

use std::time::Duration;

use super::super::*;
use super::story::{Story, intent, route};
use super::{MAIN, live};

#[test]
fn a_refused_route_does_not_keep_the_others_out() {
    let mut story =
        Story::new(intent(&[("a", route("example.org", MAIN)), ("b", route("example.com", MAIN))]));
    story.play(
        "~ dial
         > REGISTER|web|web-1|0|{}
         < ACK|S1
         > SESSION_INFO|S1
         < INFO|0
         > ROUTE_ADD|S1|example.org|/|http://10.2.2.7:8080/|10
         > ROUTE_ADD|S1|example.com|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r1
         < ROUTE_OK|r2
         > CONFIG_APPLY|S1
         < ERROR|route r2: example.com/ belongs to service shop
         > CONFIG_ROLLBACK|S1
         < OK
         ! ERROR
         > ROUTE_ADD|S1|example.org|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r3
         > CONFIG_APPLY|S1
         < OK
         ! ROUTE_ADDED",
    );
    let status = story.session.status();
    assert!(!status.live);
    assert_eq!(status.routes["a"], RouteStatus::Applied(RouteId(3)));
    assert!(
        matches!(&status.routes["b"], RouteStatus::Refused(refusal) if refusal.to_string().contains("shop"))
    );

    // Tried again after a while; then the owner is gone.
    story.play(
        "+ 100ms
         > ROUTE_ADD|S1|example.com|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r4
         > CONFIG_APPLY|S1
         < ERROR|route r4: example.com/ belongs to service shop
         > CONFIG_ROLLBACK|S1
         < OK
         ! ERROR
         + 10s
         > ROUTE_ADD|S1|example.com|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r5
         > CONFIG_APPLY|S1
         < OK
         ! ROUTE_ADDED",
    );
    assert!(story.session.status().live);
}

#[test]
fn the_refusal_names_the_owner() {
    let mut story = Story::new(intent(&[("main", route("example.com", MAIN))]));
    story.play(
        "~ dial
         > REGISTER|web|web-1|0|{}
         < ACK|S1
         > SESSION_INFO|S1
         < INFO|0
         > ROUTE_ADD|S1|example.com|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r1
         > CONFIG_APPLY|S1
         < ERROR|route r1: example.com/ belongs to service shop
         > CONFIG_ROLLBACK|S1
         < OK
         ! ERROR",
    );
    let Some(Event::RouteRefused { key, owner, delay, .. }) = &story.last_event else { panic!("not said") };
    assert_eq!((key.as_str(), owner.as_deref(), *delay), ("main", Some("shop"), Duration::from_millis(100)));
    // The session stays alive meanwhile, and another intent is tried at once.
    story.want(&[("main", route("example.net", MAIN))]);
    story.play("> ROUTE_ADD|S1|example.net|/|http://10.2.2.7:8080/|10");
}

#[test]
fn a_route_that_is_refused_while_it_is_staged_is_left_out_as_well() {
    let mut story = Story::new(intent(&[
        ("a", route("example.org", MAIN)),
        ("b", route("example.com", "http://8.8.8.8")),
    ]));
    story.play(
        "~ dial
         > REGISTER|web|web-1|0|{}
         < ACK|S1
         > SESSION_INFO|S1
         < INFO|0
         > ROUTE_ADD|S1|example.org|/|http://10.2.2.7:8080/|10
         > ROUTE_ADD|S1|example.com|/|http://8.8.8.8/|10
         < ROUTE_OK|r1
         < ERROR|not allowed: http://8.8.8.8/
         > CONFIG_ROLLBACK|S1
         < OK
         ! ERROR
         > ROUTE_ADD|S1|example.org|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r2
         > CONFIG_APPLY|S1
         < OK
         ! ROUTE_ADDED",
    );
}

#[test]
fn a_refused_change_leaves_the_route_as_it_was() {
    let mut story = live();
    story.want(&[("main", route("example.net", MAIN))]);
    story.play(
        "> ROUTE_UPDATE|S1|r1|domains|example.net
         < ROUTE_OK
         > CONFIG_APPLY|S1
         < ERROR|route r1: example.net/ belongs to service shop
         > CONFIG_ROLLBACK|S1
         < OK
         ! ERROR",
    );
    // Visibility as it was before, there is nothing to do.
    story.want(&[("main", route("example.com", MAIN))]);
    story.play("");
    assert!(story.session.status().live);
}

#[test]
fn an_apply_that_is_refused_as_a_whole_is_tried_again_later() {
    let mut story = live();
    story.want(&[]);
    story.play(
        "> ROUTE_REMOVE|S1|r1
         < ROUTE_OK
         > CONFIG_APPLY|S1
         < ERROR|store unavailable
         > CONFIG_ROLLBACK|S1
         < OK
         ! ERROR
         > SESSION_INFO|S1
         < INFO|1
         + 99ms
         + 1ms
         > ROUTE_REMOVE|S1|r1
         < ROUTE_OK
         > CONFIG_APPLY|S1
         < OK
         ! ROUTE_REMOVED",
    );
}

#[test]
fn a_route_that_the_server_does_not_have_is_added_again() {
    let mut story = live();
    story.want(&[("main", route("example.net", MAIN))]);
    story.play(
        "> ROUTE_UPDATE|S1|r1|domains|example.net
         < ERROR|route not found
         > CONFIG_ROLLBACK|S1
         < OK
         > ROUTE_ADD|S1|example.net|/|http://10.2.2.7:8080/|10",
    );
}

#[test]
fn another_backend_is_in_before_the_former_is_out() {
    let mut story = live();
    story.want(&[("main", route("example.com", "http://10.2.2.8:8080"))]);
    story.play(
        "> ROUTE_ADD|S1|example.com|/|http://10.2.2.8:8080/|10
         < ROUTE_OK|r2
         > CONFIG_APPLY|S1
         < OK
         ! ROUTE_ADDED
         > ROUTE_REMOVE|S1|r1
         < ROUTE_OK
         > CONFIG_APPLY|S1
         < OK
         ! ROUTE_REMOVED",
    );
    assert!(story.session.status().live);
}

#[test]
fn what_changes_while_offline_is_made_true_by_the_next_session() {
    let mut story = live();
    story.play("~ eof");
    story.want(&[("other", route("example.org", MAIN))]);
    story.play(
        "+ 100ms
         ~ dial
         > RECONNECT|S1
         < OK
         > CONFIG_ROLLBACK|S1
         < OK
         > SESSION_INFO|S1
         < INFO|1
         > ROUTE_ADD|S1|example.org|/|http://10.2.2.7:8080/|10
         > ROUTE_REMOVE|S1|r1
         < ROUTE_OK|r2
         < ROUTE_OK
         > CONFIG_APPLY|S1
         < OK
         ! ROUTE_ADDED
         ! ROUTE_REMOVED",
    );
    assert!(story.session.status().live);
}

#[test]
fn what_changes_in_the_middle_of_a_sync_follows_it() {
    let mut story = live();
    story.want(&[("main", route("example.net", MAIN))]);
    story.play("> ROUTE_UPDATE|S1|r1|domains|example.net");
    story.want(&[("main", route("example.org", MAIN))]);
    story.play(
        "< ROUTE_OK
         > CONFIG_APPLY|S1
         < OK
         > ROUTE_UPDATE|S1|r1|domains|example.org
         < ROUTE_OK
         > CONFIG_APPLY|S1
         < OK",
    );
    assert!(story.session.status().live);
}

#[test]
fn a_reference_server_gets_one_command_at_a_time_and_its_own_order() {
    let compressed =
        |domain| route(domain, MAIN).with_option(crate::protocol::RouteOption::Compression(true));
    let mut story = Story::new(intent(&[("a", compressed("a.de")), ("b", compressed("b.de"))]));
    story.play(
        "~ dial
         > REGISTER|web|web-1|0|{}
         < ACK|S1
         > SESSION_INFO|S1
         < REFERENCE
         > ROUTE_ADD|S1|a.de|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r1
         > ROUTE_ADD|S1|b.de|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r2
         > CONFIG_APPLY|S1
         < OK
         > ROUTE_REMOVE|S1|r1
         < ROUTE_OK|r1
         > ROUTE_REMOVE|S1|r2
         < ROUTE_OK|r2
         > CONFIG_APPLY|S1
         < OK
         > ROUTE_ADD|S1|a.de|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r3
         > ROUTE_ADD|S1|b.de|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r4
         > OPTIONS_SET|S1|ALL|compression|true
         < OPTIONS_OK
         > CONFIG_APPLY|S1
         < OK
         ~ eof
         + 100ms
         ~ dial
         > RECONNECT|S1
         < ERROR|no session
         > REGISTER|web|web-1|0|{}",
    );
}
