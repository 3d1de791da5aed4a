//! The sidecar as its operator meets it: an application that comes and goes, the commands that talk to the
//! daemon, the maintenance page. The real binaries.

#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

#[path = "support/programs.rs"]
mod programs;
#[path = "support/reference.rs"]
mod reference;
#[path = "support/relay.rs"]
mod relay;

use std::net::SocketAddr;
use std::process::{Command, Output};

use programs::{Program, Server, caddy, free_address, get, status, wait_until};
use reference::Reference;
use relay::Relay;

const SERVER: &str = env!("CARGO_BIN_EXE_registry-server");
const SIDECAR: &str = env!("CARGO_BIN_EXE_registry-sidecar");
const HOST: &str = "shop.example.com";

/// A sidecar with a control socket of its own.
struct Agent {
    program: Program,
    socket: String,
    _folder: tempfile::TempDir,
}

impl Agent {
    fn start(server: &Server, port: u16, more: &[(&'static str, &str)]) -> Agent {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock").to_str().unwrap().to_owned();
        let mut env = server.sidecar_env(port, more);
        env.push(("SIDECAR_CONTROL_SOCKET", socket.clone()));
        Agent { program: Program::start("sidecar", SIDECAR, &[], &env), socket, _folder: folder }
    }

    fn say(&self, words: &str) -> Output {
        let mut command = Command::new(SIDECAR);
        command.args(words.split(' ')).env_clear().env("SIDECAR_CONTROL_SOCKET", &self.socket);
        command.output().unwrap()
    }

    fn text(&self, words: &str) -> String {
        String::from_utf8(self.say(words).stdout).unwrap()
    }

    fn is_healthy(&self) -> bool {
        self.say("healthcheck --ready").status.success()
    }
}

const FAST: [(&str, &str); 3] =
    [("SIDECAR_READY_INTERVAL", "50ms"), ("SIDECAR_READY_FALL", "2"), ("SIDECAR_HEALTH_INTERVAL", "0")];

#[test]
fn an_application_that_stops_answering_is_noticed_and_comes_back_by_itself() {
    let (server, backend) = (Server::start(SERVER, &[]), free_address());
    let agent = Agent::start(&server, backend.port(), &FAST);
    wait_until("it answers", || agent.text("status").contains("not ready    tcp://127.0.0.1:"));
    assert!(!agent.is_healthy());
    assert!(agent.say("healthcheck").status.success(), "the sidecar works, and need not be replaced");

    let mut first = caddy(backend, "first");
    agent.program.wait_for_log("live:");
    assert!(agent.is_healthy());
    first.kill();
    agent.program.wait_for_log("the application is not ready any more");
    wait_until("it is unhealthy", || !agent.is_healthy());
    assert!(agent.text("status").contains("wanted       draining"), "{}", agent.text("status"));

    let _second = caddy(backend, "second");
    wait_until("it is healthy", || agent.is_healthy());
    wait_until("it serves", || status(server.http, HOST, "/") == 200);
    assert!(agent.text("status").contains("wanted       live"), "{}", agent.text("status"));
}

#[test]
fn the_daemon_tells_its_status_routes_and_events() {
    let (server, backend) = (Server::start(SERVER, &[]), free_address());
    let _caddy = caddy(backend, "hello");
    let agent = Agent::start(&server, backend.port(), &[]);
    agent.program.wait_for_log("live:");

    assert!(agent.say("healthcheck").status.success());
    let told = agent.text("status");
    assert!(told.contains("application  ready") && told.contains("(registry-server): live, live"), "{told}");
    assert!(
        agent.text("routes").contains("shop.example.com / -> http://127.0.0.1:"),
        "{}",
        agent.text("routes")
    );
    let told: serde_json::Value = serde_json::from_str(&agent.text("status --json")).unwrap();
    assert_eq!((&told["wanted"], &told["sessions"][0]["live"]), (&"live".into(), &true.into()));
    let events = agent.text("events --json");
    let names: Vec<String> = events
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["event"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(names, ["CONNECTED", "ROUTE_ADDED", "HEALTH_CHECK_SET", "CONFIG_APPLIED"]);
    assert!(agent.say("healthcheck --registered").status.success());
}

/// The same web server, answering every request with this status.
fn answering(address: SocketAddr, status: &str) -> Program {
    let listen = address.to_string();
    let words = ["respond", "--listen", &listen, "--status", status, "hello"];
    let caddy = Program::start("caddy", "/usr/bin/caddy", &words, &[]);
    wait_until("caddy listens", || std::net::TcpStream::connect(address).is_ok());
    caddy
}

#[test]
fn what_the_proxy_takes_out_is_not_live_and_every_answer_says_why() {
    let (server, backend) = (Server::start(SERVER, &[]), free_address());
    let mut failing = answering(backend, "404");
    let check = [("HEALTH_PATH", "/nope"), ("SIDECAR_HEALTH_INTERVAL", "1s")];
    let agent = Agent::start(&server, backend.port(), &check);
    let line = agent.program.wait_for_log("not live:");
    assert!(
        line.contains("status 404") && line.contains("GET /nope") && line.contains("HEALTH_PATH"),
        "{line}"
    );
    let line = agent.program.wait_for_log("out: http://127.0.0.1:");
    assert!(line.contains("HEALTH_PATH must be answered with 2xx or 3xx"), "{line}");
    wait_until("status says it", || {
        agent.text("status").contains("out          DOMAINS: the proxy sends no requests")
    });
    wait_until("events say it", || agent.text("events").contains("BACKEND_OUT"));
    let told = agent.say("healthcheck --registered");
    assert_eq!(told.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&told.stdout).contains("GET /nope does not pass"));
    assert!(!agent.program.log().iter().any(|line| line.contains(" live:") && !line.contains("not live:")));

    failing.kill();
    let mut well = answering(backend, "204");
    agent.program.wait_for_log("back: http://127.0.0.1:");
    wait_until("it is healthy", || agent.say("healthcheck --registered").status.success());
    assert!(!agent.text("status").contains("out          "), "{}", agent.text("status"));

    // Later too, and by what the proxy meets on the way.
    well.kill();
    let _failing = answering(backend, "503");
    wait_until("it is out again", || agent.text("healthcheck --registered").contains("does not pass"));
}

#[test]
fn an_answer_of_502_to_a_check_of_any_status_below_500_is_not_live() {
    let (server, backend) = (Server::start(SERVER, &[]), free_address());
    let _failing = answering(backend, "502");
    let agent = Agent::start(&server, backend.port(), &[]);
    let line = agent.program.wait_for_log("not live:");
    assert!(line.contains("status 502") && line.contains("a status below 500"), "{line}");
}

#[test]
fn without_a_daemon_the_commands_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("nobody.sock");
    let say = |words: &[&str]| {
        Command::new(SIDECAR).args(words).env_clear().env("SIDECAR_CONTROL_SOCKET", &socket).output().unwrap()
    };
    let told = say(&["status"]);
    assert_eq!(told.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&told.stdout).contains("no registry-sidecar is running here"));
    assert_eq!(say(&["healthcheck"]).status.code(), Some(1));
    assert_eq!(say(&["maintenance", "explode"]).status.code(), Some(64));
}

