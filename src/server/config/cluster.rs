//! ETCD_* and CLUSTER_*: the etcd that several servers share, and how they reach each other.

use std::net::SocketAddr;
use std::time::Duration;

use registry_client::protocol::Invalid;

use super::Raw;
use super::parse::listen;
use crate::environment::{Reader, Reported, Secret, values};

/// The shortest CLUSTER_SECRET, in bytes.
const SHORTEST_SECRET: usize = 16;
/// etcd grants no shorter lease than about this.
const SHORTEST_TTL: Duration = Duration::from_secs(2);

/// What does nothing without ETCD_ENDPOINTS.
const NEED_ENDPOINTS: [&str; 12] = [
    "ETCD_BASE_PATH",
    "ETCD_USERNAME",
    "ETCD_PASSWORD",
    "ETCD_TIMEOUT",
    "ETCD_CA",
    "ETCD_CERT",
    "ETCD_KEY",
    "CLUSTER_SECRET",
    "CLUSTER_SECRET_PREVIOUS",
    "CLUSTER_LISTEN",
    "CLUSTER_ADVERTISE",
    "CLUSTER_TTL",
];

/// How several servers are one registry.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterConfig {
    /// ETCD_ENDPOINTS, ETCD_BASE_PATH, ETCD_USERNAME, ETCD_PASSWORD, ETCD_TIMEOUT and the files.
    pub etcd: Etcd,
    /// CLUSTER_SECRET
    pub secret: Secret,
    /// CLUSTER_SECRET_PREVIOUS
    pub previous_secret: Option<Secret>,
    /// CLUSTER_LISTEN. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// CLUSTER_ADVERTISE, `host:port`; `None`: this host's address towards etcd.
    pub advertise: Option<String>,
    /// CLUSTER_TTL, at least 2 s.
    pub ttl: Duration,
    /// Our host's name, which begins the name of this replica in the log.
    pub host_name: String,
}

#[cfg(feature = "etcd")]
pub use registry_nodes::Config as Etcd;

/// There is none: this build does without etcd's client.
#[cfg(not(feature = "etcd"))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Etcd {}

/// The cluster; `None` without ETCD_ENDPOINTS.
pub(super) fn cluster(
    raw: &mut Raw,
    reader: &mut Reader,
    host_name: &str,
) -> Result<Option<ClusterConfig>, Reported> {
    let is_wanted = raw.etcd_endpoints.is_some();
    if !is_wanted {
        warn_without_endpoints(reader);
    }
    let has_secret = raw.cluster_secret.is_some();
    let secret = reader.optional("CLUSTER_SECRET", raw.cluster_secret.take(), secret);
    let previous =
        reader.optional("CLUSTER_SECRET_PREVIOUS", raw.cluster_secret_previous.take(), secret_text);
    let listen = reader.value("CLUSTER_LISTEN", raw.cluster_listen.take(), listen);
    let advertise = reader.optional("CLUSTER_ADVERTISE", raw.cluster_advertise.take(), host_and_port);
    let ttl = reader.value("CLUSTER_TTL", raw.cluster_ttl.take(), ttl);
    let etcd = etcd(raw, reader);
    if is_wanted && !has_secret {
        let reason = "servers that share an etcd know each other by it";
        return Err(reader.missing("CLUSTER_SECRET", reason, &["CLUSTER_SECRET"]));
    }
    let (secret, previous_secret, listen) = (secret?, previous?, listen?);
    let (advertise, ttl) = (advertise?, ttl?);
    Ok(etcd?.zip(secret).map(|(etcd, secret)| ClusterConfig {
        etcd,
        secret,
        previous_secret,
        listen,
        advertise,
        ttl,
        host_name: host_name.to_owned(),
    }))
}

fn warn_without_endpoints(reader: &mut Reader) {
    for name in NEED_ENDPOINTS.into_iter().filter(|name| reader.is_given(name)).collect::<Vec<_>>() {
        reader.warn(format!("{name} has no effect: ETCD_ENDPOINTS is not set"));
    }
}

#[cfg(feature = "etcd")]
fn etcd(raw: &mut Raw, reader: &mut Reader) -> Result<Option<Etcd>, Reported> {
    let texts = crate::etcd::EtcdTexts {
        endpoints: raw.etcd_endpoints.take(),
        base_path: raw.etcd_base_path.take(),
        username: raw.etcd_username.take(),
        password: raw.etcd_password.take(),
        timeout: raw.etcd_timeout.take(),
        ca: raw.etcd_ca.take(),
        cert: raw.etcd_cert.take(),
        key: raw.etcd_key.take(),
    };
    crate::etcd::connection(texts, reader)
}

#[cfg(not(feature = "etcd"))]
fn etcd(raw: &mut Raw, reader: &mut Reader) -> Result<Option<Etcd>, Reported> {
    match raw.etcd_endpoints.take() {
        None => Ok(None),
        Some(_) => Err(reader.refuse(
            "ETCD_ENDPOINTS",
            "this registry-server is built without etcd: use the image of the Dockerfile's target server, or build it \
             with --features etcd"
                .to_owned(),
        )),
    }
}

