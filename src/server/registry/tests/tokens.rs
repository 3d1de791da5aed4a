//! SEMANTICS section 9: a service with a token is joined by those who have it.

use super::*;

const A: &str = "10.2.2.7";
const B: &str = "10.2.2.8";
const C: &str = "10.2.2.9";
const WEB_A: &str = "http://10.2.2.7:8080";

/// Registers an instance of `service` with these metadata; the reply's first word and what is wrong.
fn join(world: &mut World, service: &str, instance: &str, from: &str, metadata: &str) -> (ConnId, String) {
    let conn = world.connect(from);
    let reply = world.ask(conn, &format!("REGISTER|{service}|{instance}|0|{metadata}"));
    (conn, if reply.starts_with("ACK|") { "ACK".to_owned() } else { reply })
}

const RIGHT: &str = r#"{"service_token":"correct horse"}"#;
const REFUSED: &str = "ERROR|wrong service token";

#[test]
fn whoever_joins_a_living_service_that_has_a_token_gives_the_same() {
    let mut world = World::new();
    assert_eq!(join(&mut world, "web", "web-1", A, RIGHT).1, "ACK");
    let before = world.registry.session_count();
    for wrong in [
        "null",
        r#"{"service_token":""}"#,
        r#"{"service_token":"correct hors"}"#,
        r#"{"token":"correct horse"}"#,
    ] {
        let (conn, reply) = join(&mut world, "web", "web-2", B, wrong);
        assert_eq!(reply, REFUSED, "{wrong}");
        assert!(world.closed.contains(&conn));
        world.after(seconds(60));
    }
    assert_eq!(world.registry.session_count(), before);
    assert_eq!(join(&mut world, "web", "web-2", B, RIGHT).1, "ACK");
    assert_eq!(join(&mut world, "shop", "shop-1", B, "{}").1, "ACK", "another service has its own");
    assert!(world.log.iter().any(|line| matches!(line, LogEvent::WrongServiceToken { .. })));
}

#[test]
fn a_refused_registration_leaves_its_connections_session_and_the_one_of_its_name_alone() {
    let mut world = World::new();
    let (first, _) = join(&mut world, "web", "web-1", A, RIGHT);
    assert_eq!(world.apply(first, "a.de", WEB_A), "OK");
    assert_eq!(world.ask(first, "REGISTER|web|web-1|0|{}"), REFUSED);
    world.after(seconds(1));
    assert_eq!(join(&mut world, "web", "web-1", A, "{}").1, REFUSED, "nor is it replaced without");
    assert_eq!(world.ask(first, "PING|"), "PONG");
    assert_eq!(world.serving("a.de"), ["10.2.2.7:8080"]);
}

#[test]
fn a_service_has_a_token_as_long_as_somebody_lives_who_gave_it() {
    let mut world = World::new();
    let (one, _) = join(&mut world, "web", "web-1", B, RIGHT);
    world.hang_up(one);
    assert_eq!(join(&mut world, "web", "web-2", C, "{}").1, REFUSED, "in its grace as well");
    world.after(seconds(61));
    assert_eq!(join(&mut world, "web", "web-2", C, r#"{"service_token":"another"}"#).1, "ACK");
    assert_eq!(join(&mut world, "web", "web-3", C, RIGHT).1, REFUSED);
}

#[test]
fn the_token_survives_a_restart_as_a_hash() {
    let mut world = World::new();
    let (conn, _) = join(&mut world, "web", "web-1", A, RIGHT);
    assert_eq!(world.apply(conn, "a.de", WEB_A), "OK");
    let mut world = world.restart();
    assert_eq!(join(&mut world, "web", "web-2", B, "{}").1, REFUSED);
    world.after(seconds(1));
    assert_eq!(join(&mut world, "web", "web-2", B, RIGHT).1, "ACK");
}

#[test]
fn a_token_that_is_no_text_is_refused_rather_than_forgotten() {
    let mut world = World::new();
    let (_, reply) = join(&mut world, "web", "web-1", A, r#"{"service_token":12345}"#);
    assert_eq!(reply, "ERROR|service_token is no text");
    assert_eq!(join(&mut world, "web", "web-1", A, r#"{"service_token":null}"#).1, "ACK");
}

const NOT_ADDED: &str = "ERROR|service token cannot be added";

#[test]
fn a_token_cannot_be_added_to_a_living_service_nor_while_its_owner_is_away() {
    let mut world = World::new();
    let (owner, id) = world.live("web", "web-1", A, "a.de", WEB_A);
    assert_eq!(join(&mut world, "web", "web-2", B, RIGHT).1, NOT_ADDED);
    assert_eq!(join(&mut world, "web", "web-1", B, RIGHT).1, NOT_ADDED, "nor by its name elsewhere");
    world.hang_up(owner);
    assert_eq!(join(&mut world, "web", "web-2", B, RIGHT).1, NOT_ADDED);
    let owner = world.connect(A);
    assert_eq!(world.ask(owner, &format!("RECONNECT|{id}")), "OK");
    assert_eq!(join(&mut world, "web", "web-2", B, "{}").1, "ACK");
    assert!(world.log.iter().any(|line| matches!(line, LogEvent::TokenNotAdded { .. })));
}

#[test]
fn whoever_replaces_the_only_instance_may_add_one() {
    let mut world = World::new();
    world.live("web", "web-1", A, "a.de", WEB_A);
    assert_eq!(join(&mut world, "web", "web-1", A, RIGHT).1, "ACK");
    assert_eq!(join(&mut world, "web", "web-2", B, "{}").1, REFUSED);
}

fn with_secrets(secrets: &str) -> World {
    let json = format!(r#"{{"default": ["*"], "secrets": {secrets}}}"#);
    let read = |_: &std::path::Path| Ok(b"from a file".to_vec());
    let policy = crate::server::registry::ClaimPolicy::parse(json.as_bytes(), &read).unwrap();
    World::with(|config| config.policy = Some(policy))
}

#[test]
fn a_secret_in_the_policy_keeps_a_name_for_who_is_away_and_may_be_changed_while_two_are_valid() {
    let digest = crate::server::registry::ServiceToken::new(7, "correct horse").digest();
    let mut world = with_secrets(&format!(r#"{{"web": ["{digest}", "file:/next"]}}"#));
    for wrong in ["{}", r#"{"service_token":"wrong"}"#, r#"{"service_token":""}"#] {
        assert_eq!(join(&mut world, "web", "web-1", A, wrong).1, REFUSED, "{wrong}");
        world.after(seconds(60));
    }
    assert_eq!(world.registry.session_count(), 0);
    assert_eq!(join(&mut world, "web", "web-1", A, RIGHT).1, "ACK");
    assert_eq!(join(&mut world, "web", "web-2", B, r#"{"service_token":"from a file"}"#).1, "ACK");
    assert_eq!(join(&mut world, "web", "web-3", C, "{}").1, REFUSED);
    world.after(seconds(1));
    assert_eq!(join(&mut world, "shop", "shop-1", C, "{}").1, "ACK", "others need none");
}
