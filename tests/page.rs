//! The operators' page in a real Chromium.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

#[path = "page/browser.rs"]
mod browser;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "live/support.rs"]
mod live;
#[allow(dead_code, reason = "each test program uses a part of it")]
#[path = "proxy/support.rs"]
mod support;

use std::path::Path;
use std::time::Duration;

use browser::Browser;
use live::{Session, TOKEN, server, view_with};
use registry_sidecar::server::Server;
use serde_json::{Value, json};
use support::{Backend, Peer};

/// The row of a service, with what is folded out below it.
fn node(name: &str) -> String {
    format!(
        "[...document.querySelectorAll('#services > details')]\
         .find((row) => row.querySelector('.name').textContent === '{name}')"
    )
}

/// Its text.
fn row(name: &str) -> String {
    format!("({}?.innerText ?? '')", node(name))
}

fn unfold(name: &str) -> String {
    format!("{}.open = true; return true", node(name))
}

async fn open(server: &Server) -> Browser {
    let browser = Browser::start().await;
    browser.page.goto(&format!("http://{}/", server.admin_address().unwrap())).await.unwrap();
    browser.until("document.querySelector('#readiness').textContent.includes('ready')").await;
    browser
}

/// Services in all states, and what they need to stay in them.
struct Town {
    server: Server,
    sessions: Vec<Session>,
    _backends: Vec<Backend>,
    _waiting: Peer,
}

