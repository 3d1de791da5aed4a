//! Stories of the machine in virtual time. A script has a line for each thing that happens:
//!
//! ```text
//! > LINE      the client must have sent exactly this, next
//! < LINE      the registry sends this; INFO|n is our server's SESSION_OK at revision n, REFERENCE the other's
//! ! NAME      this event came (others before it are skipped)
//! + 10s       time passes
//! ~ dial      the client must dial, and is connected      ~ refused   it must dial, in vain
//! ~ eof       the connection ends                         ~ hangup    the client must have given it up
//! ```
//!
//! At the end of each script nothing may be left that the client has sent.

mod chaos;
mod converging;
mod leaving;
mod showing;
mod showing_at_reference;
mod story;
mod table;

use super::*;
use story::{Story, intent, route, secs};

const MAIN: &str = "http://10.2.2.7:8080/";

/// Registered at our server, with one route in force: session S1, revision 1, route r1.
fn live() -> Story {
    let mut story = Story::new(intent(&[("main", route("example.com", MAIN))]));
    story.play(
        "~ dial
         > REGISTER|web|web-1|0|{}
         < ACK|S1
         ! CONNECTED
         > SESSION_INFO|S1
         < INFO|0
         > ROUTE_ADD|S1|example.com|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r1
         > CONFIG_APPLY|S1
         < OK
         ! ROUTE_ADDED
         ! CONFIG_APPLIED",
    );
    assert!(story.session.status().live);
    story
}

#[test]
fn registers_stages_and_applies_in_one_step() {
    let story = live();
    let status = story.session.status();
    assert_eq!((status.revision, status.ours, status.bound), (Some(1), true, true));
    assert_eq!(status.routes["main"], RouteStatus::Applied(RouteId(1)));
}

#[test]
fn pings_every_keepalive_interval() {
    live().play(
        "+ 29s
         + 1s
         > PING|S1
         < PONG
         + 29s
         + 1s
         > PING|S1
         < PONG",
    );
}

#[test]
fn silence_is_noticed_within_keepalive_interval_and_request_timeout() {
    let mut story = live();
    story.play(
        "+ 30s
         > PING|S1
         + 9999ms",
    );
    assert_eq!(story.session.status().phase, Phase::Live);
    story.play(
        "+ 1ms
         ~ hangup
         ! DISCONNECTED
         ! RETRYING",
    );
    assert_eq!(story.session.status().phase, Phase::Disconnected);
}

#[test]
fn a_new_session_of_a_service_that_others_serve_already_says_that_it_joins_it() {
    let info = r#"< SESSION_OK|{"revision":0,"server":"registry-server/0.1.0","siblings":2}"#;
    let mut story = Story::new(intent(&[]));
    story.play(&format!(
        "~ dial
         > REGISTER|web|web-1|0|{{}}
         < ACK|S1
         ! CONNECTED
         > SESSION_INFO|S1
         {info}
         ! LOG
         ~ eof
         ! DISCONNECTED
         ! RETRYING
         + 100ms
         ~ dial
         > RECONNECT|S1
         < OK
         ! RECONNECTED
         > CONFIG_ROLLBACK|S1
         < OK
         > SESSION_INFO|S1
         {info}
         + 30s
         > PING|S1"
    ));
}

#[test]
fn every_command_has_a_deadline() {
    let mut story = Story::new(intent(&[("main", route("example.com", MAIN))]));
    story.play(
        "~ dial
         > REGISTER|web|web-1|0|{}
         + 10s
         ~ hangup
         ! RETRYING
         + 100ms
         ~ dial
         > REGISTER|web|web-1|0|{}
         < ACK|S1
         > SESSION_INFO|S1
         < INFO|0
         > ROUTE_ADD|S1|example.com|/|http://10.2.2.7:8080/|10
         + 10s
         ~ hangup
         ! DISCONNECTED",
    );
}

