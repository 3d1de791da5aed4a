//! The sockets on which the command itself is reached, for the stop: requests that come by them end first
//! (SEMANTICS section 10, "Stop"). For a command without routes, such as php-fpm behind a web server of another container,
//! nobody else waits for them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::info;

use crate::sidecar::config::{Config, Endpoint, ReadyCheck};
use crate::sidecar::registries::no_requests_at;
use registry_client::protocol::Host;

/// Where the kernel lists the unix sockets of this network namespace.
const TABLE: &str = "/proc/net/unix";
/// The state of a connected socket in that list.
const CONNECTED: &str = "03";
/// The pause between two counts.
const POLL: Duration = Duration::from_millis(50);

/// The command's own sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct OwnSockets {
    ports: Vec<u16>,
    paths: Vec<PathBuf>,
}

impl OwnSockets {
    /// DRAIN_PORTS, or for a command without routes those of READY_CHECK that are in this network namespace, which has
    /// the addresses `own`.
    pub(super) fn of(config: &Config, own: &[IpAddr]) -> OwnSockets {
        let given = config.command.as_ref().map_or(&[][..], |command| &command.drain_ports);
        if !given.is_empty() {
            return OwnSockets { ports: given.to_vec(), paths: Vec::new() };
        }
        let (mut ports, mut paths) = (BTreeSet::new(), Vec::new());
        let is_asked = config.registration.is_none() && config.readiness.whole;
        for check in config.readiness.checks.iter().filter(|_| is_asked) {
            match check {
                ReadyCheck::OwnPort(port) => drop(ports.insert(*port)),
                ReadyCheck::Unix(path) => paths.push(path.clone()),
                ReadyCheck::Tcp(place)
                | ReadyCheck::Http(place, _)
                | ReadyCheck::Https(place, _)
                | ReadyCheck::FastCgi(place, _) => ports.extend(port_here(place, own)),
                ReadyCheck::File(_) | ReadyCheck::Exec(_) => {}
            }
        }
        OwnSockets { ports: ports.into_iter().collect(), paths }
    }

    /// Returns when no request is in flight on them any more, or after `limit`. On a unix socket every connection counts. Cancel-safe.
    pub(super) async fn until_idle(self, limit: Duration) {
        if !self.ports.is_empty() {
            no_requests_at(&self.ports, limit).await;
        }
        if !self.paths.is_empty() && timeout(limit, until_none(&self.paths)).await.is_err() {
            info!("connections to the command are still open after {limit:?}; going on");
        }
    }
}

/// The port of a place in this network namespace.
fn port_here(place: &Endpoint, own: &[IpAddr]) -> Option<u16> {
    let is_here = match &place.host {
        Host::Ip(ip) => ip.is_loopback() || ip.is_unspecified() || own.contains(ip),
        Host::Name(name) => name == "localhost",
    };
    is_here.then_some(place.port)
}

async fn until_none(paths: &[PathBuf]) {
    while std::fs::read_to_string(TABLE).is_ok_and(|table| connected(&table, paths) > 0) {
        sleep(POLL).await;
    }
}

/// How many connections of the table were accepted at one of the paths.
fn connected(table: &str, paths: &[PathBuf]) -> usize {
    let is_one = |line: &&str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        fields.get(5) == Some(&CONNECTED)
            && fields.get(7).is_some_and(|path| paths.iter().any(|known| known.as_os_str() == *path))
    };
    table.lines().filter(is_one).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_accepted_connections_at_the_path_count() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path
0: 00000002 00000000 00010000 0001 01 10 /run/php.sock
1: 00000003 00000000 00000000 0001 03 11 /run/php.sock
2: 00000003 00000000 00000000 0001 03 12
3: 00000003 00000000 00000000 0001 03 13 /run/other.sock
";
        assert_eq!(connected(table, &["/run/php.sock".into()]), 1);
        assert_eq!(connected(table, &[]), 0);
    }

    #[tokio::test]
    async fn a_connection_at_a_unix_socket_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let client = tokio::net::UnixStream::connect(&path).await.unwrap();
        let accepted = listener.accept().await.unwrap();
        let paths = [path];
        assert!(timeout(Duration::from_millis(120), until_none(&paths)).await.is_err());
        drop((client, accepted));
        timeout(Duration::from_secs(20), until_none(&paths)).await.unwrap();
    }
}
