//! SEMANTICS section 4: which session suspends whose members at an address.

use super::*;

/// A host with two applications, and the addresses of sidecars elsewhere.
const HOST: &str = "10.2.2.7";
const FIRST: &str = "http://10.2.2.7:8000";
const SECOND: &str = "http://10.2.2.7:8001";
const ELSEWHERE: [&str; 2] = ["10.2.2.8", "10.2.2.9"];

/// Two sessions with backends at one address, of which the second is connected from there.
fn beside_each_other(world: &mut World) -> [(ConnId, String); 2] {
    let first = world.live("shop", "shop-1", ELSEWHERE[0], "shop.de", FIRST);
    [first, world.live("blog", "blog-1", HOST, "blog.de", SECOND)]
}

#[test]
fn two_connected_sessions_whose_backends_at_one_address_both_answer_are_kin_there() {
    let mut world = World::new();
    let [(first, _), (second, id)] = beside_each_other(&mut world);
    world.hang_up(second);
    world.hang_up(first);
    let back = world.connect(HOST);
    assert_eq!(world.ask(back, &format!("RECONNECT|{id}")), "OK");
    assert_eq!(world.serving("shop.de"), ["10.2.2.7:8000"], "a kin's return takes nothing");
    world.hang_up(back);
    world.register("news", "news-1", HOST);
    assert_eq!(world.serving("shop.de"), [""; 0], "a stranger still suspends");
    assert_eq!(world.serving("blog.de"), [""; 0]);
}

#[test]
fn kin_are_kin_after_a_restart_whichever_of_them_is_back_first() {
    for returns in [0, 1] {
        let mut world = World::new();
        let ids = beside_each_other(&mut world).map(|(_, id)| id);
        let mut world = world.restart();
        assert_eq!(world.serving("shop.de"), ["10.2.2.7:8000"]);
        let back = world.connect([ELSEWHERE[0], HOST][returns]);
        assert_eq!(world.ask(back, &format!("RECONNECT|{}", ids[returns])), "OK");
        assert_eq!(world.serving("shop.de"), ["10.2.2.7:8000"]);
        assert_eq!(world.serving("blog.de"), ["10.2.2.7:8001"]);
    }
}

#[test]
fn who_replaces_a_kin_at_its_address_is_kin_too() {
    let mut world = World::new();
    let [(first, _), (second, _)] = beside_each_other(&mut world);
    world.hang_up(first);
    world.hang_up(second);
    world.register("blog", "blog-1", HOST);
    assert_eq!(world.serving("shop.de"), ["10.2.2.7:8000"]);
}

#[test]
fn sessions_that_were_not_connected_at_once_or_whose_backends_did_not_answer_are_no_kin() {
    for fails in [false, true] {
        let mut world = World::new();
        let (first, _) = world.live("shop", "shop-1", ELSEWHERE[0], "shop.de", FIRST);
        if !fails {
            world.hang_up(first);
        }
        let (second, id) = world.register("blog", "blog-1", ELSEWHERE[1]);
        world.apply(second, "blog.de", SECOND);
        if fails {
            world.fails(SECOND);
            world.hang_up(first);
        } else {
            world.passes(SECOND);
        }
        assert_eq!(world.serving("shop.de"), ["10.2.2.7:8000"]);
        world.hang_up(second);
        let back = world.connect(HOST);
        world.say(back, &format!("RECONNECT|{id}"));
        assert_eq!(world.serving("shop.de"), [""; 0], "{fails}");
    }
}

#[test]
fn kin_that_were_found_while_the_store_decided_are_kept_too() {
    let mut world = World::new();
    let (first, _) = world.live("shop", "shop-1", ELSEWHERE[0], "shop.de", FIRST);
    world.store_answers = false;
    world.say(first, "ROUTE_ADD||b.de|/|http://10.2.2.7:8000|0");
    world.say(first, "CONFIG_APPLY|");
    let (second, id) = world.register("blog", "blog-1", HOST);
    world.store_answers = true;
    assert_eq!(world.apply(second, "blog.de", SECOND), "OK");
    world.passes(SECOND);
    world.decides(0, true);
    let mut world = world.restart();
    let back = world.connect(HOST);
    assert_eq!(world.ask(back, &format!("RECONNECT|{id}")), "OK");
    assert_eq!(world.serving("shop.de"), ["10.2.2.7:8000"]);
}

