//! Follows this host's address: routes that lead to it lead to the new one when it has changed.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::handle::WeakClient;
use super::status::{Phase, Status};

/// How often the kernel is asked for the address while the connection does not change.
const LOOK: Duration = Duration::from_secs(5);

/// Runs until the client has stopped or its last handle is gone. `own_address` returns the address of this host that
/// leads to a peer.
pub(super) async fn follow_own_address(
    client: WeakClient,
    mut status: watch::Receiver<Status>,
    own_address: impl Fn(SocketAddr) -> Option<IpAddr>,
) {
    let mut known = None;
    loop {
        let (bound, peer) = {
            let status = status.borrow_and_update();
            (status.bound, status.last_peer)
        };
        if let Some(new) = peer.and_then(&own_address)
            && let Some(old) = known.replace(new)
            && old != new
        {
            let Some(client) = client.upgrade() else { return };
            tracing::info!(%old, %new, "the address of this host has changed");
            if client.change_address(old, new).is_err() {
                return;
            }
        }
        let changed = status.wait_for(|status| {
            status.bound != bound || status.last_peer != peer || status.phase == Phase::Stopped
        });
        match timeout(LOOK, changed).await {
            Ok(Ok(status)) if status.phase == Phase::Stopped => return,
            Ok(Err(_)) => return,
            Ok(Ok(_)) | Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use crate::protocol::{Domains, PathPrefix};
    use crate::testing::FakeRegistry;
    use crate::{Client, ClientConfig, Endpoint, Event, Intent, Route};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_route_that_leads_to_this_host_follows_its_address() {
        let registry = FakeRegistry::new();
        let own = Arc::new(Mutex::new(IpAddr::from([10, 2, 2, 7])));
        let domains = Domains::new(["a.example".parse().unwrap()]).unwrap();
        let route = Route::new(domains, PathPrefix::root(), "http://10.2.2.7:8080".parse().unwrap());
        let intent = Intent::new("web".parse().unwrap(), "web-1".parse().unwrap()).with_route("main", route);
        let config = ClientConfig::new(Endpoint::new("proxy", 81));
        let (client, mut events) = Client::start_with(registry.connector(), config, intent);
        let address = own.clone();
        let following =
            follow_own_address(client.downgrade(), client.watch(), move |_| Some(*address.lock().unwrap()));
        let following = tokio::spawn(following);
        client.wait_settled(LOOK).await.unwrap();

        *own.lock().unwrap() = [10, 2, 2, 9].into();
        registry
            .wait_for_routes(LOOK * 2, |routes| {
                routes.len() == 1 && routes[0].route.backend.to_string() == "http://10.2.2.9:8080/"
            })
            .await;
        while !matches!(events.next().await, Some(Event::IpChanged { .. })) {}
        client.shutdown().await;
        following.await.unwrap();
    }
}
