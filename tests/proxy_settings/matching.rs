//! Which route a request takes (SEMANTICS section 2), from the line that registers it to the backend that is asked.

use super::support::Backend;
use super::*;

/// Domains, path and priority of each route; its backend says the three.
const ROUTES: [(&str, &str, i32); 9] = [
    ("example.com", "/", 0),
    ("example.com", "/api/", 0),
    ("example.com", "/api/deep", 0),
    ("example.com", "/admin", 0),
    ("*.example.com", "/", 50),
    ("*.b.example.com", "/", 0),
    ("only.example.com", "/sub", 0),
    ("high.example.com", "/", 9),
    ("high.example.com", "/low", 1),
];

const REQUESTS: [(&str, &str, Option<usize>); 34] = [
    ("example.com", "/", Some(0)),
    ("EXAMPLE.Com:8080", "/x", Some(0)),
    ("example.com.", "/x", Some(0)),
    ("example.com", "/api", Some(1)),
    ("example.com", "/api/", Some(1)),
    ("example.com", "/api/x?y=/admin", Some(1)),
    ("example.com", "/api?x", Some(1)),
    ("example.com", "/apixyz", Some(0)),
    ("example.com", "/api/deep", Some(2)),
    ("example.com", "/api/deep/x", Some(2)),
    ("example.com", "/api/deeper", Some(1)),
    ("example.com", "/API", Some(0)),
    ("example.com", "/x/../admin", Some(3)),
    ("example.com", "/x/%2e%2e/admin", Some(3)),
    ("example.com", "/x/%2E./admin", Some(3)),
    ("example.com", "/%61dmin", Some(3)),
    ("example.com", "/./admin/.", Some(3)),
    ("example.com", "/admin/../api/deep/..", Some(1)),
    ("example.com", "/../../admin", Some(3)),
    ("example.com", "/admin%2fx", Some(0)),
    ("example.com", "/admin%252e%252e", Some(0)),
    ("example.com", "//admin", Some(0)),
    ("a.example.com", "/", Some(4)),
    ("b.example.com", "/", Some(4)),
    ("a.b.example.com", "/", Some(5)),
    ("c.a.b.example.com", "/", Some(5)),
    ("x.y.example.com", "/", Some(4)),
    ("only.example.com", "/sub/x", Some(6)),
    ("only.example.com", "/other", Some(4)),
    ("high.example.com", "/low/x", Some(7)),
    ("example.org", "/", None),
    ("com", "/", None),
    ("aexample.com", "/", None),
    ("127.0.0.1", "/", None),
];

#[tokio::test]
async fn host_path_and_priority_choose_the_route() {
    let mut world = World::new().await;
    let mut backends = Vec::new();
    for (number, (domain, path, priority)) in ROUTES.iter().enumerate() {
        let backend = Backend::saying(&number.to_string()).await;
        world.ok(&format!("ROUTE_ADD||{domain}|{path}|{}|{priority}", backend.url())).await;
        backends.push(backend);
    }
    world.ok("CONFIG_APPLY|").await;
    for (host, path, expected) in REQUESTS {
        let response = world.raw(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        match expected {
            None => assert_eq!(response.status(), 404, "{host}{path}"),
            Some(number) => {
                assert_eq!(response.body, number.to_string(), "{host}{path}");
                let head = backends[number].last_head();
                assert!(head.starts_with(&format!("GET {path} HTTP/1.1\r\n")), "as it was sent: {head}");
            }
        }
    }
    for ambiguous in ["/admin/..%2fapi", "/api%2F../x", "/%2e%2e%2fadmin", "/.%2F"] {
        assert_eq!(world.get(ambiguous).await.status(), 400, "{ambiguous}");
    }
}

#[tokio::test]
async fn a_path_with_and_without_its_last_slash_is_one_claim() {
    let (one, other) = (Backend::saying("one").await, Backend::saying("other").await);
    let mut world = World::new().await;
    world.all_ok(&[&format!("ROUTE_ADD||example.com|/api|{}|0", one.url()), "CONFIG_APPLY|"]).await;
    let mut stranger = session(world.server.registry_address(), "blog", "blog-1").await;
    ask(&mut stranger, &format!("ROUTE_ADD||example.com|/api/|{}|0", other.url())).await;
    let refused = ask(&mut stranger, "CONFIG_APPLY|").await;
    assert_eq!(refused, "ERROR|route r1: example.com/api belongs to service web");
    assert_eq!(world.get("/api/").await.body, "one");
}

#[tokio::test]
async fn a_backends_url_may_say_ws_and_have_a_path_that_goes_before_the_requests() {
    let backend = Backend::saying("web").await;
    let mut world = World::new().await;
    let address = backend.addr;
    for (url, path, asked) in [
        (format!("ws://{address}"), "/x?y", "/x?y"),
        (format!("http://{address}/"), "/x", "/x"),
        (format!("http://{address}/base"), "/x?y", "/base/x?y"),
        (format!("http://{address}/base/"), "/", "/base/"),
    ] {
        let added = world.ask(&format!("ROUTE_ADD||example.com|/|{url}|0")).await;
        let route = added.strip_prefix("ROUTE_OK|").expect(&added).to_owned();
        world.ok("CONFIG_APPLY|").await;
        assert_eq!(world.get(path).await.body, "web", "{url}");
        let head = backend.last_head();
        assert!(head.starts_with(&format!("GET {asked} HTTP/1.1\r\n")), "{url}: {head}");
        world.all_ok(&[&format!("ROUTE_REMOVE||{route}"), "CONFIG_APPLY|"]).await;
    }
    for refused in ["ftp://10.2.2.7", "http://", "10.2.2.7:80", "http://10.2.2.7:0", "http://user@10.2.2.7"] {
        let reply = world.ask(&format!("ROUTE_ADD||example.com|/|{refused}|0")).await;
        assert!(reply.starts_with("ERROR|"), "{refused}: {reply}");
    }
}
