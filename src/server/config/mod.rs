//! The server's configuration, read from the environment. No other module of the server reads the environment.

mod acme;
mod cluster;
mod exposure;
mod memory;
mod parse;
mod variables;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;

use crate::environment::values::{self, count, positive};
use crate::environment::{self, ConfigErrors, Context, Reader, Reported, Secret, Source};
use crate::telemetry::LogConfig;
use registry_client::protocol::{GoDuration, HeaderName, HeaderValue, InstanceName};

use super::policy_file::PolicyFile;
use super::routes_file::RoutesFile;
use super::routing::Via;
use super::webhook::Webhook;

use parse::{
    access_log, default_headers, host_names, hosts, listen, listen_or_off, networks, policy, routes_file,
    share, state_file, via, webhooks,
};

pub use acme::Acme;
pub use cluster::{ClusterConfig, Etcd};
pub use exposure::Exposure;
pub use variables::{TABLE, VARIABLES};

/// The server's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// HTTP_LISTEN. Port 0 takes a free one.
    pub http_listen: SocketAddr,
    /// HTTPS_LISTEN, and CERT_DIR; `None`: plain HTTP only.
    pub https: Option<Https>,
    /// ACME_EMAIL, ACME_DIRECTORY, ACME_CA; `None`: no certificates are ordered.
    pub acme: Option<Acme>,
    /// REGISTRY_LISTEN. Port 0 takes a free one.
    pub registry_listen: SocketAddr,
    /// REGISTRY_ALLOW; `None`: loopback and private ranges.
    pub registry_allow: Option<Vec<IpNet>>,
    /// REGISTRY_TOKEN; `None`: everybody may register.
    pub registry_token: Option<Secret>,
    /// REGISTRY_POLICY, read; `None`: every service may claim every domain.
    pub registry_policy: Option<PolicyFile>,
    /// ROUTES_FILE, read; `None`: every route comes from a session.
    pub routes_file: Option<RoutesFile>,
    /// The instance under which the routes of ROUTES_FILE are registered: this host's name.
    pub own_instance: Option<InstanceName>,
    /// DEFAULT_HEADERS, each name once.
    pub default_headers: BTreeMap<HeaderName, HeaderValue>,
    /// VIA; `None`: the proxy does not name itself.
    pub via: Option<Via>,
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
    /// MAX_CLIENT_CONNECTIONS_PER_ADDRESS; `None`: any number.
    pub max_client_connections_per_address: Option<NonZeroUsize>,
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
    /// ADMIN_TOKEN; `None`: nobody may change anything through ADMIN_LISTEN.
    pub admin_token: Option<Secret>,
    /// ALERT_WEBHOOKS
    pub alert_webhooks: Vec<Webhook>,
    /// The name of this host, by which alerts say where they come from.
    pub host_name: String,
    /// TRACE_SAMPLE, from 0 to 1.
    pub trace_sample: f64,
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
    /// CERT_DIR; `None`: all certificates are ordered.
    pub cert_dir: Option<PathBuf>,
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
    acme_email: Option<String>,
    acme_directory: Option<String>,
    acme_ca: Option<String>,
    registry_listen: Option<String>,
    registry_allow: Option<String>,
    registry_token: Option<String>,
    registry_policy: Option<String>,
    routes_file: Option<String>,
    default_headers: Option<String>,
    via: Option<String>,
    hosts: Option<String>,
    backend_allow: Option<String>,
    trusted_proxies: Option<String>,
    session_grace: Option<String>,
    hold: Option<String>,
    start_hold: Option<String>,
    stage_ttl: Option<String>,
    max_connections: Option<String>,
    max_client_connections_per_address: Option<String>,
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
    admin_token: Option<String>,
    alert_webhooks: Option<String>,
    access_log: Option<String>,
    trace_sample: Option<String>,
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
    let acme = acme::values(&mut raw, reader);
    let http_listen = reader.value("HTTP_LISTEN", raw.http_listen, listen);
    let has_https = raw.https_listen.is_some();
    let https = https(raw.https_listen, raw.cert_dir, acme.is_wanted(), reader);
    let registry_listen = reader.value("REGISTRY_LISTEN", raw.registry_listen, listen);
    let registry_allow = reader.optional("REGISTRY_ALLOW", raw.registry_allow, networks);
    let registry_token = reader.optional("REGISTRY_TOKEN", raw.registry_token, values::token);
    let registry_policy =
        reader.optional("REGISTRY_POLICY", raw.registry_policy, |path| policy(path, context.read_file));
    let routes_file =
        reader.optional("ROUTES_FILE", raw.routes_file, |path| routes_file(path, context.read_file));
    let default_headers = reader.optional("DEFAULT_HEADERS", raw.default_headers, default_headers);
    let via = reader.optional("VIA", raw.via, via);
    let hosts = reader.value("HOSTS", raw.hosts, hosts);
    let backend_allow = reader.optional("BACKEND_ALLOW", raw.backend_allow, networks);
    let trusted_proxies = reader.optional("TRUSTED_PROXIES", raw.trusted_proxies, networks);
    let session_grace = reader.value("SESSION_GRACE", raw.session_grace, values::duration);
    let hold = reader.value("HOLD", raw.hold, values::duration);
    let start_hold = reader.value("START_HOLD", raw.start_hold, values::duration);
    let stage_ttl = reader.value("STAGE_TTL", raw.stage_ttl, positive);
    let max_connections = reader.value("MAX_CONNECTIONS", raw.max_connections, count);
    let clients_of_address =
        reader.optional("MAX_CLIENT_CONNECTIONS_PER_ADDRESS", raw.max_client_connections_per_address, count);
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
    let admin_token = reader.optional("ADMIN_TOKEN", raw.admin_token, values::token);
    let alert_webhooks = reader.optional("ALERT_WEBHOOKS", raw.alert_webhooks, webhooks);
    let access_log = reader.optional("ACCESS_LOG", raw.access_log, access_log);
    let trace_sample = reader.value("TRACE_SAMPLE", raw.trace_sample, share);
    let state_file = reader.optional("STATE_FILE", raw.state_file, state_file);
    let needs = acme::Needs {
        has_https,
        is_cluster: !matches!(cluster, Ok(None)),
        state_file: state_file.as_ref().ok().map(Option::as_ref),
    };
    let acme = acme.finish(&needs, reader);
    let log_level = reader.value("LOG_LEVEL", raw.log_level, values::level);
    let libraries = reader.value("LOG_LEVEL_LIBRARIES", raw.log_level_libraries, values::level);
    let log_format = reader.value("LOG_FORMAT", raw.log_format, values::format);
    Ok(Config {
        http_listen: http_listen?,
        https: https?,
        acme: acme?,
        registry_listen: registry_listen?,
        registry_allow: registry_allow?,
        registry_token: registry_token?,
        registry_policy: registry_policy?,
        routes_file: routes_file?,
        own_instance: context.host_name.parse().ok(),
        default_headers: default_headers?.unwrap_or_default(),
        via: via?,
        exclusive_hosts: hosts?,
        backend_allow: backend_allow?,
        trusted_proxies: trusted_proxies?.unwrap_or_default(),
        session_grace: session_grace?,
        hold: hold?,
        start_hold: start_hold?,
        stage_ttl: stage_ttl?,
        max_connections: max_connections? as usize,
        max_client_connections_per_address: clients_of_address?
            .and_then(|clients| NonZeroUsize::new(clients as usize)),
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
        admin_token: admin_token?,
        alert_webhooks: alert_webhooks?.unwrap_or_default(),
        host_name: context.host_name.to_owned(),
        access_log: access_log?.flatten(),
        trace_sample: trace_sample?,
        state_file: state_file?,
        cluster: cluster?,
        log: LogConfig { level: log_level?, libraries: libraries?, format: log_format? },
        warnings: Vec::new(),
    })
}

