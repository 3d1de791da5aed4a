//! Point 5: Headers and options count only if they are staged with the route, and for all routes of the apply alike:
//! routes that differ get an apply each, and CONFIG_APPLY_PARTIAL is never sent.

use registry_client::protocol::{HealthCheck, RouteOption};

use super::{bare, greet, live, route, start};

#[tokio::test(start_paused = true)]
async fn routes_with_different_settings_get_an_apply_each() {
    let (name, value) = ("X-Frame-Options".parse().unwrap(), "DENY".parse().unwrap());
    let framed = route("a.de", "http://h:1").with_header(name, value);
    let compressed = route("b.de", "http://h:2").with_option(RouteOption::Compression(true));
    let (client, _events, mut registry) = start(bare().with_route("a", framed).with_route("b", compressed));
    let mut link = registry.accept().await;
    greet(&mut link, "S1").await;
    link.play(
        "> ROUTE_ADD|S1|a.de|/|http://h:1/|10
         < ROUTE_OK|r1
         > ROUTE_ADD|S1|b.de|/|http://h:2/|10
         < ROUTE_OK|r2
         > CONFIG_APPLY|S1
         < OK
         > ROUTE_REMOVE|S1|r1
         < ROUTE_OK|r1
         > ROUTE_REMOVE|S1|r2
         < ROUTE_OK|r2
         > CONFIG_APPLY|S1
         < OK
         > ROUTE_ADD|S1|a.de|/|http://h:1/|10
         < ROUTE_OK|r3
         > HEADERS_SET|S1|ALL|X-Frame-Options|DENY
         < HEADERS_OK
         > CONFIG_APPLY|S1
         < OK
         > ROUTE_ADD|S1|b.de|/|http://h:2/|10
         < ROUTE_OK|r4
         > OPTIONS_SET|S1|ALL|compression|true
         < OPTIONS_OK
         > CONFIG_APPLY|S1
         < OK",
    )
    .await;
    client.wait_settled(crate::PATIENCE).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn another_option_for_a_backend_that_it_knows_would_have_no_effect_and_is_not_sent() {
    let (client, _events, _registry, mut link) = live().await;
    let compressed = route("example.com", "http://10.2.2.7:8080").with_option(RouteOption::Compression(true));
    client.update_route("main", compressed).unwrap();
    client.wait_settled(crate::PATIENCE).await.unwrap();
    link.expect("PING|S1").await;
}

#[tokio::test(start_paused = true)]
async fn another_check_comes_with_its_route_added_anew() {
    let (client, _events, _registry, mut link) = live().await;
    let check = HealthCheck {
        path: "/up".parse().unwrap(),
        interval: "30s".parse().unwrap(),
        timeout: "5s".parse().unwrap(),
    };
    client.update_route("main", route("example.com", "http://10.2.2.7:8080").with_health(check)).unwrap();
    link.play(
        "> ROUTE_REMOVE|S1|r2
         < ROUTE_OK|r2
         > CONFIG_APPLY|S1
         < OK
         > ROUTE_ADD|S1|example.com|/|http://10.2.2.7:8080/|10
         < ROUTE_OK|r3
         > HEALTH_SET|S1|r3|/up|30s|5s
         < HEALTH_OK
         > CONFIG_APPLY|S1
         < OK",
    )
    .await;
    client.wait_settled(crate::PATIENCE).await.unwrap();
}
