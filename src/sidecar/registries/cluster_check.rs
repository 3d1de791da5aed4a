//! Warns where a name stands for several registries that do not share their state: requests that reach the others
//! get 404 (SEMANTICS section 10, "Several registries behind one name").

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, warn};

use registry_client::protocol::{Reply, Request, SessionId};
use registry_client::{Endpoint, Phase, Resolver, Status};

use super::side_connection::ask;

/// How long each of the other addresses may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The most addresses that are asked.
const MAX_ASKED: usize = 16;

/// Each time the session is live at another address, asks the other addresses of `name` whether they know it, and
/// warns of those that do not. The same warning is not repeated. Returns when the session has ended.
pub(super) async fn warn_if_split(
    mut status: watch::Receiver<Status>,
    name: Endpoint,
    resolver: impl Resolver,
) {
    let (mut last, mut warned) = (None, BTreeSet::new());
    loop {
        let settled = status
            .wait_for(|status| status.bound && status.phase == Phase::Live && status.registry.peer != last);
        let (peer, session) = match settled.await {
            Ok(status) => (status.registry.peer, status.session.clone()),
            Err(_) => return,
        };
        last = peer;
        let (Some(own), Some(session)) = (peer, session) else { continue };
        let Ok(addresses) = resolver.resolve(&name).await else { continue };
        let unrelated = unrelated(own, &addresses, &session).await;
        let involved = unrelated.iter().copied().chain([own.ip()]).collect();
        if !unrelated.is_empty() && warned != involved {
            warn(&name.host, own.ip(), &unrelated);
            warned = involved;
        }
    }
}

/// The addresses whose registries do not know the session.
///
/// A registry accepts the id of a session that it knows on any connection (PROTOCOL section 2), so exactly the
/// registries that share the state answer with the session. Addresses that do not answer are left out.
async fn unrelated(own: SocketAddr, addresses: &[SocketAddr], session: &SessionId) -> Vec<IpAddr> {
    let others = addresses.iter().filter(|address| address.ip() != own.ip()).take(MAX_ASKED);
    let mut unrelated = Vec::new();
    for other in others {
        match ask(*other, session, Request::SessionInfo, ANSWER_TIMEOUT).await {
            Some(Reply::Error(_)) if !unrelated.contains(&other.ip()) => unrelated.push(other.ip()),
            Some(Reply::Error(_) | Reply::SessionInfo(_)) => {}
            _ => debug!("{other}: no answer whether it shares its state with {own}"),
        }
    }
    unrelated
}

fn warn(host: &str, own: IpAddr, unrelated: &[IpAddr]) {
    let unrelated: Vec<String> = unrelated.iter().map(ToString::to_string).collect();
    warn!(
        "the name {host:?} stands for several registries: what is registered at {own} is unknown at {}, where \
         requests for it get 404; set SIDECAR_REGISTRY_EACH_ADDRESS=true to register with each",
        unrelated.join(", ")
    );
}