fn https(
    listen_on: Option<String>,
    cert_dir: Option<String>,
    has_acme: bool,
    reader: &mut Reader,
) -> Result<Option<Https>, Reported> {
    let is_wanted = listen_on.is_some();
    let listen = reader.optional("HTTPS_LISTEN", listen_on, listen);
    let cert_dir = match (is_wanted, cert_dir) {
        (_, Some(folder)) => Ok(Some(PathBuf::from(folder))),
        (true, None) if has_acme => Ok(None),
        (true, None) => {
            let reason = "HTTPS_LISTEN needs certificates: CERT_DIR has them, or ACME_EMAIL orders them";
            Err(reader.missing("CERT_DIR", reason, &["CERT_DIR", "ACME_EMAIL"]))
        }
        (false, None) => return Ok(None),
    };
    if !is_wanted {
        reader.warn("CERT_DIR has no effect without HTTPS_LISTEN".to_owned());
    }
    let (listen, cert_dir) = (listen?, cert_dir?);
    Ok(listen.map(|listen| Https { listen, cert_dir }))
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
    fn certificates_are_ordered_where_they_can_be_served_and_kept() {
        let acme = |more: &[(&str, &str)]| {
            let vars = [&[("ACME_EMAIL", "you@example.com")], more].concat();
            read(&vars).map(|config| (config.acme.unwrap(), config.https.unwrap().cert_dir))
        };
        let both = [("HTTPS_LISTEN", ":443"), ("STATE_FILE", "/state/registry.redb?")];
        let (found, cert_dir) = acme(&both).unwrap();
        assert_eq!(found.folder, std::path::Path::new("/state/acme"));
        assert_eq!(found.directory, "https://acme-v02.api.letsencrypt.org/directory");
        assert_eq!(cert_dir, None);
        for (missing, given) in [("STATE_FILE", both[0]), ("HTTPS_LISTEN", both[1])] {
            let report = acme(&[given]).unwrap_err().to_string();
            assert!(report.contains("ACME_EMAIL") && report.contains(missing), "{report}");
        }
        let plain = [both[0], both[1], ("ACME_DIRECTORY", "http://ca.example.com/directory")];
        assert!(acme(&plain).unwrap_err().to_string().contains("https://"));
        let (without, warnings) = read(&[("ACME_DIRECTORY", "https://ca.example.com/directory")])
            .map(|config| (config.acme, config.warnings))
            .unwrap();
        assert_eq!((without, warnings.len()), (None, 1));
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let report = read(&[
            ("HTTP_LISTEN", "proxy:80"),
            ("HTTPS_LISTEN", "443"),
            ("ACME_EMAIL", "me"),
            ("ACME_DIRECTORY", "letsencrypt"),
            ("ACME_CA", "mine"),
            ("REGISTRY_LISTEN", "81"),
            ("REGISTRY_ALLOW", "10.2.2.0/33"),
            ("REGISTRY_TOKEN", "a\nb"),
            ("REGISTRY_POLICY", "/etc/policy.json"),
            ("ROUTES_FILE", "/etc/routes/"),
            ("DEFAULT_HEADERS", r#"{"Content-Length":"1"}"#),
            ("VIA", "my proxy"),
            ("HOSTS", "mine"),
            ("BACKEND_ALLOW", "everything"),
            ("TRUSTED_PROXIES", "cloudflare"),
            ("SESSION_GRACE", "-1s"),
            ("HOLD", "a while"),
            ("START_HOLD", "until then"),
            ("STAGE_TTL", "0s"),
            ("MAX_CONNECTIONS", "0"),
            ("MAX_CLIENT_CONNECTIONS_PER_ADDRESS", "0"),
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
            ("ADMIN_TOKEN", "a\nb"),
            ("ALERT_WEBHOOKS", "https://hooks.example/x, somewhere"),
            ("ACCESS_LOG", "xml"),
            ("TRACE_SAMPLE", "50"),
            ("STATE_FILE", "/state/"),
            ("LOG_LEVEL", "loud"),
            ("LOG_LEVEL_LIBRARIES", "some"),
            ("LOG_FORMAT", "xml"),
        ])
        .unwrap_err();
        // `cluster` has tests for those that belong together.
        let alone = |name: &str| !name.starts_with("ETCD_") && !name.starts_with("CLUSTER_");
        // Any text is a folder, and without one certificates are ordered.
        let may_be_wrong = |name: &str| alone(name) && name != "CERT_DIR";
        for known in VARIABLES.iter().filter(|known| known.implemented && may_be_wrong(known.name)) {
            let about: Vec<_> =
                report.problems().iter().filter(|problem| problem.variable == known.name).collect();
            assert_eq!(about.len(), 1, "{}: {report}", known.name);
            let line = about[0].example.as_deref().unwrap_or_default();
            assert_eq!(line, format!("{}={}", known.name, known.example));
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
