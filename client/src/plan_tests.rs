//! Plans for single cases, and for any change from one set of routes to another.

use proptest::prelude::*;

use super::*;
use crate::protocol::{Domains, PathPrefix};

fn route(domains: &[&str], backend: &str) -> Route {
    let domains = Domains::new(domains.iter().map(|domain| domain.parse().unwrap())).unwrap();
    Route::new(domains, PathPrefix::root(), backend.parse().unwrap())
}

fn routes(routes: &[(&str, Route)]) -> Routes {
    routes.iter().map(|(key, route)| ((*key).into(), route.clone())).collect()
}

/// A server that carries plans out: what is in force, and the ids it gives.
#[derive(Default)]
struct Carrier {
    applied: Applied,
    next_id: u32,
}

impl Carrier {
    /// One on which a reference server's entries of former sessions are gone.
    fn cleaned(domains: &[&str]) -> Self {
        let mut server = Carrier::default();
        let claim = |domain: &&str| (domain.parse().unwrap(), PathPrefix::root());
        server.applied.clean = domains.iter().map(claim).collect();
        server
    }

    /// The commands of the first batch without the session's field, and carries it out.
    fn apply_first(&mut self, wanted: &Routes, dialect: &Dialect) -> Option<Vec<String>> {
        let batch = plan(wanted, &self.applied, &BTreeSet::new(), dialect).batches.into_iter().next()?;
        let mut ids = BTreeMap::new();
        let mut lines = Vec::new();
        for step in &batch.steps {
            if let Step::Add { key, .. } = step {
                self.next_id += 1;
                ids.insert(key.clone(), RouteId(self.next_id));
            }
            let request = step.request(&ids).expect("every id is known by then");
            lines.push(Command::Request(SessionRef::Own, request).encode().replacen("||", "|", 1));
        }
        self.applied.commit(&batch, &ids);
        Some(lines)
    }

    fn apply_all(&mut self, wanted: &Routes, dialect: &Dialect) -> Vec<Vec<String>> {
        let batches: Vec<_> = std::iter::from_fn(|| self.apply_first(wanted, dialect)).take(50).collect();
        assert!(batches.len() < 50, "it does not converge");
        batches
    }
}

fn check() -> HealthCheck {
    HealthCheck {
        path: "/health".parse().unwrap(),
        interval: GoDuration::from_secs(30),
        timeout: GoDuration::from_secs(5),
    }
}

#[test]
fn settings_are_staged_in_the_same_apply_as_their_route() {
    let main = route(&["a.de", "b.de"], "http://h:1").with_health(check());
    let main = main.with_option(RouteOption::Websocket(false)).with_priority(5);
    for (dialect, settings) in [
        (Dialect::ours(), ["OPTIONS_SET|r1|websocket|false", "HEALTH_SET|r1|/health|30s|5s"]),
        (Dialect::Reference, ["HEALTH_SET|r1|/health|30s|5s", "OPTIONS_SET|ALL|websocket|false"]),
    ] {
        let batches =
            Carrier::cleaned(&["a.de", "b.de"]).apply_all(&routes(&[("main", main.clone())]), &dialect);
        let mut expected = vec!["ROUTE_ADD|a.de,b.de|/|http://h:1/|5"];
        expected.extend(settings);
        assert_eq!(batches, [expected], "{dialect:?}");
    }
}

#[test]
fn our_server_changes_in_place_what_it_can() {
    let mut server = Carrier::default();
    let old = route(&["a.de"], "http://h:1")
        .with_health(check())
        .with_option(RouteOption::Websocket(false))
        .with_option(RouteOption::Compression(true));
    server.apply_all(&routes(&[("main", old)]), &Dialect::ours());
    let new = route(&["b.de"], "http://h:1").with_priority(7).with_option(RouteOption::Compression(false));
    assert_eq!(
        server.apply_all(&routes(&[("main", new)]), &Dialect::ours()),
        [[
            "ROUTE_UPDATE|r1|domains|b.de",
            "ROUTE_UPDATE|r1|priority|7",
            "OPTIONS_REMOVE|r1|websocket",
            "OPTIONS_SET|r1|compression|false",
            "HEALTH_SET|r1|/health|0s|5s",
        ]]
    );
}

