//! Puts the server together: the registry, the proxy, the probes between them, and the admin listener.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use registry_client::protocol::report::BackendReport;
use registry_client::protocol::{BackendUrl, Host};

use super::acme::{self, Acme};
use super::admin::{Admin, Sources};
use super::alerts::{Alerts, Watched};
use super::cluster::{Replica, StatusReader};
use super::config::{self, ClusterConfig, Config, StateFile};
use super::listener::{self, ListenerConfig, RegistryCore, RegistryHandle};
use super::live_table::LiveTable;
use super::proxy::{
    self, AccessFormat, AccessLog, CERTIFICATE_CHECK_INTERVAL, CertificateEvent, Certificates, HttpsConfig,
    ProberHandle, Proxy, ProxyConfig, ProxyError, RequestMetrics, test_backend,
};
use super::registry::{Input, Limits, RegistryConfig, Token};
use super::routes_file::{self, Registry};
use super::routing::{BackendPolicy, Probe, ResponseHeaders, StickyKey};
use super::store::{FileStore, MemoryStore, StateError, Store};

/// How long requests in flight may take when the server stops. Container engines kill after ten seconds by default.
const DRAIN: Duration = Duration::from_secs(8);

/// Inputs from certificates and from the policy file that may wait for the registry.
const MAX_NOTICES: usize = 16;