#[test]
fn a_lost_connection_is_dialled_again_after_the_least_delay_and_the_session_resumed() {
    live().play(
        "~ eof
         ! DISCONNECTED
         ! RETRYING
         + 99ms
         + 1ms
         ~ dial
         > RECONNECT|S1
         < OK
         ! RECONNECTED
         > CONFIG_ROLLBACK|S1
         < OK
         > SESSION_INFO|S1
         < INFO|1
         + 30s
         > PING|S1",
    );
}

/// Up to the moment when a second route's apply was sent, and its reply is lost.
fn reply_lost() -> Story {
    let mut story = live();
    story.want(&[("main", route("example.com", MAIN)), ("more", route("example.org", MAIN))]);
    story.play(
        "> ROUTE_ADD|S1|example.org|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r2
         > CONFIG_APPLY|S1
         ~ eof
         + 100ms
         ~ dial
         > RECONNECT|S1
         < OK
         > CONFIG_ROLLBACK|S1
         < OK
         > SESSION_INFO|S1",
    );
    story
}

#[test]
fn an_apply_whose_reply_was_lost_is_not_doubled() {
    let mut story = reply_lost();
    story.play(
        "< INFO|2
         ! ROUTE_ADDED
         ! CONFIG_APPLIED",
    );
    let status = story.session.status();
    assert!(status.live);
    assert_eq!(status.routes["more"], RouteStatus::Applied(RouteId(2)));
}

#[test]
fn an_apply_that_the_store_may_still_make_is_neither_doubled_nor_lost() {
    let refused = || {
        let mut story = live();
        story.want(&[("main", route("example.com", MAIN)), ("more", route("example.org", MAIN))]);
        story.play(
            "> ROUTE_ADD|S1|example.org|/|http://10.2.2.7:8080/|10
             < ROUTE_OK|r2
             > CONFIG_APPLY|S1
             < ERROR|store unavailable
             > CONFIG_ROLLBACK|S1
             < OK
             ! ERROR
             > SESSION_INFO|S1",
        );
        story
    };
    let mut made = refused();
    made.play("< INFO|2\n! ROUTE_ADDED\n! CONFIG_APPLIED");
    assert!(made.session.status().live);
    let mut not_made = refused();
    not_made.play(
        "< INFO|1
         + 100ms
         > ROUTE_ADD|S1|example.org|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r3
         > CONFIG_APPLY|S1
         < OK",
    );
    assert!(not_made.session.status().live);
}

#[test]
fn an_apply_that_never_arrived_is_not_lost() {
    let mut story = reply_lost();
    story.play(
        "< INFO|1
         > ROUTE_ADD|S1|example.org|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r3
         > CONFIG_APPLY|S1
         < OK",
    );
    assert!(story.session.status().live);
}

#[test]
fn a_revision_that_nobody_expected_is_cleared_up_from_the_list() {
    let mut story = reply_lost();
    story.play(
        r#"< INFO|7
         > ROUTE_LIST|S1
         < ROUTE_LIST_OK|[{"route_id":"r1","domains":["x"],"path":"/","backend":"http://h/","priority":1,"status":"active"}]
         > ROUTE_ADD|S1|example.com|/|http://10.2.2.7:8080/|10
         > ROUTE_ADD|S1|example.org|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r4
         < ROUTE_OK|r5
         > CONFIG_APPLY|S1
         < OK
         > ROUTE_REMOVE|S1|r1
         < ROUTE_OK
         > CONFIG_APPLY|S1
         < OK"#,
    );
    let status = story.session.status();
    assert_eq!((status.live, status.revision), (true, Some(9)));
}

#[test]
fn a_list_that_was_interrupted_is_asked_for_again() {
    reply_lost().play(
        "< INFO|7
         > ROUTE_LIST|S1
         ~ eof
         + 10s
         ~ dial
         > RECONNECT|S1
         < OK
         > CONFIG_ROLLBACK|S1
         < OK
         > SESSION_INFO|S1
         < INFO|7
         > ROUTE_LIST|S1",
    );
}

#[test]
fn a_list_that_cannot_be_had_leads_to_a_new_session() {
    reply_lost().play(
        "< INFO|7
         > ROUTE_LIST|S1
         < ERROR|response too large
         > REGISTER|web|web-1|0|{}",
    );
}

