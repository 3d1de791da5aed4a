//! The server's configuration, read from the environment. No other module of the server reads the environment.

mod cluster;
mod memory;
mod untrusted;
mod variables;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;

use crate::environment::values::{self, count, positive};
use crate::environment::{self, ConfigErrors, Context, Reader, Reported, Secret, Source};
use crate::telemetry::LogConfig;
use registry_client::protocol::{GoDuration, Invalid};

use super::policy_file::{PolicyFile, ReadFile};

pub use cluster::{ClusterConfig, Etcd};
pub use untrusted::Opening;
pub use variables::{TABLE, VARIABLES};

/// The server's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// HTTP_LISTEN. Port 0 takes a free one.
    pub http_listen: SocketAddr,
    /// HTTPS_LISTEN and CERT_DIR; `None`: plain HTTP only.
    pub https: Option<Https>,
    /// REGISTRY_LISTEN. Port 0 takes a free one.
    pub registry_listen: SocketAddr,
    /// REGISTRY_ALLOW; `None`: loopback and private ranges.
    pub registry_allow: Option<Vec<IpNet>>,
    /// REGISTRY_TOKEN; `None`: everybody may register.
    pub registry_token: Option<Secret>,
    /// REGISTRY_POLICY, read; `None`: every service may claim every domain.
    pub registry_policy: Option<PolicyFile>,
    /// HOSTS: a host belongs as a whole to the first service that claims a part of it.
    pub exclusive_hosts: bool,
    /// BACKEND_ALLOW; `None`: the client's own address and private ranges.
    pub backend_allow: Option<Vec<IpNet>>,
    /// TRUSTED_PROXIES
    pub trusted_proxies: Vec<IpNet>,
    /// SESSION_GRACE
    pub session_grace: GoDuration,
    /// HOLD; zero turns it off.
    pub hold: GoDuration,
    /// START_HOLD; zero turns it off.
    pub start_hold: GoDuration,
    /// STAGE_TTL, more than zero.
    pub stage_ttl: GoDuration,
    /// MAX_CONNECTIONS, at least one.
    pub max_connections: usize,
    /// MAX_BUFFERED, at least one; `None`: a quarter of the memory.
    pub max_buffered: Option<usize>,
    /// MAX_SESSIONS, at least one.
    pub max_sessions: usize,
    /// MAX_SESSIONS_PER_ADDRESS, at least one.
    pub max_sessions_per_address: usize,
    /// MAX_ROUTES_PER_SESSION, at least one.
    pub max_routes_per_session: usize,
    /// ADMIN_LISTEN; `None`: off.
    pub admin: Option<AdminListen>,
    /// ADMIN_HOSTS, in lower case.
    pub admin_hosts: Vec<String>,
    /// ACCESS_LOG; `None`: off.
    pub access_log: Option<AccessLog>,
    /// MAX_HEADERS_PER_ROUTE, at least one.
    pub max_headers_per_route: usize,
    /// MAX_STAGED_BYTES, at least one.
    pub max_staged_bytes: usize,
    /// MAX_REGISTRY_CONNECTIONS, at least one.
    pub max_registry_connections: usize,
    /// MAX_CONNECTIONS_PER_ADDRESS, at least one.
    pub max_connections_per_address: usize,
    /// PROXY_THREADS; `None`: one for each processor.
    pub proxy_threads: Option<NonZeroUsize>,
    /// STATE_FILE; `None`: the applied state is lost when the server ends, unless it is in etcd. Then this is a copy.
    pub state_file: Option<StateFile>,
    /// ETCD_* and CLUSTER_*; `None`: this server is a registry alone.
    pub cluster: Option<ClusterConfig>,
    /// LOG_LEVEL, LOG_LEVEL_LIBRARIES, LOG_FORMAT
    pub log: LogConfig,
    /// Warnings about settings that are valid and have no effect.
    pub warnings: Vec<String>,
}

/// The listener for TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Https {
    /// HTTPS_LISTEN. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// CERT_DIR
    pub cert_dir: PathBuf,
}

/// The listener for metrics and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdminListen {
    /// Port 0 takes a free one.
    pub address: SocketAddr,
    /// ADMIN_LISTEN is not set. If the default address is in use, the server runs without it.
    pub is_default: bool,
}