#[test]
fn another_backend_is_new_before_old_for_ours_and_old_before_new_for_the_reference() {
    for (dialect, expected) in [
        (Dialect::ours(), [["ROUTE_ADD|a.de|/|http://h:2/|10"], ["ROUTE_REMOVE|r1"]]),
        (Dialect::Reference, [["ROUTE_REMOVE|r1"], ["ROUTE_ADD|a.de|/|http://h:2/|10"]]),
    ] {
        let mut server = Carrier::cleaned(&["a.de"]);
        server.apply_all(&routes(&[("main", route(&["a.de"], "http://h:1"))]), &dialect);
        let batches = server.apply_all(&routes(&[("main", route(&["a.de"], "http://h:2"))]), &dialect);
        assert_eq!(batches, expected, "{dialect:?}");
    }
}

#[test]
fn a_reference_server_gets_one_apply_for_each_set_of_options() {
    let wanted = routes(&[
        ("a", route(&["a.de"], "http://h:1").with_option(RouteOption::Compression(true))),
        ("b", route(&["b.de"], "http://h:2")),
        ("c", route(&["c.de"], "http://h:3").with_option(RouteOption::Compression(true))),
    ]);
    assert_eq!(
        Carrier::cleaned(&["a.de", "b.de", "c.de"]).apply_all(&wanted, &Dialect::Reference),
        [
            vec![
                "ROUTE_ADD|a.de|/|http://h:1/|10",
                "ROUTE_ADD|c.de|/|http://h:3/|10",
                "OPTIONS_SET|ALL|compression|true"
            ],
            vec!["ROUTE_ADD|b.de|/|http://h:2/|10"],
        ]
    );
}

#[test]
fn a_reference_server_is_not_asked_for_what_it_cannot_do() {
    let wanted = routes(&[
        ("h2c", route(&["a.de"], "h2c://h:1")),
        ("hold", route(&["b.de"], "http://h:2").with_option(RouteOption::Hold(GoDuration::ZERO))),
    ]);
    let plan = plan(&wanted, &Applied::default(), &BTreeSet::new(), &Dialect::Reference);
    let left_out: Vec<_> = plan.unsupported.iter().map(|note| note.key.as_str()).collect();
    assert_eq!(left_out, ["h2c", "hold"]);
    let lines = Carrier::cleaned(&["b.de"]).apply_all(&wanted, &Dialect::Reference);
    assert_eq!(lines, [["ROUTE_ADD|b.de|/|http://h:2/|10"]]);
}

#[test]
fn removing_at_a_reference_server_takes_along_what_shares_the_claim_so_that_is_added_again() {
    let mut server = Carrier::cleaned(&["x.de", "a.de"]);
    let both =
        routes(&[("a", route(&["x.de", "a.de"], "http://h:1")), ("b", route(&["x.de"], "http://h:2"))]);
    server.apply_all(&both, &Dialect::Reference);
    let one = routes(&[("b", route(&["x.de"], "http://h:2"))]);
    assert_eq!(
        server.apply_all(&one, &Dialect::Reference),
        [vec!["ROUTE_REMOVE|r1", "ROUTE_REMOVE|r2"], vec!["ROUTE_ADD|x.de|/|http://h:2/|10"]]
    );
}

