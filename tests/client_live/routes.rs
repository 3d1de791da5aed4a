//! Routes at run time, addresses that change, several registries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use registry_client::protocol::report::CircuitState;
use registry_client::protocol::{CircuitBreaker, HealthCheck, RateLimit, RouteId, RouteOption};
use registry_client::{Event, RouteKey, RouteStatus};
use tokio::net::TcpListener;

use crate::support::{Backend, get, get_path, server, soon, until};
use crate::world::{event, free_addresses, intent, live, route, routes, server_at, start};

#[tokio::test]
async fn routes_are_added_changed_and_removed_while_requests_are_served() {
    let server = server(&[]).await;
    let (one, two) = (Backend::new("one").await, Backend::new("two").await);
    let main = route("a.example.com", "/", &one.url());
    let (client, mut events) = start(server.registry_address(), intent().with_route("main", main));
    live(&client).await;
    assert_eq!(get(&server, "a.example.com").await.body, "one 0");

    client.add_route("api", route("a.example.com", "/api", &two.url())).unwrap();
    live(&client).await;
    assert_eq!(get_path(&server, "a.example.com", "/api/x").await.body, "two 0");
    let Event::RouteAdded { id, .. } = event(&mut events, "ROUTE_ADDED").await else { panic!() };
    assert_eq!(id, RouteId(1));

    client.update_route("api", route("a.example.com", "/v2", &two.url())).unwrap();
    live(&client).await;
    assert_eq!(get_path(&server, "a.example.com", "/api/x").await.body, "one 0");
    assert_eq!(get_path(&server, "a.example.com", "/v2").await.body, "two 0");

    client.remove_route("main").unwrap();
    live(&client).await;
    until(async || get(&server, "a.example.com").await.status == 404).await;
    let Event::RouteRemoved { key, .. } = event(&mut events, "ROUTE_REMOVED").await else { panic!() };
    assert_eq!(key, Some(RouteKey::from("main")));
}

#[tokio::test]
async fn hundreds_of_routes_come_and_go_in_one_apply_each() {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let (client, _events) = start(server.registry_address(), intent());
    live(&client).await;
    let before = client.status().revision.unwrap();
    let many = (0..300).map(|number| {
        let domain = format!("{number}.example.com");
        (RouteKey::from(domain.as_str()), route(&domain, "/", &backend.url()))
    });
    client.set_routes(many.collect()).unwrap();
    live(&client).await;
    assert_eq!(client.registered_routes().await.unwrap().len(), 300);
    assert_eq!(client.status().revision, Some(before + 1), "one apply");
    assert_eq!(get(&server, "299.example.com").await.body, "web 0");
    client.set_routes(routes(&[])).unwrap();
    live(&client).await;
    assert_eq!(client.status().revision, Some(before + 2), "one apply");
    assert_eq!(client.registered_routes().await.unwrap().len(), 0);
}

#[tokio::test]
async fn every_setting_of_a_route_reaches_the_proxy_and_is_taken_back() {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let check = HealthCheck {
        path: "/health".parse().unwrap(),
        interval: "30s".parse().unwrap(),
        timeout: "5s".parse().unwrap(),
    };
    let breaker = CircuitBreaker { threshold: 5, timeout: "30s".parse().unwrap(), half_open_requests: 1 };
    let bare = route("a.example.com", "/", &backend.url());
    let full = bare
        .clone()
        .with_health(check)
        .with_option(RouteOption::PreserveHost(false))
        .with_header("X-Shop".parse().unwrap(), "open".parse().unwrap())
        .with_rate_limit(RateLimit { requests: 3, window: "1h".parse().unwrap() })
        .with_circuit_breaker(breaker);
    let (client, mut events) = start(server.registry_address(), intent().with_route("main", full));
    live(&client).await;
    event(&mut events, "HEALTH_CHECK_SET").await;
    until(async || backend.last_probe().starts_with("GET /health HTTP")).await;
    let answer = get(&server, "a.example.com").await;
    assert_eq!((answer.status, answer.field("x-shop")), (200, Some("open")));
    assert!(backend.last_head().contains(&format!("{}\r\n", backend.addr)), "{}", backend.last_head());
    let statuses = [get(&server, "a.example.com").await, get(&server, "a.example.com").await];
    assert!(statuses.iter().all(|answer| answer.status == 200));
    assert_eq!(get(&server, "a.example.com").await.status, 429);
    assert_eq!(client.circuit_breaker_status("main").await.unwrap().state, CircuitState::Closed);

    client.update_route("main", bare).unwrap();
    live(&client).await;
    let answer = get(&server, "a.example.com").await;
    assert_eq!((answer.status, answer.field("x-shop")), (200, None));
    assert_eq!(client.circuit_breaker_status("main").await.unwrap().state, CircuitState::Closed);
}

