//! Point 8: Maintenance sticks to the backend, and `MAINT_EXIT|ALL` may do nothing: it is left by id.

use registry_sidecar::client::MaintenanceTarget;

use super::{live, until};

#[tokio::test(start_paused = true)]
async fn maintenance_of_everything_is_entered_and_left_by_id() {
    let (client, mut events, _registry, mut link) = live().await;
    client.maintenance_enter(MaintenanceTarget::All, None).await.unwrap();
    link.play("> MAINT_ENTER|S1|r2|\n< ACK\n< MAINT_OK|r2").await;
    until(&mut events, "MAINT_PROXY_ENTERED").await;
    client.maintenance_exit(MaintenanceTarget::All).await.unwrap();
    link.play("> MAINT_EXIT|S1|r2\n< ACK\n< MAINT_OK|r2").await;
    until(&mut events, "MAINT_PROXY_EXITED").await;
}