#[test]
fn at_a_reference_server_what_former_sessions_left_is_removed_once_before_anything_counts() {
    let mut server = Carrier::default();
    let wanted = routes(&[("main", route(&["a.de"], "http://h:1").with_health(check()))]);
    let (add, check) = ("ROUTE_ADD|a.de|/|http://h:1/|10", "HEALTH_SET|r2|/health|30s|5s");
    assert_eq!(
        server.apply_all(&wanted, &Dialect::Reference),
        [vec![add], vec!["ROUTE_REMOVE|r1"], vec![add, check]]
    );
    let moved = routes(&[("main", route(&["a.de"], "http://h:2"))]);
    assert_eq!(
        server.apply_all(&moved, &Dialect::Reference),
        [["ROUTE_REMOVE|r2"], ["ROUTE_ADD|a.de|/|http://h:2/|10"]]
    );
}

#[test]
fn headers_and_limits_are_staged_with_their_route_and_changed_in_place_at_ours() {
    let limit = |requests| RateLimit { requests, window: GoDuration::from_secs(60) };
    let breaker = CircuitBreaker { threshold: 5, timeout: GoDuration::from_secs(30), half_open_requests: 3 };
    let plain = || route(&["a.de"], "http://h:1");
    let frame = |value: &str| ("X-Frame-Options".parse().unwrap(), value.parse().unwrap());
    let with_frame = |route: Route, value| {
        let (name, value) = frame(value);
        route.with_header(name, value)
    };
    let full = with_frame(plain(), "DENY").with_rate_limit(limit(100)).with_circuit_breaker(breaker);
    let mut server = Carrier::default();
    assert_eq!(
        server.apply_all(&routes(&[("main", full)]), &Dialect::ours()),
        [[
            "ROUTE_ADD|a.de|/|http://h:1/|10",
            "HEADERS_SET|r1|X-Frame-Options|DENY",
            "RATELIMIT_SET|r1|100|1m",
            "CIRCUIT_BREAKER_SET|r1|5|30s|3",
        ]]
    );
    let other = with_frame(plain(), "SAMEORIGIN").with_rate_limit(limit(7));
    assert_eq!(
        server.apply_all(&routes(&[("main", other)]), &Dialect::ours()),
        [[
            "HEADERS_SET|r1|X-Frame-Options|SAMEORIGIN",
            "RATELIMIT_SET|r1|7|1m",
            "CIRCUIT_BREAKER_SET|r1|0|30s|3"
        ]]
    );
    assert_eq!(
        server.apply_all(&routes(&[("main", plain())]), &Dialect::ours()),
        [["HEADERS_REMOVE|r1|X-Frame-Options", "RATELIMIT_SET|r1|0|1m"]]
    );
}

#[test]
fn a_reference_server_gets_headers_for_all_routes_of_an_apply_and_none_that_it_would_cut_off() {
    let header = |value: &str| ("X-Kind".parse().unwrap(), value.parse().unwrap());
    let with = |domain, value| {
        let (name, value) = header(value);
        route(&[domain], "http://h:1").with_header(name, value)
    };
    let wanted = routes(&[("a", with("a.de", "x")), ("b", with("b.de", "y|z"))]);
    assert_eq!(
        Carrier::cleaned(&["a.de", "b.de"]).apply_all(&wanted, &Dialect::Reference),
        [
            vec!["ROUTE_ADD|a.de|/|http://h:1/|10", "HEADERS_SET|ALL|X-Kind|x"],
            vec!["ROUTE_ADD|b.de|/|http://h:1/|10"]
        ]
    );
    assert_eq!(Dialect::Reference.unsupported(&wanted).len(), 1);
}

#[test]
fn what_a_server_of_ours_is_too_old_for_is_left_out_and_named() {
    let limit = RateLimit { requests: 1, window: GoDuration::from_secs(60) };
    let wanted = routes(&[("main", route(&["a.de"], "http://h:1").with_rate_limit(limit))]);
    let mut old = Dialect::ours();
    assert!(old.learn_lack("RATELIMIT_SET"));
    let mut server = Carrier::default();
    assert_eq!(server.apply_all(&wanted, &old), [["ROUTE_ADD|a.de|/|http://h:1/|10"]]);
    assert!(server.applied.id_of(&"main".into(), &wanted["main"], &old).is_some());
    assert_eq!(old.unsupported(&wanted).len(), 1);
}

