//! Point 2: MAINT_OK may come after the replies to later commands, or for another service's sake a minute late;
//! MAINT_ENTER needs its fourth field, even an empty one; paths, domains and routes that are only staged would get a
//! positive verdict without effect.

use registry_client::{MaintenanceAction, MaintenanceRequest, MaintenanceTarget, Visibility};

use super::{clear_and_add, greet, intent, live, start, until};

#[tokio::test(start_paused = true)]
async fn a_verdict_after_later_replies_is_still_that_of_the_request() {
    let (client, mut events, _registry, mut link) = live().await;
    let page = "http://10.2.2.7:3001".parse().unwrap();
    client.maintenance_enter(MaintenanceTarget::Path("/".parse().unwrap()), Some(page)).unwrap();
    link.play("> MAINT_ENTER|S1|r2|http://10.2.2.7:3001/\n< ACK").await;
    until(&mut events, "MAINT_LOCAL_ENTERED").await;
    link.play(
        "> PING|S1
         < PONG
         > CIRCUIT_BREAKER_STATUS|S1|r2
         < ERROR|circuit breaker not found
         < MAINT_OK|r2",
    )
    .await;
    until(&mut events, "MAINT_PROXY_ENTERED").await;
    assert_eq!(client.status().shown, Visibility::Maintenance);
}

#[tokio::test(start_paused = true)]
async fn a_verdict_that_others_starve_is_waited_for_beyond_the_local_one() {
    let (client, mut events, _registry, mut link) = live().await;
    client.maintenance_enter(MaintenanceTarget::All, None).unwrap();
    link.play("> MAINT_ENTER|S1|r2|\n< ACK").await;
    until(&mut events, "MAINT_LOCAL_ENTERED").await;
    for _ in 0..2 {
        link.play("> PING|S1\n< PONG\n> CIRCUIT_BREAKER_STATUS|S1|r2\n< ERROR|circuit breaker not found")
            .await;
    }
    link.send("MAINT_OK|r2").await;
    until(&mut events, "MAINT_PROXY_ENTERED").await;
}

#[tokio::test(start_paused = true)]
async fn a_page_that_it_cannot_reach_is_not_asked_about_again_for_the_sake_of_the_others() {
    let (client, mut events, _registry, mut link) = live().await;
    client.maintenance_enter(MaintenanceTarget::All, Some("http://10.2.2.7:3001".parse().unwrap())).unwrap();
    link.play(
        "> MAINT_ENTER|S1|r2|http://10.2.2.7:3001/
         < ACK
         < ERROR|timeout waiting for maintenance page to become reachable",
    )
    .await;
    assert!(until(&mut events, "ERROR").await.to_string().contains("did not enter maintenance"));
    for _ in 0..5 {
        link.play("> PING|S1\n< PONG\n> CIRCUIT_BREAKER_STATUS|S1|r2\n< ERROR|circuit breaker not found")
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_route_that_is_to_be_born_in_maintenance_enters_it_once_it_is_in_force() {
    let everything =
        MaintenanceRequest { target: MaintenanceTarget::All, action: MaintenanceAction::Enter(None) };
    let mut intent = intent();
    intent.maintenance.push(everything);
    let (_client, mut events, mut registry) = start(intent);
    let mut link = registry.accept().await;
    greet(&mut link, "S1").await;
    clear_and_add(&mut link, "S1").await;
    link.play("> MAINT_ENTER|S1|r2|\n< ACK\n< MAINT_OK|r2").await;
    until(&mut events, "MAINT_PROXY_ENTERED").await;
}

#[tokio::test(start_paused = true)]
async fn without_a_page_the_fourth_field_is_empty_and_there() {
    let (client, _events, _registry, mut link) = live().await;
    client.maintenance_enter(MaintenanceTarget::All, None).unwrap();
    link.play("> MAINT_ENTER|S1|r2|\n< ACK").await;
}
