//! REGISTRY_ALLOW and BACKEND_ALLOW: what is refused by an address, and what only when a name has been resolved.

use crate::network::{A, B, PUBLIC, backend, connect, in_a_network, register, server};
use crate::support::{get, until};

const SITE: &str = "a.example.com";

#[test]
fn by_default_containers_may_register_and_the_rest_of_the_world_may_not() {
    in_a_network("allowed::by_default_containers_may_register_and_the_rest_of_the_world_may_not", async {
        let server = server(&[]).await;
        register(&server, A, "web", "web-1").await;
        let mut foreign = connect(&server, PUBLIC).await;
        assert_eq!(foreign.line().await, "", "not even read");
    });
}

#[test]
fn what_an_address_forbids_is_refused_when_it_is_staged() {
    in_a_network("allowed::what_an_address_forbids_is_refused_when_it_is_staged", async {
        let allow = ("REGISTRY_ALLOW", "10.0.0.0/8,93.184.216.34");
        let server = server(&[allow, ("HTTP_LISTEN", "0.0.0.0:0")]).await;
        let (mut session, web) = (register(&server, A, "web", "web-1").await, backend(A, "web").await);
        session.route(SITE, &web.url()).await;
        let registry = server.registry_address();
        for url in [
            "http://127.0.0.1:8080/".to_owned(),
            "http://[::1]:8080/".to_owned(),
            "http://[::ffff:127.0.0.1]:8080/".to_owned(),
            "http://169.254.169.254/".to_owned(),
            format!("http://{PUBLIC}:8080/"),
            format!("http://{registry}/"),
        ] {
            let refusal = session.ask(&format!("BACKEND_TEST||{url}")).await;
            assert!(refusal.starts_with("ERROR|not allowed: http://"), "{url}: {refusal}");
            for line in [
                format!("ROUTE_ADD||b.example.com|/|{url}|0"),
                format!("ROUTE_UPDATE||r1|backend_url|{url}"),
                format!("MAINT_ENTER||r1|{url}"),
            ] {
                assert_eq!(session.ask(&line).await, refusal, "{line}");
            }
        }
        let diff = session.ask("CONFIG_DIFF|").await;
        assert!(diff.starts_with(r#"DIFF_OK|{"routes":{"added":[],"removed":[],"modified":[]}"#), "{diff}");
        assert!(session.ask("MAINT_STATUS|").await.contains(r#""in_maintenance":[]"#));

        // Of all public addresses a peer may name its own.
        let (mut foreign, own) =
            (register(&server, PUBLIC, "far", "far-1").await, backend(PUBLIC, "far").await);
        foreign.route("far.example.com", &own.url()).await;
        assert_eq!(get(&server, "far.example.com").await.body, "far 0");
        // The proxy itself, on whatever address of this machine, shows only when it is connected to.
        let port = server.http_address().port();
        let reply = session.ask(&format!("BACKEND_TEST||http://10.2.2.2:{port}/")).await;
        assert_eq!(reply, r#"BACKEND_FAIL|{"error":"not allowed: 10.2.2.2","reachable":false}"#);
    });
}

#[test]
fn what_a_name_stands_for_is_looked_at_when_it_is_connected_to() {
    in_a_network("allowed::what_a_name_stands_for_is_looked_at_when_it_is_connected_to", async {
        let server = server(&[]).await;
        // For a peer that is no loopback peer, `localhost` is what it must not reach.
        let secret = backend("127.0.0.1", "secret").await;
        let url = format!("http://localhost:{}/", secret.addr.port());
        let mut session = register(&server, A, "web", "web-1").await;
        let reply = session.ask(&format!("BACKEND_TEST||{url}")).await;
        assert!(reply.starts_with("BACKEND_FAIL|") && reply.contains("not allowed: "), "{reply}");

        // As a backend, with a check:
        let added = session.ask(&format!("ROUTE_ADD||{SITE}|/|{url}|0")).await;
        assert_eq!(added, "ROUTE_OK|r1");
        assert_eq!(session.ask("HEALTH_SET||r1|/|100ms|100ms").await, "HEALTH_OK");
        assert_eq!(session.ask("CONFIG_APPLY|").await, "OK");
        assert_ne!(get(&server, SITE).await.status, 200);
        until(async || get(&server, SITE).await.status == 503).await;

        // As a page, in place of a backend that may be reached:
        let web = backend(B, "web").await;
        assert_eq!(session.ask(&format!("ROUTE_UPDATE||r1|backend_url|{}", web.url())).await, "ROUTE_OK");
        assert_eq!(session.ask("CONFIG_APPLY|").await, "OK");
        until(async || get(&server, SITE).await.status == 200).await;
        assert_eq!(session.ask(&format!("MAINT_ENTER||r1|{url}")).await, "ACK");
        let page = get(&server, SITE).await;
        assert_eq!((page.status, page.field("x-maintenance-mode")), (503, Some("true")), "the proxy's own");
        assert_eq!(secret.requests(), 0, "nobody has asked it anything");

        // The same name, for a peer that may.
        let local = crate::support::server(&[]).await;
        let mut session = crate::support::Session::register(&local, "web", "web-1").await;
        let reply = session.ask(&format!("BACKEND_TEST||{url}")).await;
        assert!(reply.starts_with(r#"BACKEND_OK|{"reachable":true"#), "{reply}");
    });
}

#[test]
fn what_an_operator_allows_takes_the_place_of_the_default() {
    in_a_network("allowed::what_an_operator_allows_takes_the_place_of_the_default", async {
        let server = server(&[("BACKEND_ALLOW", "10.2.2.8/32")]).await;
        let mut session = register(&server, A, "web", "web-1").await;
        let (own, other) = (backend(A, "own").await, backend(B, "other").await);
        let refusal = session.ask(&format!("ROUTE_ADD||{SITE}|/|{}|0", own.url())).await;
        assert_eq!(refusal, format!("ERROR|not allowed: {}/", own.url()));
        session.route(SITE, &other.url()).await;
        assert_eq!(get(&server, SITE).await.body, "other 0");
    });
}