/// The file of STATE_FILE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateFile {
    /// Where it is.
    pub path: PathBuf,
    /// A `?` behind the path: where the file cannot be used, the server starts without it.
    pub is_optional: bool,
}

/// The format of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLog {
    /// One JSON object for each line.
    Json,
    /// The combined format of Apache and nginx.
    Combined,
}

/// The text of each variable that this version implements.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(not(feature = "etcd"), expect(dead_code, reason = "a build without etcd only knows their names"))]
struct Raw {
    http_listen: Option<String>,
    https_listen: Option<String>,
    cert_dir: Option<String>,
    registry_listen: Option<String>,
    registry_allow: Option<String>,
    registry_token: Option<String>,
    registry_policy: Option<String>,
    hosts: Option<String>,
    backend_allow: Option<String>,
    trusted_proxies: Option<String>,
    session_grace: Option<String>,
    hold: Option<String>,
    start_hold: Option<String>,
    stage_ttl: Option<String>,
    max_connections: Option<String>,
    max_buffered: Option<String>,
    max_sessions: Option<String>,
    max_sessions_per_address: Option<String>,
    max_routes_per_session: Option<String>,
    max_headers_per_route: Option<String>,
    max_staged_bytes: Option<String>,
    max_registry_connections: Option<String>,
    max_connections_per_address: Option<String>,
    proxy_threads: Option<String>,
    admin_listen: Option<String>,
    admin_hosts: Option<String>,
    access_log: Option<String>,
    state_file: Option<String>,
    log_level: Option<String>,
    log_level_libraries: Option<String>,
    log_format: Option<String>,
    etcd_endpoints: Option<String>,
    etcd_base_path: Option<String>,
    etcd_username: Option<String>,
    etcd_password: Option<String>,
    etcd_timeout: Option<String>,
    etcd_ca: Option<String>,
    etcd_cert: Option<String>,
    etcd_key: Option<String>,
    cluster_secret: Option<String>,
    cluster_secret_previous: Option<String>,
    cluster_listen: Option<String>,
    cluster_advertise: Option<String>,
    cluster_ttl: Option<String>,
}

impl Config {
    /// Reads the configuration of this process.
    ///
    /// # Errors
    /// See [`Config::from_env`].
    pub fn load() -> Result<Config, ConfigErrors> {
        let context = Context { host_name: &environment::host_name(), read_file: &environment::read_file };
        Config::from_env(std::env::vars_os(), context)
    }

    /// Reads the configuration from `vars`.
    ///
    /// # Errors
    /// All mistakes at once. The program then exits with 64.
    pub fn from_env(
        vars: impl IntoIterator<Item = (OsString, OsString)>,
        context: Context<'_>,
    ) -> Result<Config, ConfigErrors> {
        let (raw, mut reader) = Reader::new(Source::read(TABLE, vars, &context));
        let read = read(raw, &mut reader, context);
        let (config, warnings) = reader.finish(read)?;
        Ok(Config { warnings, ..config })
    }
}