impl Town {
    async fn build() -> Town {
        let server = server(&[("HOLD", "10m")]).await;
        let well = Backend::saying("hello").await;
        let ill = Backend::answering("HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n").await;
        let mut sessions = Vec::new();
        for instance in ["web-1", "web-2"] {
            let other = Backend::saying("hello").await;
            sessions.push(Session::serving(&server, "web", instance, "web.example", &other.url()).await);
            std::mem::forget(other);
        }
        let mut shop = Session::serving(&server, "shop", "shop-1", "shop.example", &ill.url()).await;
        shop.ok("HEALTH_SET||r1|/health|100ms|1s").await;
        shop.ok("CONFIG_APPLY|").await;
        let mut blog = Session::serving(&server, "blog", "blog-1", "blog.example", &well.url()).await;
        blog.ok("DRAIN_START||1h").await;
        let mut wiki = Session::serving(&server, "wiki", "wiki-1", "wiki.example", &well.url()).await;
        wiki.ok("MAINT_ENTER||ALL|").await;
        let away = Session::serving(&server, "mail", "mail-1", "mail.example", &well.url()).await;
        drop(away);
        sessions.extend([shop, blog, wiki]);
        let admin = server.admin_address().unwrap();
        view_with(admin, |view| {
            let text = view.to_string();
            text.contains("out: check answered 404") && text.contains("its session is lost")
        })
        .await;
        for _ in 0..20 {
            let mut client = Peer::connect(server.http_address()).await;
            client.send("GET / HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n").await;
            client.response().await;
        }
        let mut waiting = Peer::connect(server.http_address()).await;
        waiting.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
        Town { server, sessions, _backends: vec![well, ill], _waiting: waiting }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_state_is_seen_with_its_reason_and_a_change_within_a_second() {
    let mut town = Town::build().await;
    let browser = open(&town.server).await;
    let shows = [
        ("web", "2 of 2"),
        ("shop", "held"),
        ("shop", "1 wait"),
        ("blog", "draining"),
        ("wiki", "maintenance"),
        ("mail", "degraded"),
    ];
    for (name, text) in shows {
        browser.until(&format!("{}.includes('{text}')", row(name))).await;
    }
    for name in ["shop", "blog", "wiki", "mail"] {
        browser.run(&unfold(name)).await;
    }
    let inside = [
        ("shop", "out: check answered 404"),
        ("blog", "draining: 0 in flight"),
        ("blog", "of its share"),
        ("wiki", "people see the proxy"),
        ("mail", "its session is lost"),
        ("mail", "its routes go in"),
    ];
    for (name, text) in inside {
        browser.until(&format!("{}.includes('{text}')", row(name))).await;
    }
    browser.until("document.querySelector('#events').innerText.includes('lost its connection')").await;
    let backend = Backend::saying("hello").await;
    let fresh = Session::serving(&town.server, "fresh", "fresh-1", "fresh.example", &backend.url()).await;
    let took = browser.until(&format!("{}.includes('1 of 1')", row("fresh"))).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    town.sessions[0].ok("MAINT_ENTER||ALL|").await;
    let took = browser.until(&format!("{}.includes('1 of 2 in maintenance')", row("web"))).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    town.sessions.push(fresh);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_fit_for_light_dark_phones_and_screen_readers() {
    let town = Town::build().await;
    let browser = open(&town.server).await;
    browser.until("document.querySelectorAll('#services > details').length === 5").await;
    for name in ["web", "shop"] {
        browser.run(&unfold(name)).await;
    }
    browser.until(&format!("{}.includes('out: check answered 404')", row("shop"))).await;
    // A curve needs a few steps.
    let curve = "const value = [3, 8, 12, 9, 14, 22, 17, 15, 12, 10, 16, 21, 19, 14, 9, 12]; const traffic = { rate: value, errors: value.map((v) => v > 20 ? 0.03 : 0), p50: value.map((v) => v + 4), p95: value.map((v) => v * 3 + 20), p99: value.map((v) => v * 6 + 40) }; hear({ data: JSON.stringify({ set: { traffic, 'traffic:web': traffic }, gone: [] }) }, false); return true";
    for (scheme, width, height) in
        [("light", 1280, 1300), ("dark", 1280, 1300), ("light", 360, 1500), ("dark", 360, 1500)]
    {
        browser.scheme(scheme).await;
        browser.size(width, height).await;
        browser.run(curve).await;
        browser.until("document.querySelector('#traffic path.rate').getAttribute('d').length > 50").await;
        let overflow = browser.run("return document.documentElement.scrollWidth - window.innerWidth").await;
        assert!(overflow.as_i64().unwrap() <= 0, "{width}: {overflow} pixels too wide");
        browser.picture(&format!("{scheme}-{width}")).await;
        let found = violations(&browser).await;
        assert!(found.is_empty(), "{scheme} {width}: {found:#?}");
    }
}

/// What axe-core finds, but for what it calls minor.
async fn violations(browser: &Browser) -> Vec<String> {
    let axe = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/axe/axe_playwright_python/axe.min.js");
    let axe = std::fs::read_to_string(&axe).expect("axe-core, which scripts/test installs");
    browser.run(&format!("{axe}; return true")).await;
    let run = "const done = arguments[arguments.length - 1]; axe.run(document, { resultTypes: ['violations'] }).then((r) => done(r.violations.map((v) => [v.impact, v.id, v.nodes.slice(0, 3).map((n) => n.html.slice(0, 200) + ' ' + n.failureSummary).join(' | ')])), (error) => done([['critical', 'axe', String(error)]]))";
    let found = browser.page.execute_async(run, Vec::new()).await.unwrap();
    let all = found.as_array().unwrap().iter().filter(|one| one[0] != "minor");
    all.map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_services_are_usable() {
    const SERVICES: usize = 1000;
    let server = server(&[]).await;
    let backend = Backend::saying("hello").await;
    // Each takes the connection over from the one before, which stays.
    let mut session = Session::register(&server, "first", "first-1").await;
    for number in 0..SERVICES {
        session.ok(&format!("REGISTER|service-{number}|instance-{number}|0|")).await;
        session.ok(&format!("ROUTE_ADD||host-{number}.example|/|{}|0", backend.url())).await;
        session.ok("CONFIG_APPLY|").await;
    }
    let browser = open(&server).await;
    let wait = browser.until("document.querySelectorAll('#services > details').length >= 1000").await;
    let paint =
        browser.run("return performance.getEntriesByName('first-contentful-paint')[0].startTime").await;
    assert!(paint.as_f64().unwrap() < 1000.0, "first paint after {paint} ms");
    assert!(wait < Duration::from_secs(5), "all rows after {wait:?}");
    let search = "const box = document.querySelector('#search'); box.value = 'host-77'; box.dispatchEvent(new Event('input')); const begun = performance.now(); document.body.offsetHeight; return performance.now() - begun";
    browser.run(search).await;
    // host-77 and host-770 to host-779.
    browser.until("[...document.querySelectorAll('#services > details')].filter((row) => !row.hidden).length === 11").await;
    browser.until("document.querySelector('#found').textContent === '11 services found'").await;
    browser.picture("thousand").await;
    // An hour of updates, every half second, makes nothing grow.
    let count = "return document.querySelectorAll('*').length";
    let updates = "const key = 'service:service-77'; for (let round = 0; round < 720; round += 1) { hear({ data: JSON.stringify({ set: { [key]: { ...parts.get(key), in_flight: round } }, gone: [] }) }, false); draw(); } return true";
    browser.run(&unfold("service-77")).await;
    let (before, heap) = (browser.run(count).await, heap(&browser).await);
    for _ in 0..10 {
        browser.run(updates).await;
    }
    assert_eq!(browser.run(count).await, before);
    let after = self::heap(&browser).await;
    assert!(after < heap + 4e6, "from {heap} to {after} bytes");
}

/// The bytes that the page's script keeps.
async fn heap(browser: &Browser) -> f64 {
    browser.command("HeapProfiler.collectGarbage", json!({})).await;
    browser.command("Performance.enable", json!({})).await;
    let metrics = browser.command("Performance.getMetrics", json!({})).await;
    let used = metrics["metrics"].as_array().unwrap().iter().find(|one| one["name"] == "JSHeapUsedSize");
    used.unwrap()["value"].as_f64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_html_or_turn_text_around_are_text_and_nobody_outside_is_asked() {
    let town = Town::build().await;
    let outside = Backend::saying("outside").await;
    let browser = open(&town.server).await;
    let evil = format!(
        "<img src={}/x onerror=window.evil=1><script>window.evil=1</script>\u{202e}gnp",
        outside.url()
    );
    let member = json!({ "instance": evil, "backend": evil, "condition": "up", "why": evil, "in_flight": 0, "upgraded": 0 });
    let session = json!({ "session": 1, "instance": evil, "peer": evil, "condition": "up", "why": evil, "since": evil, "routes": 1, "grace_ends": null, "drain": null, "maintenance": { "since": evil, "routes": 1, "page": evil } });
    let claim = json!({ "domain": evil, "path": evil, "condition": "up", "why": evil, "members": [member], "members_total": 1 });
    let service = json!({ "name": evil, "condition": "up", "why": evil, "usable": 1, "members": 1, "in_flight": 0, "claims": [claim], "claims_total": 1, "sessions": [session] });
    let mut set = serde_json::Map::new();
    set.insert(format!("service:{evil}"), service);
    set.insert("events".to_owned(), json!([{ "at": evil, "level": evil, "service": evil, "text": evil }]));
    set.insert(
        "certificates".to_owned(),
        json!([{ "names": [evil], "ends": evil, "days": 3, "condition": "up" }]),
    );
    set.insert("cluster".to_owned(), json!({ "replica": evil, "role": evil, "leader": evil, "since": evil, "replicas": [evil], "behind": 0, "trouble": evil }));
    let message = json!({ "data": json!({ "set": set, "gone": [] }).to_string() });
    browser.page.execute("hear(arguments[0], false); return true", vec![message]).await.unwrap();
    browser.until("[...document.querySelectorAll('#services > details')].some((row) => { const is = row.innerText.includes('onerror'); if (is) row.open = true; return is; })").await;
    browser.until("document.querySelector('#services .inside bdi')").await;
    for (what, expression) in [
        ("no element was made", "document.querySelectorAll('img, script:not(:last-of-type)').length === 0"),
        ("no script ran", "window.evil === undefined"),
        (
            "text is not turned around",
            "!document.body.textContent.includes('\\u202e') && document.body.textContent.includes('u{202e}gnp')",
        ),
    ] {
        assert_eq!(browser.run(&format!("return {expression}")).await, Value::Bool(true), "{what}");
    }
    let ask = format!(
        "const done = arguments[arguments.length - 1]; fetch('{}').then(() => done('asked'), () => done('refused'))",
        outside.url()
    );
    assert_eq!(browser.page.execute_async(&ask, Vec::new()).await.unwrap(), "refused");
    let own = "return performance.getEntriesByType('resource').every((one) => one.name.startsWith(location.origin))";
    assert_eq!(browser.run(own).await, Value::Bool(true));
    assert_eq!(outside.accepts(), 0, "nobody outside is asked");

    let frame = format!("<iframe src=http://{}/></iframe>", town.server.admin_address().unwrap());
    let around = Backend::answering(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{frame}",
        frame.len()
    ))
    .await;
    browser.page.goto(&around.url()).await.unwrap();
    browser.page.enter_frame(0).await.unwrap();
    let framed = browser.run("return document.documentElement.outerHTML").await;
    assert!(!framed.as_str().unwrap().contains("services-head"), "it is shown in a frame");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keyboard_alone_finds_a_service_and_drains_it_with_the_token() {
    let town = Town::build().await;
    let browser = open(&town.server).await;
    let keys = async |text: &str| {
        browser.page.active_element().await.unwrap().send_keys(text).await.unwrap();
    };
    const TAB: &str = "\u{e004}";
    const ENTER: &str = "\u{e007}";
    browser.until("document.querySelectorAll('#services > details').length === 5").await;
    keys("/").await;
    browser.until("document.activeElement.id === 'search'").await;
    keys("web-2").await;
    browser
        .until(
            "[...document.querySelectorAll('#services > details')].filter((row) => !row.hidden).length === 1",
        )
        .await;
    let tab_to = async |expression: &str| {
        for _ in 0..40 {
            keys(TAB).await;
            if browser.run(&format!("return Boolean({expression})")).await == Value::Bool(true) {
                return;
            }
        }
        panic!("the keyboard never reaches {expression}");
    };
    tab_to("document.activeElement.tagName === 'SUMMARY'").await;
    keys(ENTER).await;
    browser.until("document.querySelector('details[open] .inside button')").await;
    tab_to("document.activeElement.getAttribute('aria-label') === 'Drain: web-2'").await;
    keys(ENTER).await;
    browser.until("document.querySelector('#dialog').open && document.activeElement.id === 'token'").await;
    browser.picture("dialog").await;
    keys("a guess").await;
    keys(ENTER).await;
    browser.until("document.querySelector('#outcome').textContent.includes('not the ADMIN_TOKEN')").await;
    browser.run("document.querySelector('#token').value = ''; document.querySelector('#token').focus(); return true").await;
    keys(TOKEN).await;
    keys(ENTER).await;
    browser.until("document.querySelector('#outcome').textContent.includes('web-2: draining until')").await;
    browser.until("document.activeElement.id === 'cancel'").await;
    keys(ENTER).await;
    browser.until("!document.querySelector('#dialog').open").await;
    browser.until(&format!("{}.includes('1 of 2 draining')", row("web"))).await;
    browser.until("document.querySelector('#events').innerText.includes('drain for 30s')").await;
    let address = browser.page.current_url().await.unwrap();
    assert_eq!(address.query(), None, "nothing of it is in the URL");
}
