//! Who replaces whom, who is a sibling, and to whom an address belongs.

use registry_client::{Client, ClientConfig, Endpoint, Event, Intent};

use crate::network::{A, B, C, backend, connect, in_a_network, register, server};
use crate::support::{get, soon, until};

const SITE: &str = "a.example.com";

#[test]
fn connections_from_one_address_are_bounded_by_a_variable() {
    in_a_network("addresses::connections_from_one_address_are_bounded_by_a_variable", async {
        let server = server(&[("MAX_CONNECTIONS_PER_ADDRESS", "2")]).await;
        let (mut one, mut two) = (connect(&server, A).await, connect(&server, A).await);
        for session in [&mut one, &mut two] {
            assert_eq!(session.ask("PING|").await, "ERROR|no session");
        }
        let mut third = connect(&server, A).await;
        assert_eq!(third.line().await, "ERROR|too many connections from this address");
        assert_eq!(third.line().await, "", "and EOF");
        let mut elsewhere = connect(&server, B).await;
        assert_eq!(elsewhere.ask("PING|").await, "ERROR|no session");
        one.finish().await;
        assert_eq!(one.line().await, "");
        // The registry hears of the end a moment later than we.
        soon(async { while !register_on(&server).await {} }).await;
    });

    async fn register_on(server: &registry_sidecar::server::Server) -> bool {
        connect(server, A).await.ask("REGISTER|web|web-1|0|").await.starts_with("ACK|")
    }
}

#[test]
fn a_registration_from_the_same_address_makes_before_it_breaks() {
    in_a_network("addresses::a_registration_from_the_same_address_makes_before_it_breaks", async {
        let server = server(&[]).await;
        let (old_one, new_one) = (backend(A, "old").await, backend(A, "new").await);
        let mut old = register(&server, A, "web", "web-1").await;
        old.route(SITE, &old_one.url()).await;
        let body = async || get(&server, SITE).await.body;
        until(async || body().await == "old 0").await;

        let mut middle = register(&server, A, "web", "web-1").await;
        assert_eq!(old.ask("PING|").await, "ERROR|session replaced");
        assert_eq!(body().await, "old 0", "nobody has applied anything in its place");
        let mut new = register(&server, A, "web", "web-1").await;
        assert_eq!(middle.ask("PING|").await, "ERROR|session replaced");
        // One that never answers takes nothing away from the one that does.
        new.route(SITE, &format!("http://{A}:1")).await;
        assert_eq!(body().await, "old 0");
        assert_eq!(new.ask(&format!("ROUTE_UPDATE||r1|backend_url|{}", new_one.url())).await, "ROUTE_OK");
        assert_eq!(new.ask("CONFIG_APPLY|").await, "OK");
        until(async || body().await == "new 0").await;
        for _ in 0..20 {
            assert_eq!(body().await, "new 0", "the old one is out");
        }

        // A chain of replacements: each of the old ids is told as long as the newest lives.
        let mut asking = connect(&server, B).await;
        for id in [&old.id, &middle.id] {
            assert_eq!(asking.ask(&format!("RECONNECT|{id}")).await, "ERROR|session replaced");
            assert_eq!(new.ask(&format!("PING|{id}")).await, "PONG", "it counts as the connection's own");
        }
        assert_eq!(new.ask("CLIENT_SHUTDOWN|").await, "SHUTDOWN_OK");
        for id in [&old.id, &middle.id, &new.id] {
            assert_eq!(asking.ask(&format!("RECONNECT|{id}")).await, "REREGISTER");
        }
        assert_eq!(old.ask("PING|").await, "ERROR|no session");
    });
}

#[test]
fn a_registration_from_another_address_is_a_sibling() {
    in_a_network("addresses::a_registration_from_another_address_is_a_sibling", async {
        let server = server(&[("SESSION_GRACE", "1s")]).await;
        let (one, two) = (backend(A, "one").await, backend(B, "two").await);
        let mut first = register(&server, A, "web", "web-1").await;
        first.route(SITE, &one.url()).await;
        let mut second = register(&server, B, "web", "web-1").await;
        second.route(SITE, &two.url()).await;
        let answers = async |name: &str| get(&server, SITE).await.body == format!("{name} 0");
        until(async || answers("one").await).await;
        until(async || answers("two").await).await;
        assert_eq!(first.ask("PING|").await, "PONG");
        // The older one's end touches nothing of the newer one's.
        first.finish().await;
        assert_eq!(first.line().await, "");
        let only_two = async || {
            let mut answers = Vec::new();
            for _ in 0..20 {
                answers.push(get(&server, SITE).await.body);
            }
            answers.iter().all(|answer| answer == "two 0")
        };
        until(only_two).await;
        let mut asking = connect(&server, C).await;
        assert_eq!(asking.ask(&format!("RECONNECT|{}", first.id)).await, "REREGISTER");
        assert!(only_two().await);
        assert_eq!(second.ask("PING|").await, "PONG");
    });
}

