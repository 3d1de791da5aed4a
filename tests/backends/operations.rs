//! Checks, drains, maintenance and breakers, with programs that know nothing of them.

use super::*;

#[test]
fn a_file_that_goes_takes_nginx_out_and_brings_it_back() {
    let mut world = World::new();
    let backend = free_address();
    let health = world.path().join("health");
    std::fs::write(&health, "well").unwrap();
    let _nginx = nginx(world.path(), backend, "location = / { return 200 hello; }");
    world.route(&format!("http://{backend}"), &["HEALTH_SET||r1|/health|100ms|1s"]);
    for _ in 0..3 {
        assert_eq!(world.curl("/", &[]).text(), "hello");
        std::fs::remove_file(&health).unwrap();
        wait_until("it is out", || world.curl("/", &[]).status == 503);
        assert!(world.curl("/", &[]).field("retry-after").is_some());
        std::fs::write(&health, "well").unwrap();
        wait_until("it is back", || world.curl("/", &[]).status == 200);
    }
}

#[test]
fn a_route_that_no_request_reaches_is_in_the_log_of_the_apply() {
    let mut world = World::new();
    let backend = free_address();
    let _caddy = programs::caddy(backend, "hello");
    let url = format!("http://{backend}");
    world.ok(&format!("ROUTE_ADD||{HOST}|/admin|{url}|1"));
    world.route(&url, &["ROUTE_UPDATE||r2|priority|5"]);
    let said = world.server.program.wait_for_log("no request reaches shop.example.com/admin");
    assert!(said.contains("WARN") && said.contains("/ has a higher priority"), "{said}");
}

#[test]
fn a_download_ends_in_peace_while_its_server_is_drained_and_leaves() {
    let mut world = World::with(&[("HOLD", "30s")]);
    let (old, new) = (free_address(), free_address());
    std::fs::write(world.path().join("large.png"), vec![7; 2_000_000]).unwrap();
    let slow = nginx(world.path(), old, "limit_rate 1m; location = / { return 200 old; }");
    world.route(&format!("http://{old}"), &[]);
    let http = world.server.http;
    let url = format!("http://{HOST}:{}/large.png", http.port());
    let download = std::thread::spawn(move || curl(&url, http, &[]));
    // Before the drain, or it would wait for a successor.
    wait_until("it has begun", || {
        world.ok("DRAIN_START||1h");
        let busy = world.told("DRAIN_STATUS|", "in_flight") == 1;
        if !busy {
            world.ok("DRAIN_CANCEL|");
        }
        busy
    });
    let registry = world.server.registry;
    let mut successor = session(registry, "web-2");
    let next = nginx(world.path(), new, "location = / { return 200 new; }");
    for line in [&format!("ROUTE_ADD||{HOST}|/|http://{new}|0"), "CONFIG_APPLY|"] {
        assert!(ask(&mut successor, line).contains("OK"));
    }
    wait_until("the successor serves", || world.curl("/", &[]).text() == "new");
    assert_eq!(world.told("DRAIN_STATUS|", "in_flight"), 1);
    assert!(!download.is_finished());
    assert_eq!(world.ask("CLIENT_SHUTDOWN|"), "SHUTDOWN_OK");
    let whole = download.join().unwrap();
    assert_eq!((whole.status, whole.exit, whole.body.len()), (200, 0, 2_000_000));
    drop((slow, next));
}

#[test]
fn a_page_that_caddy_serves_is_what_people_see_meanwhile() {
    let mut world = World::new();
    let (backend, page) = (free_address(), free_address());
    let _nginx = nginx(world.path(), backend, "location / { return 200 shop; }");
    let caddy = programs::caddy(page, "we are painting");
    world.route(&format!("http://{backend}"), &[]);
    assert_eq!(world.ask(&format!("MAINT_ENTER||ALL|http://{page}/")), "ACK");
    let mut verdict = String::new();
    world.session.read_line(&mut verdict).unwrap();
    assert_eq!(verdict.trim_end(), "MAINT_OK|ALL");
    assert_eq!(world.curl("/any/where", &[]).text(), "we are painting");
    drop(caddy);
    wait_until("the proxy has a page of its own", || {
        let answer = world.curl("/", &[]);
        answer.status == 503 && answer.field("x-maintenance-mode") == Some("true")
    });
    assert_eq!(world.ask("MAINT_EXIT||ALL"), "ACK");
    let mut verdict = String::new();
    world.session.read_line(&mut verdict).unwrap();
    assert_eq!(verdict.trim_end(), "MAINT_OK|ALL");
    assert_eq!(world.curl("/", &[]).text(), "shop");
}

