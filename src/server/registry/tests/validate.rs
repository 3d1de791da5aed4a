//! The first step of an apply.

use super::*;

#[test]
fn a_change_that_may_not_be_made_is_refused_before_the_store_hears_of_it() {
    let mut world = World::new();
    world.live("shop", "one", "10.0.0.1", "shop.test", "http://10.0.0.1:80");
    let (thief, _) = world.register("thief", "two", "10.0.0.2");
    world.do_all(
        thief,
        &["ROUTE_ADD||free.test|/|http://10.0.0.2:80|0", "ROUTE_ADD||shop.test|/|http://10.0.0.2:80|0"],
    );
    let staged = world.ask(thief, "CONFIG_DIFF|");
    world.store_answers = false;
    for command in ["CONFIG_VALIDATE|", "CONFIG_APPLY|"] {
        assert_eq!(
            world.ask(thief, command),
            "ERROR|route r2: shop.test/ belongs to service shop",
            "{command}"
        );
    }
    assert!(world.commits.is_empty());
    assert_eq!(world.ask(thief, "CONFIG_DIFF|"), staged, "the stage is as it was");
    assert_eq!(world.pool("free.test"), [""; 0], "not even the part that may be is in force");
}