#[test]
fn on_anything_but_ok_everything_is_registered_again() {
    for answer in
        ["REREGISTER", "ERROR|no session", "ERROR|session not found", "ERROR|unknown command: RECONNECT"]
    {
        let mut story = live();
        story.play("~ eof\n+ 100ms\n~ dial\n> RECONNECT|S1");
        story.play(&format!("< {answer}\n> REGISTER|web|web-1|0|{{}}"));
        story.play(
            "< ACK|S2
             ! RECONNECTED
             > SESSION_INFO|S2
             < INFO|0
             > ROUTE_ADD|S2|example.com|/|http://10.2.2.7:8080/|10
             < ROUTE_OK|r1
             > CONFIG_APPLY|S2
             < OK
             ! ROUTE_ADDED",
        );
        assert!(story.session.status().live, "{answer}");
    }
}

#[test]
fn a_session_that_ends_under_a_live_connection_is_replaced_without_a_hot_loop() {
    let mut story = live();
    story.play(
        "+ 30s
         > PING|S1
         < ERROR|session not found
         ~ hangup
         ! ERROR
         ! RETRYING
         + 100ms",
    );
    for _ in 0..5 {
        story.play(
            "~ dial
             > REGISTER|web|web-1|0|{}
             < ACK|S2
             > SESSION_INFO|S2
             < ERROR|session not found
             ~ hangup
             + 10s",
        );
    }
}

#[test]
fn a_session_that_ended_before_its_connection_did_is_told_to_be_gone() {
    let mut story = live();
    story.play("~ eof\n+ 100ms\n~ dial\n> RECONNECT|S1\n< OK\n! RECONNECTED\n> CONFIG_ROLLBACK|S1");
    story.play("< ERROR|session not found\n> REGISTER|web|web-1|0|{}");
    story.events();
    story.play("~ eof\n! DISCONNECTED\n! RETRYING");
}

#[test]
fn a_replaced_session_is_dormant_and_never_fights() {
    let mut story = live();
    story.play(
        "+ 30s
         > PING|S1
         < ERROR|session replaced
         ! ERROR",
    );
    let Some(Event::Replaced { service, instance, .. }) = &story.last_event else { panic!("not said") };
    assert_eq!((service.as_str(), instance.as_str()), ("web", "web-1"));
    assert_eq!(story.session.status().phase, Phase::Dormant);
    // The first question after the least delay; whatever comes, nothing but questions.
    story.play("+ 100ms\n> RECONNECT|S1\n< ERROR|session replaced");
    for _ in 0..20 {
        story.play("+ 10s\n> RECONNECT|S1\n< ERROR|session replaced");
    }
    assert!(!story.events().contains(&"ERROR"), "it says so once");
    // Over a new connection too.
    story.play("~ eof\n+ 10s\n~ dial\n> RECONNECT|S1\n< ERROR|session replaced");
    // The other one is gone.
    story.play("+ 10s\n> RECONNECT|S1\n< REREGISTER\n> REGISTER|web|web-1|0|{}");
}

#[test]
fn a_dormant_client_resumes_when_its_name_is_free() {
    let mut story = live();
    story.play(
        "+ 30s
         > PING|S1
         < ERROR|session replaced
         + 100ms
         > RECONNECT|S1
         < OK
         ! RECONNECTED
         > CONFIG_ROLLBACK|S1
         < OK
         > SESSION_INFO|S1
         < INFO|1",
    );
    assert!(story.session.status().live);
}

#[test]
fn a_store_that_is_away_costs_no_session_and_frees_no_name() {
    live().play(
        "~ eof
         + 100ms
         ~ dial
         > RECONNECT|S1
         < ERROR|store unavailable
         ~ hangup
         + 10s
         ~ dial
         > RECONNECT|S1",
    );
    live().play(
        "+ 30s
         > PING|S1
         < ERROR|session replaced
         + 100ms
         > RECONNECT|S1
         < ERROR|store unavailable
         + 10s
         > RECONNECT|S1",
    );
}

