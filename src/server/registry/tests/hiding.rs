//! SEMANTICS section 2: a path that a shorter one of its own service hides is warned about at the apply.

use super::*;

const A: &str = "10.2.2.7";

/// What was said since the last call: each hidden path with what hides it, and how many.
fn said(world: &mut World) -> Vec<(String, String, usize)> {
    let hidden = |event: LogEvent| match event {
        LogEvent::Hidden { domain, path, by, count, .. } => {
            Some((format!("{domain}{path}"), by.to_string(), count))
        }
        _ => None,
    };
    std::mem::take(&mut world.log).into_iter().filter_map(hidden).collect()
}

fn add(world: &mut World, conn: ConnId, routes: &[(&str, &str, i32)]) -> Vec<(String, String, usize)> {
    for (domain, path, priority) in routes {
        let added = world.ask(conn, &format!("ROUTE_ADD||{domain}|{path}|http://10.2.2.7:80|{priority}"));
        assert!(added.starts_with("ROUTE_OK|"), "{added}");
    }
    assert_eq!(world.ask(conn, "CONFIG_APPLY|"), "OK");
    said(world)
}

fn is(path: &str, by: &str, count: usize) -> Vec<(String, String, usize)> {
    vec![(path.to_owned(), by.to_owned(), count)]
}

#[test]
fn it_is_said_whichever_of_the_two_comes_last() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    assert_eq!(
        add(&mut world, conn, &[("a.de", "/", 5), ("a.de", "/api", 5)]),
        [],
        "the longer one goes first"
    );
    assert_eq!(add(&mut world, conn, &[("a.de", "/x/y", 4)]), is("a.de/x/y", "/", 1));
    assert_eq!(
        add(&mut world, conn, &[("b.de", "/api/v1", 0), ("b.de", "/api/v2", 0), ("b.de", "/apix", 0)]),
        []
    );
    assert_eq!(add(&mut world, conn, &[("b.de", "/api", 1)]), is("b.de/api/v1", "/api", 2));
    let both = [("c.de", "/", 1), ("c.de", "/x", 0)];
    assert_eq!(add(&mut world, conn, &both), is("c.de/x", "/", 1), "once for both of one apply");
}

#[test]
fn it_is_said_of_the_same_service_and_host_and_of_what_changes() {
    let mut world = World::new();
    let (conn, _) = world.register("web", "web-1", A);
    let (other, _) = world.register("shop", "shop-1", A);
    assert_eq!(add(&mut world, conn, &[("a.de", "/", 9)]), []);
    assert_eq!(add(&mut world, other, &[("a.de", "/x", 0)]), [], "a service may be in another's way");
    assert_eq!(add(&mut world, conn, &[("*.a.de", "/", 99), ("w.a.de", "/", 0)]), []);
    assert_eq!(add(&mut world, conn, &[("a.de", "/y", 0)]), is("a.de/y", "/", 1));
    assert_eq!(add(&mut world, conn, &[("b.de", "/", 0)]), [], "and not again with each later apply");
    assert_eq!(world.ask(conn, "ROUTE_UPDATE||r1|priority|10"), "ROUTE_OK");
    assert_eq!(add(&mut world, conn, &[]), is("a.de/y", "/", 1), "but when it changes");
}
