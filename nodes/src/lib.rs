//! Nodes of services in etcd: registered under a lease, listed and watched.
//!
//! A node is the key `<base path>/<service>/<node>` with a JSON object of strings as its value, so that other programs
//! that keep to this see ours and are seen by us. It lives as long as its lease, which [`Registration`] renews.
//!
//! ```no_run
//! use std::time::Duration;
//! use registry_nodes::{Config, Node, Registry};
//!
//! # async fn example() -> Result<(), registry_nodes::Error> {
//! let registry = Registry::connect(Config::new(["http://localhost:2379"])).await?;
//! let node = Node::new("api-server-1").with("address", "10.2.2.7:8080").with("version", "1.0.0");
//! let registration = registry.register_node("api", node, Duration::from_secs(30))?;
//! registration.registered().await?;
//!
//! for node in registry.service_nodes("api").await? {
//!     println!("{}: {:?}", node.name, node.info);
//! }
//! registration.deregister(Duration::from_secs(5)).await
//! # }
//! ```
//!
//! Inside, two pure machines decide ([`registration`](Registration) and the follower behind [`ServiceWatch`]) and a
//! task each does what they say. etcd may be away for as long as it takes: nothing gives up but what is asked once
//! ([`Registry::connect`], [`Registry::service_nodes`]).

mod backoff;
mod config;
mod error;
mod etcd;
pub mod kv;
mod layout;
mod node;
mod registration;
mod watch;

use std::time::Duration;

use etcd::Etcd;

pub use config::{Config, Credentials, Pem, Tls};
pub use error::{ConfigError, Error};
pub use layout::{BasePath, Layout};
pub use node::{Info, NameError, Node};
pub use registration::{Event, Events, OnTaken, Registration, State};
pub use watch::{ServiceWatch, Snapshot, View};

/// The nodes below one base path of one etcd. Cheap to clone; clones share a connection.
#[derive(Clone)]
pub struct Registry(Etcd);

impl Registry {
    /// A registry whose etcd need not be there yet: the first question connects to it.
    ///
    /// # Errors
    /// What is wrong with `config`, files that cannot be read included.
    pub fn new(config: Config) -> Result<Registry, ConfigError> {
        Ok(Registry(Etcd::new(config)?))
    }

    /// The same, after etcd has answered, tried at each endpoint once. Cancel-safe.
    ///
    /// # Errors
    /// What is wrong with `config`, or why etcd does not answer.
    pub async fn connect(config: Config) -> Result<Registry, Error> {
        let registry = Registry::new(config)?;
        registry.check().await?;
        Ok(registry)
    }

    /// Asks etcd for something below the base path, at each endpoint until one answers. Cancel-safe.
    ///
    /// # Errors
    /// The error of the last endpoint, if none answers.
    pub async fn check(&self) -> Result<(), Error> {
        let any = self.0.config().base_path.service("-", Layout::Services)?;
        self.page(any.as_str(), None, None).await.map(drop)
    }

    /// Registers `node` and keeps it registered. If a living node has the name, waits for the end of that node.
    ///
    /// # Errors
    /// A name that no key can have, or a TTL of less than a second.
    ///
    /// # Panics
    /// Outside a runtime of tokio.
    pub fn register_node(&self, service: &str, node: Node, ttl: Duration) -> Result<Registration, Error> {
        self.register_node_with(service, node, ttl, OnTaken::default())
    }

    /// The same; the caller chooses what happens if the name is taken.
    ///
    /// # Errors
    /// See [`Registry::register_node`].
    ///
    /// # Panics
    /// Outside a runtime of tokio.
    pub fn register_node_with(
        &self,
        service: &str,
        node: Node,
        ttl: Duration,
        on_taken: OnTaken,
    ) -> Result<Registration, Error> {
        if ttl < Duration::from_secs(1) {
            return Err(ConfigError::Ttl(ttl).into());
        }
        let key = self.key(service, &node.name)?;
        Ok(Registration::start(self.0.clone(), key, &node.info, ttl, on_taken))
    }

    /// All keys of the same etcd, over the same connection.
    pub fn kv(&self) -> kv::Kv {
        kv::Kv::sharing(self.0.clone())
    }

    /// The key under which a node is registered.
    ///
    /// # Errors
    /// A name that no key can have.
    pub fn key(&self, service: &str, node: &str) -> Result<String, NameError> {
        self.0.config().base_path.node(service, node)
    }

    /// The nodes of `service` now, in the order of their names, without those whose values cannot be read. Cancel-safe.
    ///
    /// # Errors
    /// A name that no key can have, or why no endpoint answers.
    pub async fn service_nodes(&self, service: &str) -> Result<Vec<Node>, Error> {
        Ok(self.snapshot(service).await?.nodes().collect())
    }

    /// The same as a snapshot, which names what cannot be read.
    ///
    /// # Errors
    /// See [`Registry::service_nodes`].
    pub async fn snapshot(&self, service: &str) -> Result<Snapshot, Error> {
        let config = self.0.config();
        let prefix = config.base_path.service(service, config.layout)?;
        let (mut snapshot, mut after) = (Snapshot::default(), None::<String>);
        loop {
            let pinned = after.as_ref().map(|_| snapshot.revision);
            let page = self.page(prefix.as_str(), after.as_deref(), pinned).await?;
            snapshot.revision = page.revision;
            page.records.iter().for_each(|record| snapshot.put(&prefix, record));
            match page.records.last().filter(|_| page.more) {
                Some(last) => after = Some(last.key.clone()),
                None => return Ok(snapshot),
            }
        }
    }

    /// Watches `service` until the watch is dropped.
    ///
    /// # Errors
    /// A name that no key can have.
    ///
    /// # Panics
    /// Outside a runtime of tokio.
    pub fn watch(&self, service: &str) -> Result<ServiceWatch, NameError> {
        let config = self.0.config();
        Ok(ServiceWatch::start(self.0.clone(), config.base_path.service(service, config.layout)?))
    }

    /// One page, from the first endpoint that answers.
    async fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        revision: Option<i64>,
    ) -> Result<etcd::Page, Error> {
        let mut tries = self.0.config().endpoints.len();
        loop {
            tries -= 1;
            match self.0.page(prefix, after, revision).await {
                Err(error::Fault::Away(_)) if tries > 0 => {}
                page => return page.map_err(error::Fault::into_error),
            }
        }
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Registry").field(self.0.config()).finish()
    }
}
