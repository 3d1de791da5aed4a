//! The sidecar's environment as one typed value. The only place in the sidecar that reads it.
//!
//! | step | where |
//! |---|---|
//! | the table of names, which hints and documentation share | [`VARIABLES`] |
//! | from the environment to one text for each variable: prefix, bare names, files | [`crate::environment`] |
//! | from texts to values, collecting all mistakes | `build`, `routes`, `command`, `values` |
//!
//! The rules are those of SEMANTICS section 10. Nothing here knows the network or the client.

mod build;
mod command;
mod etcd;
mod more_options;
mod places;
mod raw;
mod routes;
mod secrets;
mod signals;
mod steps;
mod user;
mod values;
mod variables;

use std::ffi::OsString;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde_json::{Map, Value};

use crate::environment::{self, ConfigErrors, Context, Secret, Source};
use crate::telemetry::LogConfig;
use registry_client::protocol::{
    BackendUrl, CircuitBreaker, Domains, GoDuration, HeaderName, HeaderValue, HealthCheck, HealthPath, Host,
    InstanceName, PathPrefix, RateLimit, RouteOption, Scheme, ServiceName,
};

pub use command::{COMMAND_VARIABLES, CommandConfig, CommandLine, Restart, UpdateConfig};
#[cfg(feature = "etcd")]
pub use etcd::load_nodes_config;
pub use etcd::{EtcdConfig, NodeConfig};
pub use places::{Place, addresses_of};
pub use secrets::Environment;
pub use signals::Signal;
pub use steps::Step;
pub use user::RunAs;
pub use variables::{PREFIX, TABLE, VARIABLES};

/// The whole configuration. Contradictions are refused, so its parts agree.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// What to register; `None` registers nothing, for the reason in `off`.
    pub registration: Option<RegistrationConfig>,
    /// Why nothing is registered.
    pub off: Option<Off>,
    /// The node in etcd; `None` registers none.
    pub etcd: Option<EtcdConfig>,
    /// The wrapped command; `None` runs a daemon beside the application.
    pub command: Option<CommandConfig>,
    /// How the advertised address is found.
    pub address: AddressConfig,
    /// When the application counts as ready.
    pub readiness: ReadinessConfig,
    /// The maintenance page.
    pub maintenance: MaintenanceConfig,
    /// DRAIN_TIMEOUT: how long requests in flight may take to end once the sidecar leaves.
    pub drain_timeout: GoDuration,
    /// Where the daemon is talked to.
    pub control_socket: ControlSocket,
    /// WHEN_STRANDED: what follows when this process is left in a network namespace that nobody reaches.
    pub when_stranded: WhenStranded,
    /// METRICS_LISTEN; `None` serves no metrics.
    pub metrics_listen: Option<SocketAddr>,
    /// The log.
    pub log: LogConfig,
    /// The arguments after `--`, with which the configuration is read again.
    pub arguments: Option<Vec<OsString>>,
    /// Lines for the log about what is no mistake but looks like one, in a stable order.
    pub warnings: Vec<String>,
}

/// Why nothing is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Off {
    /// `ENABLE_REGISTRY=false`.
    Disabled,
    /// A command is wrapped that has no route: a queue worker, a timer.
    NoRoutes,
}

impl fmt::Display for Off {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Off::Disabled => "registration is off (ENABLE_REGISTRY=false)",
            Off::NoRoutes => "registration is off (neither DOMAINS nor SIDECAR_ROUTES is set)",
        })
    }
}

/// Where the daemon is talked to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControlSocket {
    /// CONTROL_SOCKET; `None` uses the default path, or the abstract namespace.
    pub path: Option<PathBuf>,
    /// Whose daemon it is; `None` where the environment names neither a service nor an instance.
    pub owner: Option<Owner>,
}

/// The names of a daemon, which tell it from others that share its namespaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// SERVICE_NAME as it is written; empty where it is not set.
    pub service: String,
    /// INSTANCE_NAME, or the host name.
    pub instance: String,
}