#[test]
fn a_reference_has_one_backend_for_a_claim_and_the_next_one_when_that_goes() {
    let domains = ["a.de", "b.de"];
    let (one, two) = (route(&domains, "http://h:1"), route(&domains, "http://h:2"));
    let mut wanted = routes(&[("web@1", one), ("web@2", two)]);
    let (mut server, mut ours) = (Carrier::default(), Carrier::default());
    server.apply_all(&wanted, &Dialect::Reference);
    let backends = |server: &Carrier| -> Vec<String> {
        server.applied.known().map(|(_, _, route)| route.backend.to_string()).collect()
    };
    assert_eq!(backends(&server), ["http://h:1/"]);
    let notes = Dialect::Reference.unsupported(&wanted);
    assert!(
        notes.len() == 1 && notes[0].key == "web@2".into() && notes[0].what.contains("one backend"),
        "{notes:?}"
    );
    ours.apply_all(&wanted, &Dialect::ours());
    assert_eq!(backends(&ours).len(), 2);
    wanted.remove("web@1");
    server.apply_all(&wanted, &Dialect::Reference);
    assert_eq!(backends(&server), ["http://h:2/"]);
}

#[test]
fn what_a_servers_default_is_belongs_to_its_dialect() {
    let with = |on| {
        let main = route(&["a.de"], "http://h:1");
        let main = main.with_option(RouteOption::Websocket(on));
        routes(&[("main", main)])
    };
    let told = |on, dialect: &Dialect| {
        let batches = Carrier::default().apply_all(&with(on), dialect);
        let lines: Vec<String> = batches.into_iter().flatten().collect();
        lines.into_iter().filter(|line| line.starts_with("OPTIONS_SET")).collect::<Vec<_>>()
    };
    assert!(told(true, &Dialect::ours()).is_empty());
    assert_eq!(told(false, &Dialect::ours()).len(), 1);
    assert_eq!(told(true, &Dialect::Reference), ["OPTIONS_SET|ALL|websocket|true"]);
    assert_eq!(told(false, &Dialect::Reference), ["OPTIONS_SET|ALL|websocket|false"]);
    // Back to the default: what was set is removed.
    let mut server = Carrier::default();
    server.apply_all(&with(false), &Dialect::ours());
    let batches = server.apply_all(&with(true), &Dialect::ours());
    assert_eq!(batches, [["OPTIONS_REMOVE|r1|websocket"]]);
    assert!(server.apply_all(&with(true), &Dialect::ours()).is_empty());
}

#[test]
fn a_held_route_is_left_as_it_is() {
    let mut server = Carrier::default();
    server.apply_all(&routes(&[("main", route(&["a.de"], "http://h:1"))]), &Dialect::ours());
    let wanted =
        routes(&[("main", route(&["b.de"], "http://h:2")), ("more", route(&["c.de"], "http://h:3"))]);
    let held = BTreeSet::from(["main".into()]);
    for dialect in [Dialect::ours(), Dialect::Reference] {
        let plan = plan(&wanted, &server.applied, &held, &dialect);
        let about: Vec<_> = plan.batches.iter().flat_map(|batch| &batch.steps).collect();
        assert!(matches!(about[..], [Step::Add { key, .. }] if key.as_str() == "more"), "{about:?}");
    }
}

#[test]
fn the_dry_run_shows_the_lines_and_no_secret() {
    let intent = Intent::new("web".parse().unwrap(), "web-1".parse().unwrap())
        .with_metadata("token", "t0p".into())
        .with_route("main", route(&["a.de"], "http://h:1").with_health(check()));
    let lines = dry_run(&intent, &Dialect::ours());
    assert_eq!(
        lines,
        [
            "REGISTER|web|web-1|0|{}",
            "SESSION_INFO|S",
            "ROUTE_ADD|S|a.de|/|http://h:1/|10",
            "HEALTH_SET|S|r1|/health|30s|5s",
            "CONFIG_APPLY|S",
        ]
    );
}

