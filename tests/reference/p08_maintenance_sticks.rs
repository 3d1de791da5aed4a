//! Point 8: Maintenance sticks to the backend, across sessions, and `MAINT_EXIT|ALL` may do nothing: it is left by id,
//! also where a former session has entered it.

use std::time::Duration;

use registry_client::{MaintenanceTarget, Visibility};
use tokio::time::timeout;

use super::{clear_and_add, greet, live, until};

#[tokio::test(start_paused = true)]
async fn maintenance_of_everything_is_entered_and_left_by_id() {
    let (client, mut events, _registry, mut link) = live().await;
    client.maintenance_enter(MaintenanceTarget::All, None).unwrap();
    link.play("> MAINT_ENTER|S1|r2|\n< ACK\n< MAINT_OK|r2").await;
    until(&mut events, "MAINT_PROXY_ENTERED").await;
    client.maintenance_exit(MaintenanceTarget::All).unwrap();
    link.play("> MAINT_EXIT|S1|r2\n< ACK\n< MAINT_OK|r2").await;
    until(&mut events, "MAINT_PROXY_EXITED").await;
}

#[tokio::test(start_paused = true)]
async fn what_a_former_session_entered_is_left_in_the_next_one() {
    let (client, mut events, mut registry, mut link) = live().await;
    client.maintenance_enter(MaintenanceTarget::All, None).unwrap();
    link.play("> MAINT_ENTER|S1|r2|\n< ACK\n< MAINT_OK|r2").await;
    until(&mut events, "MAINT_PROXY_ENTERED").await;
    drop(link);
    until(&mut events, "DISCONNECTED").await;
    client.maintenance_exit(MaintenanceTarget::All).unwrap();

    let mut link = registry.accept().await;
    link.play("> RECONNECT|S1\n< ERROR|no session").await;
    greet(&mut link, "S2").await;
    clear_and_add(&mut link, "S2").await;
    link.expect("MAINT_EXIT|S2|r2").await;
    link.send("ACK").await;
    while let Ok(event) = timeout(Duration::from_millis(1), events.next()).await {
        assert_ne!(event.unwrap().name(), "MAINT_PROXY_EXITED", "the proxy has not said so");
    }
    assert_eq!(client.status().shown, Visibility::Maintenance, "until the proxy says that it is over");
    link.send("MAINT_OK|r2").await;
    until(&mut events, "MAINT_PROXY_EXITED").await;
    assert_eq!(client.status().shown, Visibility::Live);
}

#[tokio::test(start_paused = true)]
async fn what_is_found_in_maintenance_at_a_keepalive_and_not_wanted_is_left() {
    let (_client, _events, _registry, mut link) = live().await;
    link.play(
        r#"> PING|S1
           < PONG
           > CIRCUIT_BREAKER_STATUS|S1|r2
           < CIRCUIT_STATUS_OK|{"state":"closed","failures":0,"successes":0,"healthy":true,"in_maintenance":true}
           > MAINT_EXIT|S1|r2
           < ACK
           < MAINT_OK|r2
           > PING|S1"#,
    )
    .await;
}
