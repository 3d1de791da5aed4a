//! SEMANTICS sections 1, 3 and 4: claims, pools, members, health, grace.

use super::*;

const A: &str = "10.2.2.7";
const B: &str = "10.2.2.8";
const WEB_A: &str = "http://10.2.2.7:80";
const WEB_B: &str = "http://10.2.2.8:80";

#[test]
fn a_claims_first_member_serves_at_once_and_a_further_one_when_it_has_been_reached() {
    let mut world = World::new();
    let (first, _) = world.register("web", "web-1", A);
    assert_eq!(world.apply(first, "a.de", WEB_A), "OK");
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
    let (second, _) = world.register("web", "web-2", B);
    assert_eq!(world.apply(second, "a.de", WEB_B), "OK");
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
    assert_eq!(world.questions(WEB_B), ["connect every 1s"], "which is asked at once");
    world.fails(WEB_B);
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
    world.passes(WEB_B);
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80", "10.2.2.8:80"]);
    assert_eq!(world.questions(WEB_B), [""; 0], "without a check it is not asked again");
}

#[test]
fn the_same_url_from_two_routes_of_one_session_counts_once_and_goes_with_the_last_of_them() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    world.do_all(
        conn,
        &[
            "ROUTE_ADD||a.de|/|http://10.2.2.7:80|0",
            "ROUTE_ADD||a.de|/|http://10.2.2.7:80/|0",
            "CONFIG_APPLY|",
        ],
    );
    assert_eq!(world.pool("a.de"), ["10.2.2.7:80"]);
    world.do_all(conn, &["ROUTE_REMOVE||r2", "CONFIG_APPLY|"]);
    assert_eq!(world.pool("a.de"), ["10.2.2.7:80"]);
    world.do_all(conn, &["ROUTE_REMOVE||r1", "CONFIG_APPLY|"]);
    assert_eq!(world.pool("a.de"), [""; 0]);
}

