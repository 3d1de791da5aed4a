//! PROTOCOL section 4 and SEMANTICS section 1: what an apply does and may not do, in real HTTP.

use crate::support::{Backend, Session, get, server, soon, until};

const SITE: &str = "a.example.com";
const TAKEN: &str = "ERROR|route r1: a.example.com/ belongs to service shop";

#[tokio::test]
async fn what_is_staged_is_dropped_when_nobody_applies_it_in_time() {
    let server = server(&[("STAGE_TTL", "300ms")]).await;
    let backend = Backend::new("web").await;
    let mut session = Session::live(&server, "shop", "shop-1", SITE, &backend).await;
    for line in ["ROUTE_REMOVE||r1", "ROUTE_ADD||b.example.com|/|http://127.0.0.1:9|0"] {
        assert!(session.ask(line).await.starts_with("ROUTE_OK"));
    }
    let diff = session.ask("CONFIG_DIFF|").await;
    assert!(diff.contains(r#""added":["r2"],"removed":["r1"]"#), "{diff}");
    // That it is looked at does not keep it.
    let empty = r#"DIFF_OK|{"routes":{"added":[],"removed":[],"modified":[]}"#;
    soon(async { while !session.ask("CONFIG_DIFF|").await.starts_with(empty) {} }).await;
    assert_eq!(session.ask("CONFIG_APPLY|").await, "OK");
    assert_eq!(get(&server, SITE).await.status, 200, "what was applied stays");
    assert_eq!(session.ask("ROUTE_ADD||c.example.com|/|http://127.0.0.1:9|0").await, "ROUTE_OK|r3");
}

#[tokio::test]
async fn a_claim_is_its_owners_while_that_lives_and_then_anybodys() {
    let server = server(&[("HOLD", "0s")]).await;
    let (shop, web) = (Backend::new("shop").await, Backend::new("web").await);
    let mut owner = Session::live(&server, "shop", "shop-1", SITE, &shop).await;
    let id = owner.id.clone();
    let mut other = Session::register(&server, "web", "web-1").await;
    assert_eq!(other.ask(&format!("ROUTE_ADD||{SITE}|/|{}|0", web.url())).await, "ROUTE_OK|r1");
    assert_eq!(other.ask("CONFIG_VALIDATE|").await, TAKEN);
    assert_eq!(other.ask("CONFIG_APPLY|").await, TAKEN, "connected");

    owner.finish().await;
    assert_eq!(owner.line().await, "");
    assert_eq!(other.ask("CONFIG_APPLY|").await, TAKEN, "in grace, with a backend that answers");
    assert_eq!(get(&server, SITE).await.body, "shop 0");

    // Connected again, its backend may fail.
    let mut owner = Session::connect(&server).await;
    assert_eq!(owner.ask(&format!("RECONNECT|{id}")).await, "OK");
    assert_eq!(owner.ask("HEALTH_SET||r1|/|100ms|100ms").await, "HEALTH_OK");
    assert_eq!(owner.ask("CONFIG_APPLY|").await, "OK");
    shop.stop().await;
    until(async || get(&server, SITE).await.status == 503).await;
    assert_eq!(other.ask("CONFIG_APPLY|").await, TAKEN, "connected, whatever its backend does");

    // Lost, with a backend that does not answer: the claim is free.
    owner.finish().await;
    assert_eq!(owner.line().await, "");
    soon(async { while other.ask("CONFIG_APPLY|").await != "OK" {} }).await;
    assert_eq!(get(&server, SITE).await.body, "web 0");
    let mut back = Session::connect(&server).await;
    assert_eq!(back.ask(&format!("RECONNECT|{id}")).await, "REREGISTER", "it is not what it was");
    assert!(back.ask("REGISTER|shop|shop-1|0|").await.starts_with("ACK|"));
    assert!(back.ask(&format!("ROUTE_ADD||{SITE}|/|http://127.0.0.1:9|0")).await.starts_with("ROUTE_OK|"));
    let refusal = back.ask("CONFIG_APPLY|").await;
    assert_eq!(refusal, "ERROR|route r1: a.example.com/ belongs to service web");
}

#[tokio::test]
async fn a_higher_priority_that_hides_a_longer_path_is_accepted_and_is_in_force() {
    let server = server(&[]).await;
    let (site, api) = (Backend::new("site").await, Backend::new("api").await);
    let mut session = Session::live(&server, "shop", "shop-1", SITE, &site).await;
    assert_eq!(session.ask(&format!("ROUTE_ADD||{SITE}|/api|{}|0", api.url())).await, "ROUTE_OK|r2");
    assert_eq!(session.ask("CONFIG_APPLY|").await, "OK");
    let asked = async || crate::support::get_path(&server, SITE, "/api/x").await.body;
    assert_eq!(asked().await, "api 0");
    assert_eq!(session.ask("ROUTE_UPDATE||r1|priority|1").await, "ROUTE_OK");
    assert_eq!(session.ask("CONFIG_APPLY|").await, "OK");
    assert_eq!(asked().await, "site 0");
}