#[test]
fn the_maintenance_page_shows_the_progress_that_the_operator_tells() {
    let (server, backend) = (Server::start(SERVER, &[]), free_address());
    let _caddy = caddy(backend, "hello");
    let page: SocketAddr = free_address();
    let port = page.port().to_string();
    let agent = Agent::start(&server, backend.port(), &[("MAINTENANCE_PORT", &port)]);
    agent.program.wait_for_log("live:");

    let told = agent.text("maintenance enter");
    assert!(told.contains("maintenance  on"), "{told}");
    agent.program.wait_for_log("maintenance was asked for");
    agent.say("maintenance progress 40 moving the data");
    let told = get(page, HOST, "/api/status").unwrap();
    assert!(told.body.contains("\"progress\":40") && told.body.contains("moving the data"), "{}", told.body);
    let shown = get(page, HOST, "/").unwrap();
    assert!(shown.status == 200 && shown.body.contains("We will be right back"), "{}", shown.body);
    assert!(agent.is_healthy(), "an orchestrator must not kill what is being maintained");

    assert!(agent.text("maintenance exit").contains("maintenance  off"));
    wait_until("it serves", || status(server.http, HOST, "/") == 200);
}

#[test]
fn maintenance_survives_a_restart_of_the_sidecar_and_people_never_see_behind_it() {
    let (server, backend) = (Server::start(SERVER, &[]), free_address());
    let _caddy = caddy(backend, "hello");
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("maintenance.json").to_str().unwrap().to_owned();
    let with_state = [("SIDECAR_MAINTENANCE_STATE", state.as_str())];
    let mut agent = Agent::start(&server, backend.port(), &with_state);
    agent.program.wait_for_log("live:");
    let told = agent.text("maintenance enter --reason moving --for 1h");
    assert!(told.contains("window       ALL") && told.contains(": moving"), "{told}");
    agent.program.wait_for_log("the proxy shows the page");
    assert_eq!(status(server.http, HOST, "/"), 503);
    agent.program.kill();

    let agent = Agent::start(&server, backend.port(), &with_state);
    agent.program.wait_for_log("maintenance of ALL goes on: moving; it ends by itself in ");
    wait_until("it is confirmed", || {
        assert_eq!(status(server.http, HOST, "/"), 503, "the application was seen");
        agent.text("maintenance status").contains("confirmed by the proxy")
    });
    agent.text("maintenance enter --for 100ms");
    agent.program.wait_for_log("maintenance of ALL is over: its time has come");
    wait_until("it serves", || status(server.http, HOST, "/") == 200);
    wait_until("it does not come back", || !std::fs::read_to_string(&state).unwrap().contains("all"));
}

