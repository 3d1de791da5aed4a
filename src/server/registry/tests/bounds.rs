//! DESIGN rule 5: whatever a peer can fill has a limit with an error of its own.

use super::*;
use crate::server::registry::model::Applied;
use crate::server::registry::model::SessionState;

const A: &str = "10.2.2.7";

#[test]
fn connections_are_bounded() {
    let mut world = World::with(|config| config.limits.connections = 1);
    let first = world.connect(A);
    let second = world.connect(A);
    assert_eq!(world.read(second), ["ERROR|too many connections"]);
    assert!(world.closed.contains(&second) && !world.closed.contains(&first));
    world.hang_up(first);
    let third = world.connect(A);
    assert!(!world.closed.contains(&third));
}

#[test]
fn connections_from_one_address_are_bounded_but_not_those_of_this_host() {
    let mut world = World::with(|config| config.limits.connections_per_address = 2);
    let (one, _) = (world.connect(A), world.connect(A));
    let third = world.connect(A);
    assert_eq!(world.read(third), ["ERROR|too many connections from this address"]);
    assert!(world.closed.contains(&third));
    let other = world.connect("10.2.2.8");
    assert!(!world.closed.contains(&other));
    for _ in 0..5 {
        let local = world.connect("127.0.0.1");
        assert!(!world.closed.contains(&local));
    }
    world.hang_up(one);
    let again = world.connect(A);
    assert!(!world.closed.contains(&again));
}

#[test]
fn sessions_are_bounded_and_retired_ones_do_not_count() {
    let mut world = World::with(|config| config.limits.sessions = 2);
    world.register("web", "web-1", A);
    for _ in 0..5 {
        world.register("web", "web-2", A);
    }
    let conn = world.connect(A);
    assert_eq!(world.ask(conn, "REGISTER|web|web-3|0|"), "ERROR|too many sessions");
}

#[test]
fn sessions_from_one_address_are_bounded_however_they_come_and_leave_places_to_others() {
    let mut world = World::with(|config| config.limits.sessions_per_address = 3);
    let conn = world.connect(A);
    for n in 0..3 {
        world.register_on(conn, "web", &format!("web-{n}"));
    }
    let refused = "ERROR|too many sessions from this address";
    assert_eq!(world.ask(conn, "REGISTER|web|web-4|0|"), refused, "on one connection");
    let again = world.connect(A);
    assert_eq!(world.ask(again, "REGISTER|shop|shop-1|0|"), refused, "or on several");
    world.register("shop", "shop-1", "10.2.2.8");
    for n in 0..10 {
        world.register("shop", &format!("shop-{n}"), "127.0.0.1");
    }
    world.register_on(again, "web", "web-1");
    world.register_on(again, "web", "web-0");
    world.hang_up(conn);
    world.hang_up(again);
    world.after(seconds(59));
    let later = world.connect(A);
    assert_eq!(world.ask(later, "REGISTER|web|web-4|0|"), refused);
    world.after(seconds(1));
    world.register_on(later, "web", "web-4");
}

#[test]
fn a_session_that_never_applied_ends_a_minute_after_its_connection_and_not_the_grace() {
    for (grace, ends) in [(300, 60), (10, 10)] {
        let mut world = World::with(|config| config.grace = seconds(grace));
        let (conn, id) = world.register("web", "web-1", A);
        world.do_all(conn, &["ROUTE_ADD||a.de|/|http://10.2.2.7:80|0"]);
        world.hang_up(conn);
        world.after(seconds(ends - 1));
        let back = world.connect(A);
        assert_eq!(world.ask(back, &format!("RECONNECT|{id}")), "OK");
        world.hang_up(back);
        world.after(seconds(ends));
        let back = world.connect(A);
        assert_eq!(world.ask(back, &format!("RECONNECT|{id}")), "REREGISTER");
    }
}

#[test]
fn what_the_sessions_of_an_address_and_all_of_them_stage_is_bounded() {
    let long = "x".repeat(300);
    let add = format!("ROUTE_ADD||a.de|/{long}|http://10.2.2.7:80|0");
    for (of_address, of_all, other, fits) in
        [(1000, 100_000, A, false), (1000, 100_000, "10.2.2.8", true), (100_000, 1000, "10.2.2.8", false)]
    {
        let mut world = World::with(|config| {
            config.limits.staged_bytes_per_address = of_address;
            config.limits.staged_bytes_in_all = of_all;
        });
        let (one, _) = world.register("web", "web-1", A);
        world.do_all(one, &[&add, &add]);
        let (two, _) = world.register("web", "web-2", other);
        let reply = world.ask(two, &add);
        assert_eq!(reply == "ERROR|too many staged changes", !fits, "{of_address} {of_all} {other}: {reply}");
        world.do_all(one, &["CONFIG_ROLLBACK|"]);
        world.do_all(two, &[&add]);
        world.do_all(two, &["CONFIG_APPLY|"]);
        world.do_all(one, &[&add, &add]);
        world.after(seconds(1800));
        world.do_all(two, &[&add]);
        world.do_all(one, &["CLIENT_SHUTDOWN|"]);
        world.do_all(two, &["CLIENT_SHUTDOWN|"]);
        world.after(seconds(60));
        assert!(world.registry.is_empty(), "nothing is counted any more");
    }
}