#[test]
fn settings_come_from_the_members_own_route_and_priority_from_the_member_applied_last() {
    let mut world = World::new();
    let (first, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    world.do_all(first, &["OPTIONS_SET||r1|timeout|5s", "ROUTE_UPDATE||r1|priority|5", "CONFIG_APPLY|"]);
    let (second, _) = world.live("web", "web-2", B, "a.de", WEB_B);
    world.do_all(second, &["ROUTE_UPDATE||r1|priority|9", "CONFIG_APPLY|"]);
    let claim =
        |world: &World| world.table.get(&"a.de".parse().unwrap(), &"/".parse().unwrap()).unwrap().clone();
    assert_eq!(claim(&world).terms.priority, 9);
    assert_eq!(claim(&world).members[0].terms.settings.timeout, seconds(5));
    assert_eq!(claim(&world).members[1].terms.settings.timeout, seconds(60));
    world.do_all(second, &["CLIENT_SHUTDOWN|"]);
    assert_eq!(claim(&world).terms.priority, 5);
}

#[test]
fn a_second_service_is_refused_while_the_owner_lives_and_told_who_that_is() {
    let mut world = World::new();
    let (owner, _) = world.live("shop", "shop-1", A, "a.de", WEB_A);
    let (conn, _) = world.register("web", "web-1", B);
    assert_eq!(world.apply(conn, "a.de", WEB_B), "ERROR|route r1: a.de/ belongs to service shop");
    world.hang_up(owner);
    assert_eq!(
        world.ask(conn, "CONFIG_APPLY|"),
        "ERROR|route r1: a.de/ belongs to service shop",
        "in grace with a member that passes its probe"
    );
    world.fails(WEB_A);
    assert_eq!(world.ask(conn, "CONFIG_APPLY|"), "OK");
    assert_eq!(world.pool("a.de"), ["10.2.2.8:80"]);
}

#[test]
fn a_connected_owner_keeps_its_claim_even_when_its_backend_fails() {
    let mut world = World::new();
    let (owner, _) = world.live("shop", "shop-1", A, "a.de", WEB_A);
    world.do_all(owner, &["HEALTH_SET||r1|/|10s|1s", "CONFIG_APPLY|"]);
    (0..3).for_each(|_| world.fails(WEB_A));
    assert_eq!(world.serving("a.de"), [""; 0]);
    let (conn, _) = world.register("web", "web-1", B);
    assert_eq!(world.apply(conn, "a.de", WEB_B), "ERROR|route r1: a.de/ belongs to service shop");
}

#[test]
fn a_session_that_lost_a_claim_while_it_was_away_registers_afresh_and_hears_who_has_it() {
    let mut world = World::new();
    let (owner, id) = world.live("shop", "shop-1", A, "a.de", WEB_A);
    world.do_all(owner, &["ROUTE_ADD||b.de|/|http://10.2.2.7:81|0", "CONFIG_APPLY|"]);
    world.passes("http://10.2.2.7:81");
    world.hang_up(owner);
    world.fails(WEB_A);
    let (conn, _) = world.register("web", "web-1", B);
    assert_eq!(world.apply(conn, "a.de", WEB_B), "OK");
    assert_eq!(world.serving("b.de"), ["10.2.2.7:81"], "its other claims are its own");
    let back = world.connect(A);
    assert_eq!(world.ask(back, &format!("RECONNECT|{id}")), "REREGISTER");
    world.register_on(back, "shop", "shop-1");
    assert_eq!(world.apply(back, "a.de", WEB_A), "ERROR|route r1: a.de/ belongs to service web");
    assert_eq!(world.serving("b.de"), ["10.2.2.7:81"]);
}

#[test]
fn a_join_under_an_existing_service_name_from_a_new_address_is_logged() {
    let mut world = World::new();
    let joins = |world: &World| world.log.iter().filter(|h| matches!(h, LogEvent::Joined { .. })).count();
    world.live("web", "web-1", A, "a.de", WEB_A);
    assert_eq!(joins(&world), 0);
    let (second, _) = world.live("web", "web-2", B, "a.de", WEB_B);
    assert_eq!(joins(&world), 1);
    assert!(world.ask(second, "SESSION_INFO|").contains(r#""siblings":1,"#), "who joins is told as well");
}

#[test]
fn siblings_are_sessions_of_the_service_that_live_and_come_from_elsewhere() {
    let mut world = World::new();
    let siblings = |world: &mut World, conn| {
        let info = world.ask(conn, "SESSION_INFO|");
        let info: serde_json::Value = serde_json::from_str(info.split_once('|').unwrap().1).unwrap();
        info.get("siblings").map(|count| count.as_u64().unwrap())
    };
    let (first, _) = world.register("web", "web-1", A);
    world.register("shop", "shop-1", B);
    world.register("web", "web-2", A);
    assert_eq!(siblings(&mut world, first), None);
    let (far, _) = world.register("web", "web-1", B);
    assert_eq!((siblings(&mut world, first), siblings(&mut world, far)), (Some(1), Some(2)));
    world.register("web", "web-1", B);
    assert_eq!(siblings(&mut world, first), Some(1), "one that was replaced does not count");
    let (lost, _) = world.register("web", "web-3", "10.2.2.9");
    world.hang_up(lost);
    assert_eq!(siblings(&mut world, first), Some(2), "one that may return does");
    world.after(seconds(300));
    assert_eq!(siblings(&mut world, first), Some(1));
}

#[test]
fn three_failures_take_a_member_out_and_one_pass_brings_it_back() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    world.do_all(conn, &["HEALTH_SET||r1|/health|10s|1s", "CONFIG_APPLY|"]);
    world.fails(WEB_A);
    world.fails(WEB_A);
    world.passes(WEB_A);
    world.fails(WEB_A);
    world.fails(WEB_A);
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"], "three in a row");
    world.fails(WEB_A);
    assert_eq!(world.serving("a.de"), [""; 0]);
    assert_eq!(world.pool("a.de"), ["10.2.2.7:80"], "claimed, and nobody serves it");
    assert_eq!(world.questions(WEB_A), ["GET a.de/health every 10s within 1s"]);
    world.passes(WEB_A);
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
}

#[test]
fn a_first_member_that_never_answers_is_taken_out_and_joins_when_it_does() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    assert_eq!(world.apply(conn, "a.de", WEB_A), "OK");
    (0..3).for_each(|_| world.fails(WEB_A));
    assert_eq!(world.serving("a.de"), [""; 0]);
    assert_eq!(world.questions(WEB_A), ["connect every 1s"]);
    world.passes(WEB_A);
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
}

#[test]
fn the_members_of_a_lost_session_are_probed_every_second_by_their_check_or_a_connect() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    world.do_all(
        conn,
        &["ROUTE_ADD||b.de|/|http://10.2.2.7:81|0", "HEALTH_SET||r2|/health|10s|1s", "CONFIG_APPLY|"],
    );
    world.passes("http://10.2.2.7:81");
    world.hang_up(conn);
    assert_eq!(world.questions(WEB_A), ["connect every 1s"]);
    assert_eq!(world.questions("http://10.2.2.7:81"), ["GET b.de/health every 1s within 1s"]);
    world.passes(WEB_A);
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"], "while the probe passes they serve");
}

