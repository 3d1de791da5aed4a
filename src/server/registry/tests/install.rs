//! The third step of an apply.

use super::*;

#[test]
fn members_that_stay_survive_and_a_backend_that_is_exchanged_leaves_no_gap() {
    let mut world = World::new();
    let (conn, _) = world.live("shop", "one", "10.0.0.1", "shop.test", "http://10.0.0.1:80");
    let member = |world: &World| {
        let claim = world.table.get(&"shop.test".parse().unwrap(), &"/".parse().unwrap()).unwrap();
        claim.members.iter().map(|member| member.id).collect::<Vec<_>>()
    };
    let before = member(&world);
    world.do_all(conn, &["ROUTE_REMOVE||r1", "ROUTE_ADD||shop.test|/|http://10.0.0.1:80|0", "CONFIG_APPLY|"]);
    assert_eq!(member(&world), before, "its route has a new id, and it is the same member");

    world.do_all(conn, &["ROUTE_UPDATE||r2|backend_url|http://10.0.0.1:81", "CONFIG_APPLY|"]);
    assert_ne!(member(&world), before);
    assert_eq!(world.serving("shop.test"), ["10.0.0.1:81"], "it serves before it has answered");
}