#[test]
fn a_dormant_client_takes_over_when_told_to() {
    let mut story = live();
    story.play("+ 30s\n> PING|S1\n< ERROR|session replaced");
    story.session.take_over(story.now);
    story.play("> REGISTER|web|web-1|0|{}\n< ACK|S2\n! RECONNECTED\n> SESSION_INFO|S2");

    let mut asking = live();
    asking.play("+ 30s\n> PING|S1\n< ERROR|session replaced\n+ 100ms\n> RECONNECT|S1");
    asking.session.take_over(asking.now);
    asking.play("> REGISTER|web|web-1|0|{}\n< ERROR|session replaced\n< ACK|S2\n> SESSION_INFO|S2");

    let mut offline = live();
    offline.play("+ 30s\n> PING|S1\n< ERROR|session replaced\n~ eof");
    offline.session.take_over(offline.now);
    offline.play("+ 10s\n~ dial\n> REGISTER|web|web-1|0|{}");

    let mut nothing_to_take = live();
    nothing_to_take.session.take_over(nothing_to_take.now);
    nothing_to_take.play("");
}

#[test]
fn shutdown_announced_means_reconnect_after_the_least_delay() {
    live().play(
        "+ 10s\n< SHUTDOWN\n~ hangup\n! DISCONNECTED\n! RETRYING\n+ 99ms\n+ 1ms\n~ dial\n> RECONNECT|S1",
    );
}

#[test]
fn whatever_is_no_registry_is_named_and_tried_again() {
    for (received, words) in [
        (Received::Http, "HTTP"),
        (Received::Garbage("220 smtp ready".to_owned()), "220 smtp"),
        (Received::TooLong, "longer than 1048576"),
        (
            Received::Line(ServerLine::Reply(crate::protocol::Reply::Pong)),
            "unexpected answer to REGISTER: PONG",
        ),
    ] {
        let mut story = Story::new(intent(&[]));
        story.play("~ dial\n> REGISTER|web|web-1|0|{}");
        story.session.receive(received, story.now);
        story.play("~ hangup\n! ERROR");
        let said = story.last_event.take().unwrap().to_string();
        assert!(said.contains(words), "{said}");
        story.play("! RETRYING\n+ 100ms\n~ dial\n> REGISTER|web|web-1|0|{}");
    }
}

#[test]
fn a_refused_registration_is_named_and_tried_again() {
    let mut story = Story::new(intent(&[]));
    story.play("~ dial\n> REGISTER|web|web-1|0|{}\n< ERROR|not allowed: token\n~ hangup\n! ERROR");
    assert!(story.last_event.take().unwrap().to_string().contains("not allowed: token"));
    story.play("+ 100ms\n~ dial\n> REGISTER|web|web-1|0|{}");
}

#[test]
fn a_reply_that_nobody_waits_for_ends_the_connection() {
    live().play("< OK\n~ hangup\n! ERROR\n! DISCONNECTED");
}

#[test]
fn asynchronous_lines_answer_nothing() {
    live().play("+ 30s\n> PING|S1\n< MAINT_OK|r1\n< EVENT|all|{}\n< PONG\n+ 30s\n> PING|S1");
}

#[test]
fn an_event_of_a_type_that_only_newer_servers_know_is_ignored() {
    let mut story = live();
    story.play("+ 30s\n> PING|S1\n< EVENT|gossip|{}\n< EVENT|more\n< PONG\n+ 30s\n> PING|S1");
    assert!(story.events().is_empty());
}