fn secret(text: &str) -> Result<Secret, Invalid> {
    if text.len() < SHORTEST_SECRET {
        return Err(Invalid::new("secret", "[redacted]", "it is shorter than 16 bytes", ""));
    }
    secret_text(text)
}

/// A former secret may be as short as it was.
fn secret_text(text: &str) -> Result<Secret, Invalid> {
    values::token(text)
}

fn ttl(text: &str) -> Result<Duration, Invalid> {
    let ttl = values::positive(text)?.get();
    if ttl < SHORTEST_TTL {
        return Err(Invalid::new("duration", text, "etcd grants no lease of less than 2s", "5s"));
    }
    Ok(ttl)
}

fn host_and_port(text: &str) -> Result<String, Invalid> {
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && is_port(port) && !text.contains([' ', '/', ',']) => {
            Ok(text.to_owned())
        }
        _ => Err(Invalid::new("address", text, "it does not name a host and a port", "10.2.2.5:82")),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::Config;
    use crate::environment::{ConfigErrors, Context};

    const SECRET: (&str, &str) = ("CLUSTER_SECRET", "a-secret-of-our-own");
    const ENDPOINTS: (&str, &str) = ("ETCD_ENDPOINTS", "http://a:2379, http://b:2379");

    fn read(vars: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
        let vars = vars.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let no_file = |_: &std::path::Path| Err("there is no such file".to_owned());
        Config::from_env(vars, Context { host_name: "proxy", read_file: &no_file })
    }

    #[test]
    fn without_endpoints_there_is_no_cluster_and_what_was_set_is_warned_of() {
        let config = read(&[SECRET, ("CLUSTER_TTL", "9s")]).unwrap();
        assert_eq!(config.cluster, None);
        let effect = "has no effect: ETCD_ENDPOINTS is not set";
        assert_eq!(config.warnings, [format!("CLUSTER_SECRET {effect}"), format!("CLUSTER_TTL {effect}")]);
    }

    #[test]
    #[cfg(feature = "etcd")]
    fn endpoints_and_a_secret_are_all_it_takes() {
        let config = read(&[SECRET, ENDPOINTS]).unwrap();
        let cluster = config.cluster.unwrap();
        assert_eq!(cluster.etcd.endpoints, ["http://a:2379", "http://b:2379"]);
        assert_eq!(cluster.etcd.base_path.to_string(), "/registry");
        assert_eq!(cluster.listen.to_string(), "0.0.0.0:82");
        assert_eq!((cluster.advertise, cluster.ttl.as_secs()), (None, 5));
        assert_eq!(config.warnings, Vec::<String>::new());
    }

    #[test]
    #[cfg(feature = "etcd")]
    fn each_mistake_is_told_for_its_variable() {
        for (variable, value, reason) in [
            ("CLUSTER_SECRET", "short", "shorter than 16 bytes"),
            ("CLUSTER_SECRET_PREVIOUS", "a\nb", "a line end"),
            ("CLUSTER_LISTEN", "82", "no IP address with a port"),
            ("CLUSTER_ADVERTISE", "10.2.2.5", "a host and a port"),
            ("CLUSTER_ADVERTISE", "host:0", "a host and a port"),
            ("CLUSTER_TTL", "1s", "less than 2s"),
            ("ETCD_BASE_PATH", "/a/../b", "a part of it"),
            ("ETCD_TIMEOUT", "0s", "more than zero"),
            ("ETCD_USERNAME", "u", "ETCD_PASSWORD is not set"),
            ("ETCD_PASSWORD", "p", "ETCD_USERNAME is not set"),
            ("ETCD_CERT", "-----BEGIN", "go together"),
            ("ETCD_KEY", "-----BEGIN", "go together"),
        ] {
            let with_tls = ["ETCD_CERT", "ETCD_KEY"].contains(&variable);
            let endpoints = if with_tls { ("ETCD_ENDPOINTS", "https://a:2379") } else { ENDPOINTS };
            let others = [SECRET, endpoints].into_iter().filter(|(name, _)| *name != variable);
            let vars: Vec<_> = others.chain([(variable, value)]).collect();
            let report = read(&vars).unwrap_err();
            let told = report.problems().iter().any(|problem| problem.variable == variable);
            assert!(told && report.to_string().contains(reason), "{variable}: {report}");
            assert!(!report.to_string().contains(SECRET.1), "{report}");
        }
        let report = read(&[ENDPOINTS]).unwrap_err().to_string();
        assert!(report.contains("CLUSTER_SECRET") && report.contains("know each other by it"), "{report}");
    }

    #[test]
    #[cfg(not(feature = "etcd"))]
    fn a_build_without_etcd_says_so() {
        let report = read(&[SECRET, ENDPOINTS]).unwrap_err().to_string();
        assert!(report.contains("is built without etcd"), "{report}");
    }
}
