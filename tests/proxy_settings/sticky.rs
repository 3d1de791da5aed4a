//! Which instance gets a client's requests: the option `sticky` with its cookie, and `weight`.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use super::support::{Backend, Peer};
use super::*;

/// An application that long-polls as socket.io does: its sessions are in the memory of one instance. It answers 400 to one
/// that it does not know.
async fn poller(name: &'static str) -> Backend {
    let known: Arc<Mutex<HashSet<String>>> = Arc::default();
    Backend::new(move |mut peer: Peer| {
        let known = Arc::clone(&known);
        async move {
            while let Some(head) = peer.head().await {
                let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
                let answer = match target.split_once("sid=") {
                    None => {
                        let mut known = known.lock().unwrap();
                        let sid = format!("{name}-{}", known.len());
                        known.insert(sid.clone());
                        support::ok(&sid)
                    }
                    Some((_, sid)) if known.lock().unwrap().contains(sid) => support::ok(name),
                    Some(_) => "HTTP/1.1 400 Unknown session\r\nContent-Length: 0\r\n\r\n".to_owned(),
                };
                peer.send(answer).await;
            }
        }
    })
    .await
}

/// A browser at one session of the application.
struct Browser {
    cookie: String,
    sid: String,
    instance: String,
}

impl Browser {
    async fn begin(server: SocketAddr) -> Self {
        let answer = request(server, "/socket.io/", None).await;
        let cookie = answer.field("set-cookie").unwrap().to_owned();
        let sid = answer.body;
        let instance = sid.split('-').next().unwrap().to_owned();
        Browser { cookie: cookie.split(';').next().unwrap().to_owned(), sid, instance }
    }

    async fn poll(&self, server: SocketAddr) -> Response {
        request(server, &format!("/socket.io/?sid={}", self.sid), Some(&self.cookie)).await
    }
}

async fn request(server: SocketAddr, path: &str, cookie: Option<&str>) -> Response {
    let cookie = cookie.map(|cookie| format!("Cookie: a=b; {cookie}; c=d\r\n")).unwrap_or_default();
    let mut client = Peer::connect(server).await;
    client.send(format!("GET {path} HTTP/1.1\r\nHost: example.com\r\n{cookie}\r\n")).await;
    client.response().await
}

/// Registers three instances, each with its backend, at a server.
async fn register(world: &World, backends: &[Backend; 3], extra: &[&[&str]; 3]) -> Vec<BufReader<TcpStream>> {
    let mut sessions = Vec::new();
    for (number, (backend, extra)) in backends.iter().zip(extra).enumerate() {
        let instance = format!("web-{}", number + 11);
        let mut session = session(world.server.registry_address(), "web", &instance).await;
        let add = format!("ROUTE_ADD||example.com|/|{}|0", backend.url());
        let lines = [add.as_str(), "OPTIONS_SET||r1|sticky|true"].into_iter();
        for line in lines.chain(extra.iter().copied()).chain(["CONFIG_APPLY|"]) {
            let reply = ask(&mut session, line).await;
            assert!(!reply.starts_with("ERROR"), "{line}: {reply}");
        }
        sessions.push(session);
    }
    sessions
}