fn any_route() -> impl Strategy<Value = Route> {
    let domains = proptest::sample::subsequence(vec!["a.de", "b.de", "c.de"], 1..3);
    let backend = prop_oneof![Just("http://h:1"), Just("http://h:2"), Just("http://h:3")];
    let priority = 1..3;
    (domains, backend, priority, any::<bool>(), any::<Option<bool>>(), any::<Option<bool>>()).prop_map(
        |(domains, backend, priority, health, compression, websocket)| {
            let mut route = route(&domains, backend).with_priority(priority);
            route.health = health.then(check);
            let options = [compression.map(RouteOption::Compression), websocket.map(RouteOption::Websocket)];
            route.options = options.into_iter().flatten().collect();
            route
        },
    )
}

fn any_routes() -> impl Strategy<Value = Routes> {
    let key = prop_oneof![Just("k1"), Just("k2"), Just("k3")].prop_map(RouteKey::from);
    proptest::collection::btree_map(key, any_route(), 0..4)
}

/// The claims of all routes in force.
fn claims(applied: &Applied) -> BTreeSet<String> {
    let known = applied.routes.values().filter_map(|applied| applied.route.as_ref());
    known.flat_map(|route| route.domains.as_slice()).map(ToString::to_string).collect()
}

fn claims_of(routes: &Routes) -> BTreeSet<String> {
    routes.values().flat_map(|route| route.domains.as_slice()).map(ToString::to_string).collect()
}

proptest! {
    #[test]
    fn any_change_converges_at_ours_and_no_claim_is_ever_without_a_route(from in any_routes(), to in any_routes()) {
        let dialect = Dialect::ours();
        let mut server = Carrier::default();
        server.apply_all(&from, &dialect);
        let kept: BTreeSet<_> = claims_of(&from).intersection(&claims_of(&to)).cloned().collect();
        while server.apply_first(&to, &dialect).is_some() {
            prop_assert!(claims(&server.applied).is_superset(&kept));
        }
        let in_force: Vec<_> = server.applied.routes.values().cloned().collect();
        prop_assert_eq!(in_force.len(), to.len());
        for (key, route) in &to {
            prop_assert!(server.applied.id_of(key, route, &dialect).is_some());
        }
    }

    #[test]
    fn any_change_converges_at_a_reference_and_never_removes_and_adds_a_claim_in_one_apply(
        from in any_routes(), to in any_routes(),
    ) {
        let dialect = Dialect::Reference;
        let mut server = Carrier::default();
        server.apply_all(&from, &dialect);
        for batch in server.apply_all(&to, &dialect) {
            let removes = batch.iter().any(|line| line.starts_with("ROUTE_REMOVE"));
            let adds = batch.iter().any(|line| line.starts_with("ROUTE_ADD|"));
            prop_assert!(!(removes && adds));
            prop_assert!(batch.iter().all(|line| !line.starts_with("ROUTE_ADD_BULK")));
            for line in batch.iter().filter(|line| line.starts_with("OPTIONS_SET")) {
                prop_assert!(line.starts_with("OPTIONS_SET|ALL|"));
            }
        }
        let surplus = dialect.surplus(&to);
        prop_assert_eq!(server.applied.len(), to.len() - surplus.len());
        for (key, route) in to.iter().filter(|(key, _)| !surplus.contains(*key)) {
            prop_assert!(server.applied.id_of(key, route, &dialect).is_some());
        }
    }

    #[test]
    fn planning_anew_after_each_batch_gives_the_rest_of_the_plan(from in any_routes(), to in any_routes()) {
        let dialect = Dialect::ours();
        let mut server = Carrier::default();
        server.apply_all(&from, &dialect);
        let whole = plan(&to, &server.applied, &BTreeSet::new(), &dialect).batches.len();
        prop_assert_eq!(server.apply_all(&to, &dialect).len(), whole);
    }
}
