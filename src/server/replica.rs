//! Makes this server a replica: opens the etcd that it shares with others, and says who it is.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, watch};
use tracing::warn;

use super::cluster::{Leader, News, Replica, ReplicaSettings, StatusReader, StoreEnds, StoreView};
use super::config::{ClusterConfig, Config};
use super::store::Store;
use super::store::etcd::{self, Cluster, Feed, LeaderInfo, Presence, RELAY, SETTINGS, Settings};

/// How much of what the store says may wait.
const NEWS: usize = 16;
/// How often a server says that it is alive, at most.
const ALIVE: Duration = Duration::from_secs(30);

/// A server that shares its state.
pub(super) struct Joined {
    pub(super) store: Box<dyn Store>,
    pub(super) replica: Replica,
    pub(super) status: StatusReader,
}

/// Opens the shared store. etcd need not be there yet. The other servers connect at `listener`, whose address is `local`.
pub(super) async fn join(
    cluster: &ClusterConfig,
    config: &Config,
    boot_id: &str,
    (listener, local): (TcpListener, SocketAddr),
    allow: &[ipnet::IpNet],
) -> Result<Joined, registry_nodes::ConfigError> {
    let name = name(&cluster.host_name);
    let relay = match &cluster.advertise {
        Some(address) => address.clone(),
        None => advertised(local, &cluster.etcd.endpoints).await,
    };
    let presence = Presence::from([
        (RELAY.to_owned(), relay),
        (SETTINGS.to_owned(), settings_digest(config)),
        ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
    ]);
    let settings = Settings {
        etcd: cluster.etcd.clone(),
        replica: name.clone(),
        ttl: cluster.ttl,
        boot_id: boot_id.to_owned(),
        alive: ALIVE.min(config.session_grace.get() / 4),
        presence,
        copy: config.state_file.as_ref().map(|file| file.path.clone()),
    };
    let (store, cluster_store, feed) = etcd::start(settings)?;
    let replica = ReplicaSettings {
        name,
        secret: cluster.secret.clone(),
        previous_secret: cluster.previous_secret.clone(),
        ttl: cluster.ttl,
        allow: allow.to_vec(),
    };
    let (replica, status) = Replica::new(replica, listener, ends(cluster_store, feed));
    Ok(Joined { store: Box::new(store), replica, status })
}

/// What the replica hears from the store.
fn ends(cluster: Cluster, mut feed: mpsc::Receiver<Feed>) -> StoreEnds {
    let (tell, news) = mpsc::channel(NEWS);
    tokio::spawn(async move {
        while let Some(said) = feed.recv().await {
            if let Some(said) = news_of(said)
                && tell.send(said).await.is_err()
            {
                return;
            }
        }
    });
    let (show, view) = watch::channel(StoreView::default());
    let mut status = cluster.watch_status();
    tokio::spawn(async move {
        while status.changed().await.is_ok() {
            let view = view_of(&status.borrow_and_update());
            show.send_if_modified(|shown| std::mem::replace(shown, view.clone()) != view);
        }
    });
    StoreEnds { news, view, proof: Arc::new(move || cluster.may_answer()) }
}

/// What the replica is told. How the store is, is in its status.
fn news_of(said: Feed) -> Option<News> {
    Some(match said {
        Feed::Loaded(revision, saved) => News::Loaded(revision, saved),
        Feed::Changed(revision, changes) => News::Changed(revision, changes),
        Feed::Lead(term) => News::Lead(term),
        Feed::Follow(leader) => News::Follow(leader.and_then(leader_of)),
        Feed::Unreachable(_) | Feed::Back => return None,
    })
}

fn leader_of(leader: LeaderInfo) -> Option<Leader> {
    let LeaderInfo { replica, relay, term } = leader;
    if relay.is_none() {
        warn!(leader = replica, "the leader does not say where it takes connections");
    }
    Some(Leader { name: replica, address: relay?, term })
}

fn view_of(status: &etcd::Status) -> StoreView {
    let unreadable = status.unreadable.iter().next();
    let trouble = status.trouble.as_ref().map(ToString::to_string);
    StoreView {
        revision: status.revision,
        trouble: trouble.or_else(|| unreadable.map(|(key, why)| format!("{key} cannot be read: {why}"))),
        replicas: status.replicas.keys().cloned().collect(),
    }
}

/// A name that no other replica has, and that people recognise.
fn name(host_name: &str) -> String {
    let host_name = if host_name.is_empty() { "server" } else { host_name };
    format!("{host_name}-{:08x}", fastrand::u32(..))
}

/// Where the other servers reach this one: at the address from which it reaches etcd.
async fn advertised(local: SocketAddr, endpoints: &[String]) -> String {
    if !local.ip().is_unspecified() {
        return local.to_string();
    }
    for endpoint in endpoints {
        let authority = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, rest)| rest);
        if let Ok(ip) = address_towards(authority.trim_end_matches('/')).await {
            return SocketAddr::new(ip, local.port()).to_string();
        }
    }
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let ip = interfaces.iter().find(|interface| !interface.is_loopback()).map(if_addrs::Interface::ip);
    let ip = ip.unwrap_or_else(|| local.ip());
    warn!(%ip, "etcd's address is not known: the other servers are told to connect to us here (CLUSTER_ADVERTISE)");
    SocketAddr::new(ip, local.port()).to_string()
}

/// The address that the system would send from. Nothing is sent.
async fn address_towards(authority: &str) -> std::io::Result<std::net::IpAddr> {
    let mut last = Err(std::io::ErrorKind::NotFound.into());
    for target in tokio::net::lookup_host(authority).await? {
        let any: SocketAddr = if target.is_ipv4() {
            (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
        } else {
            (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
        };
        let socket = UdpSocket::bind(any).await?;
        last = match socket.connect(target).await {
            Ok(()) => return socket.local_addr().map(|local| local.ip()),
            Err(error) => Err(error),
        };
    }
    last
}

/// A digest of the settings in which servers of one registry must not differ. It tells nothing of the token.
fn settings_digest(config: &Config) -> String {
    let token = config.registry_token.as_ref().map(|token| Sha256::digest(token.reveal()).to_vec());
    let policy = config.registry_policy.as_ref().map(|file| &file.policy);
    let text = format!("{token:?} {policy:?} {:?} {:?}", config.session_grace, config.hold);
    let digest = Sha256::digest(text);
    digest.iter().take(8).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_others_are_told_the_address_from_which_etcd_is_reached() {
        let anywhere: SocketAddr = "0.0.0.0:82".parse().unwrap();
        let endpoints = ["http://127.0.0.1:2379".to_owned()];
        assert_eq!(advertised(anywhere, &endpoints).await, "127.0.0.1:82");
        let here: SocketAddr = "10.2.2.5:82".parse().unwrap();
        assert_eq!(advertised(here, &endpoints).await, "10.2.2.5:82");
        let unknown = ["no-such-host.invalid:2379".to_owned(), "https://[::1]:2379/".to_owned()];
        assert_eq!(advertised(anywhere, &unknown).await, "[::1]:82");
    }

    #[test]
    fn two_servers_on_one_host_have_two_names() {
        assert_ne!(name("proxy"), name("proxy"));
        assert!(name("").starts_with("server-"));
    }
}