/// Reads every variable before it fails on one, so that the report is complete.
fn read(mut raw: Raw, reader: &mut Reader, context: Context<'_>) -> Result<Config, Reported> {
    let cluster = cluster::cluster(&mut raw, reader, context.host_name);
    let http_listen = reader.value("HTTP_LISTEN", raw.http_listen, listen);
    let https = https(raw.https_listen, raw.cert_dir, reader);
    let registry_listen = reader.value("REGISTRY_LISTEN", raw.registry_listen, listen);
    let registry_allow = reader.optional("REGISTRY_ALLOW", raw.registry_allow, networks);
    let registry_token = reader.optional("REGISTRY_TOKEN", raw.registry_token, values::token);
    let registry_policy =
        reader.optional("REGISTRY_POLICY", raw.registry_policy, |path| policy(path, context.read_file));
    let hosts = reader.value("HOSTS", raw.hosts, hosts);
    let backend_allow = reader.optional("BACKEND_ALLOW", raw.backend_allow, networks);
    let trusted_proxies = reader.optional("TRUSTED_PROXIES", raw.trusted_proxies, networks);
    let session_grace = reader.value("SESSION_GRACE", raw.session_grace, values::duration);
    let hold = reader.value("HOLD", raw.hold, values::duration);
    let start_hold = reader.value("START_HOLD", raw.start_hold, values::duration);
    let stage_ttl = reader.value("STAGE_TTL", raw.stage_ttl, positive);
    let max_connections = reader.value("MAX_CONNECTIONS", raw.max_connections, count);
    let max_buffered = reader.optional("MAX_BUFFERED", raw.max_buffered, count);
    let max_sessions = reader.value("MAX_SESSIONS", raw.max_sessions, count);
    let sessions_of_address = reader.value("MAX_SESSIONS_PER_ADDRESS", raw.max_sessions_per_address, count);
    let max_routes = reader.value("MAX_ROUTES_PER_SESSION", raw.max_routes_per_session, count);
    let max_headers = reader.value("MAX_HEADERS_PER_ROUTE", raw.max_headers_per_route, count);
    let max_staged_bytes = reader.value("MAX_STAGED_BYTES", raw.max_staged_bytes, count);
    let max_registry = reader.value("MAX_REGISTRY_CONNECTIONS", raw.max_registry_connections, count);
    let max_per_address = reader.value("MAX_CONNECTIONS_PER_ADDRESS", raw.max_connections_per_address, count);
    let threads = reader.optional("PROXY_THREADS", raw.proxy_threads, count);
    let is_default = raw.admin_listen.is_none();
    let admin = reader.value("ADMIN_LISTEN", raw.admin_listen, listen_or_off);
    let admin_hosts = reader.optional("ADMIN_HOSTS", raw.admin_hosts, host_names);
    let access_log = reader.optional("ACCESS_LOG", raw.access_log, access_log);
    let state_file = reader.optional("STATE_FILE", raw.state_file, state_file);
    let log_level = reader.value("LOG_LEVEL", raw.log_level, values::level);
    let libraries = reader.value("LOG_LEVEL_LIBRARIES", raw.log_level_libraries, values::level);
    let log_format = reader.value("LOG_FORMAT", raw.log_format, values::format);
    Ok(Config {
        http_listen: http_listen?,
        https: https?,
        registry_listen: registry_listen?,
        registry_allow: registry_allow?,
        registry_token: registry_token?,
        registry_policy: registry_policy?,
        exclusive_hosts: hosts?,
        backend_allow: backend_allow?,
        trusted_proxies: trusted_proxies?.unwrap_or_default(),
        session_grace: session_grace?,
        hold: hold?,
        start_hold: start_hold?,
        stage_ttl: stage_ttl?,
        max_connections: max_connections? as usize,
        max_buffered: max_buffered?.map(|bytes| bytes as usize),
        max_sessions: max_sessions? as usize,
        max_sessions_per_address: sessions_of_address? as usize,
        max_routes_per_session: max_routes? as usize,
        max_headers_per_route: max_headers? as usize,
        max_staged_bytes: max_staged_bytes? as usize,
        max_registry_connections: max_registry? as usize,
        max_connections_per_address: max_per_address? as usize,
        proxy_threads: threads?.and_then(|threads| NonZeroUsize::new(threads as usize)),
        admin: admin?.map(|address| AdminListen { address, is_default }),
        admin_hosts: admin_hosts?.unwrap_or_default(),
        access_log: access_log?.flatten(),
        state_file: state_file?,
        cluster: cluster?,
        log: LogConfig { level: log_level?, libraries: libraries?, format: log_format? },
        warnings: Vec::new(),
    })
}

fn https(
    listen_on: Option<String>,
    cert_dir: Option<String>,
    reader: &mut Reader,
) -> Result<Option<Https>, Reported> {
    let is_wanted = listen_on.is_some();
    let listen = reader.optional("HTTPS_LISTEN", listen_on, listen);
    let cert_dir = match (is_wanted, cert_dir) {
        (_, Some(folder)) => Ok(PathBuf::from(folder)),
        (true, None) => Err(reader.missing("CERT_DIR", "HTTPS_LISTEN needs certificates", &["CERT_DIR"])),
        (false, None) => return Ok(None),
    };
    if !is_wanted {
        reader.warn("CERT_DIR has no effect without HTTPS_LISTEN".to_owned());
    }
    let (listen, cert_dir) = (listen?, cert_dir?);
    Ok(listen.map(|listen| Https { listen, cert_dir }))
}