#[test]
fn a_member_that_fails_in_grace_comes_back_only_with_its_own_session() {
    let mut world = World::new();
    let (conn, id) = world.live("web", "web-1", A, "a.de", WEB_A);
    world.hang_up(conn);
    world.fails(WEB_A);
    assert_eq!(world.serving("a.de"), [""; 0]);
    assert_eq!(world.questions(WEB_A), [""; 0], "whoever answers there now may be somebody else");
    let back = world.connect(A);
    assert_eq!(world.ask(back, &format!("RECONNECT|{id}")), "OK");
    world.passes(WEB_A);
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
}

#[test]
fn a_lost_sessions_member_is_suspended_when_another_registers_from_its_address() {
    let mut world = World::new();
    let (conn, id) = world.live("web", "web-1", A, "a.de", WEB_A);
    world.hang_up(conn);
    let (stranger, _) = world.register("shop", "shop-1", A);
    assert_eq!(world.serving("a.de"), [""; 0]);
    world.passes(WEB_A);
    assert_eq!(world.serving("a.de"), [""; 0]);
    world.hang_up(stranger);
    let back = world.connect(A);
    assert_eq!(world.ask(back, &format!("RECONNECT|{id}")), "OK");
    world.passes(WEB_A);
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"], "until its session returns");
}

#[test]
fn the_address_rule_spares_loopback_and_addresses_of_several_sessions() {
    let mut world = World::new();
    for (host, shared) in [("127.0.0.1", false), ("10.2.2.9", true)] {
        let backend = format!("http://{host}:80");
        let (conn, _) = world.live("web", "web-1", host, "a.de", &backend);
        if shared {
            let (other, _) = world.register("db", "db-1", host);
            world.hang_up(other);
        }
        world.hang_up(conn);
        let (stranger, _) = world.register("shop", "shop-1", host);
        assert_eq!(world.apply(stranger, "shop.de", &backend), "OK");
        assert_eq!(world.serving("a.de").len(), 1, "{host}");
        world.do_all(stranger, &["CLIENT_SHUTDOWN|"]);
        world.after(seconds(300));
    }
}

#[test]
fn the_address_rule_spares_the_replaced_session_of_the_same_instance() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    world.hang_up(conn);
    let (new, _) = world.register("web", "web-1", A);
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
    assert_eq!(world.apply(new, "b.de", WEB_A), "OK");
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"]);
}

#[test]
fn a_changed_backend_of_the_only_member_serves_at_once() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    world.do_all(conn, &["ROUTE_UPDATE||r1|backend_url|http://10.2.2.7:81", "CONFIG_APPLY|"]);
    assert_eq!(world.serving("a.de"), ["10.2.2.7:81"], "no moment without a route");
}

#[test]
fn a_member_lives_on_when_its_route_is_replaced_by_one_with_the_same_backend() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    world.live("web", "web-2", B, "a.de", WEB_B);
    let member = |world: &World| {
        let claim = world.table.get(&"a.de".parse().unwrap(), &"/".parse().unwrap()).unwrap();
        claim.members.iter().find(|member| member.backend.to_string().contains("10.2.2.7")).unwrap().id
    };
    let before = member(&world);
    world.do_all(conn, &["ROUTE_REMOVE||r1", "ROUTE_ADD||a.de|/|http://10.2.2.7:80|3", "CONFIG_APPLY|"]);
    assert_eq!(member(&world), before);
    assert_eq!(world.serving("a.de").len(), 2);
}

#[test]
fn a_backend_that_is_exchanged_in_two_steps_leaves_no_moment_without_one() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    world.passes(WEB_A);
    world.do_all(conn, &["ROUTE_ADD||a.de|/|http://10.2.2.8:80|0", "CONFIG_APPLY|"]);
    assert_eq!(world.serving("a.de"), ["10.2.2.7:80"], "the new one has not answered yet");
    world.do_all(conn, &["ROUTE_REMOVE||r1", "CONFIG_APPLY|"]);
    assert_eq!(world.serving("a.de"), ["10.2.2.8:80"], "it is the first of the claim now");
}

#[test]
fn whoever_has_failed_already_does_not_serve_because_the_others_go() {
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    world.passes(WEB_A);
    world.do_all(conn, &["ROUTE_ADD||a.de|/|http://10.2.2.8:80|0", "CONFIG_APPLY|"]);
    world.fails(WEB_B);
    world.do_all(conn, &["ROUTE_REMOVE||r1", "CONFIG_APPLY|"]);
    assert_eq!(world.serving("a.de"), [""; 0]);
    world.passes(WEB_B);
    assert_eq!(world.serving("a.de"), ["10.2.2.8:80"]);
}