#[test]
fn the_ids_that_a_session_has_replaced_are_bounded() {
    let mut world = World::with(|config| config.limits.predecessors = 2);
    let mut ids = Vec::new();
    for _ in 0..4 {
        let (conn, id) = world.register("web", "web-1", A);
        world.hang_up(conn);
        ids.push(id);
    }
    let asking = world.connect("10.2.2.8");
    let replies: Vec<String> = ids.iter().map(|id| world.ask(asking, &format!("RECONNECT|{id}"))).collect();
    assert_eq!(replies, ["REREGISTER", "ERROR|session replaced", "ERROR|session replaced", "OK"]);
}

#[test]
fn routes_domains_staged_bytes_and_metadata_are_bounded() {
    let mut world = World::with(|config| {
        config.limits.routes = 2;
        config.limits.domains = 2;
        config.limits.staged_bytes = 400;
        config.limits.metadata_bytes = 20;
    });
    let conn = world.connect(A);
    let large = format!(r#"REGISTER|web|web-1|0|{{"x":"{}"}}"#, "x".repeat(20));
    assert_eq!(world.ask(conn, &large), "ERROR|metadata too large");
    world.register_on(conn, "web", "web-1");
    let add = "ROUTE_ADD||a.de|/|http://10.2.2.7:80|0";
    assert_eq!(world.ask(conn, "ROUTE_ADD||a.de,b.de,c.de|/|http://10.2.2.7:80|0"), "ERROR|too many domains");
    world.do_all(conn, &[add, add]);
    assert_eq!(world.ask(conn, add), "ERROR|too many routes");
    let long = format!("ROUTE_UPDATE||r1|path|/{}", "x".repeat(400));
    assert_eq!(world.ask(conn, &long), "ERROR|too many staged changes");
    world.do_all(conn, &["CONFIG_APPLY|", "ROUTE_REMOVE||r1", "CONFIG_APPLY|", add]);
}

#[test]
fn commands_that_wait_are_bounded() {
    let mut world = World::with(|config| config.limits.queue = 2);
    let (conn, _) = world.register("web", "web-1", A);
    for line in ["BACKEND_TEST||http://10.2.2.7:80", "PING|", "PING|", "PING|"] {
        world.say(conn, line);
    }
    let given_up = r#"BACKEND_FAIL|{"error":"the connection ends","reachable":false}"#;
    assert_eq!(world.read(conn), [given_up, "PONG", "PONG", "ERROR|too many commands at once"]);
    assert!(world.closed.contains(&conn));
}

#[test]
fn nothing_is_left_of_sessions_that_are_over() {
    let mut world = World::new();
    for number in 0..50 {
        let from = format!("10.2.3.{number}");
        let (conn, _) = world.live("web", "web-1", &from, "a.de", &format!("http://{from}:80"));
        let (again, _) = world.live("web", "web-1", &from, "a.de", &format!("http://{from}:81"));
        world.hang_up(conn);
        world.hang_up(again);
    }
    world.after(seconds(331));
    assert_eq!(world.table.claims().count(), 0);
    assert!(world.watched.is_empty() && world.registry.next_deadline().is_none());
    assert!(world.registry.is_empty());
}

#[test]
fn without_random_bits_nobody_is_registered() {
    let mut world = World::new();
    world.registry = Registry::new(RegistryConfig::default(), Box::new(|| None));
    let conn = world.connect(A);
    assert_eq!(world.ask(conn, "REGISTER|web|web-1|0|"), "ERROR|no randomness to be had, try again");
}

/// Whatever happens in whatever order: nothing panics, probes are watched and forgotten in pairs, nothing is
/// sent after EOF (all of which the world checks), and in the end nothing is left.
#[test]
fn random_walks_leave_nothing_behind() {
    let base = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in base.map_or(0..150, |seed: u64| seed..seed + 1) {
        println!("SEED={seed}");
        walk(&mut fastrand::Rng::with_seed(seed));
    }
}

fn target(random: &mut fastrand::Rng) -> &'static str {
    ["ALL", "SERVICE", "r1", "r2", "a.de", "/", "r1,b.de"][random.usize(..7)]
}

fn event(random: &mut fastrand::Rng) -> &'static str {
    ["all", "backend_health_changed", "global_config_changed", "cert_renewed"][random.usize(..4)]
}

fn walk(random: &mut fastrand::Rng) {
    let mut world = World::with(|config| config.limits.predecessors = 3);
    let (mut open, mut ids) = (Vec::new(), vec!["nobody".to_owned()]);
    steps(&mut world, random, 300, &mut open, &mut ids);
    world.store_answers = true;
    while !world.commits.is_empty() {
        world.decides(0, true);
    }
    open.into_iter().for_each(|conn| world.hang_up(conn));
    world.after(seconds(1000));
    assert!(world.registry.is_empty() && world.watched.is_empty() && world.table.claims().count() == 0);
}

