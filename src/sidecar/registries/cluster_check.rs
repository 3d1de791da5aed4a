//! Whether a name stands for several registries that know nothing of each other: then requests that come to the
//! others are answered with 404 (SEMANTICS section 10, "Several registries behind one name").

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::codec::FramedRead;
use tracing::{debug, warn};

use crate::client::{Endpoint, Phase, Resolver, Status};
use crate::protocol::{
    Command, Line, LineCodec, MAX_CLIENT_LINE, Reply, Request, ServerLine, SessionId, SessionRef,
};

/// How long one of the others may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// How many of them are asked.
const MAX_ASKED: usize = 16;

/// Warns where addresses of `name` beside the session's own belong to registries that do not know it, as long as
/// the session lives. What was said is not said again.
pub(super) async fn warn_if_split(
    mut status: watch::Receiver<Status>,
    name: Endpoint,
    resolver: impl Resolver,
) {
    let (mut last, mut told) = (None, BTreeSet::new());
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
        let strangers = strangers(own, &addresses, &session).await;
        let concerned = strangers.iter().copied().chain([own.ip()]).collect();
        if !strangers.is_empty() && told != concerned {
            warn(&name.host, own.ip(), &strangers);
            told = concerned;
        }
    }
}

/// Whose registries do not know the session.
///
/// A registry accepts the id of a session that it knows from any connection (PROTOCOL section 2), so whoever
/// shares the state answers with it, and nobody else can. Those that do not answer are not judged.
async fn strangers(own: SocketAddr, addresses: &[SocketAddr], session: &SessionId) -> Vec<IpAddr> {
    let others = addresses.iter().filter(|address| address.ip() != own.ip()).take(MAX_ASKED);
    let mut strangers = Vec::new();
    for other in others {
        match timeout(ANSWER, knows(*other, session)).await {
            Ok(Some(false)) if !strangers.contains(&other.ip()) => strangers.push(other.ip()),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => debug!("{other}: no answer whether it shares its state with {own}"),
        }
    }
    strangers
}

fn warn(host: &str, own: IpAddr, strangers: &[IpAddr]) {
    let strangers: Vec<String> = strangers.iter().map(ToString::to_string).collect();
    warn!(
        "the name {host:?} stands for several registries: what is registered at {own} is unknown at {}, where \
         requests for it get 404; set SIDECAR_REGISTRY_EACH_ADDRESS=true to register with each",
        strangers.join(", ")
    );
}

/// `None`: what answers there is no registry.
async fn knows(address: SocketAddr, session: &SessionId) -> Option<bool> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let question = Command::Request(SessionRef::Id(session.clone()), Request::SessionInfo);
    stream.write_all(format!("{}\n", question.encode()).as_bytes()).await.ok()?;
    let mut lines = FramedRead::new(&mut stream, LineCodec::new(MAX_CLIENT_LINE));
    let Some(Ok(Line::Text(line))) = lines.next().await else { return None };
    match ServerLine::parse(&line).ok()? {
        ServerLine::Reply(Reply::SessionInfo(_)) => Some(true),
        ServerLine::Reply(Reply::Error(_)) => Some(false),
        _ => None,
    }
}