#[test]
fn kin_are_forgotten_with_the_backend_at_the_address() {
    let mut world = World::new();
    let [(first, _), _] = beside_each_other(&mut world);
    world.do_all(first, &["ROUTE_UPDATE||r1|backend_url|http://10.2.2.8:80", "CONFIG_APPLY|"]);
    // The store is told with the next change.
    world.do_all(first, &["CONFIG_APPLY|"]);
    let kin_of = |instance: &str| {
        let mut saved = world.paper.sessions.iter().map(|saved| &saved.session);
        saved.find(|session| session.instance.as_str() == instance).unwrap().kin.clone()
    };
    assert!(kin_of("shop-1").is_empty());
    assert!(!kin_of("blog-1").is_empty());
}

#[test]
fn who_only_names_an_address_as_its_backends_takes_nothing_there() {
    let mut world = World::new();
    let (victim, id) = world.live("web", "web-1", HOST, "a.de", FIRST);
    world.hang_up(victim);
    let (other, _) = world.register("evil", "evil-1", ELSEWHERE[0]);
    assert_eq!(world.apply(other, "b.de", "http://10.2.2.7:90"), "OK");
    assert_eq!(world.apply(other, "c.de", FIRST), "OK");
    world.do_all(other, &["ROUTE_UPDATE||r1|backend_url|http://10.2.2.7:91", "CONFIG_APPLY|"]);
    assert_eq!(world.serving("a.de"), ["10.2.2.7:8000"]);
    let mut world = world.restart();
    assert_eq!(world.serving("a.de"), ["10.2.2.7:8000"], "nor by a restart");
    let back = world.connect(HOST);
    assert_eq!(world.ask(back, &format!("RECONNECT|{id}")), "OK");
    assert_eq!(world.serving("a.de"), ["10.2.2.7:8000"]);
}

#[test]
fn a_suspended_claim_stays_its_owners_while_a_backend_answers_there() {
    let mut world = World::new();
    let (victim, _) = world.live("web", "web-1", HOST, "a.de", FIRST);
    world.hang_up(victim);
    let (other, _) = world.register("evil", "evil-1", HOST);
    assert_eq!(world.serving("a.de"), [""; 0]);
    let refused = "ERROR|route r1: a.de/ belongs to service web";
    assert_eq!(world.apply(other, "a.de", SECOND), refused);
    world.passes(FIRST);
    assert_eq!(world.serving("a.de"), [""; 0], "but it gets no requests");
    assert_eq!(world.ask(other, "CONFIG_APPLY|"), refused);
    world.fails(FIRST);
    assert_eq!(world.ask(other, "CONFIG_APPLY|"), "OK", "until nobody answers there");
}

#[test]
fn a_suspended_claim_is_free_after_the_grace() {
    let mut world = World::new();
    let (victim, _) = world.live("web", "web-1", HOST, "a.de", FIRST);
    world.hang_up(victim);
    let (other, _) = world.register("evil", "evil-1", HOST);
    world.passes(FIRST);
    world.after(seconds(299));
    assert!(world.apply(other, "a.de", SECOND).starts_with("ERROR"));
    world.after(seconds(1));
    assert_eq!(world.ask(other, "CONFIG_APPLY|"), "OK");
}

#[test]
fn who_is_resumed_from_another_address_suspends_there() {
    let mut world = World::new();
    let (lost, _) = world.live("web", "web-1", HOST, "a.de", FIRST);
    let (moving, id) = world.live("shop", "shop-1", ELSEWHERE[0], "shop.de", "http://10.2.2.9:80");
    world.hang_up(lost);
    world.hang_up(moving);
    let there = world.connect(HOST);
    assert_eq!(world.ask(there, &format!("RECONNECT|{id}")), "OK");
    assert_eq!(world.serving("a.de"), [""; 0]);
}

#[test]
fn after_a_restart_a_backend_that_was_applied_later_is_not_taken_by_who_was_connected_from_there_before() {
    let mut world = World::new();
    let (gone, _) = world.live("blog", "blog-1", HOST, "blog.de", SECOND);
    world.hang_up(gone);
    world.fails(SECOND);
    // Its address was given to an application whose sidecar is elsewhere.
    world.live("shop", "shop-1", ELSEWHERE[0], "shop.de", FIRST);
    let world = world.restart();
    assert_eq!(world.serving("shop.de"), ["10.2.2.7:8000"]);
}