/// Parses `address:port`, or `:port` for every IPv4 address.
fn listen(text: &str) -> Result<SocketAddr, Invalid> {
    let whole = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    whole
        .parse()
        .map_err(|_| Invalid::new("listen address", text, "it is no IP address with a port", "0.0.0.0:8080"))
}

fn listen_or_off(text: &str) -> Result<Option<SocketAddr>, Invalid> {
    if text == "off" { Ok(None) } else { listen(text).map(Some) }
}

/// Whether hosts are exclusive.
fn hosts(text: &str) -> Result<bool, Invalid> {
    match text {
        "shared" => Ok(false),
        "first" => Ok(true),
        _ => Err(Invalid::new("rule for hosts", text, "it is neither shared nor first", "first")),
    }
}

/// Parses names of hosts without ports, separated by commas, blanks or both.
fn host_names(text: &str) -> Result<Vec<String>, Invalid> {
    let items = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty());
    let name = |item: &str| {
        let is_legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if item.chars().all(is_legal) {
            return Ok(item.to_ascii_lowercase());
        }
        Err(Invalid::new("host name", item, "it is no name without a port", "proxy"))
    };
    items.map(name).collect()
}

fn access_log(text: &str) -> Result<Option<AccessLog>, Invalid> {
    match text {
        "json" => Ok(Some(AccessLog::Json)),
        "combined" => Ok(Some(AccessLog::Combined)),
        "off" => Ok(None),
        _ => Err(Invalid::new("access log", text, "it is none of json, combined, off", "json")),
    }
}

/// Parses the path of a file, not of a directory.
fn file_path(text: &str) -> Result<PathBuf, Invalid> {
    if text.ends_with('/') || text.contains('\0') {
        return Err(Invalid::new("file", text, "it is no path of a file", "/state/registry.redb"));
    }
    Ok(PathBuf::from(text))
}

/// Parses the path of STATE_FILE, with `?` behind it where the server may start without the file.
fn state_file(text: &str) -> Result<StateFile, Invalid> {
    let optional = text.strip_suffix('?');
    Ok(StateFile { path: file_path(optional.unwrap_or(text))?, is_optional: optional.is_some() })
}

/// Reads the policy in the file at `path`.
fn policy(path: &str, read: ReadFile<'_>) -> Result<PolicyFile, Invalid> {
    const EXAMPLE: &str = "/etc/registry-policy.json";
    if path.trim_start().starts_with('{') {
        let reason = "it is a policy itself, and must be the path of a file that holds one";
        return Err(Invalid::new("policy", path, reason, EXAMPLE));
    }
    let file = PolicyFile::read(file_path(path)?, read);
    file.map_err(|reason| Invalid::new("policy", path, reason, EXAMPLE))
}