/// Counts requests and those that were not served, until told to stop.
async fn load(http: std::net::SocketAddr, stop: Arc<AtomicBool>, served: Arc<AtomicUsize>) -> Vec<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut failed = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let mut stream = tokio::net::TcpStream::connect(http).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        match answer.starts_with("HTTP/1.1 200 ") {
            true => drop(served.fetch_add(1, Ordering::SeqCst)),
            false => failed.push(answer),
        }
    }
    failed
}

#[tokio::test]
async fn an_address_changes_without_a_moment_without_a_route() {
    let server = server(&[]).await;
    let old = Backend::new("old").await;
    let listener = TcpListener::bind(("127.0.0.2", old.addr.port())).await.unwrap();
    let new = Backend::on(listener, "new", 200);
    let main = route("a.example.com", "/", &old.url());
    let (client, mut events) = start(server.registry_address(), intent().with_route("main", main));
    live(&client).await;
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = tokio::spawn(load(server.http_address(), Arc::clone(&stop), Arc::clone(&served)));
    let more = async |count: usize| {
        let goal = served.load(Ordering::SeqCst) + count;
        until(async || served.load(Ordering::SeqCst) >= goal).await;
    };
    let addresses = ["127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap()];
    for turn in 0..20 {
        let (from, to) = (addresses[turn % 2], addresses[(turn + 1) % 2]);
        more(5).await;
        client.change_address(from, to).unwrap();
        live(&client).await;
        let Event::IpChanged { old, new } = event(&mut events, "IP_CHANGED").await else { panic!() };
        assert_eq!((old, new), (from, to));
        more(5).await;
    }
    stop.store(true, Ordering::SeqCst);
    assert_eq!(soon(load).await.unwrap(), Vec::<String>::new());
    assert!(old.requests() > 0 && new.requests() > 0);
    assert_eq!(client.registered_routes().await.unwrap().len(), 1, "the old ones are gone");
}

#[tokio::test]
async fn a_registry_that_is_down_delays_nothing_on_the_others() {
    let (up, away) = (server(&[]).await, free_addresses().await);
    let backend = Backend::new("web").await;
    let wanted = || intent().with_route("main", route("a.example.com", "/", &backend.url()));
    let (waiting, _events) = start(away[1], wanted());
    let (client, _more) = start(up.registry_address(), wanted());
    live(&client).await;
    assert_eq!(get(&up, "a.example.com").await.status, 200);
    assert_eq!(waiting.status().routes["main"], RouteStatus::Pending);

    client.add_route("more", route("b.example.com", "/", &backend.url())).unwrap();
    waiting.add_route("more", route("b.example.com", "/", &backend.url())).unwrap();
    live(&client).await;
    let late = server_at(away, &[]).await;
    live(&waiting).await;
    assert_eq!(get(&late, "b.example.com").await.status, 200);
    late.stop().await;
    client.remove_route("more").unwrap();
    live(&client).await;
    assert!(client.status().live && !waiting.status().bound);
}