impl Owner {
    fn of(source: &Source, context: &Context<'_>) -> Option<Owner> {
        let (service, instance) = (source.text("SERVICE_NAME"), source.text("INSTANCE_NAME"));
        (service.is_some() || instance.is_some()).then(|| Owner {
            service: service.unwrap_or_default().to_owned(),
            instance: instance.unwrap_or(context.host_name).to_owned(),
        })
    }
}

/// What a sidecar beside an application does when the container whose network it shares has stopped: only `lo` is left,
/// and it stays so until the engine starts this container again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenStranded {
    /// Exits with 75, so that the engine joins it to the network again.
    Exit,
    /// Stays, unhealthy.
    Stay,
}

/// What is registered, with which registries, and under which names.
#[derive(Debug, Clone, PartialEq)]
pub struct RegistrationConfig {
    /// The registries, and how long they may take.
    pub registry: RegistryConfig,
    /// SERVICE_NAME.
    pub service: ServiceName,
    /// INSTANCE_NAME, or the host name.
    pub instance: InstanceName,
    /// METADATA, without the tokens.
    pub metadata: Map<String, Value>,
    /// At least one; no two with a domain and a path in common.
    pub routes: Vec<RouteConfig>,
    /// COMPRESSION was set, and is not our default alone.
    pub wants_compression: bool,
}

impl RegistrationConfig {
    /// The ports of the routes that lead to the advertised address.
    pub fn own_ports(&self) -> Vec<u16> {
        self.routes.iter().filter(|route| route.host.is_none()).map(|route| route.port).collect()
    }
}

/// The registries and how the sessions with them are kept.
#[derive(Debug, Clone, PartialEq)]
pub struct RegistryConfig {
    /// REGISTRY_HOST and REGISTRY_PORT: at least one, without duplicates. Each gets a session.
    pub endpoints: Vec<Endpoint>,
    /// REGISTRY_EACH_ADDRESS: each address of a name gets a session, instead of any one of them.
    pub each_address: bool,
    /// REGISTRY_TOKEN.
    pub token: Option<Secret>,
    /// SERVICE_TOKEN.
    pub service_token: Option<Secret>,
    /// KEEPALIVE_INTERVAL, more than zero.
    pub keepalive: GoDuration,
    /// REQUEST_TIMEOUT, more than zero.
    pub request_timeout: GoDuration,
    /// RECONNECT_MIN, more than zero and at most `reconnect_max`.
    pub reconnect_min: GoDuration,
    /// RECONNECT_MAX.
    pub reconnect_max: GoDuration,
}

/// A host with a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// A name or an address.
    pub host: Host,
    /// Never 0.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// One route, with defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteConfig {
    /// Which variable it comes from (`DOMAINS`, `ROUTES[0]`, `SOCKETIO_PATH`), for the log.
    pub origin: String,
    /// The domains it claims.
    pub domains: Domains,
    /// The path prefix it claims.
    pub path: PathPrefix,
    /// How the proxy talks to the application.
    pub scheme: Scheme,
    /// The application's host, if not the advertised address. A name is passed on unresolved.
    pub host: Option<Host>,
    /// The application's port, never 0.
    pub port: u16,
    /// Higher wins over a longer path.
    pub priority: i32,
    /// The proxy's check; `None` turns it off.
    pub health: Option<HealthCheck>,
    /// The options.
    pub options: RouteOptions,
    /// Those of this project's server that are set, each key once, in the order of PROTOCOL section 5.
    pub more_options: Vec<RouteOption>,
    /// RESPONSE_HEADERS.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// RATE_LIMIT.
    pub rate_limit: Option<RateLimit>,
    /// CIRCUIT_BREAKER.
    pub circuit_breaker: Option<CircuitBreaker>,
}

impl RouteConfig {
    /// The URL to register when our address is `advertised`.
    pub fn backend(&self, advertised: IpAddr) -> BackendUrl {
        let host = self.host.clone().unwrap_or(Host::Ip(advertised));
        BackendUrl::new(self.scheme, host, self.port)
    }
}

