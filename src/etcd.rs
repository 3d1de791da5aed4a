//! How etcd is reached, as both programs read it from ETCD_* (feature `etcd`).

use registry_nodes::{Config, ConfigError, Credentials, Layout, Pem, Tls};

use crate::environment::{Reader, Reported, values};
use registry_client::protocol::Invalid;

/// The texts of the variables that both programs have.
#[derive(Debug, Default)]
pub(crate) struct EtcdTexts {
    pub(crate) endpoints: Option<String>,
    pub(crate) base_path: Option<String>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) timeout: Option<String>,
    pub(crate) ca: Option<String>,
    pub(crate) cert: Option<String>,
    pub(crate) key: Option<String>,
}

/// The connection; `None` without ETCD_ENDPOINTS. The layout is the default one.
pub(crate) fn connection(texts: EtcdTexts, reader: &mut Reader) -> Result<Option<Config>, Reported> {
    let endpoints = reader.optional("ETCD_ENDPOINTS", texts.endpoints, endpoints);
    let base_path = reader.value("ETCD_BASE_PATH", texts.base_path, |text| {
        text.parse().map_err(|reason| Invalid::new("base path", text, reason, "/services"))
    });
    let user = reader.optional("ETCD_USERNAME", texts.username, |text| Ok(text.to_owned()));
    let password = reader.optional("ETCD_PASSWORD", texts.password, |text| Ok(text.to_owned()));
    let timeout = reader.value("ETCD_TIMEOUT", texts.timeout, values::positive);
    let ca = pem("ETCD_CA", texts.ca, reader);
    let cert = pem("ETCD_CERT", texts.cert, reader);
    let key = pem("ETCD_KEY", texts.key, reader);
    let Some(endpoints) = endpoints? else { return Ok(None) };
    let credentials = match (user?, password?) {
        (Some(user), Some(password)) => Some(Credentials { user, password }),
        (None, None) => None,
        (Some(_), None) => {
            return Err(reader.refuse("ETCD_USERNAME", "ETCD_PASSWORD is not set".to_owned()));
        }
        (None, Some(_)) => {
            return Err(reader.refuse("ETCD_PASSWORD", "ETCD_USERNAME is not set".to_owned()));
        }
    };
    let config = Config {
        endpoints,
        base_path: base_path?,
        layout: Layout::default(),
        credentials,
        timeout: timeout?.get(),
        tls: Tls { ca, cert, key },
    };
    match config.check() {
        Ok(_) => Ok(Some(config)),
        Err(error) => Err(reader.refuse(variable_of(&config, &error), error.to_string())),
    }
}

/// What a variable holds. Of one that was read from a file, the file counts: a renewed certificate is read at the
/// next connection.
fn pem(name: &'static str, text: Option<String>, reader: &Reader) -> Option<Pem> {
    let text = text?;
    Some(reader.file_of(name).map_or(Pem::Text(text), Pem::File))
}

/// Which variable a mistake is in.
fn variable_of(config: &Config, error: &ConfigError) -> &'static str {
    match error {
        ConfigError::HalfIdentity if config.tls.cert.is_none() => "ETCD_KEY",
        ConfigError::HalfIdentity => "ETCD_CERT",
        ConfigError::File { path, .. } if config.tls.ca == Some(Pem::File(path.clone())) => "ETCD_CA",
        ConfigError::File { path, .. } if config.tls.cert == Some(Pem::File(path.clone())) => "ETCD_CERT",
        ConfigError::File { .. } => "ETCD_KEY",
        _ => "ETCD_ENDPOINTS",
    }
}

fn endpoints(text: &str) -> Result<Vec<String>, Invalid> {
    let items = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|item| !item.is_empty());
    let endpoints: Vec<String> = items.map(str::to_owned).collect();
    match endpoints.is_empty() {
        true => Err(Invalid::new("endpoints", text, "no endpoint stands in it", "http://etcd:2379")),
        false => Ok(endpoints),
    }
}
