//! The sidecar's environment: which spelling wins, what is refused and how that is told (SEMANTICS
//! section 10).
#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail like the test")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use registry_client::protocol::{GoDuration, RouteOption, Scheme};
use registry_sidecar::environment::{ConfigErrors, Context, Fallback, Variable};
use registry_sidecar::sidecar::config::{
    COMMAND_VARIABLES, Config, RegistrationConfig, RouteConfig, VARIABLES,
};
use registry_sidecar::telemetry::{Format, Level};

/// What `vars` mean on the host `web-1`, where `files` exist.
fn read_with(vars: &[(&str, &str)], files: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let files: BTreeMap<&str, &str> = files.iter().copied().collect();
    let read_file = |path: &Path| match files.get(path.to_str().unwrap()) {
        Some(content) => Ok(content.as_bytes().to_vec()),
        None => Err("there is no such file".to_owned()),
    };
    let vars = vars.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::from_env(vars, Context { host_name: "web-1", read_file: &read_file })
}

fn read(vars: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    read_with(vars, &[])
}

const NEEDED: [(&str, &str); 2] = [("SERVICE_NAME", "web"), ("DOMAINS", "app.example.com")];

/// What is needed, and `vars` besides.
fn with(vars: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    read(&[&NEEDED, vars].concat())
}

fn registration(config: &Config) -> &RegistrationConfig {
    config.registration.as_ref().unwrap()
}

fn port_of(config: &Config) -> u16 {
    registration(config).routes[0].port
}

/// The report's text for what must be refused.
fn refused(vars: &[(&str, &str)]) -> String {
    read(vars).unwrap_err().to_string()
}

#[test]
fn a_name_and_a_domain_are_enough() {
    let config = with(&[]).unwrap();
    let registration = registration(&config);
    assert_eq!(registration.registry.endpoints[0].to_string(), "proxy:81");
    assert_eq!(registration.service.as_str(), "web");
    assert_eq!(registration.instance.as_str(), "web-1");
    let [route] = &registration.routes[..] else { panic!("{registration:?}") };
    assert_eq!((route.path.as_str(), route.port, route.priority), ("/", 80, 10));
    let health = route.health.as_ref().unwrap();
    assert_eq!((health.path.as_str(), health.interval, health.timeout), ("/", seconds(30), seconds(5)));
    assert_eq!(
        route.options.to_options(),
        [
            RouteOption::Websocket(true),
            RouteOption::PreserveHost(true),
            RouteOption::Compression(true),
            RouteOption::Http2(false),
        ]
    );
    let address = IpAddr::V4(Ipv4Addr::new(10, 2, 2, 7));
    assert_eq!(route.backend(address).to_string(), "http://10.2.2.7/");
    assert_eq!(config.readiness.checks[0].to_string(), "tcp://127.0.0.1:80");
    assert_eq!(config.address.web_net.to_string(), "10.2.2.0/24");
    assert_eq!((config.log.level, config.log.format), (Level::Info, Format::Text));
    assert_eq!(config.warnings, [""; 0]);
}

fn seconds(count: u32) -> GoDuration {
    GoDuration::from_secs(count)
}