/// A running registry with its proxy.
#[derive(Debug)]
pub struct Server {
    registry: RegistryHandle,
    proxy: Proxy,
    access_log: Option<AccessLog>,
    admin: Option<Admin>,
    /// Held, so that it goes on.
    _acme: Option<Acme>,
    _alerts: Option<Alerts>,
    stopping: Arc<AtomicBool>,
    /// Keeps the routes of ROUTES_FILE registered.
    routes: Option<Task>,
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {variable}={address}: {error}")]
    Listen {
        /// The variable that sets the address.
        variable: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// STATE_FILE cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// No certificates can be ordered.
    #[error("ACME_EMAIL: {0}")]
    Acme(#[from] acme::AcmeError),
    /// The settings for etcd cannot be used.
    #[error("ETCD_ENDPOINTS: {0}")]
    Etcd(String),
}

impl StartError {
    fn from_proxy(config: &Config, error: ProxyError) -> StartError {
        match (error, &config.https) {
            (ProxyError::Https(error), Some(https)) => {
                StartError::Listen { variable: "HTTPS_LISTEN", address: https.listen, error }
            }
            (ProxyError::Https(error) | ProxyError::Http(error), _) => {
                StartError::Listen { variable: "HTTP_LISTEN", address: config.http_listen, error }
            }
        }
    }
}

impl Server {
    /// Starts the registry and the proxy. When this returns, both take connections. The registry and the probes use the
    /// caller's runtime; the proxy has threads of its own.
    ///
    /// # Errors
    /// If an address cannot be listened on, or STATE_FILE cannot be used.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn start(config: &Config) -> Result<Server, StartError> {
        config.warnings.iter().for_each(|line| warn!("{line}"));
        let failed = |variable, address| move |error| StartError::Listen { variable, address, error };
        let registry_failed = || failed("REGISTRY_LISTEN", config.registry_listen);
        let listener = TcpListener::bind(config.registry_listen).await.map_err(registry_failed())?;
        let registry_address = listener.local_addr().map_err(registry_failed())?;
        let mut policy = BackendPolicy {
            allow: config.backend_allow.clone(),
            own: vec![registry_address],
            is_shared: config.cluster.is_some(),
        };
        let started = Instant::now();
        let admin = admin_listener(config).await?;
        policy.own.extend(admin.as_ref().map(|(_, address)| *address));
        let replicas = cluster_listener(config).await?;
        policy.own.extend(replicas.as_ref().map(|(_, address)| *address));
        let table = Arc::new(match config.cluster {
            Some(_) => LiveTable::loading(),
            None => LiveTable::default(),
        });
        let https = https_config(config)?;
        let (notify, notices) = mpsc::channel(MAX_NOTICES);
        if let Some(https) = &https {
            tokio::spawn(forward_certificates(https.certificates.subscribe(), notify.clone()));
        }
        let access_log = access_log(config).map_err(failed("HTTP_LISTEN", config.http_listen))?;
        let certificates = https.as_ref().map(|https| https.certificates.clone());
        let mut proxy_config = proxy_config(config, https, &policy);
        proxy_config.access_log.clone_from(&access_log);
        let metrics: Arc<RequestMetrics> = Arc::default();
        proxy_config.metrics = admin.is_some().then(|| Arc::clone(&metrics));
        let proxy_failed = |error| StartError::from_proxy(config, error);
        let proxy = Proxy::bind(proxy_config).map_err(proxy_failed)?;
        policy.own.push(proxy.local_addr());
        policy.own.extend(proxy.https_addr());
        let (probes, results) = proxy::Prober::start(policy.clone());
        let prober = Arc::new(RegistryProber { probes: probes.clone(), policy: policy.clone() });
        if let Some(file) = config.registry_policy.clone() {
            tokio::spawn(file.watch(notify));
        }
        let boot_id = boot_id().await;
        let mut settings = listener_config(config, policy);
        let State { store, replica, status } = state(config, &boot_id, replicas, &settings).await?;
        settings.registry.boot_id = boot_id;
        let core = RegistryCore::start(settings, Arc::clone(&table), store, prober, results, notices)
            .map_err(registry_failed())?;
        let desk = core.desk();
        let registry = match replica {
            None => core.listen(listener),
            Some(replica) => core.listen_through(listener, |core, stopped| replica.start(core, stopped)),
        };
        let registry = registry.map_err(registry_failed())?;
        begin_start_hold(config, &table, started);
        // After the registry, so that the first request finds the routes that were restored.
        let proxy = proxy.serve(Arc::clone(&table)).map_err(proxy_failed)?;
        // After the proxy, which answers what the authority asks.
        let acme = acme(config, certificates.clone(), &table)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let alerts = (!config.alert_webhooks.is_empty()).then(|| {
            let watched = Watched {
                table: Arc::clone(&table),
                desk: desk.clone(),
                certificates: certificates.clone(),
                cluster: status.clone(),
                host: config.host_name.clone(),
            };
            Alerts::start(&config.alert_webhooks, watched)
        });
        let sources = |stopping| Sources {
            table,
            metrics,
            load: proxy.load(),
            prober: probes,
            desk,
            certificates,
            alerts: alerts.as_ref().map(Alerts::counts),
            token: config.admin_token.as_ref().map(|token| Token::new(token.reveal())),
            sessions: registry.sessions(),
            access_log: access_log.clone(),
            stopping,
            hosts: config.admin_hosts.clone(),
            cluster: status,
            orders: acme.as_ref().map(Acme::status),
            started,
        };
        let admin = admin.map(|listener| Admin::start(listener, sources(Arc::clone(&stopping))));
        let routes = keep_routes(config, registry.address());
        let server =
            Server { registry, proxy, access_log, admin, _acme: acme, _alerts: alerts, stopping, routes };
        server.log_start();
        Ok(server)
    }

    fn log_start(&self) {
        info!(
            "registry-server {}: proxy on {}{}, registry on {}",
            env!("CARGO_PKG_VERSION"),
            self.http_address(),
            self.https_address().map(|address| format!(" and with TLS on {address}")).unwrap_or_default(),
            self.registry_address()
        );
    }

    /// The proxy's address for plain HTTP.
    pub fn http_address(&self) -> SocketAddr {
        self.proxy.local_addr()
    }

    /// The proxy's address for TLS, if there is one.
    pub fn https_address(&self) -> Option<SocketAddr> {
        self.proxy.https_addr()
    }

    /// The address for metrics and status, if there is one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// The registry's address.
    pub fn registry_address(&self) -> SocketAddr {
        self.registry.address()
    }

    /// Sends `SHUTDOWN` to every client of the registry and lets requests in flight finish for at most 8 s. Returns as
    /// soon as there are none. Dropping the future does not cancel the stop.
    pub async fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        drop(self.routes);
        self.registry.stop().await;
        let stopped = self.proxy.stop(DRAIN).await;
        if let Some(log) = &self.access_log {
            log.flush().await;
        }
        match stopped.cut_off {
            0 => info!("stopped, every request was finished"),
            cut_off => warn!("stopped, {cut_off} connections were cut off after {DRAIN:?}"),
        }
    }
}

/// Registers the routes of ROUTES_FILE, if there is one.
fn keep_routes(config: &Config, address: SocketAddr) -> Option<Task> {
    let file = config.routes_file.clone()?;
    let registry =
        Registry { address, token: config.registry_token.clone(), instance: config.own_instance.clone()? };
    Some(Task(tokio::spawn(routes_file::keep_registered(file, registry))))
}

/// Binds ADMIN_LISTEN. If the default address is in use, the server starts without it.
async fn admin_listener(config: &Config) -> Result<Option<(TcpListener, SocketAddr)>, StartError> {
    let Some(admin) = config.admin else { return Ok(None) };
    let bound = TcpListener::bind(admin.address).await;
    match bound.and_then(|listener| listener.local_addr().map(|address| (listener, address))) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if admin.is_default => {
            warn!("no metrics and no status: cannot listen on {}: {error} (ADMIN_LISTEN)", admin.address);
            Ok(None)
        }
        Err(error) => Err(StartError::Listen { variable: "ADMIN_LISTEN", address: admin.address, error }),
    }
}

