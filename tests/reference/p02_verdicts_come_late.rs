//! Point 2: MAINT_OK may come after the replies to later commands; MAINT_ENTER needs its fourth field, even an empty
//! one; paths and domains would get a positive verdict without effect.

use registry_sidecar::client::{MaintenanceTarget, Wanted};

use super::{live, until};

#[tokio::test(start_paused = true)]
async fn a_verdict_after_later_replies_is_still_that_of_the_request() {
    let (client, mut events, _registry, mut link) = live().await;
    let page = "http://10.2.2.7:3001".parse().unwrap();
    client.maintenance_enter(MaintenanceTarget::Path("/".parse().unwrap()), Some(page)).await.unwrap();
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
    assert_eq!(client.status().shown, Wanted::Maintenance);
}

#[tokio::test(start_paused = true)]
async fn without_a_page_the_fourth_field_is_empty_and_there() {
    let (client, _events, _registry, mut link) = live().await;
    client.maintenance_enter(MaintenanceTarget::All, None).await.unwrap();
    link.play("> MAINT_ENTER|S1|r2|\n< ACK").await;
}