/// Waits until every one of these answers people without a cookie.
async fn all_serve(server: SocketAddr, names: &[&str]) {
    let mut seen = HashSet::new();
    soon(async {
        while !names.iter().all(|name| seen.contains(*name)) {
            let answer = request(server, "/", None).await;
            seen.insert(answer.body.split('-').next().unwrap().to_owned());
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_polls_the_instance_that_knows_it_at_every_replica_and_after_a_restart() {
    let backends = [poller("one").await, poller("two").await, poller("three").await];
    let names = ["one", "two", "three"];
    let none: [&[&str]; 3] = [&[], &[], &[]];
    let worlds = [World::new().await, World::new().await];
    let mut sessions = Vec::new();
    for world in &worlds {
        sessions.push(register(world, &backends, &none).await);
        all_serve(world.server.http_address(), &names).await;
    }
    let [first, second] = [worlds[0].server.http_address(), worlds[1].server.http_address()];
    let mut browsers = Vec::new();
    for _ in 0..10 {
        browsers.push(Browser::begin(first).await);
    }
    assert!(browsers.iter().map(|browser| &browser.instance).collect::<HashSet<_>>().len() > 1);
    let mut wrong = 0;
    for turn in 0..100 {
        for browser in &browsers {
            let answer = browser.poll(if turn % 2 == 0 { first } else { second }).await;
            let is_right = answer.status() == 200 && answer.field("set-cookie").is_none();
            wrong += usize::from(!is_right);
        }
    }
    assert_eq!(wrong, 0, "of 1,000 polls at two replicas");
    // The restarted proxy has other connections, workers and members, and the same cookies.
    let restarted = World::new().await;
    let _again = register(&restarted, &backends, &none).await;
    let server = restarted.server.http_address();
    all_serve(server, &names).await;
    for browser in &browsers {
        assert_eq!(browser.poll(server).await.body, browser.instance);
    }
}

#[tokio::test]
async fn the_cookie_is_for_the_route_alone_and_not_for_scripts() {
    let backends = [poller("one").await, poller("two").await, poller("three").await];
    let mut world = World::with(&[("TRUSTED_PROXIES", "127.0.0.1")]).await;
    world.ok(&format!("ROUTE_ADD||example.com|/shop|{}|0", backends[0].url())).await;
    world.all_ok(&["OPTIONS_SET||r1|sticky|true", "CONFIG_APPLY|"]).await;
    let cookie = world.get("/shop/").await.field("set-cookie").unwrap().to_owned();
    let (pair, attributes) = cookie.split_once("; ").unwrap();
    assert!(pair.starts_with("sticky_instance=") && pair.len() == "sticky_instance=".len() + 32, "{cookie}");
    assert_eq!(attributes, "Path=/shop; HttpOnly; SameSite=Lax");
    let over_tls = "GET /shop/ HTTP/1.1\r\nHost: example.com\r\nX-Forwarded-Proto: https\r\n\r\n";
    assert!(world.raw(over_tls).await.field("set-cookie").unwrap().ends_with("SameSite=Lax; Secure"));
    // A cookie of nobody, or what is none, is replaced.
    for wrong in ["sticky_instance=", "sticky_instance=00000000000000000000000000000000"] {
        let answer = request(world.server.http_address(), "/shop/", Some(wrong)).await;
        assert_eq!((answer.status(), answer.field("set-cookie").is_some()), (200, true), "{wrong}");
    }
    world.all_ok(&["OPTIONS_SET||r1|sticky|false", "CONFIG_APPLY|"]).await;
    assert_eq!(world.get("/shop/").await.field("set-cookie"), None);
}

#[tokio::test]
async fn who_drains_keeps_its_own_and_who_is_gone_is_replaced_without_an_error() {
    let backends = [poller("one").await, poller("two").await, poller("three").await];
    let world = World::new().await;
    let mut sessions = register(&world, &backends, &[&[], &[], &[]]).await;
    let server = world.server.http_address();
    all_serve(server, &["one", "two", "three"]).await;
    let browser = soon(async {
        loop {
            let browser = Browser::begin(server).await;
            if browser.instance == "one" {
                return browser;
            }
        }
    })
    .await;
    assert!(ask(&mut sessions[0], "DRAIN_START||1h").await.contains("OK"));
    for _ in 0..20 {
        assert_eq!(browser.poll(server).await.body, "one");
    }
    assert!(ask(&mut sessions[0], "CLIENT_SHUTDOWN|").await.contains("OK"));
    let moved = request(server, "/", Some(&browser.cookie)).await;
    assert_eq!(moved.status(), 200);
    assert_ne!(moved.field("set-cookie").unwrap().split(';').next(), Some(browser.cookie.as_str()));
}

#[tokio::test]
async fn a_canary_gets_its_weight_and_one_without_weight_only_its_own() {
    let backends = [poller("one").await, poller("two").await, poller("three").await];
    let world = World::new().await;
    let weights: [&[&str]; 3] =
        [&["OPTIONS_SET||r1|weight|90"], &["OPTIONS_SET||r1|weight|10"], &["OPTIONS_SET||r1|weight|10"]];
    let mut sessions = register(&world, &backends, &weights).await;
    let server = world.server.http_address();
    all_serve(server, &["one", "two", "three"]).await;
    let browser = soon(async {
        loop {
            let browser = Browser::begin(server).await;
            if browser.instance == "three" {
                return browser;
            }
        }
    })
    .await;
    for line in ["OPTIONS_SET||r1|weight|0", "CONFIG_APPLY|"] {
        assert!(ask(&mut sessions[2], line).await.contains("OK"));
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut client = Peer::connect(server).await;
    for _ in 0..10_000 {
        client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n").await;
        let instance = client.response().await.body.split('-').next().unwrap().to_owned();
        *counts.entry(instance).or_default() += 1;
    }
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["one", "two"], "{counts:?}");
    assert!((800..=1200).contains(&counts["two"]), "10 % within 2 % of all: {counts:?}");
    assert_eq!(browser.poll(server).await.body, "three");
}