/// Lets anything happen, `count` times. `open` are the connections, `ids` those that were given to sessions.
pub(super) fn steps(
    world: &mut World,
    random: &mut fastrand::Rng,
    count: usize,
    open: &mut Vec<ConnId>,
    ids: &mut Vec<String>,
) {
    for _ in 0..count {
        let backend = format!("http://10.2.2.{}:80", random.u8(1..4));
        let domain = ["a.de", "b.de", "c.de"][random.usize(..3)];
        let id = if random.bool() { "" } else { &ids[random.usize(..ids.len())] };
        let conn = if open.is_empty() { None } else { Some(open[random.usize(..open.len())]) };
        let line = match random.u8(..22) {
            0 => format!("REGISTER|s{}|i{}|0|", random.u8(..2), random.u8(..2)),
            1 => format!("RECONNECT|{}", ids[random.usize(..ids.len())]),
            2 => format!("CLIENT_SHUTDOWN|{id}"),
            3..6 => format!("ROUTE_ADD|{id}|{domain}|/|{backend}|0"),
            6 => format!("ROUTE_REMOVE|{id}|r{}", random.u8(1..5)),
            7 => format!("ROUTE_UPDATE|{id}|r{}|backend_url|{backend}", random.u8(1..5)),
            11 => format!("MAINT_ENTER|{id}|{}|{}", target(random), ["", &backend][random.usize(..2)]),
            12 => format!("MAINT_EXIT|{id}|{}", target(random)),
            13 => format!("MAINT_STATUS|{id}"),
            9 => format!("DRAIN_START|{id}|{}s", random.u8(..3) * 20),
            10 => format!("DRAIN_{}|{id}", ["STATUS", "CANCEL"][random.usize(..2)]),
            8 => format!("HEALTH_SET|{id}|r{}|/|{}s|1s", random.u8(1..5), random.u8(..3)),
            14 => format!("SUBSCRIBE|{id}|{}", event(random)),
            15 => format!("UNSUBSCRIBE|{id}|{}", event(random)),
            _ => format!("CONFIG_APPLY|{id}"),
        };
        match (random.u8(..20), conn) {
            (0..2, _) => open.push(world.connect(&format!("10.2.2.{}", random.u8(1..4)))),
            (2, Some(conn)) => {
                world.hang_up(conn);
                open.retain(|other| *other != conn);
            }
            (3, _) => world.passes(&backend),
            (4, _) => world.fails(&backend),
            (5, _) => world.after(seconds(random.u64(..200))),
            (6, _) => world.store_answers = random.bool(),
            (7..9, _) if !world.commits.is_empty() => {
                let at = random.usize(..world.commits.len());
                world.decides(at, random.u8(..3) != 0);
            }
            (_, Some(conn)) => world.say(conn, &line),
            _ => {}
        }
        let lines = std::mem::take(&mut world.lines);
        ids.extend(lines.values().flatten().filter_map(|line| line.strip_prefix("ACK|").map(str::to_owned)));
        open.retain(|conn| !world.closed.contains(conn));
        world.check();
    }
}

impl World {
    /// What holds between any two inputs: a claim has members or is held; they are all of its service, each
    /// backend of a session once.
    pub(super) fn check(&self) {
        for claim in self.table.claims() {
            assert!(!claim.members.is_empty() || claim.hold.deadline(self.now.mono).is_some());
            assert!(claim.hold.until().is_none() || !claim.has_usable());
            let mut seen = HashSet::new();
            for (member, session, serves) in self.registry.0.membership().members(claim) {
                let session = self.registry.0.sessions().get(session).expect("members belong to somebody");
                assert_eq!(session.registration.service, claim.terms.service);
                assert!(session.members.contains(member.id));
                assert!(seen.insert((session.no, member.backend.clone())));
                assert!(serves || !member.usable);
                assert!(member.terms.extras.maintenance().is_none() || !member.usable);
                assert_eq!(member.usable, !member.load.is_closed());
            }
            assert_eq!(seen.len(), claim.members.len(), "every member is known");
        }
        for session in self.registry.0.sessions().iter() {
            let known = |id| self.registry.0.membership().place(id).is_some();
            assert!(session.members.iter().all(known), "no session has a member that is gone");
            assert!(session.state != SessionState::Retired || session.members.is_empty());
            let applied = session.applied.values().filter(|_| session.state.lives() && !session.lost_claim);
            for Applied { route, .. } in applied {
                for domain in route.spec.domains.as_slice() {
                    let claim = self.table.get(domain, &route.spec.path).expect("what is applied is claimed");
                    let mut own =
                        self.registry.0.membership().members(claim).filter(|(_, no, _)| *no == session.no);
                    assert!(own.any(|(member, ..)| member.backend == route.spec.backend));
                }
            }
        }
    }
}
