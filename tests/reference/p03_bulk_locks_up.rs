//! Point 3: ROUTE_ADD_BULK can lock up the whole server: routes are added one by one, each after the reply to the one
//! before.

use super::{bare, greet, route, start};

#[tokio::test(start_paused = true)]
async fn many_routes_are_added_one_by_one() {
    let mut intent = bare();
    for number in 0..20 {
        let domain = format!("{number:02}.example.com");
        intent = intent.with_route(domain.as_str(), route(&domain, "http://10.2.2.7:8080"));
    }
    let (_client, _events, mut registry) = start(intent);
    let mut link = registry.accept().await;
    greet(&mut link, "S1").await;
    for number in 0..20 {
        link.expect(&format!("ROUTE_ADD|S1|{number:02}.example.com|/|http://10.2.2.7:8080/|10")).await;
        link.send(&format!("ROUTE_OK|r{}", number + 1)).await;
    }
    link.expect("CONFIG_APPLY|S1").await;
}
