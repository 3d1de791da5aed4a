//! PROTOCOL section 3: BACKEND_TEST, and how often.

use super::*;

#[test]
fn a_session_and_an_address_begin_only_so_many_tests_within_a_second() {
    let mut world = World::new();
    let line = "BACKEND_TEST||http://10.2.2.9:80";
    let refused = "ERROR|too many backend tests";
    let conns: Vec<ConnId> =
        (0..5).map(|n| world.register("web", &format!("web-{n}"), "10.2.2.7").0).collect();
    for conn in &conns[..4] {
        for _ in 0..5 {
            world.say(*conn, line);
            let test = world.tests.pop().unwrap();
            world.input(Input::Tested(test, Err("no".to_owned())));
            assert!(world.read(*conn)[0].starts_with("BACKEND_FAIL|"));
        }
        assert_eq!(world.ask(*conn, line), refused, "of a session");
    }
    assert_eq!(world.ask(conns[4], line), refused, "of an address");
    let (other, _) = world.register("shop", "shop-1", "10.2.2.8");
    world.say(other, line);
    assert_eq!(world.tests.len(), 1, "others test on");
    world.after(seconds(1));
    world.say(conns[0], line);
    assert_eq!(world.tests.len(), 2);
}
