//! The threads of a proxy. Each has a single-threaded runtime and a listener of its own, so that a connection and all
//! that belongs to it stay on one core.
//!
//! | module | what it does |
//! |---|---|
//! | `listen` | opens a listener for each worker on one port |
//! | `balance` | hands new connections to the worker that has the fewest |
//! | `worker` | accepts connections, serves them, checks their time-outs, stops |

mod balance;
mod listen;
mod worker;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::server::live_table::LiveTable;

use crate::server::proxy::ProxyLoad;
use crate::server::proxy::config::ProxyConfig;
use crate::server::proxy::context::{HttpsTarget, ProxyContext};
use crate::server::proxy::downstream::tls::ClientTls;
pub(super) use balance::Balancer;
use listen::Listeners;
pub(super) use listen::listen;
use worker::Worker;

/// Running workers. Dropping this closes all connections.
#[derive(Debug)]
pub(super) struct Workers {
    /// `Some(deadline)`: finish the requests in flight until then.
    stop: watch::Sender<Option<Instant>>,
    /// Each worker sends the number of connections that it cut off, and then drops its sender.
    ended: mpsc::Receiver<usize>,
}

impl Workers {
    /// Starts a worker for each of `plain`. `secure` has as many listeners or none. Needs no runtime.
    pub(super) fn start(
        config: ProxyConfig,
        https_addr: Option<SocketAddr>,
        table: Arc<LiveTable>,
        plain: Vec<TcpListener>,
        secure: Vec<TcpListener>,
    ) -> io::Result<(Workers, ProxyLoad)> {
        let (stop, stopping) = watch::channel(None);
        let (end, ended) = mpsc::channel(plain.len());
        let (balancer, inboxes) = Balancer::new(plain.len(), config.max_connections);
        let tls = client_tls(&config)?;
        let https = match (&config.https, https_addr) {
            (Some(https), Some(addr)) => {
                Some(HttpsTarget { certificates: https.certificates.clone(), port: addr.port() })
            }
            _ => None,
        };
        let proxy = Arc::new(ProxyContext::new(config, table, https));
        let mut secure = secure.into_iter();
        for (number, (plain, inbox)) in plain.into_iter().zip(inboxes).enumerate() {
            let worker = Worker {
                number,
                proxy: Arc::clone(&proxy),
                balancer: Arc::clone(&balancer),
                tls: tls.clone(),
                listeners: Listeners { plain, secure: secure.next() },
                inbox,
            };
            let (stopping, end) = (stopping.clone(), end.clone());
            let run = move || worker.run(stopping, end);
            thread::Builder::new().name(format!("proxy-{number}")).spawn(run)?;
        }
        let load = ProxyLoad { balancer, buffered: Arc::clone(&proxy.buffered) };
        Ok((Workers { stop, ended }, load))
    }

    /// Stops all workers until `deadline`. Returns how many connections were cut off.
    pub(super) async fn stop(mut self, deadline: Instant) -> usize {
        self.stop.send_replace(Some(deadline));
        let mut cut_off = 0;
        while let Some(more) = self.ended.recv().await {
            cut_off += more;
        }
        cut_off
    }
}

fn client_tls(config: &ProxyConfig) -> io::Result<Option<ClientTls>> {
    let Some(https) = &config.https else { return Ok(None) };
    ClientTls::new(&https.certificates, config.header_timeout).map(Some).map_err(io::Error::other)
}