fn access_log(config: &Config) -> io::Result<Option<AccessLog>> {
    let format = match config.access_log {
        None => return Ok(None),
        Some(config::AccessLog::Json) => AccessFormat::Json,
        Some(config::AccessLog::Combined) => AccessFormat::Combined,
    };
    AccessLog::to(io::stdout(), format).map(Some)
}

/// Lets requests wait that nobody claims, if nothing was restored: the services register again only now.
fn begin_start_hold(config: &Config, table: &LiveTable, started: Instant) {
    let hold = config.start_hold.get();
    if let Some(until) = started.checked_add(hold).filter(|_| !hold.is_zero())
        && table.load().claims().next().is_none()
    {
        table.hold_unclaimed(until);
    }
}

/// Binds CLUSTER_LISTEN, if there is a cluster.
async fn cluster_listener(config: &Config) -> Result<Option<(TcpListener, SocketAddr)>, StartError> {
    let Some(cluster) = &config.cluster else { return Ok(None) };
    let failed = |error| StartError::Listen { variable: "CLUSTER_LISTEN", address: cluster.listen, error };
    let listener = TcpListener::bind(cluster.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Some((listener, address)))
}

/// Where applied state is, and whether others share it.
struct State {
    store: Box<dyn Store>,
    replica: Option<Replica>,
    status: Option<StatusReader>,
}

/// Opens the store for applied state: STATE_FILE, or the etcd that several servers share.
async fn state(
    config: &Config,
    boot_id: &str,
    replicas: Option<(TcpListener, SocketAddr)>,
    settings: &ListenerConfig,
) -> Result<State, StartError> {
    match config.cluster.as_ref().zip(replicas) {
        Some((cluster, replicas)) => shared_state(cluster, config, boot_id, replicas, settings).await,
        None => Ok(State { store: store(config, boot_id).await?, replica: None, status: None }),
    }
}

#[cfg(feature = "etcd")]
async fn shared_state(
    cluster: &ClusterConfig,
    config: &Config,
    boot_id: &str,
    replicas: (TcpListener, SocketAddr),
    settings: &ListenerConfig,
) -> Result<State, StartError> {
    let joined = super::replica::join(cluster, config, boot_id, replicas, &settings.allow).await;
    let super::replica::Joined { store, replica, status } =
        joined.map_err(|error| StartError::Etcd(error.to_string()))?;
    Ok(State { store, replica: Some(replica), status: Some(status) })
}

/// A build without etcd has no cluster.
#[cfg(not(feature = "etcd"))]
async fn shared_state(
    cluster: &ClusterConfig,
    _config: &Config,
    _boot_id: &str,
    _replicas: (TcpListener, SocketAddr),
    _settings: &ListenerConfig,
) -> Result<State, StartError> {
    match cluster.etcd {}
}

/// Opens the store of a server alone. Where STATE_FILE is optional and cannot be used, there is none.
async fn store(config: &Config, boot_id: &str) -> Result<Box<dyn Store>, StartError> {
    let Some(StateFile { path, is_optional }) = config.state_file.clone() else {
        return Ok(Box::new(MemoryStore));
    };
    match open_store(config, path, boot_id).await {
        Err(StartError::State(error)) if is_optional => {
            warn!(
                "{error}. The server goes on without it: a restart loses what is applied, until the sidecars are back"
            );
            Ok(Box::new(MemoryStore))
        }
        opened => opened,
    }
}

async fn open_store(config: &Config, path: PathBuf, boot_id: &str) -> Result<Box<dyn Store>, StartError> {
    let (boot_id, grace) = (boot_id.to_owned(), config.session_grace.get());
    let (shown, error) = (path.clone(), "the task that opens it broke off");
    let opening = tokio::task::spawn_blocking(move || FileStore::open(&path, &boot_id, grace));
    match opening.await {
        Ok(opened) => Ok(Box::new(opened?)),
        Err(_) => Err(StateError::unusable(&shown, io::Error::other(error)).into()),
    }
}

/// Identifies the machine's current boot; empty if the kernel does not tell.
async fn boot_id() -> String {
    let read = tokio::task::spawn_blocking(|| std::fs::read_to_string("/proc/sys/kernel/random/boot_id"));
    read.await.ok().and_then(Result::ok).unwrap_or_default().trim().to_owned()
}

fn https_config(config: &Config) -> Result<Option<HttpsConfig>, StartError> {
    let Some(https) = &config.https else { return Ok(None) };
    let failed = |error| StartError::Listen { variable: "HTTPS_LISTEN", address: https.listen, error };
    let certificates = match &https.cert_dir {
        Some(folder) => Certificates::watch(folder, CERTIFICATE_CHECK_INTERVAL).map_err(failed)?,
        None => Certificates::without_files(),
    };
    Ok(Some(HttpsConfig { listen: https.listen, certificates }))
}