/// The options of a route that the environment can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteOptions {
    /// COMPRESSION.
    pub compression: bool,
    /// ENABLE_WEBSOCKET.
    pub websocket: bool,
    /// PRESERVE_HOST.
    pub preserve_host: bool,
    /// BACKEND_HTTP2.
    pub http2: bool,
    /// BACKEND_TIMEOUT, more than zero; `None` leaves it to the proxy.
    pub timeout: Option<GoDuration>,
}

impl RouteOptions {
    /// The options for the wire, each key once, in the order of PROTOCOL section 5.
    pub fn to_options(&self) -> Vec<RouteOption> {
        let flags = [
            RouteOption::Websocket(self.websocket),
            RouteOption::PreserveHost(self.preserve_host),
            RouteOption::Compression(self.compression),
            RouteOption::Http2(self.http2),
        ];
        self.timeout.map(RouteOption::Timeout).into_iter().chain(flags).collect()
    }
}

/// How the advertised address is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressConfig {
    /// BACKEND_HOST.
    pub backend_host: Option<Host>,
    /// BACKEND_EACH_ADDRESS: each address of BACKEND_HOST, then a name, is a replica with routes of its own. Never around
    /// a command.
    pub each_address: bool,
    /// WEB_NET_CIDR, with the host bits cleared.
    pub web_net: IpNet,
}

/// When the application counts as ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadinessConfig {
    /// WAIT_FOR_PORT; without it the application counts as ready at once.
    pub wait: bool,
    /// READY_CHECK, or one check for each distinct host and port of the routes. At least one.
    pub checks: Vec<ReadyCheck>,
    /// READY_CHECK is set: all checks must pass for all routes. Otherwise each route waits for its own host and port
    /// alone ([`Config::places`]).
    pub whole: bool,
    /// READY_INTERVAL, the longest pause between two tries. More than zero.
    pub interval: GoDuration,
    /// READY_TIMEOUT, for one try. More than zero.
    pub timeout: GoDuration,
    /// READY_RISE: how many tries in a row must pass. At least one.
    pub rise: u32,
    /// READY_FALL: how many tries in a row must fail to take the routes out. At least one.
    pub fall: u32,
    /// PORT_WAIT_TIMEOUT: a longer wait is warned about, and goes on. More than zero.
    pub overdue: GoDuration,
    /// The environment of `exec:` checks where no command is wrapped: that of this process, without the sidecar's own
    /// variables.
    pub environment: Environment,
}

/// The maintenance page and where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MaintenanceConfig {
    /// MAINTENANCE_PORT; `None` serves no page.
    pub port: Option<u16>,
    /// MAINTENANCE_PAGE: a file or a directory; `None` is the built-in page.
    pub page: Option<PathBuf>,
    /// MAINTENANCE_PAGE_URL; `None` is the advertised address with the port.
    pub url: Option<BackendUrl>,
    /// MAINTENANCE_STATE: the file in which maintenance survives a restart of the sidecar.
    pub state: Option<PathBuf>,
}

impl MaintenanceConfig {
    /// The page's URL for the proxy when the advertised address is `own`; `None` leaves the page to the proxy.
    pub fn url(&self, own: IpAddr) -> Option<BackendUrl> {
        let derived = self.port.map(|port| BackendUrl::new(Scheme::Http, Host::Ip(own), port));
        self.url.clone().or(derived)
    }
}

/// A check that must pass for the application to count as ready.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ReadyCheck {
    /// Something accepts connections on the port in this network namespace: at 127.0.0.1, or at another of its
    /// addresses. The default.
    OwnPort(u16),
    /// Something accepts connections at this host and port.
    Tcp(Endpoint),
    /// An HTTP server answers a GET of the path with a status that would pass the proxy's check (SEMANTICS section
    /// 3).
    Http(Endpoint, HealthPath),
    /// The same over TLS; not in the lean build. [`is_verified`] says whose certificate is checked.
    Https(Endpoint, HealthPath),
    /// A FastCGI server answers a GET of the path with success: PHP-FPM's `ping.path`.
    FastCgi(Endpoint, HealthPath),
    /// Something accepts connections at the path of a unix socket.
    Unix(PathBuf),
    /// The file exists.
    File(PathBuf),
    /// A shell line exits with 0. Its process group is killed at the end of READY_TIMEOUT.
    Exec(String),
}

