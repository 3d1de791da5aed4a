//! DESIGN's bounds, by the variables that set them: each has its own words, and changes nothing.

use crate::support::{Session, server};

const ADD: &str = "ROUTE_ADD||a.example.com|/|http://127.0.0.1:9|0";

#[tokio::test]
async fn each_limit_of_a_session_has_a_variable_and_words_of_its_own() {
    let server = server(&[
        ("MAX_SESSIONS", "2"),
        ("MAX_ROUTES_PER_SESSION", "2"),
        ("MAX_HEADERS_PER_ROUTE", "1"),
        ("MAX_STAGED_BYTES", "1000"),
    ])
    .await;
    let mut session = Session::register(&server, "shop", "shop-1").await;
    for added in ["ROUTE_OK|r1", "ROUTE_OK|r2"] {
        assert_eq!(session.ask(ADD).await, added);
    }
    assert_eq!(session.ask(ADD).await, "ERROR|too many routes");
    assert_eq!(session.ask("HEADERS_SET||r1|X-One|1").await, "HEADERS_OK");
    assert_eq!(session.ask("HEADERS_SET||r1|X-Two|2").await, "ERROR|too many headers");
    assert_eq!(session.ask("HEADERS_SET||r1|X-One|2").await, "HEADERS_OK", "in its place");
    let long = "x".repeat(1000);
    assert_eq!(session.ask(&format!("HEADERS_SET||r2|X-One|{long}")).await, "ERROR|too many staged changes");
    // Options need no limit of their own: there is one value for each of the names that there are.
    assert_eq!(session.ask("OPTIONS_SET||r1|timeout|5s").await, "OPTIONS_OK");
    assert!(session.ask("OPTIONS_SET||r1|colour|blue").await.starts_with("ERROR|invalid option"));
    let list = session.ask("ROUTE_LIST|").await;
    assert_eq!(list.matches("route_id").count(), 2, "{list}");
    assert_eq!(session.ask("CONFIG_APPLY|").await, "OK");

    let _second = Session::register(&server, "shop", "shop-2").await;
    let mut third = Session::connect(&server).await;
    assert_eq!(third.ask("REGISTER|shop|shop-3|0|").await, "ERROR|too many sessions");
    assert_eq!(third.ask("PING|").await, "ERROR|no session");
    assert!(third.ask("REGISTER|shop|shop-1|0|").await.starts_with("ACK|"), "one that replaces another may");
}

#[tokio::test]
async fn the_registrys_connections_are_bounded_by_a_variable() {
    let server = server(&[("MAX_REGISTRY_CONNECTIONS", "2")]).await;
    let (mut one, mut two) = (Session::connect(&server).await, Session::connect(&server).await);
    for session in [&mut one, &mut two] {
        assert_eq!(session.ask("PING|").await, "ERROR|no session");
    }
    let mut third = Session::connect(&server).await;
    assert_eq!(third.line().await, "ERROR|too many connections");
    assert_eq!(third.line().await, "", "and EOF");
    assert_eq!(one.ask("PING|").await, "ERROR|no session");
}
