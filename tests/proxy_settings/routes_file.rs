//! ROUTES_FILE: routes of what has no sidecar. DEFAULT_HEADERS: headers of every response.

use std::path::Path;
use std::process::Command;

use super::support::{Backend, Peer};
use super::*;

/// A server with a file of routes, and other variables.
async fn start(file: &Path, vars: &[(&str, &str)]) -> Server {
    let listen = [
        ("HTTP_LISTEN", "127.0.0.1:0"),
        ("REGISTRY_LISTEN", "127.0.0.1:0"),
        ("ADMIN_LISTEN", "off"),
        ("START_HOLD", "0s"),
        ("HOLD", "0s"),
        ("ROUTES_FILE", file.to_str().unwrap()),
    ];
    let vars = listen.iter().chain(vars).map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let read = |path: &Path| std::fs::read(path).map_err(|error| error.to_string());
    let config = Config::from_env(vars, Context { host_name: "proxy", read_file: &read }).unwrap();
    Server::start(&config).await.unwrap()
}

fn route(service: &str, domain: &str, backend: &Backend, more: &str) -> String {
    format!("  - service: {service}\n    domains: {domain}\n    backend: {}\n{more}", backend.url())
}

async fn get(server: &Server, host: &str) -> Response {
    let mut client = Peer::connect(server.http_address()).await;
    client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    client.response().await
}

async fn until_body(server: &Server, host: &str, body: &str) {
    soon(async { while get(server, host).await.body != body {} }).await;
}

#[tokio::test]
async fn routes_of_a_file_are_served_and_follow_the_file() {
    let (nas, router) = (Backend::saying("nas").await, Backend::saying("router").await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("routes.yml");
    let write = |text: String| std::fs::write(&file, format!("routes:\n{text}")).unwrap();
    let nas_route = route("nas", "nas.example.com", &nas, "    headers: {X-Of: file}\n");
    write(nas_route.clone());
    let server = start(&file, &[("REGISTRY_TOKEN", "correct-horse-battery-staple")]).await;
    until_body(&server, "nas.example.com", "nas").await;
    assert_eq!(get(&server, "nas.example.com").await.field("x-of"), Some("file"));

    write(format!("{nas_route}{}", route("router", "router.example.com", &router, "")));
    until_body(&server, "router.example.com", "router").await;
    // A file with a mistake changes nothing. The next good one is in force.
    write(format!("{nas_route}    colour: red\n"));
    write(route("nas", "files.example.com", &nas, ""));
    until_body(&server, "files.example.com", "nas").await;
    soon(async { while get(&server, "router.example.com").await.status() != 404 {} }).await;
    soon(async { while get(&server, "nas.example.com").await.status() != 404 {} }).await;
    server.stop().await;
}

#[tokio::test]
async fn a_host_is_whose_service_had_it_first_the_file_or_a_session() {
    let (of_file, of_session) = (Backend::saying("file").await, Backend::saying("session").await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("routes.yml");
    std::fs::write(&file, format!("routes:\n{}", route("nas", "nas.example.com", &of_file, ""))).unwrap();
    let server = start(&file, &[]).await;
    until_body(&server, "nas.example.com", "file").await;
    let mut session = session(server.registry_address(), "shop", "shop-1").await;
    for (host, reply) in [
        ("shop.example.com", "OK"),
        ("nas.example.com", "ERROR|route r2: nas.example.com/ belongs to service nas"),
    ] {
        ask(&mut session, &format!("ROUTE_ADD||{host}|/|{}|0", of_session.url())).await;
        assert_eq!(ask(&mut session, "CONFIG_APPLY|").await, reply);
    }
    let both = [
        route("nas", "nas.example.com", &of_file, ""),
        route("nas", "shop.example.com", &of_file, ""),
        route("nas", "third.example.com", &of_file, ""),
    ];
    std::fs::write(&file, format!("routes:\n{}", both.concat())).unwrap();
    until_body(&server, "third.example.com", "file").await;
    assert_eq!(
        get(&server, "shop.example.com").await.body,
        "session",
        "the others of the file are there all the same"
    );
}

#[tokio::test]
async fn check_shows_the_file_as_it_is_understood_and_where_a_mistake_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("routes.yml");
    let check = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_registry-server"));
        let output = command.arg("check").env_clear().env("ROUTES_FILE", &file).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let good = "routes:\n- service: nas\n  domains: nas.example.com\n  backend: https://192.168.1.5:5001\n";
    let (code, shown) = check(good);
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("  ROUTE_ADD|S|nas.example.com|/|https://192.168.1.5:5001/|10\n"), "{shown}");
    let (code, shown) = check(&format!("{good}  weight: 5%\n"));
    assert_eq!(code, Some(64), "{shown}");
    assert!(shown.contains("line 5") && shown.contains("column") && shown.contains("ROUTES_FILE"), "{shown}");
}

#[tokio::test]
async fn default_headers_are_on_every_response_that_has_none_of_their_own() {
    let backend =
        Backend::answering("HTTP/1.1 200 OK\r\nX-Frame-Options: SAMEORIGIN\r\nContent-Length: 0\r\n\r\n")
            .await;
    let headers = r#"{"X-Frame-Options":"DENY","Strict-Transport-Security":"max-age=1","Referrer-Policy":"same-origin"}"#;
    let mut world = World::with(&[("DEFAULT_HEADERS", headers)]).await;
    world.route("example.com", &backend).await;
    world.all_ok(&["HEADERS_SET||r1|Referrer-Policy|no-referrer", "CONFIG_APPLY|"]).await;
    let served = world.get("/").await;
    assert_eq!(served.field("x-frame-options"), Some("SAMEORIGIN"), "the backend knows better");
    assert_eq!(served.field("referrer-policy"), Some("no-referrer"), "and so does the route");
    assert_eq!(served.field("strict-transport-security"), Some("max-age=1"));
    let page = world.raw("GET / HTTP/1.1\r\nHost: nobody.example.com\r\n\r\n").await;
    assert_eq!((page.status(), page.field("x-frame-options")), (404, Some("DENY")));
}