/// Whether the certificate of `host` is verified. An address has no name to verify, and nobody stands between us and
/// a server on loopback.
pub fn is_verified(host: &Host) -> bool {
    matches!(host, Host::Name(name) if name != "localhost")
}

impl ReadyCheck {
    /// Whether each try asks a name server or starts a process.
    pub fn is_costly(&self) -> bool {
        match self {
            ReadyCheck::Tcp(place) | ReadyCheck::Http(place, _) | ReadyCheck::FastCgi(place, _) => {
                matches!(place.host, Host::Name(_))
            }
            ReadyCheck::Https(..) | ReadyCheck::Exec(_) => true,
            ReadyCheck::OwnPort(_) | ReadyCheck::Unix(_) | ReadyCheck::File(_) => false,
        }
    }
}

impl fmt::Display for ReadyCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadyCheck::OwnPort(port) => write!(f, "tcp://127.0.0.1:{port}"),
            ReadyCheck::Tcp(endpoint) => write!(f, "tcp://{endpoint}"),
            ReadyCheck::Http(endpoint, path) => write!(f, "http://{endpoint}{path}"),
            ReadyCheck::Https(endpoint, path) => write!(f, "https://{endpoint}{path}"),
            ReadyCheck::FastCgi(endpoint, path) => write!(f, "fastcgi://{endpoint}{path}"),
            ReadyCheck::Unix(path) => write!(f, "unix:{}", path.display()),
            ReadyCheck::File(path) => write!(f, "file:{}", path.display()),
            ReadyCheck::Exec(line) => write!(f, "exec:{line}"),
        }
    }
}

impl Config {
    /// The configuration of this process: from its environment, host name and files, and the arguments after `--`.
    ///
    /// # Errors
    /// See [`Config::from_env`].
    pub fn load(arguments: Option<&[OsString]>) -> Result<Config, ConfigErrors> {
        let host_name = environment::host_name();
        let context = Context { host_name: &host_name, read_file: &environment::read_file };
        Config::with_arguments(std::env::vars_os(), context, arguments)
    }

    /// Reads the configuration of this process again: files that variables name may have changed.
    ///
    /// # Errors
    /// See [`Config::from_env`].
    pub fn load_again(&self) -> Result<Config, ConfigErrors> {
        Config::load(self.arguments.as_deref())
    }

    /// CONTROL_SOCKET alone, for a command that talks to the daemon: the other variables need not be right for that.
    pub fn control_socket_from_env() -> ControlSocket {
        let context = Context { host_name: &environment::host_name(), read_file: &environment::read_file };
        let source = Source::read(TABLE, std::env::vars_os(), &context);
        let path = source.text("CONTROL_SOCKET").map(PathBuf::from);
        ControlSocket { path, owner: Owner::of(&source, &context) }
    }

    /// The configuration that `vars` describe (SEMANTICS section 10).
    ///
    /// # Errors
    /// Lists every mistake; secrets are not quoted. The caller exits with 64.
    pub fn from_env(
        vars: impl IntoIterator<Item = (OsString, OsString)>,
        context: Context<'_>,
    ) -> Result<Config, ConfigErrors> {
        Config::with_arguments(vars, context, None)
    }

    /// Like [`Config::from_env`], with the arguments after `--`; `None` without `--`.
    ///
    /// # Errors
    /// See [`Config::from_env`].
    pub fn with_arguments(
        vars: impl IntoIterator<Item = (OsString, OsString)>,
        context: Context<'_>,
        arguments: Option<&[OsString]>,
    ) -> Result<Config, ConfigErrors> {
        let vars: Vec<_> = vars.into_iter().collect();
        let source = Source::read(TABLE, vars.iter().cloned(), &context);
        let owner = Owner::of(&source, &context);
        let mut config = build::build(source, command::Origin { arguments, vars: &vars, context: &context })?;
        config.control_socket.owner = owner;
        Ok(Config { arguments: arguments.map(<[OsString]>::to_vec), ..config })
    }
}
