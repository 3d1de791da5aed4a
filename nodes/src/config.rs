//! How etcd is reached.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use crate::error::ConfigError;
use crate::layout::{BasePath, Layout};

/// Between two questions whether a connection with an open watch still lives. etcd ends connections on which it is
/// asked more often than every 5 s.
const PING: Duration = Duration::from_secs(10);
/// The answer to such a question may take that long.
const PONG: Duration = Duration::from_secs(5);

/// How etcd is reached, and where in it the nodes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `http://host:port`, `https://host:port` or `host:port`, at least one. One is used at a time; when it fails
    /// the next is.
    pub endpoints: Vec<String>,
    /// The path below which all keys lie.
    pub base_path: BasePath,
    /// Which keys are read.
    pub layout: Layout,
    /// As whom; `None`: as nobody. An etcd without authentication takes any.
    pub credentials: Option<Credentials>,
    /// How long one question may take, the connection included.
    pub timeout: Duration,
    /// The files for TLS.
    pub tls: Tls,
}

/// A user of etcd.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Its name.
    pub user: String,
    /// Its password, which is never shown.
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What TLS needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authorities that etcd's certificate must come from; `None`: the system's.
    pub ca: Option<Pem>,
    /// Our own certificate, for an etcd that asks for one.
    pub cert: Option<Pem>,
    /// Its key.
    pub key: Option<Pem>,
}

/// Certificates or a key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// A file. It is read at each connection, so a renewed certificate counts from the next one on.
    File(PathBuf),
    /// The text itself, which is never shown.
    Text(String),
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pem::File(path) => f.debug_tuple("File").field(path).finish(),
            Pem::Text(_) => f.write_str("Text(..)"),
        }
    }
}

impl Pem {
    fn read(&self) -> Result<Vec<u8>, ConfigError> {
        match self {
            Pem::File(path) => std::fs::read(path)
                .map_err(|error| ConfigError::File { path: path.clone(), reason: error.to_string() }),
            Pem::Text(text) => Ok(text.clone().into_bytes()),
        }
    }
}

impl Config {
    /// An etcd without authentication and without TLS, with the base path `/services` and 10 s for each question.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Config {
        Config {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            base_path: "/services".parse().expect("it is one"),
            layout: Layout::default(),
            credentials: None,
            timeout: Duration::from_secs(10),
            tls: Tls::default(),
        }
    }

    /// The endpoints as URLs, after everything was looked at that can be wrong without etcd.
    ///
    /// # Errors
    /// What is wrong, files that cannot be read included.
    pub fn check(&self) -> Result<Vec<String>, ConfigError> {
        if self.endpoints.is_empty() {
            return Err(ConfigError::NoEndpoint);
        }
        let urls: Vec<String> =
            self.endpoints.iter().map(|endpoint| self.url(endpoint)).collect::<Result<_, _>>()?;
        self.tls.options()?;
        Ok(urls)
    }

    fn url(&self, endpoint: &str) -> Result<String, ConfigError> {
        let wrong =
            |reason: &str| ConfigError::Endpoint { endpoint: endpoint.to_owned(), reason: reason.to_owned() };
        let (scheme, rest) = match endpoint.split_once("://") {
            None if self.tls.is_empty() => ("http", endpoint),
            None => ("https", endpoint),
            Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
            Some(_) => return Err(wrong("its scheme is neither http nor https")),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let host_and_port = authority.rsplit_once(':');
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        match host_and_port {
            Some((host, port)) if !host.is_empty() && is_port(port) => {}
            _ => return Err(wrong("it does not name a host and a port")),
        }
        if authority.contains(['/', '?', '#', '@', ' ', ',']) {
            return Err(wrong("there is more in it than a host and a port"));
        }
        if scheme == "http" && !self.tls.is_empty() {
            return Err(ConfigError::WithoutTls(endpoint.to_owned()));
        }
        Ok(format!("{scheme}://{authority}"))
    }

    /// The client's options for `url`, with or without the user.
    pub(crate) fn options(&self, url: &str, authenticate: bool) -> Result<ConnectOptions, ConfigError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(self.timeout)
            .with_keep_alive(PING, PONG)
            .with_keep_alive_while_idle(false)
            .with_require_leader(true);
        if url.starts_with("https://") {
            options = options.with_tls(self.tls.options()?);
        }
        if let Some(Credentials { user, password }) = self.credentials.as_ref().filter(|_| authenticate) {
            options = options.with_user(user, password);
        }
        Ok(options)
    }
}

impl Tls {
    fn is_empty(&self) -> bool {
        *self == Tls::default()
    }

    fn options(&self) -> Result<TlsOptions, ConfigError> {
        let mut options = TlsOptions::new();
        options = match &self.ca {
            Some(ca) => options.ca_certificate(Certificate::from_pem(ca.read()?)),
            None => options.with_native_roots(),
        };
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Ok(options.identity(Identity::from_pem(cert.read()?, key.read()?))),
            (None, None) => Ok(options),
            _ => Err(ConfigError::HalfIdentity),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(endpoint: &str, tls: Tls) -> Result<String, String> {
        let config = Config { tls, ..Config::new([endpoint]) };
        config.check().map(|mut urls| urls.remove(0)).map_err(|error| error.to_string())
    }

    #[test]
    fn an_endpoint_is_a_host_and_a_port_and_tls_follows_from_its_files() {
        assert_eq!(check("etcd:2379", Tls::default()).unwrap(), "http://etcd:2379");
        assert_eq!(check("http://[::1]:2379/", Tls::default()).unwrap(), "http://[::1]:2379");
        assert_eq!(check("https://etcd:2379", Tls::default()).unwrap(), "https://etcd:2379");
        for wrong in
            ["", "etcd", "etcd:0", "ftp://etcd:1", "http://u@etcd:1", "http://etcd:1/x", "etcd:x", ":1"]
        {
            assert!(check(wrong, Tls::default()).is_err(), "{wrong:?}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let pem = || Some(Pem::File(file.path().to_owned()));
        let tls = || Tls { ca: pem(), ..Tls::default() };
        assert_eq!(check("etcd:2379", tls()).unwrap(), "https://etcd:2379");
        assert!(check("http://etcd:2379", tls()).unwrap_err().contains("without TLS"));
        let half = Tls { cert: pem(), ..tls() };
        assert!(check("etcd:2379", half).unwrap_err().contains("go together"));
        let missing = Tls { ca: Some(Pem::File("/nonexistent/ca.pem".into())), ..Tls::default() };
        assert!(check("etcd:2379", missing).unwrap_err().contains("/nonexistent/ca.pem"));
        assert_eq!(Config::new::<String>([]).check(), Err(ConfigError::NoEndpoint));
    }

    #[test]
    fn a_password_is_not_shown() {
        let credentials = Credentials { user: "u".to_owned(), password: "hunter2".to_owned() };
        assert!(!format!("{credentials:?}").contains("hunter2"));
        assert!(!format!("{:?}", Pem::Text("hunter2".to_owned())).contains("hunter2"));
    }
}
