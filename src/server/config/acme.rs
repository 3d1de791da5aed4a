//! ACME_*: certificates from an authority.

use std::path::PathBuf;

use http::Uri;
use registry_client::protocol::Invalid;

use crate::environment::{Reader, Reported};

use super::{Raw, StateFile};

/// The folder beside STATE_FILE.
const FOLDER: &str = "acme";

/// How certificates are ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    /// ACME_EMAIL
    pub email: String,
    /// ACME_DIRECTORY
    pub directory: String,
    /// ACME_CA, in PEM; `None`: the system's authorities.
    pub ca: Option<String>,
    /// Where account and certificates are kept.
    pub folder: PathBuf,
}

/// The three variables, each read for itself.
pub(super) struct Values {
    is_wanted: bool,
    email: Result<Option<String>, Reported>,
    directory: Result<String, Reported>,
    ca: Result<Option<String>, Reported>,
}

/// Reads the variables.
pub(super) fn values(raw: &mut Raw, reader: &mut Reader) -> Values {
    let is_wanted = raw.acme_email.is_some();
    for name in ["ACME_DIRECTORY", "ACME_CA"] {
        if !is_wanted && reader.is_given(name) {
            reader.warn(format!("{name} has no effect: ACME_EMAIL is not set"));
        }
    }
    Values {
        is_wanted,
        email: reader.optional("ACME_EMAIL", raw.acme_email.take(), email),
        directory: reader.value("ACME_DIRECTORY", raw.acme_directory.take(), directory),
        ca: reader.optional("ACME_CA", raw.acme_ca.take(), certificates),
    }
}

/// What the rest of the configuration must have for ACME.
pub(super) struct Needs<'a> {
    pub(super) has_https: bool,
    pub(super) is_cluster: bool,
    /// As far as it could be read.
    pub(super) state_file: Option<Option<&'a StateFile>>,
}

impl Values {
    /// Whether there are certificates without CERT_DIR.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_wanted
    }

    /// Puts them together; `None` without ACME_EMAIL.
    pub(super) fn finish(self, needs: &Needs<'_>, reader: &mut Reader) -> Result<Option<Acme>, Reported> {
        let (email, directory, ca) = (self.email?, self.directory?, self.ca?);
        let Some(email) = email else { return Ok(None) };
        if needs.is_cluster {
            let reason = "servers that share an etcd do not share certificates yet: put those into CERT_DIR";
            return Err(reader.refuse("ACME_EMAIL", reason.to_owned()));
        }
        if !needs.has_https {
            let reason = "it needs HTTPS_LISTEN, where the certificates are served";
            return Err(reader.refuse("ACME_EMAIL", reason.to_owned()));
        }
        // A mistake in STATE_FILE is reported as such.
        let Some(state_file) = needs.state_file else { return Ok(None) };
        let Some(state_file) = state_file else {
            let reason = "it needs STATE_FILE, beside which account and certificates are kept";
            return Err(reader.refuse("ACME_EMAIL", reason.to_owned()));
        };
        Ok(Some(Acme { email, directory, ca, folder: state_file.path.with_file_name(FOLDER) }))
    }
}

fn email(text: &str) -> Result<String, Invalid> {
    let is_legal = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_graphic() && !"@,;<>()?&#%\"\\".contains(c))
    };
    match text.split_once('@') {
        Some((user, host)) if is_legal(user) && is_legal(host) => Ok(text.to_owned()),
        _ => Err(Invalid::new("address", text, "it is no e-mail address", "you@example.com")),
    }
}

fn directory(text: &str) -> Result<String, Invalid> {
    let refuse = |reason| Err(Invalid::new("directory", text, reason, "https://acme.example.com/directory"));
    let Ok(uri) = text.parse::<Uri>() else { return refuse("it is no URL") };
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => Ok(text.to_owned()),
        // For tests: nobody listens in on loopback.
        (Some("http"), Some("127.0.0.1" | "localhost")) => Ok(text.to_owned()),
        _ => refuse("it is no URL with https://"),
    }
}

fn certificates(text: &str) -> Result<String, Invalid> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(text.to_owned()),
        _ => Err(Invalid::new(
            "certificate",
            text,
            "it holds no certificate in PEM",
            "-----BEGIN CERTIFICATE-----",
        )),
    }
}