/// A world in which `web-1` serves a.de and `web-2` has joined with a check, whose first answers came too late.
fn beside_a_slow_one() -> (World, ConnId, ConnId) {
    let mut world = World::new();
    let (first, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    let (second, _) = world.register("web", "web-2", B);
    let add = format!("ROUTE_ADD||a.de|/|{WEB_B}|0");
    world.do_all(second, &[&add, "HEALTH_SET||r1|/health|5s|5s", "CONFIG_APPLY|"]);
    for _ in 0..5 {
        world.is_slow(WEB_B);
        assert_eq!(world.serving("a.de"), ["10.2.2.7:80"], "not while there is one that has passed");
    }
    (world, first, second)
}

#[test]
fn whoever_joined_and_is_merely_slow_serves_when_the_last_proven_one_goes() {
    let lose: [fn(&mut World, ConnId); 4] = [
        |world, first| world.do_all(first, &["CLIENT_SHUTDOWN|"]),
        |world, first| world.do_all(first, &["DRAIN_START||0s"]),
        |world, first| world.do_all(first, &["ROUTE_REMOVE||r1", "CONFIG_APPLY|"]),
        |world, first| {
            world.hang_up(first);
            world.fails(WEB_A);
        },
    ];
    for lose in lose {
        let (mut world, first, _) = beside_a_slow_one();
        lose(&mut world, first);
        assert!(world.serving("a.de").contains(&"10.2.2.8:80".to_owned()));
        assert_eq!(world.held("a.de"), None);
        (0..9).for_each(|_| world.is_slow(WEB_B));
        assert!(world.serving("a.de").contains(&"10.2.2.8:80".to_owned()), "it does not come and go");
        world.fails(WEB_B);
        assert_eq!(world.serving("a.de"), [""; 0], "its port is closed");
        world.is_slow(WEB_B);
        assert_eq!(world.serving("a.de"), [""; 0], "it was refused once");
        world.passes(WEB_B);
        assert_eq!(world.serving("a.de"), ["10.2.2.8:80"]);
    }
}

#[test]
fn a_slow_one_that_is_asked_for_the_first_time_when_nobody_serves_any_more_serves_too() {
    let mut world = World::new();
    let (first, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    let (second, _) = world.register("web", "web-2", B);
    let add = format!("ROUTE_ADD||a.de|/|{WEB_B}|0");
    world.do_all(second, &[&add, "HEALTH_SET||r1|/health|5s|5s", "CONFIG_APPLY|"]);
    world.do_all(first, &["CLIENT_SHUTDOWN|"]);
    assert_eq!(world.serving("a.de"), [""; 0], "nothing is known of its port");
    world.is_slow(WEB_B);
    assert_eq!(world.serving("a.de"), ["10.2.2.8:80"]);
}

#[test]
fn a_slow_one_goes_again_once_another_has_passed() {
    let (mut world, first, _) = beside_a_slow_one();
    world.do_all(first, &["CLIENT_SHUTDOWN|"]);
    let (_third, _) = world.live("web", "web-3", "10.2.2.9", "a.de", "http://10.2.2.9:80");
    assert_eq!(world.serving("a.de"), ["10.2.2.8:80", "10.2.2.9:80"]);
    world.is_slow(WEB_B);
    assert_eq!(world.serving("a.de"), ["10.2.2.9:80"]);
}

#[test]
fn nobody_serves_for_being_slow_who_was_refused_failed_is_drained_or_shows_a_page() {
    type Spoil = fn(&mut World, ConnId);
    let spoil: [Spoil; 4] = [
        |world, _| world.fails(WEB_B),
        |world, _| {
            world.passes(WEB_B);
            (0..3).for_each(|_| world.is_slow(WEB_B));
        },
        |world, second| world.do_all(second, &["DRAIN_START||0s"]),
        |world, second| world.say(second, "MAINT_ENTER||r1"),
    ];
    for spoil in spoil {
        let (mut world, first, second) = beside_a_slow_one();
        spoil(&mut world, second);
        world.do_all(first, &["CLIENT_SHUTDOWN|"]);
        world.is_slow(WEB_B);
        assert_eq!(world.serving("a.de"), [""; 0]);
    }
}

#[test]
fn a_page_that_was_asked_for_goes_before_a_slow_one() {
    let (mut world, first, _) = beside_a_slow_one();
    world.say(first, "MAINT_ENTER||r1");
    world.is_slow(WEB_B);
    assert_eq!(world.serving("a.de"), [""; 0]);
}