#[test]
fn maintenance_that_ended_while_the_sidecar_was_away_is_over() {
    let (server, backend) = (Server::start(SERVER, &[]), free_address());
    let _caddy = caddy(backend, "hello");
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("maintenance.json");
    std::fs::write(
        &state,
        r#"{"format":1,"maintenance":[{"target":"all","reason":"moving","since":1795000000,"until":1795000060}]}"#,
    )
    .unwrap();
    let more = [("SIDECAR_MAINTENANCE_STATE", state.to_str().unwrap())];
    let agent = Agent::start(&server, backend.port(), &more);
    agent.program.wait_for_log("live:");
    assert_eq!(status(server.http, HOST, "/"), 200);
    drop(agent);

    std::fs::write(&state, "no json").unwrap();
    let agent = Agent::start(&server, backend.port(), &more);
    let line = agent.program.wait_for_log("it is ignored");
    assert!(line.contains(state.to_str().unwrap()), "{line}");
    agent.program.wait_for_log("live:");
}

#[test]
fn a_reload_reads_files_again_also_around_a_command_and_tells_what_came_of_it() {
    let (server, backend) = (Server::start(SERVER, &[]), free_address());
    let _caddy = caddy(backend, "hello");
    let folder = tempfile::tempdir().unwrap();
    let routes = folder.path().join("routes.json");
    std::fs::write(&routes, r#"[{"domains":"a.example.com"}]"#).unwrap();
    let socket = folder.path().join("control.sock").to_str().unwrap().to_owned();
    let mut env = server.sidecar_env(backend.port(), &[]);
    env.retain(|(name, _)| *name != "DOMAINS");
    env.push(("SIDECAR_ROUTES_FILE", routes.to_str().unwrap().to_owned()));
    env.push(("SIDECAR_CONTROL_SOCKET", socket.clone()));
    // What only a wrapped command may have: without what stands behind the two dashes it would be refused.
    env.push(("SIDECAR_STOP_SIGNAL", "TERM".to_owned()));
    let program = Program::start("sidecar", SIDECAR, &["--", "/bin/sleep", "1000"], &env);
    let agent = Agent { program, socket, _folder: folder };
    agent.program.wait_for_log("live:");
    assert_eq!(status(server.http, "b.example.com", "/"), 404);

    std::fs::write(&routes, r#"[{"domains":"a.example.com"},{"domains":"b.example.com"}]"#).unwrap();
    let told = agent.text("reload");
    assert!(told.contains("routes wanted: 2"), "{told}");
    wait_until("the new route serves", || status(server.http, "b.example.com", "/") == 200);

    std::fs::write(&routes, r#"[{"domains":"a..b"}]"#).unwrap();
    let told = agent.say("reload");
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(told.status.code() == Some(1) && text.contains("nothing is changed"), "{text}");
    assert_eq!(status(server.http, "b.example.com", "/"), 200);
}

#[test]
fn the_daemon_is_drained_before_it_leaves() {
    let (server, backend) = (Server::start(SERVER, &[("HOLD", "0s")]), free_address());
    let _caddy = caddy(backend, "hello");
    let relay = Relay::start(server.registry);
    let port = relay.address.port().to_string();
    let mut agent = Agent::start(&server, backend.port(), &[("REGISTRY_PORT", &port)]);
    agent.program.wait_for_log("live:");
    agent.program.signal("TERM");
    assert_eq!(agent.program.wait().code(), Some(0));
    let sent = relay.sent();
    let (drain, shutdown) = (sent.find("\nDRAIN_START|"), sent.find("\nCLIENT_SHUTDOWN|"));
    assert!(drain.is_some() && drain < shutdown, "{sent}");
    assert!(agent.program.log().iter().any(|line| line.contains("nothing is in flight")));
}

#[test]
fn until_the_first_time_live_only_a_registry_that_refuses_makes_it_unhealthy() {
    let server = Server::start(SERVER, &[("REGISTRY_TOKEN", "right")]);
    let backend = free_address();
    let _caddy = caddy(backend, "hello");
    let agent = Agent::start(&server, backend.port(), &[("REGISTRY_TOKEN", "wrong")]);
    let line = agent.program.wait_for_log("wrong registry token");
    assert!(line.contains("set REGISTRY_TOKEN"), "{line}");
    wait_until("it is unhealthy", || !agent.is_healthy());
    assert!(agent.text("healthcheck").contains("wrong registry token"), "{}", agent.text("healthcheck"));

    let mut server = Server::start(SERVER, &[]);
    let agent = Agent::start(&server, backend.port(), &[]);
    agent.program.wait_for_log("live:");
    server.program.kill();
    wait_until("that is noticed", || agent.text("status").contains("because "));
    assert!(agent.is_healthy(), "a registry that is away must not make an orchestrator kill what works");
}

#[test]
fn a_reference_server_is_left_without_a_drain_which_would_be_an_outage() {
    let (server, backend, reference) = (Server::start(SERVER, &[]), free_address(), Reference::start());
    let _caddy = caddy(backend, "hello");
    let port = reference.address.port().to_string();
    let mut agent = Agent::start(&server, backend.port(), &[("REGISTRY_PORT", &port)]);
    agent.program.wait_for_log("live:");
    agent.program.signal("TERM");
    assert_eq!(agent.program.wait().code(), Some(0));
    let commands = reference.commands();
    assert_eq!(commands.last().map(String::as_str), Some("CLIENT_SHUTDOWN"), "{commands:?}");
    assert!(!commands.iter().any(|command| command.starts_with("DRAIN_")), "{commands:?}");
}

#[test]
fn a_reference_server_is_told_of_maintenance_by_route_id_and_confirms_it() {
    let (server, backend, reference) = (Server::start(SERVER, &[]), free_address(), Reference::start());
    let _caddy = caddy(backend, "hello");
    let port = reference.address.port().to_string();
    let more = [("REGISTRY_PORT", port.as_str()), ("MAINTENANCE_PAGE_URL", "http://10.2.2.7:3001/down.html")];
    let agent = Agent::start(&server, backend.port(), &more);
    agent.program.wait_for_log("live:");
    agent.text("maintenance enter shop.example.com");
    agent.program.wait_for_log("the proxy shows the page");
    agent.text("maintenance exit shop.example.com");
    agent.program.wait_for_log("the proxy sends requests to the application");
    let lines = reference.lines();
    let told: Vec<_> = lines.iter().filter(|line| line.starts_with("MAINT_")).collect();
    assert!(told[0].ends_with("|r2|http://10.2.2.7:3001/down.html"), "{told:?}");
    assert!(told[1].starts_with("MAINT_EXIT|") && told[1].ends_with("|r2"), "{told:?}");
}

#[test]
fn what_is_in_maintenance_and_whether_the_proxy_has_confirmed_it_is_told_as_it_is() {
    let (mut server, backend) = (Server::start(SERVER, &[]), free_address());
    let _caddy = caddy(backend, "hello");
    let agent = Agent::start(&server, backend.port(), &[]);
    agent.program.wait_for_log("live:");
    let told = agent.say("maintenance enter / --wait");
    let text = String::from_utf8(told.stdout).unwrap();
    assert_eq!(told.status.code(), Some(0), "{text}");
    assert!(text.contains("maintenance  on, for a part of the routes"), "{text}");
    assert!(text.contains("entering     / at") && text.contains(": confirmed by the proxy"), "{text}");
    assert_eq!(status(server.http, HOST, "/"), 503);
    let told = agent.say("maintenance exit --wait");
    let text = String::from_utf8(told.stdout).unwrap();
    assert!(told.status.success() && text.contains("maintenance  off"), "{text}");
    assert_eq!(status(server.http, HOST, "/"), 200);

    server.program.kill();
    wait_until("that is noticed", || agent.text("status").contains("because "));
    let text = agent.text("maintenance enter");
    assert!(text.contains("maintenance  on") && text.contains("not confirmed yet"), "{text}");
}

#[test]
fn with_several_registries_one_that_is_down_delays_nothing_on_the_other() {
    let (mut one, two, backend) = (Server::start(SERVER, &[]), Server::start(SERVER, &[]), free_address());
    let _caddy = caddy(backend, "hello");
    one.program.kill();
    let both = format!("{},{}", one.registry, two.registry);
    let agent = Agent::start(&two, backend.port(), &[("REGISTRY_HOST", &both)]);
    agent.program.wait_for_log("live:");
    assert_eq!(status(two.http, HOST, "/"), 200);
    let told = agent.text("status");
    assert!(told.contains("(registry-server): live, live") && told.contains("not live"), "{told}");
    one.restart();
    wait_until("the other one serves too", || status(one.http, HOST, "/") == 200);
    agent.text("maintenance enter");
    wait_until("both show the page", || {
        [one.http, two.http].iter().all(|http| status(*http, HOST, "/") == 503)
    });
}

#[test]
fn the_log_can_be_followed_line_by_line_and_a_conflict_names_its_cure() {
    let (server, backend) = (Server::start(SERVER, &[]), free_address());
    let _caddy = caddy(backend, "hello");
    let agent = Agent::start(&server, backend.port(), &[]);
    agent.program.wait_for_log("live:");
    let log = agent.program.log().join("\n");
    let mut from = 0;
    for step in [
        "registry-sidecar",
        "the application is ready",
        "advertising 127.0.0.1",
        "connected to 127.0.0.1:",
        "route DOMAINS added as r1: shop.example.com / -> http://127.0.0.1:",
        "health check of route DOMAINS (r1) set",
        "configuration applied, routes in force: 1",
        "live: http://shop.example.com/ -> ",
    ] {
        let at = log[from..].find(step).unwrap_or_else(|| panic!("{step:?} is not next in\n{log}"));
        from += at + step.len();
    }

    let blog = [
        ("SERVICE_NAME", "blog"),
        ("INSTANCE_NAME", "blog-1"),
        ("SIDECAR_LOG_FORMAT", "json"),
        ("SIDECAR_LOG_LEVEL", "debug"),
    ];
    let other = Agent::start(&server, backend.port(), &blog);
    let told = |level: &str| {
        let lines = other.program.log();
        let lines = lines.iter().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let messages = lines.filter(|line| line["level"] == level).map(|line| line["message"].to_string());
        messages.filter(|message| message.contains("refused, next try in")).collect::<Vec<_>>()
    };
    // It is tried again and again, and told once.
    wait_until("it is tried again", || told("DEBUG").len() >= 3);
    let lines = told("WARN");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("belongs to service shop; stop service shop, or give this route"), "{lines:?}");
}

#[test]
fn headers_and_limits_from_the_environment_reach_the_registry() {
    let (server, backend) = (Server::start(SERVER, &[]), free_address());
    let _caddy = caddy(backend, "hello");
    let relay = Relay::start(server.registry);
    let port = relay.address.port().to_string();
    let agent = Agent::start(
        &server,
        backend.port(),
        &[
            ("REGISTRY_PORT", &port),
            ("SIDECAR_RESPONSE_HEADERS", r#"{"X-Frame-Options":"DENY"}"#),
            ("SIDECAR_RATE_LIMIT", "1000/1m"),
            ("SIDECAR_CIRCUIT_BREAKER", "5/30s/3"),
        ],
    );
    agent.program.wait_for_log("live:");
    for line in
        ["HEADERS_SET|", "|X-Frame-Options|DENY", "RATELIMIT_SET|", "|1000|1m", "CIRCUIT_BREAKER_SET|"]
    {
        assert!(relay.sent().contains(line), "{line}: {}", relay.sent());
    }
    assert_eq!(status(server.http, HOST, "/"), 200);
}

#[test]
fn metrics_follow_the_daemon_through_an_outage_of_the_registry() {
    let (mut server, backend) = (Server::start(SERVER, &[]), free_address());
    let _caddy = caddy(backend, "hello");
    let metrics = free_address();
    let listen = metrics.to_string();
    let agent = Agent::start(&server, backend.port(), &[("SIDECAR_METRICS_LISTEN", &listen)]);
    let registry = server.registry;
    let has = |line: &str| {
        let line = line.replace("REGISTRY", &format!("registry=\"{registry}\""));
        get(metrics, "metrics", "/metrics").is_some_and(|page| page.body.lines().any(|told| told == line))
    };
    agent.program.wait_for_log("live:");
    wait_until("it is up", || has("registry_sidecar_session_up{REGISTRY} 1"));
    for line in [
        "registry_sidecar_ready 1",
        "registry_sidecar_wanted{state=\"live\"} 1",
        "registry_sidecar_session_phase{REGISTRY,phase=\"live\"} 1",
        "registry_sidecar_routes_live{REGISTRY} 1",
        "registry_sidecar_reconnects_total{REGISTRY} 0",
        "registry_sidecar_command_restarts_total 0",
    ] {
        assert!(has(line), "{line}: {:?}", get(metrics, "metrics", "/metrics"));
    }
    server.program.kill();
    wait_until("it is down", || has("registry_sidecar_session_up{REGISTRY} 0"));
    assert!(has("registry_sidecar_routes_live{REGISTRY} 0"));
    server.restart();
    wait_until("it was reconnected", || has("registry_sidecar_reconnects_total{REGISTRY} 1"));
    wait_until("its route is back", || has("registry_sidecar_routes_live{REGISTRY} 1"));
    assert_eq!(status(metrics, "metrics", "/"), 404);
}

#[test]
fn a_ping_of_php_fpm_is_spoken_for_real() {
    let fpm = std::fs::read_dir("/usr/sbin")
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm")));
    let Some(fpm) = fpm else {
        println!("not run: there is no php-fpm here");
        return;
    };
    let (server, backend, pool) = (Server::start(SERVER, &[]), free_address(), free_address());
    let folder = tempfile::tempdir().unwrap();
    let configuration = folder.path().join("fpm.conf");
    let log = folder.path().join("fpm.log");
    std::fs::write(
        &configuration,
        format!(
            "[global]\nerror_log = {}\ndaemonize = no\n[www]\nlisten = {pool}\npm = static\npm.max_children = 1\n\
             ping.path = /ping\nuser = nobody\ngroup = nogroup\n",
            log.display()
        ),
    )
    .unwrap();
    let _caddy = caddy(backend, "hello");
    let check = format!("fastcgi://{pool}/ping");
    let mut more = FAST.to_vec();
    more.push(("SIDECAR_READY_CHECK", &check));
    let agent = Agent::start(&server, backend.port(), &more);
    agent.program.wait_for_log("waiting for fastcgi://");
    assert_eq!(status(server.http, HOST, "/"), 404);

    let file = configuration.to_str().unwrap();
    let mut php = Program::start("php-fpm", fpm.to_str().unwrap(), &["-F", "-n", "-y", file], &[]);
    agent.program.wait_for_log("live:");
    // Its master takes its worker along, which a killed one would leave behind.
    php.signal("TERM");
    php.wait();
    agent.program.wait_for_log("the application is not ready any more");
}