/// Parses networks and single addresses, separated by commas, blanks or both.
fn networks(text: &str) -> Result<Vec<IpNet>, Invalid> {
    let items = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty());
    items.map(|item| item.parse::<IpAddr>().map(IpNet::from).or_else(|_| values::network(item))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
        let vars = vars.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let no_file = |_: &std::path::Path| Err("there is no such file".to_owned());
        Config::from_env(vars, Context { host_name: "proxy", read_file: &no_file })
    }

    #[test]
    fn without_any_variable_it_listens_on_80_and_81() {
        let config = read(&[("PATH", "/usr/bin")]).unwrap();
        assert_eq!(config.http_listen.to_string(), "0.0.0.0:80");
        assert_eq!(config.registry_listen.to_string(), "0.0.0.0:81");
        assert_eq!(config.session_grace, GoDuration::from_secs(300));
        assert_eq!(config.warnings, Vec::<String>::new());
    }

    #[test]
    fn a_port_alone_and_single_addresses_are_valid() {
        let config =
            read(&[("HTTP_LISTEN", ":8080"), ("REGISTRY_ALLOW", "10.2.2.0/24, 192.168.1.7")]).unwrap();
        assert_eq!(config.http_listen.to_string(), "0.0.0.0:8080");
        let allowed: Vec<_> = config.registry_allow.unwrap().iter().map(IpNet::to_string).collect();
        assert_eq!(allowed, ["10.2.2.0/24", "192.168.1.7/32"]);
    }

    #[test]
    fn tls_needs_a_listener_and_certificates() {
        let https = |vars: &[(&str, &str)]| read(vars).map(|config| (config.https, config.warnings));
        let (both, warnings) = https(&[("HTTPS_LISTEN", ":443"), ("CERT_DIR", "/certs")]).unwrap();
        assert_eq!(both.unwrap().listen.to_string(), "0.0.0.0:443");
        assert_eq!(warnings, Vec::<String>::new());
        let report = https(&[("HTTPS_LISTEN", ":443")]).unwrap_err().to_string();
        assert!(
            report.contains("CERT_DIR") && report.contains("HTTPS_LISTEN needs certificates"),
            "{report}"
        );
        let (none, warnings) = https(&[("CERT_DIR", "/certs")]).unwrap();
        assert_eq!((none, warnings.len()), (None, 1));
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let report = read(&[
            ("HTTP_LISTEN", "proxy:80"),
            ("HTTPS_LISTEN", "443"),
            ("REGISTRY_LISTEN", "81"),
            ("REGISTRY_ALLOW", "10.2.2.0/33"),
            ("REGISTRY_TOKEN", "a\nb"),
            ("REGISTRY_POLICY", "/etc/policy.json"),
            ("HOSTS", "mine"),
            ("BACKEND_ALLOW", "everything"),
            ("TRUSTED_PROXIES", "cloudflare"),
            ("SESSION_GRACE", "-1s"),
            ("HOLD", "a while"),
            ("START_HOLD", "until then"),
            ("STAGE_TTL", "0s"),
            ("MAX_CONNECTIONS", "0"),
            ("MAX_BUFFERED", "256MB"),
            ("MAX_SESSIONS", "many"),
            ("MAX_SESSIONS_PER_ADDRESS", "few"),
            ("MAX_ROUTES_PER_SESSION", "-5"),
            ("MAX_HEADERS_PER_ROUTE", "0"),
            ("MAX_STAGED_BYTES", "8MB"),
            ("MAX_REGISTRY_CONNECTIONS", "0"),
            ("MAX_CONNECTIONS_PER_ADDRESS", "some"),
            ("PROXY_THREADS", "0"),
            ("ADMIN_LISTEN", "yes"),
            ("ADMIN_HOSTS", "http://proxy"),
            ("ACCESS_LOG", "xml"),
            ("STATE_FILE", "/state/"),
            ("LOG_LEVEL", "loud"),
            ("LOG_LEVEL_LIBRARIES", "some"),
            ("LOG_FORMAT", "xml"),
        ])
        .unwrap_err();
        // `cluster` has tests for those that belong together.
        let alone = |name: &str| !name.starts_with("ETCD_") && !name.starts_with("CLUSTER_");
        for known in VARIABLES.iter().filter(|known| known.implemented && alone(known.name)) {
            let about = report.problems().iter().filter(|problem| problem.variable == known.name);
            assert_eq!(about.count(), 1, "{}: {report}", known.name);
        }
    }

    #[test]
    fn a_policy_is_read_at_once_and_its_mistakes_are_reported_for_the_variable() {
        let with = |path: &str, content: &'static str| {
            let vars = [(OsString::from("REGISTRY_POLICY"), OsString::from(path))];
            let file = move |_: &std::path::Path| Ok(content.as_bytes().to_vec());
            Config::from_env(vars, Context { host_name: "proxy", read_file: &file })
        };
        let file = with("/etc/policy.json", r#"{"default":["*"]}"#).unwrap().registry_policy.unwrap();
        assert!(file.policy.permits(&"shop".parse().unwrap(), &"a.de".parse().unwrap()));
        let report = with("/etc/policy.json", r#"{"defaults":["*"]}"#).unwrap_err().to_string();
        assert!(
            report.contains("REGISTRY_POLICY") && report.contains("unknown field `defaults`"),
            "{report}"
        );
        let report = with(r#"{"default":["*"]}"#, "").unwrap_err().to_string();
        assert!(report.contains("must be the path of a file"), "{report}");
    }
}