/// Both ends say so (SEMANTICS section 1).
#[test]
fn our_client_is_told_that_it_joins_a_service_from_a_new_address() {
    in_a_network("addresses::our_client_is_told_that_it_joins_a_service_from_a_new_address", async {
        let server = server(&[]).await;
        register(&server, A, "web", "web-1").await;
        let registry = server.registry_address();
        let config = ClientConfig::new(Endpoint::new(registry.ip().to_string(), registry.port()));
        let intent = Intent::new("web".parse().unwrap(), "web-2".parse().unwrap());
        let (_client, mut events) = Client::start(config, intent);
        let said = soon(async {
            loop {
                let event = events.next().await.unwrap();
                if matches!(event, Event::Joined { .. }) {
                    return event.to_string();
                }
            }
        });
        let registry = format!("joining service web at {registry}");
        let said = said.await;
        assert!(said.starts_with(&registry) && said.ends_with("from other addresses: 1"), "{said}");
    });
}

/// Container engines give addresses away: whoever answers there may be somebody else.
#[test]
fn a_lost_sessions_backend_is_suspended_when_another_session_comes_to_its_address() {
    in_a_network(
        "addresses::a_lost_sessions_backend_is_suspended_when_another_session_comes_to_its_address",
        async {
            // Only who is connected from there takes an address. A backend that somebody else names takes none.
            for named_only in [false, true] {
                let server = server(&[]).await;
                let web = backend(A, "web").await;
                let mut session = register(&server, A, "web", "web-1").await;
                session.route(SITE, &web.url()).await;
                session.finish().await;
                assert_eq!(session.line().await, "");
                assert_eq!(get(&server, SITE).await.status, 200, "lost, and its backend answers");

                let mut other = register(&server, if named_only { B } else { A }, "shop", "shop-1").await;
                if named_only {
                    assert_eq!(get(&server, SITE).await.status, 200, "somewhere else");
                    other.route("b.example.com", &backend(A, "shop").await.url()).await;
                }
                let expected = if named_only { 200 } else { 503 };
                assert_eq!(get(&server, SITE).await.status, expected, "only named: {named_only}");

                let mut back = connect(&server, A).await;
                assert_eq!(back.ask(&format!("RECONNECT|{}", session.id)).await, "OK");
                until(async || get(&server, SITE).await.body == "web 0").await;
            }
        },
    );
}

#[test]
fn an_address_from_which_two_sessions_were_connected_at_once_is_nobodys_own() {
    in_a_network(
        "addresses::an_address_from_which_two_sessions_were_connected_at_once_is_nobodys_own",
        async {
            let server = server(&[("REGISTRY_LISTEN", "0.0.0.0:0")]).await;
            for from in [C, "127.0.0.1"] {
                let web = backend(from, "web").await;
                let mut session = register(&server, from, "web", "web-1").await;
                session.route(SITE, &web.url()).await;
                if from == C {
                    let mut other = register(&server, from, "db", "db-1").await;
                    assert_eq!(other.ask("CLIENT_SHUTDOWN|").await, "SHUTDOWN_OK");
                }
                session.finish().await;
                assert_eq!(session.line().await, "");
                let mut stranger = register(&server, from, "shop", "shop-1").await;
                stranger.route("b.example.com", &backend(from, "shop").await.url()).await;
                assert_eq!(get(&server, SITE).await.body, "web 0", "{from}");
                for end in [format!("CLIENT_SHUTDOWN|{}", session.id), "CLIENT_SHUTDOWN|".to_owned()] {
                    assert_eq!(stranger.ask(&end).await, "SHUTDOWN_OK");
                }
            }
        },
    );
}
