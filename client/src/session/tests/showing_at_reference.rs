//! What people see of a service at a reference server.

use super::super::*;
use super::MAIN;
use super::showing::{PAGE, main_intent};
use super::story::{Story, intent, route, secs};

/// The same beginning at a reference server: one route, r2, after the entries of former sessions are gone.
pub(super) fn live_at_reference(intent: Intent) -> Story {
    live_at_reference_with(intent, |_| {})
}

fn live_at_reference_with(intent: Intent, change: impl FnOnce(&mut Timing)) -> Story {
    let mut story = Story::with(intent, change);
    story.play(
        "~ dial
         > REGISTER|web|web-1|0|{}
         < ACK|S1
         > SESSION_INFO|S1
         < REFERENCE
         > ROUTE_ADD|S1|example.com|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r1
         > CONFIG_APPLY|S1
         < OK
         > ROUTE_REMOVE|S1|r1
         < ROUTE_OK|r1
         > CONFIG_APPLY|S1
         < OK
         > ROUTE_ADD|S1|example.com|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r2
         > CONFIG_APPLY|S1
         < OK
         ! ROUTE_ADDED
         ! CONFIG_APPLIED",
    );
    story
}

#[test]
fn a_reference_server_is_not_drained_but_shown_the_page_where_there_is_one() {
    let mut without_page = live_at_reference(main_intent());
    without_page.show(Visibility::Draining);
    without_page.play("");

    let page = Some(PAGE.parse().unwrap());
    let mut with_page = live_at_reference(Intent { maintenance_page: page, ..main_intent() });
    with_page.show(Visibility::Draining);
    with_page.play("> MAINT_ENTER|S1|r2|http://10.2.2.7:3001/\n< ACK\n< MAINT_OK|r2");
    with_page.show(Visibility::Live);
    with_page.play("> MAINT_EXIT|S1|r2\n< ACK\n< MAINT_OK|r2\n! MAINT_PROXY_EXITED");
}

#[test]
fn a_reference_server_that_has_lost_a_route_is_noticed_at_the_keepalive_and_repaired() {
    live_at_reference(main_intent()).play(
        "+ 30s
         > PING|S1
         < PONG
         > CIRCUIT_BREAKER_STATUS|S1|r2
         < ERROR|backend status unavailable
         > ROUTE_UPDATE|S1|r2|priority|10
         > CONFIG_APPLY|S1
         < ROUTE_OK|r2
         < OK
         + 30s
         > PING|S1
         < PONG
         > CIRCUIT_BREAKER_STATUS|S1|r2
         < ERROR|circuit breaker not found",
    );
}

/// Every second in a session's first minute, when its predecessor's session may end, and then every 3 s.
#[test]
fn a_reference_server_is_asked_about_its_routes_more_often_while_the_session_is_young() {
    let mut story = live_at_reference_with(main_intent(), |timing| timing.route_watch = None);
    let look = "> CIRCUIT_BREAKER_STATUS|S1|r2\n< ERROR|circuit breaker not found";
    for _ in 0..29 {
        story.play(&format!("+ 1s\n{look}"));
    }
    story.play(&format!("+ 1s\n> PING|S1\n< PONG\n{look}"));
    for _ in 0..29 {
        story.play(&format!("+ 1s\n{look}"));
    }
    story.play(&format!("+ 1s\n> PING|S1\n< PONG\n{look}\n+ 2900ms"));
    for _ in 0..5 {
        story.play(&format!("+ 100ms\n{look}\n+ 2900ms"));
    }
}

#[test]
fn of_many_routes_a_reference_server_is_asked_about_some_at_a_time_and_all_in_turn() {
    let many: Vec<(String, Route)> =
        (0..20).map(|number| (format!("m{number:02}"), route(&format!("d{number:02}.com"), MAIN))).collect();
    let wanted: Vec<(&str, Route)> = many.iter().map(|(key, route)| (key.as_str(), route.clone())).collect();
    let mut story = Story::with(intent(&wanted), |timing| timing.route_watch = None);
    story.play("~ dial\n> REGISTER|web|web-1|0|{}\n< ACK|S1\n> SESSION_INFO|S1\n< REFERENCE\n> ROUTE_ADD|S1|d00.com|/|http://10.2.2.7:8080/|10");
    story.say("ROUTE_OK|r1");
    let mut id = 1;
    let mut answer_all = |story: &mut Story| {
        let mut asked = Vec::new();
        while let Some(line) = story.take_sent() {
            let fields: Vec<&str> = line.split('|').collect();
            let reply = match fields[0] {
                "ROUTE_ADD" => {
                    id += 1;
                    format!("ROUTE_OK|r{id}")
                }
                "ROUTE_REMOVE" => format!("ROUTE_OK|{}", fields[2]),
                "CIRCUIT_BREAKER_STATUS" => {
                    asked.push(fields[2].to_owned());
                    "ERROR|circuit breaker not found".to_owned()
                }
                _ => "OK".to_owned(),
            };
            story.say(&reply);
        }
        asked
    };
    assert!(answer_all(&mut story).is_empty());
    let mut looks = Vec::new();
    for _ in 0..3 {
        story.wait(secs(1));
        looks.push(answer_all(&mut story));
    }
    assert!(looks.iter().all(|look| look.len() == 16), "{looks:?}");
    let all: BTreeSet<&String> = looks[..2].iter().flatten().collect();
    assert_eq!(all.len(), 20, "{looks:?}");
}