#[test]
fn the_stack_file_of_the_pterodactyl_container_works_as_it_is() {
    let config = read(&[
        ("REGISTRY_HOST", "proxy"),
        ("REGISTRY_PORT", "81"),
        ("SERVICE_NAME", "pterodactyl"),
        ("DOMAINS", "gpanel.chilla55.de"),
        ("ROUTE_PATH", "/"),
        ("PORT", "80"),
    ])
    .unwrap();
    assert_eq!(registration(&config).routes[0].domains.to_string(), "gpanel.chilla55.de");
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn the_prefixed_name_wins_over_the_bare_one() {
    assert_eq!(port_of(&with(&[("PORT", "1000"), ("SIDECAR_PORT", "2000")]).unwrap()), 2000);
    // A bare value that loses is somebody else's, whatever it holds.
    assert_eq!(port_of(&with(&[("PORT", "soon"), ("SIDECAR_PORT", "2000")]).unwrap()), 2000);
}

#[test]
fn app_port_wins_over_port_unless_only_port_is_surely_ours() {
    assert_eq!(port_of(&with(&[("PORT", "1000"), ("APP_PORT", "2000")]).unwrap()), 2000);
    assert_eq!(port_of(&with(&[("SIDECAR_PORT", "1000"), ("APP_PORT", "2000")]).unwrap()), 1000);
    assert_eq!(port_of(&with(&[("SIDECAR_PORT", "1000"), ("SIDECAR_APP_PORT", "2000")]).unwrap()), 2000);
}

#[test]
fn names_that_images_use_for_themselves_are_not_read_bare() {
    let inherited = [
        ("LOG_LEVEL", "verbose"),
        ("PRIORITY", "high"),
        ("METADATA", "x"),
        ("RATE_LIMIT", "x"),
        ("ETCD_ENDPOINTS", "x"),
        ("RESTART", "x"),
        ("READY_TIMEOUT", "x"),
        ("LOG_LEVEL_FILE", "/nowhere"),
    ];
    assert_eq!(with(&inherited).unwrap(), with(&[]).unwrap());
    for known in VARIABLES.iter().filter(|known| known.implemented && !known.bare) {
        assert_eq!(with(&[(known.name, "|")]).unwrap(), with(&[]).unwrap(), "{}", known.name);
    }
}

#[test]
fn what_is_empty_is_not_set() {
    let config = with(&[("SIDECAR_PORT", ""), ("PORT", " "), ("SIDECAR_ROUTES", ""), ("REGISTRY_TOKEN", "")]);
    assert_eq!(config.unwrap(), with(&[]).unwrap());
    assert!(
        refused(&[("SERVICE_NAME", ""), ("DOMAINS", "a.de")]).starts_with("SERVICE_NAME: it is required")
    );
}

#[test]
fn every_variable_can_come_from_a_file_and_loses_its_last_newline_there() {
    let files = [("/run/secrets/token", "hush hush\n"), ("/cfg/port", "8080\r\n"), ("/cfg/level", "debug\n")];
    let vars = [
        ("REGISTRY_TOKEN_FILE", "/run/secrets/token"),
        ("PORT_FILE", "/cfg/port"),
        ("SIDECAR_LOG_LEVEL_FILE", "/cfg/level"),
    ];
    let config = read_with(&[&NEEDED[..], &vars].concat(), &files).unwrap();
    assert_eq!(registration(&config).registry.token.as_ref().unwrap().reveal(), "hush hush");
    assert_eq!((port_of(&config), config.log.level), (8080, Level::Debug));
}

#[test]
fn a_file_that_says_nothing_is_a_mistake_for_every_variable() {
    for name in ["REGISTRY_TOKEN_FILE", "SIDECAR_SERVICE_TOKEN_FILE", "SIDECAR_LOG_LEVEL_FILE"] {
        for content in ["", "\n", " \t\r\n\n"] {
            let vars = [&NEEDED[..], &[(name, "/t")]].concat();
            let text = read_with(&vars, &[("/t", content)]).unwrap_err().to_string();
            assert!(text.contains(name) && text.contains("the file is empty"), "{content:?}: {text}");
        }
    }
}

#[test]
fn a_value_and_its_file_together_are_refused_by_both_names() {
    let text = with(&[("PORT", "80"), ("PORT_FILE", "/p")]).unwrap_err().to_string();
    assert_eq!(text, "PORT: PORT_FILE is set as well: keep one of the two");
    // The prefixed spelling decides alone.
    let files = [("/p", "81")];
    let vars = [("PORT", "80"), ("SIDECAR_PORT_FILE", "/p")];
    assert_eq!(port_of(&read_with(&[&NEEDED[..], &vars].concat(), &files).unwrap()), 81);
}

#[test]
fn what_is_wrong_with_a_file_or_in_it_is_told_with_its_name() {
    let text = with(&[("REGISTRY_TOKEN_FILE", "/run/secrets/gone")]).unwrap_err().to_string();
    assert!(text.starts_with(r#"REGISTRY_TOKEN_FILE="/run/secrets/gone": there is no such file"#), "{text}");
    let vars = [&NEEDED[..], &[("PORT_FILE", "/p")]].concat();
    let text = read_with(&vars, &[("/p", "soon\n")]).unwrap_err().to_string();
    assert!(text.starts_with(r#"PORT_FILE="/p": the file holds "soon": it is no number"#), "{text}");
    assert!(text.ends_with("for example: PORT=8080"), "{text}");
}

#[test]
fn a_value_that_is_no_utf_8_is_a_mistake_and_no_panic() {
    let vars = |name: &str| {
        let needed = NEEDED.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        needed.chain([(OsString::from(name), OsString::from_vec(vec![0xff]))]).collect::<Vec<_>>()
    };
    let context = Context { host_name: "web-1", read_file: &|_| Ok(vec![0xff]) };
    for name in ["PORT", "SIDECAR_METADATA"] {
        let text = Config::from_env(vars(name), context).unwrap_err().to_string();
        assert!(text.starts_with(&format!("{name}: its value is no UTF-8")), "{text}");
    }
    let text = Config::from_env(vars("PORT_FILE"), context).unwrap_err().to_string();
    assert!(text.contains("what the file holds is no UTF-8"), "{text}");
    // Of no concern: somebody else's variable, and a name that is no text at all.
    assert!(Config::from_env(vars("LOG_LEVEL"), context).is_ok());
    let odd = (OsString::from_vec(vec![0xff]), OsString::from("x"));
    assert!(Config::from_env(vars("X").into_iter().chain([odd]), context).is_ok());
}

#[test]
fn the_port_of_a_legacy_link_is_understood_where_it_can_only_be_one() {
    let config = with(&[("REGISTRY_PORT", "tcp://10.0.0.5:8181")]).unwrap();
    assert_eq!(registration(&config).registry.endpoints[0].to_string(), "proxy:8181");
    let config = with(&[("SIDECAR_REGISTRY_PORT", "udp://10.0.0.5:8181")]).unwrap();
    assert_eq!(registration(&config).registry.endpoints[0].port, 8181);
    assert!(with(&[("REGISTRY_PORT", "tcp://10.0.0.5:x")]).is_err());
}

#[test]
fn several_registries_are_a_list_and_each_may_have_a_port() {
    let endpoints = |text: &str| {
        let config = with(&[("REGISTRY_HOST", text), ("REGISTRY_PORT", "82")]).unwrap();
        registration(&config).registry.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(endpoints("a, b:83,A:82"), ["a:82", "b:83"]);
    assert_eq!(endpoints("::1,[::2]:84,10.0.0.1"), ["[::1]:82", "[::2]:84", "10.0.0.1:82"]);
}

#[test]
fn booleans_and_durations_are_read_as_people_write_them() {
    for (text, value) in
        [("1", true), ("YES", true), ("on", true), ("0", false), ("no", false), ("Off", false)]
    {
        let config = with(&[("ENABLE_WEBSOCKET", text)]).unwrap();
        assert_eq!(registration(&config).routes[0].options.websocket, value, "{text}");
    }
    for (text, millis) in [("90", 90_000), ("1m30s", 90_000), ("250ms", 250)] {
        let config = with(&[("SIDECAR_KEEPALIVE_INTERVAL", text)]).unwrap();
        assert_eq!(registration(&config).registry.keepalive.get().as_millis(), millis, "{text}");
    }
}

/// What means something only where a command is wrapped; `config_command` is about those.
fn is_for_commands(known: &Variable) -> bool {
    ["ENTRY_COMMAND", "ENV_*"].contains(&known.name) || COMMAND_VARIABLES.contains(&known.name)
}

#[test]
fn every_variable_has_a_value_that_is_refused_by_its_name() {
    let long_token = "x".repeat(5000);
    let refusals: &[(&str, &str)] = &[
        ("REGISTRY_HOST", "tcp://proxy"),
        ("REGISTRY_PORT", "65536"),
        ("REGISTRY_TOKEN", &long_token),
        ("SERVICE_TOKEN", "a\nb"),
        ("REGISTRY_EACH_ADDRESS", "all"),
        ("METRICS_LISTEN", "everywhere:http"),
        ("ENABLE_REGISTRY", "perhaps"),
        ("SERVICE_NAME", "a|b"),
        ("INSTANCE_NAME", "a\u{7}"),
        ("METADATA", "[1]"),
        ("DOMAINS", "http://app.example.com"),
        ("ROUTE_PATH", "api"),
        ("PORT", "8080:80"),
        ("APP_PORT", "0"),
        ("PRIORITY", "high"),
        ("ROUTES", "{}"),
        ("BACKEND_SCHEME", "ftp"),
        ("BACKEND_HOST", "app:80"),
        ("BACKEND_EACH_ADDRESS", "all"),
        ("WEB_NET_CIDR", "10.2.2.0"),
        ("HEALTH_PATH", "health"),
        ("HEALTH_INTERVAL", "-1s"),
        ("HEALTH_TIMEOUT", "0s"),
        ("HEALTH_HOST", "*.example.com"),
        ("HEALTH_STATUS", "2xx"),
        ("HEALTH_RISE", "0"),
        ("HEALTH_FALL", "101"),
        ("COMPRESSION", "gzip"),
        ("ENABLE_WEBSOCKET", "ja"),
        ("PRESERVE_HOST", "2"),
        ("BACKEND_HTTP2", "h2"),
        ("BACKEND_TIMEOUT", "0"),
        ("RESPONSE_HEADERS", r#"{"a b":"c"}"#),
        ("RATE_LIMIT", "100"),
        ("CIRCUIT_BREAKER", "5/30s"),
        ("STRIP_PREFIX", "/api"),
        ("STICKY", "cookie"),
        ("REDIRECT_DOMAINS", "http://www.example.com"),
        ("ALLOW_FROM", "10.0.0.0/33"),
        ("BASIC_AUTH", "a\nb"),
        ("FORWARD_AUTH", "authelia:9091"),
        ("BODY_LIMIT", "10mb"),
        ("WEIGHT", "5%"),
        ("ENABLE_SOCKETIO_ROUTE", "maybe"),
        ("SOCKETIO_PATH", "socket.io"),
        ("WAIT_FOR_PORT", "8080"),
        ("PORT_WAIT_TIMEOUT", "0"),
        ("READY_CHECK", "ftp://127.0.0.1/"),
        ("READY_INTERVAL", "0"),
        ("READY_TIMEOUT", "soon"),
        ("READY_RISE", "0"),
        ("READY_FALL", "0"),
        ("MAINTENANCE_PORT", "65536"),
        ("MAINTENANCE_PAGE", "page.html"),
        ("MAINTENANCE_PAGE_URL", "10.2.2.7:3001"),
        ("MAINTENANCE_STATE", "maintenance.json"),
        ("DRAIN_TIMEOUT", "-1s"),
        ("CONTROL_SOCKET", "control.sock"),
        ("WHEN_STRANDED", "swim"),
        ("KEEPALIVE_INTERVAL", "0"),
        ("REQUEST_TIMEOUT", "0"),
        ("RECONNECT_MIN", "0"),
        ("RECONNECT_MAX", "9999999h"),
        ("LOG_LEVEL", "loud"),
        ("LOG_LEVEL_LIBRARIES", "some"),
        ("LOG_FORMAT", "xml"),
    ];
    // Those of etcd are refused beside one another and only in a build with etcd: tests/etcd_nodes.rs.
    let alone = |known: &&Variable| !is_for_commands(known) && !known.name.starts_with("ETCD_");
    for known in VARIABLES.iter().filter(|known| known.implemented).filter(alone) {
        let (name, value) = refusals.iter().find(|(name, _)| *name == known.name).expect(known.name);
        let spelled = format!("SIDECAR_{name}");
        let errors = with(&[(spelled.as_str(), *value)]).unwrap_err();
        let [problem] = errors.problems() else { panic!("{name}: {errors}") };
        assert_eq!(problem.variable, spelled);
        assert!(problem.example.as_ref().unwrap().starts_with(&format!("{spelled}=")), "{errors}");
        match known.is_secret() {
            true => assert!(problem.value.is_none() && !errors.to_string().contains("a\\nb"), "{errors}"),
            false => assert_eq!(problem.value.as_deref(), Some(*value)),
        }
    }
}

#[test]
fn every_example_and_every_default_of_the_table_is_accepted() {
    let is_refused_here = |known: &Variable| known.name == "ETCD_ENDPOINTS" && !cfg!(feature = "etcd");
    let known = VARIABLES.iter().filter(|known| known.implemented && !is_for_commands(known));
    for known in known.filter(|known| !is_refused_here(known)) {
        let spelled = format!("SIDECAR_{}", known.name);
        with(&[(spelled.as_str(), known.example)]).unwrap_or_else(|errors| panic!("{errors}"));
        if let Fallback::Text(text) = known.default {
            // What does nothing without another variable is warned about.
            let mut config = Config { warnings: Vec::new(), ..with(&[(spelled.as_str(), text)]).unwrap() };
            // Whoever asks for it wants to hear where it has no effect.
            config.registration.iter_mut().for_each(|registration| registration.wants_compression = false);
            assert_eq!(config, with(&[]).unwrap(), "{spelled}");
        }
    }
}

#[test]
fn all_mistakes_are_told_at_once_and_the_first_line_names_a_variable() {
    let text = refused(&[
        ("SIDECAR_PORT", "abc"),
        ("SIDECAR_HEALTH_INTERVAL", "soon"),
        ("REGISTRY_HOST", "a b:x"),
        ("SIDECAR_ROUTES", r#"[{"port":0}]"#),
        ("SIDECAR_LOG_LEVEL", "loud"),
    ]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            r#"REGISTRY_HOST="a b:x": "b:x": its port is no number from 1 to 65535; for example: REGISTRY_HOST=proxy (1 of 6)"#,
            "SERVICE_NAME: it is required and not set; for example: SERVICE_NAME=my-service (2 of 6)",
            r#"SIDECAR_PORT="abc": it is no number from 1 to 65535; for example: SIDECAR_PORT=8080 (3 of 6)"#,
            r#"SIDECAR_HEALTH_INTERVAL="soon": not a number with a unit of ns, us, ms, s, m or h; for example: SIDECAR_HEALTH_INTERVAL=30s (4 of 6)"#,
            r#"SIDECAR_ROUTES[0].port="0": it is no number from 1 to 65535; for example: SIDECAR_ROUTES=[{"domains":"app.example.com","path":"/api","port":8080}] (5 of 6)"#,
            r#"SIDECAR_LOG_LEVEL="loud": it is none of error, warn, info, debug, trace; for example: SIDECAR_LOG_LEVEL=debug (6 of 6)"#,
        ]
    );
}

#[test]
fn secrets_are_never_shown() {
    let config = with(&[("REGISTRY_TOKEN", "hush-1"), ("SIDECAR_SERVICE_TOKEN", "hush-2")]).unwrap();
    assert!(!format!("{config:?}").contains("hush"), "{config:?}");
    let vars = [&NEEDED[..], &[("REGISTRY_TOKEN_FILE", "/t")]].concat();
    let text = read_with(&vars, &[("/t", "hush\nhush")]).unwrap_err().to_string();
    assert!(text.starts_with(r#"REGISTRY_TOKEN_FILE="/t": what the file holds: a line end"#), "{text}");
    assert!(!text.contains("hush"), "{text}");
    let text = with(&[("SIDECAR_METADATA", r#"{"token":"hush"}"#)]).unwrap_err();
    assert!(text.to_string().contains("belongs into REGISTRY_TOKEN"), "{text}");
    assert!(!format!("{text} {text:?}").contains("hush"), "{text}");
}

#[test]
fn an_unknown_name_with_our_prefix_is_pointed_out_with_the_nearest_one() {
    let warnings = |vars: &[(&str, &str)]| with(vars).unwrap().warnings;
    assert_eq!(
        warnings(&[("SIDECAR_HEALTHPATH", "/x"), ("SIDECAR_PRIORTY_FILE", "/x"), ("SIDECAR_COLOUR", "red")]),
        [
            "SIDECAR_COLOUR is unknown and has no effect",
            "SIDECAR_HEALTHPATH is unknown and has no effect: is SIDECAR_HEALTH_PATH meant?",
            "SIDECAR_PRIORTY_FILE is unknown and has no effect: is SIDECAR_PRIORITY_FILE meant?",
        ]
    );
    // Without the prefix it is somebody else's.
    assert_eq!(warnings(&[("HEALTHPATH", "/x"), ("DOMAIN", "x")]), [""; 0]);
}

#[test]
fn what_goes_with_etcd_does_nothing_without_its_endpoints() {
    let warnings = with(&[("SIDECAR_ETCD_TTL", "30s"), ("SIDECAR_ETCD_LAYOUT", "groups")]).unwrap().warnings;
    assert_eq!(
        warnings,
        [
            "SIDECAR_ETCD_TTL has no effect: ETCD_ENDPOINTS is not set",
            "SIDECAR_ETCD_LAYOUT has no effect: ETCD_ENDPOINTS is not set",
        ]
    );
}

#[cfg(not(feature = "etcd"))]
#[test]
fn a_build_without_etcd_says_which_one_is_needed() {
    let text = refused(&[
        ("SERVICE_NAME", "web"),
        ("DOMAINS", "a.example.com"),
        ("SIDECAR_ETCD_ENDPOINTS", "etcd:1"),
    ]);
    assert!(text.contains("sidecar-etcd") && text.contains("--features etcd"), "{text}");
}

#[test]
fn a_required_variable_that_is_missing_is_looked_for_among_the_misspelled() {
    for (name, hint) in [
        ("DOMAIN", "DOMAIN is set: is DOMAINS meant?"),
        ("SIDECAR_DOMIANS", "SIDECAR_DOMIANS is set: is DOMAINS meant?"),
        ("domains", "domains is set: is DOMAINS meant?"),
        ("ROUTES", "ROUTES is set: is SIDECAR_ROUTES meant?"),
    ] {
        let text = refused(&[("SERVICE_NAME", "web"), (name, "app.example.com")]);
        assert!(text.starts_with("DOMAINS: it is required") && text.contains(hint), "{text}");
    }
    let text = refused(&[("SERVICENAME", "web"), ("DOMAINS", "a.de")]);
    assert!(text.contains("SERVICENAME is set: is SERVICE_NAME meant?"), "{text}");
    assert!(!refused(&[("SERVICE_NAME", "web"), ("HOME", "/")]).contains("meant"));
}

#[test]
fn a_host_name_that_is_a_containers_id_is_warned_about_with_the_line_to_add() {
    let vars = || NEEDED.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let read_file = |_: &Path| Err(String::new());
    let on = |host_name| Config::from_env(vars(), Context { host_name, read_file: &read_file });
    let config = on("3f2a9c0b1d4e").unwrap();
    assert_eq!(registration(&config).instance.as_str(), "3f2a9c0b1d4e");
    let [warning] = &config.warnings[..] else { panic!("{:?}", config.warnings) };
    assert!(warning.contains(r#"INSTANCE_NAME: "web-1""#), "{warning}");
    assert!(warning.contains("{{.Service.Name}}.{{.Task.Slot}}"), "{warning}");
    assert_eq!(on("facade-12345").unwrap().warnings, [""; 0]);
    assert!(on("").unwrap_err().to_string().starts_with("INSTANCE_NAME: it is not set"));
}

#[test]
fn without_registration_neither_name_nor_domains_are_needed_but_mistakes_are_mistakes() {
    let config = read(&[("ENABLE_REGISTRY", "false"), ("PORT", "3000")]).unwrap();
    assert_eq!(config.registration, None);
    assert_eq!(config.readiness.checks[0].to_string(), "tcp://127.0.0.1:3000");
    assert!(read(&[("ENABLE_REGISTRY", "no"), ("DOMAINS", "a b_!")]).is_err());
    assert!(with(&[("ENABLE_REGISTRY", "no")]).unwrap().registration.is_none());
}

#[test]
fn options_of_the_check_are_inherited_too_and_go_with_it() {
    let routes = r#"[
        {"path": "/api", "health": {"host": "api.example.com", "status": 204, "fall": false}},
        {"path": "/quiet", "health": false}
    ]"#;
    let config = with(&[
        ("SIDECAR_ROUTES", routes),
        ("SIDECAR_HEALTH_RISE", "2"),
        ("SIDECAR_HEALTH_FALL", "5"),
        ("SIDECAR_HEALTH_STATUS", "200-299,404"),
    ])
    .unwrap();
    let said = |route: &RouteConfig| {
        let options = route.more_options.iter();
        options.map(|option| format!("{}={}", option.key(), option.value_text())).collect::<Vec<_>>()
    };
    let [own, api, quiet] = &registration(&config).routes[..] else { panic!("{config:?}") };
    assert_eq!(said(own), ["health_status=200-299,404", "health_rise=2", "health_fall=5"]);
    assert_eq!(said(api), ["health_host=api.example.com", "health_status=204", "health_rise=2"]);
    assert_eq!(said(quiet), [""; 0]);
    let text = refused(&[("SIDECAR_ROUTES", r#"[{"health":{"rise":0,"host":"*.a.de","ris":2}}]"#)]);
    for part in ["ROUTES[0].health.rise", "ROUTES[0].health.host", "did you mean rise?"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn the_users_of_a_route_come_from_a_file_and_are_never_shown() {
    let hash = "$2y$05$UVcTx/RVmOCf4kSBDI3CBe0xhVl2kDXl.NeOn4xCmCl.nCgmG3g6C";
    let file = format!("# people\nalice:{hash}\r\n\nbob:{hash}\n");
    let vars = [("SIDECAR_BASIC_AUTH_FILE", "/run/users")];
    let config = read_with(&[&NEEDED[..], &vars].concat(), &[("/run/users", &file)]).unwrap();
    let [RouteOption::Auth(auth)] = &registration(&config).routes[0].more_options[..] else { panic!() };
    assert_eq!(auth.value_text(), format!("basic alice:{hash} bob:{hash}"));
    assert!(!format!("{config:?}").contains("$2y$"), "Debug");
    let error =
        read_with(&[&NEEDED[..], &vars].concat(), &[("/run/users", "alice:{SHA}secret")]).unwrap_err();
    assert!(error.to_string().contains("htpasswd -B") && !error.to_string().contains("secret"), "{error}");
    let both = [("SIDECAR_BASIC_AUTH", file.as_str()), ("SIDECAR_FORWARD_AUTH", "http://auth/")];
    assert!(refused(&[&NEEDED[..], &both].concat()).contains("one of the two"));

    let routes = format!(
        r#"[{{"path":"/a","basic_auth":"eve:{hash}"}},{{"path":"/b","forward_auth":false}},{{"path":"/c"}}]"#
    );
    let vars = [("SIDECAR_FORWARD_AUTH", "http://auth/ask X-User"), ("SIDECAR_ROUTES", routes.as_str())];
    let config = with(&vars).unwrap();
    let said = registration(&config)
        .routes
        .iter()
        .map(|route| route.more_options.iter().map(|option| option.redacted()).collect::<String>());
    let forward = "forward http://auth/ask X-User";
    assert_eq!(said.collect::<Vec<_>>(), [forward, "basic [redacted]", "", forward]);
    let text = refused(&[("SIDECAR_ROUTES", r#"[{"basic_auth":"eve:secret"}]"#)]);
    assert!(text.contains("ROUTES[0].basic_auth") && !text.contains("secret"), "{text}");
}

#[test]
fn redirect_domains_are_a_route_of_their_own_to_the_first_domain() {
    let config = with(&[
        ("DOMAINS", "example.com,shop.example.com"),
        ("ROUTE_PATH", "/shop"),
        ("SIDECAR_REDIRECT_DOMAINS", "www.example.com example.org"),
        ("SIDECAR_STICKY", "true"),
        ("SIDECAR_BODY_LIMIT", "10m"),
        ("SIDECAR_STRIP_PREFIX", "true"),
        ("ENABLE_SOCKETIO_ROUTE", "true"),
    ])
    .unwrap();
    let said = |route: &RouteConfig| {
        let options = route.more_options.iter();
        options.map(|option| format!("{}={}", option.key(), option.value_text())).collect::<Vec<_>>()
    };
    let [own, socketio, redirect] = &registration(&config).routes[..] else { panic!("{config:?}") };
    assert_eq!(said(own), ["strip_prefix=true", "sticky=true", "body_limit=10m"]);
    assert_eq!(said(socketio), ["sticky=true", "body_limit=10m"], "it answers at its own path");
    assert_eq!((redirect.origin.as_str(), redirect.path.as_str()), ("REDIRECT_DOMAINS", "/"));
    assert_eq!(redirect.domains.to_string(), "www.example.com,example.org");
    assert_eq!((said(redirect), &redirect.health), (vec!["redirect=example.com".to_owned()], &None));
    let text = refused(&[("DOMAINS", "*.example.com"), ("SIDECAR_REDIRECT_DOMAINS", "example.org")]);
    assert!(text.contains("the first of DOMAINS"), "{text}");
    let text = refused(&[("DOMAINS", "example.com"), ("SIDECAR_REDIRECT_DOMAINS", "example.com")]);
    assert!(text.contains("REDIRECT_DOMAINS") && text.contains("already"), "{text}");
}

#[test]
fn routes_inherit_what_they_leave_out() {
    let routes = r#"[
        {"path": "/api", "port": 3000, "health": {"path": "/api/health"}, "timeout": 90},
        {"domains": ["ws.example.com", "*.ws.example.com"], "host": "10.2.2.9", "scheme": "https",
         "priority": 50, "health": false, "compression": false, "websocket": "no", "preserve_host": false,
         "http2": true, "headers": {"X-A": "b"}, "rate_limit": false, "circuit_breaker": "5/30s/3"},
        {"domains": "a.de, b.de", "path": null}
    ]"#;
    let config = with(&[
        ("SIDECAR_ROUTES", routes),
        ("SIDECAR_HEALTH_INTERVAL", "10s"),
        ("SIDECAR_RATE_LIMIT", "100/1m"),
        ("SIDECAR_RESPONSE_HEADERS", r#"{"X-Frame-Options":"DENY"}"#),
    ])
    .unwrap();
    let [own, api, ws, third] = &registration(&config).routes[..] else { panic!("{config:?}") };
    assert_eq!((own.origin.as_str(), own.path.as_str(), own.port), ("DOMAINS", "/", 80));

    assert_eq!(api.origin, "ROUTES[0]");
    assert_eq!(api.domains, own.domains);
    assert_eq!((api.path.as_str(), api.port, api.options.timeout), ("/api", 3000, Some(seconds(90))));
    let health = api.health.as_ref().unwrap();
    assert_eq!((health.path.as_str(), health.interval), ("/api/health", seconds(10)));
    assert_eq!((api.rate_limit, &api.headers), (own.rate_limit, &own.headers));

    assert_eq!(ws.domains.to_string(), "ws.example.com,*.ws.example.com");
    assert_eq!((ws.scheme, ws.priority, &ws.health), (Scheme::Https, 50, &None));
    assert_eq!(ws.backend(Ipv4Addr::new(10, 2, 2, 7).into()).to_string(), "https://10.2.2.9:80/");
    let options = ws.options;
    assert!(!options.compression && !options.websocket && !options.preserve_host && options.http2);
    assert_eq!(ws.headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["X-A"]);
    assert!(ws.rate_limit.is_none() && ws.circuit_breaker.is_some());

    assert_eq!((third.domains.to_string().as_str(), third.path.as_str()), ("a.de,b.de", "/"));
    let checks: Vec<String> = config.readiness.checks.iter().map(ToString::to_string).collect();
    assert_eq!(checks, ["tcp://127.0.0.1:80", "tcp://127.0.0.1:3000", "tcp://10.2.2.9:80"]);
}

#[test]
fn with_routes_that_have_domains_there_need_be_no_others() {
    let routes = r#"[{"domains":"a.de","port":1000}]"#;
    let config = read(&[("SERVICE_NAME", "web"), ("SIDECAR_ROUTES", routes)]).unwrap();
    assert_eq!(registration(&config).routes.len(), 1);
    assert_eq!(config.readiness.checks[0].to_string(), "tcp://127.0.0.1:1000");
    let text =
        refused(&[("SERVICE_NAME", "web"), ("SIDECAR_ROUTES", r#"[{"domains":"a.de"},{"path":"/x"}]"#)]);
    assert!(text.starts_with("SIDECAR_ROUTES[1]: it has no domains, and DOMAINS is not set"), "{text}");
}

#[test]
fn every_mistake_in_every_route_is_told_with_its_place() {
    let routes = r#"[
        {"prot": 80, "domains": ["a.de", 7], "path": "x"},
        {"port": "eighty", "health": {"pth": "/x", "timeout": 0}, "scheme": "ws", "host": "h:1"},
        "three",
        {"health": true, "headers": {"X-A": 1}, "rate_limit": "1/0s", "circuit_breaker": [], "priority": 1.5}
    ]"#;
    let errors = with(&[("SIDECAR_ROUTES", routes), ("PORT", "x")]).unwrap_err();
    let found: Vec<(&str, &str)> = errors
        .problems()
        .iter()
        .map(|p| (p.variable.trim_start_matches("SIDECAR_"), p.reason.as_str()))
        .collect();
    let expected = [
        ("PORT", "it is no number"),
        ("ROUTES[0].domains", "it holds what is no string"),
        ("ROUTES[0].path", "it must start with '/'"),
        ("ROUTES[0].prot", "unknown key, did you mean port?"),
        ("ROUTES[1].health.pth", "unknown key, did you mean path?"),
        ("ROUTES[1].health.timeout", "it must be more than zero"),
        ("ROUTES[1].host", "a host without a port"),
        ("ROUTES[1].port", "it is no number"),
        ("ROUTES[1].scheme", "it is none of"),
        ("ROUTES[2]", "it is no JSON object"),
        ("ROUTES[3].circuit_breaker", "it is no string, number or boolean"),
        ("ROUTES[3].headers", "its value is no JSON string"),
        ("ROUTES[3].health", "it is neither false nor an object"),
        ("ROUTES[3].priority", "it is no whole number"),
        ("ROUTES[3].rate_limit", "window: it must be more than zero"),
    ];
    assert_eq!(found.len(), expected.len(), "{errors}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.0 == expected.0 && found.1.contains(expected.1), "{found:?} is not {expected:?}");
    }
}

#[test]
fn routes_that_are_no_array_of_something_are_refused() {
    for (text, reason) in [("[]", "no route"), ("{}", "no array"), ("[{", "no JSON"), ("nonsense", "no JSON")]
    {
        let report = with(&[("SIDECAR_ROUTES", text)]).unwrap_err().to_string();
        assert!(report.starts_with("SIDECAR_ROUTES=") && report.contains(reason), "{report}");
    }
}

#[test]
fn two_routes_on_one_domain_and_path_are_refused_by_name() {
    let routes = r#"[{"path":"/api"},{"path":"/api/","domains":"b.de,app.example.com"}]"#;
    let text = with(&[("SIDECAR_ROUTES", routes)]).unwrap_err().to_string();
    let expected = "SIDECAR_ROUTES[1]: app.example.com/api is the route of ROUTES[0] already";
    assert!(text.starts_with(expected), "{text}");
    let routes = r#"[{"path":"/"}]"#;
    assert!(
        with(&[("SIDECAR_ROUTES", routes)]).unwrap_err().to_string().contains("route of DOMAINS already")
    );
}

#[test]
fn socket_io_gets_a_route_of_its_own_that_carries_websockets() {
    let config =
        with(&[("ENABLE_SOCKETIO_ROUTE", "1"), ("ENABLE_WEBSOCKET", "0"), ("PORT", "3000")]).unwrap();
    let [own, socketio] = &registration(&config).routes[..] else { panic!("{config:?}") };
    assert_eq!(
        (socketio.path.as_str(), socketio.port, &socketio.domains),
        ("/socket.io", 3000, &own.domains)
    );
    assert!(socketio.options.websocket && !own.options.websocket);

    let vars = [("ENABLE_SOCKETIO_ROUTE", "1"), ("SOCKETIO_PATH", "/x"), ("ROUTE_PATH", "/x")];
    let text = with(&vars).unwrap_err().to_string();
    assert!(text.starts_with("SOCKETIO_PATH=\"/x\": app.example.com/x is the route of DOMAINS"), "{text}");
    let text = refused(&[
        ("SERVICE_NAME", "web"),
        ("ENABLE_SOCKETIO_ROUTE", "1"),
        ("SIDECAR_ROUTES", r#"[{"domains":"a.de"}]"#),
    ]);
    assert!(text.starts_with("ENABLE_SOCKETIO_ROUTE=\"1\": it adds to the route of DOMAINS"), "{text}");
}

#[test]
fn a_check_is_turned_off_by_an_interval_of_zero() {
    let config = with(&[("SIDECAR_HEALTH_INTERVAL", "0")]).unwrap();
    assert_eq!(registration(&config).routes[0].health, None);
}

#[test]
fn the_bounds_of_the_back_off_must_not_cross() {
    let text = with(&[("SIDECAR_RECONNECT_MIN", "20s")]).unwrap_err().to_string();
    assert!(text.starts_with("SIDECAR_RECONNECT_MIN=\"20s\": it is more than RECONNECT_MAX, 10s"), "{text}");
    let text = with(&[("SIDECAR_RECONNECT_MAX", "1ms")]).unwrap_err().to_string();
    assert!(
        text.starts_with("SIDECAR_RECONNECT_MAX=\"1ms\": it is less than RECONNECT_MIN, 100ms"),
        "{text}"
    );
    assert!(with(&[("SIDECAR_RECONNECT_MIN", "1s"), ("SIDECAR_RECONNECT_MAX", "1s")]).is_ok());
}

#[test]
fn what_contradicts_itself_is_refused_and_what_does_nothing_is_said_to() {
    let text =
        with(&[("MAINTENANCE_PORT", "3001"), ("SIDECAR_METRICS_LISTEN", ":3001")]).unwrap_err().to_string();
    assert!(text.starts_with("SIDECAR_METRICS_LISTEN=") && text.contains("one of their own"), "{text}");
    for (vars, told) in [
        (
            &[("SIDECAR_MAINTENANCE_PAGE", "/srv/page")][..],
            "SIDECAR_MAINTENANCE_PAGE has no effect: no page is served",
        ),
        (
            &[("SIDECAR_REGISTRY_EACH_ADDRESS", "true"), ("REGISTRY_HOST", "10.2.2.2")],
            "SIDECAR_REGISTRY_EACH_ADDRESS has no effect: REGISTRY_HOST holds no name",
        ),
        (
            &[("SIDECAR_READY_CHECK", "file:/x"), ("WAIT_FOR_PORT", "false")],
            "SIDECAR_READY_CHECK has no effect: WAIT_FOR_PORT=false asks nobody",
        ),
    ] {
        let warnings = with(vars).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].starts_with(told), "{warnings:?}");
    }
}

#[test]
fn a_check_that_verifies_no_certificate_is_warned_about_once() {
    let warnings = |check| with(&[("SIDECAR_READY_CHECK", check)]).unwrap().warnings;
    let told = warnings("https://127.0.0.1:8443/health");
    assert!(told.len() == 1 && told[0].contains("https://127.0.0.1:8443/health is not verified"), "{told:?}");
    assert_eq!(warnings("https://app.example.com/"), [""; 0]);
}

#[test]
fn readiness_asks_where_it_is_told_to_else_where_the_routes_lead() {
    let checks = |vars: &[(&str, &str)]| {
        let checks = with(vars).unwrap().readiness.checks;
        checks.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(checks(&[("BACKEND_HOST", "app"), ("PORT", "3000")]), ["tcp://app:3000"]);
    assert_eq!(checks(&[("SIDECAR_READY_CHECK", "tcp://a:1 tcp://[::1]:2")]), ["tcp://a:1", "tcp://[::1]:2"]);
    let kinds = "http://a/up fastcgi://a:9000/ping unix:/run/app.sock file:/run/ready";
    assert_eq!(
        checks(&[("SIDECAR_READY_CHECK", kinds)]),
        ["http://a:80/up", "fastcgi://a:9000/ping", "unix:/run/app.sock", "file:/run/ready"]
    );
    let kinds = "https://a/up, tcp://b:1 exec:test -e /x, or y\nexec:z";
    assert_eq!(
        checks(&[("SIDECAR_READY_CHECK", kinds)]),
        ["https://a:443/up", "tcp://b:1", "exec:test -e /x, or y", "exec:z"]
    );
    for (text, reason) in [
        ("exec: ", "no command stands behind exec:"),
        ("https://a:b/", "no number from 1"),
        ("ping", "it is none of tcp://host:port"),
        ("unix:app.sock", "must start with '/'"),
        ("tcp://a", "port is missing"),
        ("tcp://a:0", "no number from 1"),
        ("tcp://", "empty"),
    ] {
        let report = with(&[("SIDECAR_READY_CHECK", text)]).unwrap_err().to_string();
        assert!(report.starts_with("SIDECAR_READY_CHECK=") && report.contains(reason), "{report}");
    }
}

#[test]
fn what_a_link_puts_into_a_port_variable_is_ignored_and_its_origin_is_named() {
    for (name, service) in [
        ("APP_PORT", "\"app\""),
        ("PORT", "a container or service"),
        ("MAINTENANCE_PORT", "\"maintenance\""),
        ("SIDECAR_PORT", "\"sidecar\""),
        ("SIDECAR_APP_PORT", "\"sidecar-app\""),
        ("SIDECAR_MAINTENANCE_PORT", "\"sidecar-maintenance\""),
        ("WAIT_FOR_PORT", "\"wait-for\""),
    ] {
        for url in ["tcp://10.43.0.9:8080", "udp://10.43.0.9:53", "sctp://[fd00::9]:36412"] {
            let config = with(&[(name, url)]).unwrap();
            let route = &registration(&config).routes[0];
            assert_eq!(
                (route.port, config.maintenance.port, config.readiness.wait),
                (80, None, true),
                "{name}"
            );
            let warned =
                config.warnings.iter().find(|line| line.starts_with(&format!("{name}={url} is ignored")));
            assert!(warned.is_some_and(|line| line.contains(service)), "{:?}", config.warnings);
        }
    }
    // Another spelling of the same variable still counts.
    let config = with(&[("SIDECAR_PORT", "tcp://10.43.0.9:80"), ("PORT", "3000")]).unwrap();
    assert_eq!(registration(&config).routes[0].port, 3000);
    // What is no link is a mistake as before.
    for text in ["tcp://", "10.0.0.5:80", "http", "80/tcp"] {
        assert!(with(&[("PORT", text)]).is_err(), "{text}");
    }
}

#[test]
fn quotes_around_a_value_are_pointed_out_whatever_the_variable() {
    for (name, value) in [
        ("SERVICE_NAME", "'shop'"),
        ("INSTANCE_NAME", "\"shop-1\""),
        ("DOMAINS", "'example.com'"),
        ("PORT", "\"8080\""),
        ("HEALTH_PATH", "'/health'"),
        ("SIDECAR_LOG_LEVEL", "'debug'"),
        ("ENABLE_REGISTRY", "'true'"),
        ("SIDECAR_METADATA", "'{}'"),
    ] {
        let report = with(&[(name, value)]).map(|config| config.warnings);
        let text = match report {
            Err(errors) => errors.to_string(),
            Ok(warnings) => warnings.join("\n"),
        };
        assert!(text.contains(name) && text.contains("quotes stand around the value"), "{name}: {text}");
    }
    let report = with(&[("SIDECAR_METADATA", "'{\"a\":\"zebra\"}'")]).unwrap_err().to_string();
    assert!(report.contains("quotes stand around") && !report.contains("zebra"), "{report}");
    let config = with(&[("REGISTRY_TOKEN", "'horse'")]).unwrap();
    let token = registration(&config).registry.token.clone().unwrap();
    assert_eq!(token.reveal(), "'horse'", "it may be meant");
    assert!(
        config.warnings.iter().any(|line| line.contains("REGISTRY_TOKEN: quotes")),
        "{:?}",
        config.warnings
    );
    assert!(config.warnings.iter().all(|line| !line.contains("horse")), "{:?}", config.warnings);
    for line in ["'my program' 'its word'", "node server.js"] {
        assert!(with(&[("ENTRY_COMMAND", line)]).unwrap().warnings.is_empty(), "{line}");
    }
    assert!(
        with(&[("ENTRY_COMMAND", "\"node server.js\"")]).unwrap().warnings[0]
            .contains("ENTRY_COMMAND: quotes")
    );
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_are_named() {
    let text = with(&[("REGISTRY_TOKEN", "zebra\r")]).unwrap_err().to_string();
    assert!(text.contains("carriage return") && !text.contains("zebra"), "{text}");
    let config = with(&[("\u{feff}ROUTE_PATH", "/api")]).unwrap();
    assert!(
        config.warnings.iter().any(|line| line.contains("byte-order mark stands before the name ROUTE_PATH"))
    );
}

#[test]
fn more_domains_than_a_route_may_have_become_several_routes() {
    let names = |count: usize| (0..count).map(|n| format!("d{n}.example.com")).collect::<Vec<_>>().join(",");
    let parts = |count: usize| -> Vec<(String, usize)> {
        let config = with(&[("DOMAINS", &names(count))]).unwrap();
        let routes = &registration(&config).routes;
        routes.iter().map(|route| (route.origin.clone(), route.domains.as_slice().len())).collect()
    };
    assert_eq!(parts(256), [("DOMAINS".to_owned(), 256)]);
    assert_eq!(parts(257), [("DOMAINS".to_owned(), 256), ("DOMAINS (2)".to_owned(), 1)]);
    assert_eq!(parts(600).len(), 3);
    // The reference server's lines are short.
    let long = (0..300).map(|n| format!("{}.{n}.example.com", "x".repeat(60))).collect::<Vec<_>>().join(" ");
    let long = long.replace(".example.com", &format!(".{}.{}.example.com", "y".repeat(60), "z".repeat(60)));
    let config = with(&[("DOMAINS", &long), ("ENABLE_SOCKETIO_ROUTE", "true")]).unwrap();
    let routes = &registration(&config).routes;
    assert!(routes.iter().all(|route| route.domains.to_string().len() <= 60_000));
    let count = |path: &str| -> usize {
        let of_path = routes.iter().filter(|route| route.path.to_string().trim_end_matches('/') == path);
        of_path.map(|route| route.domains.as_slice().len()).sum()
    };
    assert_eq!((count(""), count("/socket.io")), (300, 300));
    let text = with(&[
        ("SIDECAR_ROUTES", &format!(r#"[{{"domains":"{}"}}]"#, names(300))),
        ("DOMAINS", "d299.example.com"),
    ]);
    assert!(
        text.unwrap_err()
            .to_string()
            .contains("SIDECAR_ROUTES[0]: d299.example.com/ is the route of DOMAINS")
    );
}
