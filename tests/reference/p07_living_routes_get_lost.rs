//! Point 7: When the grace of a former session ends, the living route may be lost while ROUTE_LIST still shows it: it
//! is asked about again and again, and a ROUTE_UPDATE that changes nothing repairs it.

use super::live;

#[tokio::test(start_paused = true)]
async fn a_lost_route_is_noticed_at_the_keepalive_and_repaired() {
    let (client, _events, _registry, mut link) = live().await;
    link.play(
        "> PING|S1
         < PONG
         > CIRCUIT_BREAKER_STATUS|S1|r2
         < ERROR|backend status unavailable
         > ROUTE_UPDATE|S1|r2|priority|10
         > CONFIG_APPLY|S1
         < ROUTE_OK|r2
         < OK
         > PING|S1
         < PONG
         > CIRCUIT_BREAKER_STATUS|S1|r2
         < ERROR|circuit breaker not found
         > PING|S1",
    )
    .await;
    assert!(client.status().live);
}