#[test]
fn what_no_server_would_read_is_never_sent_and_costs_one_route() {
    let domains = |count: usize| {
        let name = |at: usize| format!("{}{at}.example.com", "x".repeat(40)).parse().unwrap();
        crate::protocol::Domains::new((0..count).map(name)).unwrap()
    };
    let long = Route { domains: domains(1300), ..route("example.com", MAIN) };
    let mut story = live();
    story.want(&[("long", long.clone()), ("main", route("example.com", MAIN))]);
    // Nothing was staged, so that there is something to roll back only in name.
    story.play("> CONFIG_ROLLBACK|S1\n< OK\n! ERROR");
    let status = story.session.status();
    assert_eq!(status.routes["long"], RouteStatus::Refused(Refusal::LineTooLong));
    assert_eq!(status.routes["main"], RouteStatus::Applied(RouteId(1)));
    story.session.call(Ticket(1), Request::RouteAdd(long.spec()), story.now);
    story.play("");
    assert_eq!(story.answered, [(1, Err(CallError::Refused(Refusal::LineTooLong)))]);
}

#[test]
fn metadata_that_no_server_would_read_are_named_and_not_sent() {
    let much = intent(&[]).with_metadata("notes", "x".repeat(70_000).into());
    let mut story = Story::new(much);
    story.play("~ dial\n~ hangup\n! ERROR");
    assert!(story.last_event.take().unwrap().to_string().contains("REGISTER: line too long"));
}

#[test]
fn delays_grow_to_the_greatest_and_say_so() {
    let mut story = Story::new(intent(&[]));
    let mut names = Vec::new();
    for _ in 0..12 {
        story.play("~ refused");
        names.extend(story.events());
        story.play("+ 10s");
    }
    assert_eq!(names[..7], ["RETRYING"; 7]);
    assert_eq!(names[7..], ["EXTENDED_RETRY"; 5]);
}

#[test]
fn delays_start_anew_only_after_a_session_that_held() {
    // A session of less than 10 s without a PONG: the delays go on growing.
    let mut story = live();
    for attempt in 1..=6 {
        story.play("+ 9s\n~ eof\n! RETRYING");
        let Some(Event::Retrying(retry)) = story.last_event.take() else { panic!("no retry") };
        assert_eq!(retry.attempt, attempt);
        story.play(
            "+ 10s\n~ dial\n> RECONNECT|S1\n< OK\n> CONFIG_ROLLBACK|S1\n< OK\n> SESSION_INFO|S1\n< INFO|1",
        );
    }
    // One of 10 s: from the least again.
    story.play("+ 10s\n~ eof\n! RETRYING\n+ 99ms\n+ 1ms\n~ dial\n> RECONNECT|S1");

    // A PONG does the same, however young the session.
    let mut eager = Story::with(intent(&[]), |timing| timing.keepalive_interval = secs(2));
    eager.play("~ refused\n+ 10s\n~ refused\n+ 10s\n~ dial\n> REGISTER|web|web-1|0|{}\n< ACK|S1\n> SESSION_INFO|S1\n< INFO|0");
    eager.play("+ 2s\n> PING|S1\n< PONG\n~ eof\n! RETRYING\n+ 99ms\n+ 1ms\n~ dial\n> RECONNECT|S1");
}

#[test]
fn a_question_waits_for_its_turn_and_is_always_answered() {
    let ask = |story: &mut Story, ticket| {
        let request = Request::BackendTest(MAIN.parse().unwrap());
        story.session.call(Ticket(ticket), request, story.now);
    };
    let mut story = live();
    story.want(&[]);
    story.play("> ROUTE_REMOVE|S1|r1");
    ask(&mut story, 1);
    story.play("< ROUTE_OK\n> CONFIG_APPLY|S1\n< OK\n> BACKEND_TEST|S1|http://10.2.2.7:8080/");
    story.play(r#"< BACKEND_FAIL|{"reachable":false,"error":"connection refused"}"#);
    assert_eq!(story.answered, [(1, Ok(Reply::BackendFail("connection refused".to_owned())))]);
    ask(&mut story, 2);
    ask(&mut story, 3);
    story.play("> BACKEND_TEST|S1|http://10.2.2.7:8080/\n~ eof");
    ask(&mut story, 4);
    story.play("");
    let mut unanswered: Vec<_> = story.answered[1..].to_vec();
    unanswered.sort_by_key(|(ticket, _)| *ticket);
    assert_eq!(unanswered, [2, 3, 4].map(|ticket| (ticket, Err(CallError::NoSession))));
}
