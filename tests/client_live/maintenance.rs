//! Maintenance as the proxy confirms it, through restarts of the registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use registry_client::{
    Event, EventStream, MaintenanceAction, MaintenanceRequest, MaintenanceTarget, Mode, Visibility,
};
use registry_sidecar::server::Server;

use crate::support::{Backend, get, get_path, server, soon, until};
use crate::world::{event, free_addresses, intent, live, route, server_at, start};

async fn entered(events: &mut EventStream) -> MaintenanceTarget {
    let Event::MaintenanceEntered { target, mode } = event(events, "MAINT_PROXY_ENTERED").await else {
        panic!("it has that name")
    };
    assert_eq!(mode, Mode::Proxy);
    target
}

/// What each of three routes answers: the whole site, its `/admin`, and another domain.
async fn seen(server: &Server) -> [u16; 3] {
    [
        get(server, "a.example.com").await.status,
        get_path(server, "a.example.com", "/admin").await.status,
        get(server, "b.example.com").await.status,
    ]
}

#[tokio::test]
async fn everything_a_route_a_path_or_a_domain_is_in_maintenance_as_the_last_request_says() {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let intent = intent()
        .with_route("main", route("a.example.com", "/", &backend.url()))
        .with_route("admin", route("a.example.com", "/admin", &backend.url()))
        .with_route("other", route("b.example.com", "/", &backend.url()));
    let (client, mut events) = start(server.registry_address(), intent);
    live(&client).await;

    for (target, expected) in [
        (MaintenanceTarget::Path("/admin".parse().unwrap()), [200, 503, 200]),
        (MaintenanceTarget::Domain("b.example.com".parse().unwrap()), [200, 200, 503]),
        (MaintenanceTarget::Route("main".into()), [503, 200, 200]),
        (MaintenanceTarget::All, [503, 503, 503]),
    ] {
        client.maintenance_enter(target.clone(), None).unwrap();
        assert_eq!(entered(&mut events).await, target);
        assert_eq!(seen(&server).await, expected, "{target}");
        client.maintenance_exit(target.clone()).unwrap();
        event(&mut events, "MAINT_PROXY_EXITED").await;
        assert_eq!(seen(&server).await, [200, 200, 200], "{target}");
    }

    client.maintenance_enter(MaintenanceTarget::All, None).unwrap();
    client.maintenance_exit(MaintenanceTarget::Path("/admin".parse().unwrap())).unwrap();
    until(async || seen(&server).await == [503, 200, 503]).await;
    let kept = client.maintenance_status().await.unwrap();
    assert_eq!(kept.in_maintenance, ["r2", "r3"], "the ids are given in the order of the keys");
    client.maintenance_exit(MaintenanceTarget::All).unwrap();
    until(async || seen(&server).await == [200, 200, 200]).await;
}

