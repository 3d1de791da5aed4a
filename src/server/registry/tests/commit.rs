//! The second step of an apply.

use super::*;

#[test]
fn until_the_store_holds_a_change_nothing_of_it_is_in_force() {
    let mut world = World::new();
    let (conn, _) = world.register("shop", "one", "10.0.0.1");
    world.do_all(conn, &["ROUTE_ADD||shop.test|/|http://10.0.0.1:80|0"]);
    let staged = world.ask(conn, "CONFIG_DIFF|");
    world.store_answers = false;
    for holds in [false, true] {
        world.say(conn, "CONFIG_APPLY|");
        assert!(matches!(
            &*world.commits,
            [(_, StoreChange::Applied { session, delta, .. })] if session.revision == 1 && delta.routes.len() == 1
        ));
        assert_eq!(world.pool("shop.test"), [""; 0]);
        world.decides(0, holds);
        if holds {
            assert_eq!(world.read(conn), ["OK"]);
            assert_eq!(world.serving("shop.test"), ["10.0.0.1:80"]);
        } else {
            assert_eq!(world.read(conn), ["ERROR|store unavailable"]);
            assert_eq!(world.ask(conn, "CONFIG_DIFF|"), staged, "the stage is as it was");
            assert_eq!(world.pool("shop.test"), [""; 0]);
        }
    }
}
