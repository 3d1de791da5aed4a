//! TLS to backends (SEMANTICS section 3): a name is verified; an address cannot be, so it is not, and that is
//! said once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::protocol::{BackendUrl, Host};

use super::provider;
use crate::tls::{built_in_roots, system_roots};

/// How long a backend may take for the handshake, after the connection.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Backends whose missing verification was said; beyond, the memory starts anew and it is said again.
const MAX_WARNED: usize = 1024;

/// Which certificate authorities may vouch for a backend. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Trust(Option<Arc<RootCertStore>>);

/// Why a file of certificate authorities cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It is not PEM, or what it holds is no certificate.
    #[error("no certificates in PEM: {0}")]
    Unreadable(String),
    /// Nothing in it.
    #[error("there is no certificate in it")]
    Empty,
}

impl Trust {
    /// Those of the system: what SSL_CERT_FILE or SSL_CERT_DIR name, else the distribution's; where there
    /// are none (an image `FROM scratch`), Mozilla's as of this program's build. Read at the first TLS
    /// connection to a backend.
    pub fn system() -> Self {
        Trust(None)
    }

    /// Only those in `pem`.
    ///
    /// # Errors
    /// Where there are none, or one cannot be read.
    pub fn only(pem: &[u8]) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| TrustError::Unreadable(error.to_string()))?;
            roots.add(certificate).map_err(|error| TrustError::Unreadable(error.to_string()))?;
        }
        if roots.is_empty() { Err(TrustError::Empty) } else { Ok(Trust(Some(Arc::new(roots)))) }
    }

    async fn roots(&self) -> Arc<RootCertStore> {
        static SYSTEM: OnceCell<Arc<RootCertStore>> = OnceCell::const_new();
        if let Some(roots) = &self.0 {
            return Arc::clone(roots);
        }
        // Reading a few hundred files is nothing for a thread that serves.
        let read = || async {
            let roots = tokio::task::spawn_blocking(system_roots).await;
            Arc::new(roots.unwrap_or_else(|_| built_in_roots()))
        };
        Arc::clone(SYSTEM.get_or_init(read).await)
    }
}

/// Makes TLS connections to backends.
#[derive(Debug, Default)]
pub(in crate::server::proxy) struct BackendTls {
    trust: Trust,
}

/// `host:port` of the backends that were said not to be verified: once, whichever worker or probe meets them first.
static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Which versions of HTTP are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server::proxy) enum Wanted {
    Http1,
    /// HTTP/2, or 1.1 where the backend cannot.
    Http2,
}

/// A connection with TLS on it.
pub(in crate::server::proxy) struct Secured {
    pub(in crate::server::proxy) stream: TlsStream<TcpStream>,
    /// The backend chose HTTP/2.
    pub(in crate::server::proxy) is_http2: bool,
    /// Whether the certificate is good; where it is not and had to be, there is no connection.
    pub(in crate::server::proxy) is_valid: bool,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub(in crate::server::proxy) enum TlsError {
    #[error("no TLS: {0}")]
    Handshake(std::io::Error),
    #[error("no TLS: {0}")]
    Config(rustls::Error),
    #[error("no TLS within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Late,
}

impl BackendTls {
    pub(in crate::server::proxy) fn new(trust: Trust) -> Self {
        BackendTls { trust }
    }

    /// Does the handshake on a connection to `backend`, within 5 s. `sni` is the request's host; without
    /// one it is the backend's own name.
    pub(in crate::server::proxy) async fn secure(
        &self,
        stream: TcpStream,
        backend: &BackendUrl,
        sni: Option<DnsName<'static>>,
        wanted: Wanted,
    ) -> Result<Secured, TlsError> {
        let identity = identity(backend);
        let verifier = Arc::new(Verifier {
            enforce: matches!(backend.host(), Host::Name(_)),
            roots: self.trust.roots().await,
            algorithms: provider().signature_verification_algorithms,
            backend: identity.clone(),
            refused: OnceLock::new(),
        });
        let config = client_config(Arc::clone(&verifier), wanted).map_err(TlsError::Config)?;
        let name = sni.map_or(identity, ServerName::DnsName);
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let stream = match timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(result) => result.map_err(TlsError::Handshake)?,
            Err(_) => return Err(TlsError::Late),
        };
        if !verifier.enforce {
            warn_once(backend);
        }
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Secured { stream, is_http2, is_valid: verifier.refused.get().is_none() })
    }
}

fn warn_once(backend: &BackendUrl) {
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if warned.len() >= MAX_WARNED {
        warned.clear();
    }
    if warned.insert(backend.authority()) {
        tracing::warn!(
            "the certificate of {backend} is not verified, because an address has no name to verify; register the \
             backend by its name to have it verified"
        );
    }
}

fn client_config(verifier: Arc<Verifier>, wanted: Wanted) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // A resumed session is not verified again, and connections are kept anyway.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = match wanted {
        Wanted::Http1 => vec![b"http/1.1".to_vec()],
        Wanted::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    Ok(config)
}

/// Whom the backend has to be. A name that DNS would not have is verified as one that nobody has.
fn identity(backend: &BackendUrl) -> ServerName<'static> {
    match backend.host() {
        Host::Ip(ip) => ServerName::from(*ip),
        Host::Name(name) => match dns_name(name) {
            Some(name) => ServerName::DnsName(name),
            None => ServerName::from(IpAddr::from([0, 0, 0, 0])),
        },
    }
}

/// The name in a Host header; `None` for an address.
pub(in crate::server::proxy) fn dns_name(host: &str) -> Option<DnsName<'static>> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    match ServerName::try_from(name.trim_end_matches('.')).ok()? {
        ServerName::DnsName(name) => Some(name.to_owned()),
        _ => None,
    }
}

/// Verifies the chain, and that the certificate is for the backend's own name or for the one that the
/// request asks for: what presents its public certificate is as good as what has one for an internal name.
#[derive(Debug)]
struct Verifier {
    /// Whether what is not valid is refused.
    enforce: bool,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    backend: ServerName<'static>,
    /// Why the certificate is not good.
    refused: OnceLock<rustls::Error>,
}

impl Verifier {
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        asked_for: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let certificate = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        verify_server_name(&certificate, &self.backend)
            .or_else(|error| verify_server_name(&certificate, asked_for).map_err(|_| error))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        asked_for: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Err(error) = self.verify(certificate, intermediates, asked_for, now) {
            if self.enforce {
                return Err(error);
            }
            let _ = self.refused.set(error);
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_host_is_without_its_port_and_an_address_has_none() {
        let name = |host: &str| dns_name(host).map(|name| name.as_ref().to_owned());
        assert_eq!(name("a.example:8443").as_deref(), Some("a.example"));
        assert_eq!(name("a.example.").as_deref(), Some("a.example"));
        assert_eq!(name("app_1:80").as_deref(), Some("app_1"));
        for address in ["10.2.2.7", "10.2.2.7:443", "[::1]:443", "[::1]", ""] {
            assert_eq!(name(address), None, "{address}");
        }
    }

    #[test]
    fn nothing_is_no_reason_to_trust() {
        assert!(matches!(Trust::only(b""), Err(TrustError::Empty)));
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(Trust::only(broken), Err(TrustError::Unreadable(_))));
    }
}