/// Begins to order certificates, if that is wanted.
fn acme(
    config: &Config,
    certificates: Option<Certificates>,
    table: &Arc<LiveTable>,
) -> Result<Option<Acme>, StartError> {
    let Some((wanted, certificates)) = config.acme.clone().zip(certificates) else { return Ok(None) };
    let config::Acme { email, directory, ca, folder } = wanted;
    let settings = acme::Settings { email, directory, ca, folder };
    Ok(Some(Acme::start(&settings, certificates, Arc::clone(table))?))
}

/// Forwards certificate events to the registry, which tells its subscribers. Ends when either side ends.
async fn forward_certificates(
    mut events: broadcast::Receiver<CertificateEvent>,
    registry: mpsc::Sender<Input>,
) {
    loop {
        match events.recv().await {
            Ok(CertificateEvent { names, renewed, .. }) => {
                if registry.send(Input::Certificate { names, renewed }).await.is_err() {
                    return;
                }
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => warn!(missed, "certificate events were lost"),
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

fn proxy_config(config: &Config, https: Option<HttpsConfig>, policy: &BackendPolicy) -> ProxyConfig {
    let defaults = ProxyConfig::default();
    ProxyConfig {
        listen: config.http_listen,
        workers: config.proxy_threads.map_or(0, usize::from),
        max_connections: config.max_connections,
        max_connections_per_address: config.max_client_connections_per_address,
        max_buffered: config.buffered_limit().unwrap_or(defaults.max_buffered),
        trusted_proxies: config.trusted_proxies.clone(),
        policy: policy.clone(),
        https,
        sticky_key: sticky_key(config),
        default_headers: (!config.default_headers.is_empty())
            .then(|| ResponseHeaders::new(&config.default_headers)),
        via: config.via.clone(),
        trace_sample: config.trace_sample,
        ..defaults
    }
}

/// A secret that is the same after a restart and on all replicas. Without one, everybody can compute the cookies.
fn sticky_key(config: &Config) -> StickyKey {
    let of_cluster = config.cluster.as_ref().map(|cluster| &cluster.secret);
    let secret = of_cluster.or(config.registry_token.as_ref());
    StickyKey::new(secret.map_or("", |secret| secret.reveal()))
}

fn listener_config(config: &Config, backends: BackendPolicy) -> ListenerConfig {
    let defaults = ListenerConfig::default();
    let limits = Limits {
        sessions: config.max_sessions,
        sessions_per_address: config.max_sessions_per_address,
        routes: config.max_routes_per_session,
        headers: config.max_headers_per_route,
        staged_bytes: config.max_staged_bytes,
        connections: config.max_registry_connections,
        connections_per_address: config.max_connections_per_address,
        ..defaults.registry.limits
    };
    ListenerConfig {
        allow: config.registry_allow.clone().unwrap_or(defaults.allow),
        registry: RegistryConfig {
            grace: config.session_grace.get(),
            hold: config.hold.get(),
            token: config.registry_token.as_ref().map(|token| Token::new(token.reveal())),
            stage_ttl: config.stage_ttl.get(),
            policy: config.registry_policy.as_ref().map(|file| file.policy.clone()),
            exclusive_hosts: config.exclusive_hosts,
            backends,
            limits,
            ..defaults.registry
        },
    }
}

/// Lets the registry use the proxy's prober.
struct RegistryProber {
    probes: ProberHandle,
    policy: BackendPolicy,
}

/// What a session from `peer` is told of a backend that fails. Details of another host would tell its open ports from its
/// closed ones.
fn shown_error(url: &BackendUrl, peer: IpAddr, error: String) -> String {
    let is_own = match url.host() {
        Host::Ip(ip) => ip.to_canonical() == peer.to_canonical(),
        Host::Name(_) => false,
    };
    if is_own || peer.is_loopback() || error.starts_with("not allowed") {
        return error;
    }
    "it does not answer, or not with HTTP (more is told only to a session at its address)".to_owned()
}

impl listener::Prober for RegistryProber {
    fn watch(&self, probe: Probe) {
        self.probes.watch(probe);
    }

    fn forget(&self, probe: &Probe) {
        self.probes.forget(probe);
    }

    fn test(&self, url: BackendUrl, peer: IpAddr) -> BoxFuture<'static, Result<BackendReport, String>> {
        let policy = self.policy.clone();
        async move {
            let test = test_backend(&url, &policy, peer).await;
            match test.error {
                Some(error) => Err(shown_error(&url, peer, error)),
                None => Ok(BackendReport {
                    reachable: test.reachable,
                    response_time_ms: test.response_time.as_secs_f64() * 1000.0,
                    status_code: test.status_code.unwrap_or(0),
                    tls_valid: test.tls_valid,
                }),
            }
        }
        .boxed()
    }
}