#[test]
fn a_breaker_spares_a_broken_nginx_and_lets_a_mended_one_serve() {
    let mut world = World::new();
    let (backend, switch) = (free_address(), world.path().join("broken"));
    std::fs::write(&switch, "").unwrap();
    let broken = format!("location / {{ if (-f {}) {{ return 500; }} return 200 well; }}", switch.display());
    let _nginx = nginx(world.path(), backend, &broken);
    world.route(&format!("http://{backend}"), &["CIRCUIT_BREAKER_SET||r1|3|2s|2"]);
    let statuses: Vec<_> = (0..4).map(|_| world.curl("/", &[]).status).collect();
    assert_eq!(statuses, [500, 500, 500, 503]);
    assert_eq!(world.told("CIRCUIT_BREAKER_STATUS||r1", "state"), "open");
    std::fs::remove_file(&switch).unwrap();
    wait_until("it is tried", || world.curl("/", &[]).status == 200);
    wait_until("it is closed", || {
        world.curl("/", &[]);
        world.told("CIRCUIT_BREAKER_STATUS||r1", "state") == "closed"
    });
}

#[test]
fn a_server_that_is_killed_costs_no_request_while_another_is_there() {
    let mut world = World::new();
    let (one, two) = (free_address(), free_address());
    let (mut first, _second) = (programs::caddy(one, "one"), programs::caddy(two, "two"));
    world.route(&format!("http://{one}"), &[]);
    let registry = world.server.registry;
    let mut sibling = session(registry, "web-2");
    for line in [&format!("ROUTE_ADD||{HOST}|/|http://{two}|0"), "CONFIG_APPLY|"] {
        assert!(ask(&mut sibling, line).contains("OK"));
    }
    let mut seen = std::collections::BTreeSet::new();
    wait_until("both serve", || {
        seen.insert(world.curl("/", &[]).text());
        seen.len() == 2
    });
    first.kill();
    for _ in 0..100 {
        let answer = world.curl("/", &[]);
        assert_eq!((answer.status, answer.text().as_str()), (200, "two"));
    }
}

#[test]
fn every_request_has_a_line_in_the_access_log() {
    let backend = free_address();
    for format in ["json", "combined"] {
        let mut world = World::with(&[("ACCESS_LOG", format), ("TRUSTED_PROXIES", "127.0.0.1")]);
        let tell =
            "location / { return 200 $http_x_request_id; } location /slow { proxy_pass http://127.0.0.1:9; }";
        let _nginx = nginx(world.path(), backend, tell);
        world.route(&format!("http://{backend}"), &[]);
        let from = "X-Forwarded-For: 198.51.100.7";
        let id = world.curl("/a?secret=1", &["--header", from, "--user-agent", "a \"b\""]).text();
        assert_eq!(world.curl("/slow", &[]).status, 502);
        assert_eq!(curl("http://nobody.example/", world.server.http, &[]).status, 404);
        let line = |text: &str| world.server.program.wait_for_log(text);
        if format == "combined" {
            let whole = line("\"GET /a HTTP/1.1\" 200 32 \"-\" \"a \\x22b\\x22\"");
            assert!(whole.starts_with("198.51.100.7 - - ["), "{whole}");
            line("\"GET /slow HTTP/1.1\" 502 ");
            continue;
        }
        let told: serde_json::Value = serde_json::from_str(&line("\"path\":\"/a\"")).unwrap();
        for (key, value) in [
            ("client", "198.51.100.7"),
            ("request_id", id.as_str()),
            ("method", "GET"),
            ("host", &format!("{HOST}:{}", world.server.http.port())),
            ("service", "web"),
            ("instance", "web-1"),
            ("backend", &format!("http://{backend}/")),
            ("outcome", "complete"),
        ] {
            assert_eq!(told[key], value, "{told}");
        }
        assert!(told["duration_ms"].as_f64().unwrap() >= told["upstream_ms"].as_f64().unwrap(), "{told}");
        assert!(!world.server.program.log().iter().any(|line| line.contains("secret=1")));
        let nobodys: serde_json::Value = serde_json::from_str(&line("nobody.example")).unwrap();
        assert_eq!((&nobodys["outcome"], &nobodys["status"]), (&"page".into(), &404.into()));
        assert!(nobodys["service"].is_null(), "{nobodys}");
    }
}

/// In a network of its own, where ports 80 and 81 are free and nobody else is.
const WITH_NOTHING: &str = r#"
ip link set lo up 2>/dev/null || busybox ip link set lo up
"$1" &
caddy respond --listen 127.0.0.1:8000 hello 2>/dev/null &
until { exec 3<>/dev/tcp/127.0.0.1/81; } 2>/dev/null; do sleep 0.02; done
printf 'REGISTER|web|web-1|0|\nROUTE_ADD||shop.example.com|/|http://127.0.0.1:8000|0\nCONFIG_APPLY|\n' >&3
head -n 3 <&3
until curl --silent --fail --header 'Host: shop.example.com' http://127.0.0.1/; do sleep 0.02; done
echo ' from port 80'
wait
"#;

#[test]
fn plain_http_works_with_no_configuration_at_all() {
    if !Command::new("unshare").args(["-n", "true"]).status().is_ok_and(|status| status.success()) {
        return println!("NOT RUN: unshare -n is not permitted here");
    }
    let path = [("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned())];
    let args = ["-n", "bash", "-c", WITH_NOTHING, "bash", SERVER];
    let shell = Program::start("shell", "/usr/bin/unshare", &args, &path);
    shell.wait_for_log("hello from port 80");
}
