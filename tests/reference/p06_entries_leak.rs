//! Point 6: After a lost connection the old entry leaks and takes everything below the exact path. What clears it is
//! add, apply, remove, apply, add, apply; a change of address removes before it adds.

use super::{live, until};

#[tokio::test(start_paused = true)]
async fn the_leaked_entries_are_cleared_silently_before_the_route_counts() {
    // `live` plays the sequence.
    let (client, mut events, _registry, _link) = live().await;
    let mut names = Vec::new();
    while names.last() != Some(&"CONFIG_APPLIED") {
        names.push(events.next().await.unwrap().name());
    }
    assert_eq!(names, ["CONNECTED", "ROUTE_ADDED", "CONFIG_APPLIED"]);
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn another_address_is_told_as_removal_and_addition_with_an_apply_each() {
    let (client, mut events, _registry, mut link) = live().await;
    client.change_address([10, 2, 2, 7].into(), [10, 2, 2, 9].into()).unwrap();
    link.play(
        "> ROUTE_REMOVE|S1|r2
         < ROUTE_OK|r2
         > CONFIG_APPLY|S1
         < OK
         > ROUTE_ADD|S1|example.com|/|http://10.2.2.9:8080/|10
         < ROUTE_OK|r3
         > CONFIG_APPLY|S1
         < OK",
    )
    .await;
    let changed = until(&mut events, "IP_CHANGED").await;
    assert_eq!(
        (&changed.data()["old_ip"], &changed.data()["new_ip"]),
        (&"10.2.2.7".into(), &"10.2.2.9".into())
    );
    client.wait_settled(crate::PATIENCE).await.unwrap();
}
