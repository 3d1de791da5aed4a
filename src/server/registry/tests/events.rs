//! PROTOCOL sections 3 and 6: who is told of what.

use super::*;

const A: &str = "10.2.2.7";
const B: &str = "10.2.2.8";
const C: &str = "10.2.2.9";
const WEB_A: &str = "http://10.2.2.7:8080";
const WEB_B: &str = "http://10.2.2.8:8080";

fn health(instance: &str, backend: &str, healthy: bool, reason: &str, error: &str) -> String {
    let error = if error.is_empty() { String::new() } else { format!(r#""error":"{error}","#) };
    format!(
        r#"EVENT|backend_health_changed|{{"backend":"{backend}/","claims":["a.de/"],"claims_total":1,{error}"healthy":{healthy},"instance":"{instance}","reason":"{reason}","service":"web"}}"#
    )
}

fn subscribe(world: &mut World, conn: ConnId, kind: &str) {
    assert_eq!(world.ask(conn, &format!("SUBSCRIBE||{kind}")), "SUBSCRIBE_OK");
}

#[test]
fn a_session_hears_of_its_own_services_backends() {
    let mut world = World::new();
    let (one, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    let (two, _) = world.register("web", "web-2", B);
    let (other, _) = world.register("shop", "shop-1", C);
    for conn in [one, other] {
        subscribe(&mut world, conn, "backend_health_changed");
    }
    assert_eq!(world.apply(two, "a.de", WEB_B), "OK");
    world.passes(WEB_B);
    assert_eq!(world.read(one), [health("web-2", WEB_B, true, "answered", "")]);
    world.do_all(two, &["HEALTH_SET||r1|/|10s|1s", "CONFIG_APPLY|"]);
    for _ in 0..4 {
        world.fails(WEB_B);
    }
    assert_eq!(world.read(one), [health("web-2", WEB_B, false, "check_failed", "connection refused")]);
    world.passes(WEB_B);
    assert_eq!(world.read(one), [health("web-2", WEB_B, true, "answered", "")]);
    world.hang_up(two);
    world.fails(WEB_B);
    assert_eq!(world.read(one), [health("web-2", WEB_B, false, "failed_in_grace", "connection refused")]);
    assert_eq!(world.read(other), [""; 0], "what is not its own is not its business");
}

#[test]
fn a_backend_in_many_claims_is_one_event() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    subscribe(&mut world, conn, "all");
    let domains: Vec<String> = (10..50).map(|number| format!("d{number}.de")).collect();
    let add = format!("ROUTE_ADD||{}|/|{WEB_A}|0", domains.join(","));
    world.do_all(conn, &[&add, "HEALTH_SET||r1|/|10s|1s", "CONFIG_APPLY|"]);
    world.passes(WEB_A);
    for _ in 0..3 {
        world.fails(WEB_A);
    }
    let events = world.read(conn);
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(events[0].contains(r#""claims_total":40"#) && events[0].matches(".de/").count() == 32);
}

#[test]
fn requests_that_fail_are_told_as_well_as_probes() {
    use crate::server::routing::Outcome;
    let mut world = World::new();
    let (conn, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    subscribe(&mut world, conn, "backend_health_changed");
    let member = world.table.claims().next().unwrap().members[0].clone();
    for _ in 0..5 {
        member.load.record(Outcome::Failed, world.now.mono);
    }
    world.input(Input::Ejection(member.id));
    world.input(Input::Ejection(member.id));
    assert_eq!(world.read(conn), [health("web-1", WEB_A, false, "ejected", "")]);
    member.load.record(Outcome::Answered, world.now.mono);
    world.input(Input::Ejection(member.id));
    assert_eq!(world.read(conn), [health("web-1", WEB_A, true, "answered", "")]);
    world.hang_up(conn);
    world.after(seconds(400));
    world.input(Input::Ejection(member.id));
}

#[test]
fn what_others_apply_is_told_to_those_who_did_not() {
    let mut world = World::new();
    let (one, _) = world.live("web", "web-1", A, "a.de", WEB_A);
    let (two, _) = world.register("shop", "shop-1", B);
    for conn in [one, two] {
        subscribe(&mut world, conn, "global_config_changed");
        subscribe(&mut world, conn, "all");
    }
    assert_eq!(world.apply(two, "b.de", WEB_B), "OK");
    let told = |domains: &str, total: usize| {
        format!(
            r#"EVENT|global_config_changed|{{"domains":[{domains}],"domains_total":{total},"service":"shop"}}"#
        )
    };
    assert_eq!(world.read(one), [told(r#""b.de""#, 1)], "once, however often it is subscribed");
    world.do_all(two, &["ROUTE_UPDATE||r1|domains|c.de", "CONFIG_APPLY|"]);
    assert_eq!(world.read(one), [told(r#""b.de","c.de""#, 2)], "as it was and as it is");
    assert_eq!(world.ask(two, "CONFIG_APPLY|"), "OK");
    world.do_all(two, &["OPTIONS_SET||ALL|timeout|5s", "CONFIG_APPLY|"]);
    assert_eq!(world.read(one), [told(r#""c.de""#, 1)], "nothing of an apply that changed nothing");
    assert_eq!(world.read(two), [""; 0], "one's own is no news");
}

#[test]
fn subscriptions_end_with_unsubscribe_the_connection_or_the_session() {
    let mut world = World::new();
    let certificate = || Input::Certificate { names: vec!["a.de".to_owned()], renewed: true };
    let (conn, id) = world.register("web", "web-1", A);
    subscribe(&mut world, conn, "all");
    subscribe(&mut world, conn, "cert_renewed");
    assert_eq!(world.ask(conn, "UNSUBSCRIBE||all"), "UNSUBSCRIBE_OK");
    world.input(certificate());
    let told = [r#"EVENT|cert_renewed|{"names":["a.de"],"names_total":1,"renewed":true}"#];
    assert_eq!(world.read(conn), told, "each type is by itself");
    for _ in 0..2 {
        assert_eq!(world.ask(conn, "UNSUBSCRIBE||cert_renewed"), "UNSUBSCRIBE_OK");
    }
    world.input(certificate());
    assert_eq!(world.read(conn), [""; 0]);

    subscribe(&mut world, conn, "cert_renewed");
    world.hang_up(conn);
    let again = world.connect(A);
    assert_eq!(world.ask(again, &format!("RECONNECT|{id}")), "OK");
    world.input(certificate());
    assert_eq!(world.read(again), [""; 0], "not with the next connection");

    subscribe(&mut world, again, "cert_renewed");
    world.register_on(again, "web", "web-2");
    world.input(certificate());
    assert_eq!(world.read(again), [""; 0], "not with the next session");

    let watcher = world.connect(B);
    assert_eq!(world.ask(watcher, &format!("SUBSCRIBE|{id}|cert_renewed")), "SUBSCRIBE_OK");
    world.input(certificate());
    assert_eq!(world.read(watcher), told, "where it was asked for");
    assert_eq!(world.ask(watcher, &format!("CLIENT_SHUTDOWN|{id}")), "SHUTDOWN_OK");
    world.input(certificate());
    assert_eq!(world.read(watcher), [""; 0]);
}

#[test]
fn a_replaced_session_hears_nothing() {
    let mut world = World::new();
    let (old, _) = world.register("web", "web-1", A);
    subscribe(&mut world, old, "all");
    let (new, _) = world.register("web", "web-1", A);
    world.input(Input::Certificate { names: Vec::new(), renewed: false });
    assert_eq!((world.read(old), world.read(new)), (Vec::new(), Vec::new()));
    for conn in [old, new] {
        world.hang_up(conn);
    }
    world.after(seconds(301));
    assert!(world.registry.is_empty());
}

#[test]
fn subscriptions_of_a_connection_are_bounded() {
    let mut world = World::new();
    let ids: Vec<String> =
        (0..17).map(|number| world.register("web", &format!("web-{number}"), A).1).collect();
    let watcher = world.connect(B);
    for id in &ids[..16] {
        assert_eq!(world.ask(watcher, &format!("SUBSCRIBE|{id}|all")), "SUBSCRIBE_OK");
    }
    let refused = world.ask(watcher, &format!("SUBSCRIBE|{}|all", ids[16]));
    assert_eq!(refused, "ERROR|too many subscriptions");
    assert_eq!(world.ask(watcher, &format!("SUBSCRIBE|{}|cert_renewed", ids[3])), "SUBSCRIBE_OK");
    world.input(Input::Certificate { names: Vec::new(), renewed: true });
    assert_eq!(world.read(watcher).len(), 1, "one connection hears of one thing once");
}