#[tokio::test]
async fn people_get_the_page_and_the_page_follows_the_address() {
    let server = server(&[]).await;
    let (backend, page) = (Backend::new("web").await, Backend::with_status("page", 404).await);
    let listener = tokio::net::TcpListener::bind(("127.0.0.2", page.addr.port())).await.unwrap();
    let moved = Backend::on(listener, "moved", 404);
    let main = route("a.example.com", "/", &backend.url());
    let (client, mut events) = start(server.registry_address(), intent().with_route("main", main));
    live(&client).await;
    client.maintenance_enter(MaintenanceTarget::All, Some(page.url().parse().unwrap())).unwrap();
    entered(&mut events).await;
    assert_eq!(get(&server, "a.example.com").await.body, "page 0");
    assert_eq!(client.status().shown, Visibility::Maintenance);

    client.change_address("127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap()).unwrap();
    until(async || get(&server, "a.example.com").await.body == "moved 0").await;
    drop(moved);
}

#[tokio::test]
async fn a_page_that_answers_late_is_confirmed_then() {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    let main = route("a.example.com", "/", &backend.url());
    let (client, mut events) = start(server.registry_address(), intent().with_route("main", main));
    live(&client).await;
    client.maintenance_enter(MaintenanceTarget::All, Some(url.parse().unwrap())).unwrap();
    until(async || get(&server, "a.example.com").await.status == 503).await;
    assert_eq!(client.status().shown, Visibility::Live, "the proxy has not confirmed it");
    let page = Backend::on(socket.listen(16).unwrap(), "page", 200);
    entered(&mut events).await;
    assert_eq!(get(&server, "a.example.com").await.body, "page 0");
    drop(page);
}

/// Asks all the time, and remembers whether the application was ever seen.
fn watcher(http: std::net::SocketAddr) -> (Arc<AtomicBool>, tokio::task::JoinHandle<u32>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let watch = async move {
        let mut seen = 0;
        while !stopped.load(Ordering::SeqCst) {
            let Ok(mut stream) = tokio::net::TcpStream::connect(http).await else {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            };
            let request = b"GET / HTTP/1.1\r\nHost: a.example.com\r\nConnection: close\r\n\r\n";
            let mut answer = String::new();
            if stream.write_all(request).await.is_ok() && stream.read_to_string(&mut answer).await.is_ok() {
                seen += u32::from(answer.starts_with("HTTP/1.1 200 "));
            }
        }
        seen
    };
    (stop, tokio::spawn(watch))
}

/// The registry is stopped and started again while everything is in maintenance; how often the application was
/// seen meanwhile.
async fn through_a_restart(more: &[(&str, &str)]) -> u32 {
    let addresses = free_addresses().await;
    let server = server_at(addresses, more).await;
    let backend = Backend::new("web").await;
    let both = ["a.example.com", "b.example.com"];
    let routes = both.map(|domain| (domain, route(domain, "/", &backend.url())));
    let intent = routes.into_iter().fold(intent(), |intent, (key, route)| intent.with_route(key, route));
    let (client, mut events) = start(server.registry_address(), intent);
    live(&client).await;
    client.maintenance_enter(MaintenanceTarget::All, None).unwrap();
    entered(&mut events).await;

    let (stop, watcher) = watcher(server.http_address());
    server.stop().await;
    event(&mut events, "DISCONNECTED").await;
    let server = server_at(addresses, more).await;
    event(&mut events, "RECONNECTED").await;
    let mut status = client.watch();
    soon(status.wait_for(|status| status.live && status.shown == Visibility::Maintenance)).await.unwrap();
    until(async || get(&server, "b.example.com").await.status == 503).await;
    stop.store(true, Ordering::SeqCst);
    let seen = soon(watcher).await.unwrap();

    client.maintenance_exit(MaintenanceTarget::All).unwrap();
    event(&mut events, "MAINT_PROXY_EXITED").await;
    assert_eq!(get(&server, "a.example.com").await.status, 200);
    seen
}

#[tokio::test]
async fn maintenance_survives_a_restart_of_a_registry_without_memory() {
    assert_eq!(through_a_restart(&[]).await, 0, "people saw behind the page");
}

#[tokio::test]
async fn maintenance_survives_a_restart_of_a_registry_with_a_state_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("registry.redb");
    let seen = through_a_restart(&[("STATE_FILE", file.to_str().unwrap())]).await;
    assert_eq!(seen, 0, "people saw behind the page");
}

#[tokio::test]
async fn a_route_is_born_in_maintenance_and_its_application_never_seen() {
    let server = server(&[]).await;
    let backend = Backend::new("web").await;
    let (stop, watcher) = watcher(server.http_address());
    let mut intent = intent()
        .with_route("main", route("a.example.com", "/", &backend.url()))
        .with_route("other", route("b.example.com", "/", &backend.url()));
    let (target, action) = (MaintenanceTarget::All, MaintenanceAction::Enter(None));
    intent.maintenance.push(MaintenanceRequest { target, action });
    let (client, mut events) = start(server.registry_address(), intent);
    entered(&mut events).await;
    assert_eq!(client.status().maintenance.values().copied().collect::<Vec<_>>(), [true, true]);
    assert_eq!((get(&server, "a.example.com").await.status, backend.requests()), (503, 0));
    client.add_route("late", route("c.example.com", "/", &backend.url())).unwrap();
    live(&client).await;
    assert_eq!(get(&server, "c.example.com").await.status, 503, "those that are added later, too");
    stop.store(true, Ordering::SeqCst);
    assert_eq!(soon(watcher).await.unwrap(), 0);
}
