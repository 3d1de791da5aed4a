//! TLS to backends (SEMANTICS section 3). The certificate of a backend with a name is verified. A backend that is an
//! address has no name to verify; the proxy connects anyway and logs that once.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use registry_client::protocol::{BackendUrl, Host};

use crate::tls::{built_in_roots, provider, system_roots};

/// How long a backend may take for the handshake, once it is connected.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How many backends are remembered as logged. One more clears the memory, and they are logged again.
const MAX_WARNED: usize = 1024;

/// The server name that a pooled connection was made for; `None` for plain text and for addresses. Requests for another
/// name get another connection.
pub(crate) type PooledName = Option<Rc<str>>;

/// Which certificate authorities are trusted to sign a backend's certificate. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Trust(Option<Arc<RootCertStore>>);

/// Why a file of certificate authorities cannot be trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It is not PEM, or something in it is not a certificate.
    #[error("no certificates in PEM: {0}")]
    Unreadable(String),
    /// It holds no certificate.
    #[error("there is no certificate in it")]
    Empty,
}

impl Trust {
    /// Trusts the system's authorities: those that SSL_CERT_FILE or SSL_CERT_DIR name, otherwise the distribution's. If
    /// there are none (an image `FROM scratch`), Mozilla's as of this program's build. They are read at the first TLS
    /// connection to a backend.
    pub fn system() -> Self {
        Trust(None)
    }

    /// Trusts only the authorities in `pem`.
    ///
    /// # Errors
    /// If there are none, or one cannot be read.
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
        // Reading a few hundred files would block the worker's thread.
        let read = || async {
            let roots = tokio::task::spawn_blocking(system_roots).await;
            Arc::new(roots.unwrap_or_else(|_| built_in_roots()))
        };
        Arc::clone(SYSTEM.get_or_init(read).await)
    }
}

/// Makes TLS connections to backends.
#[derive(Debug, Default)]
pub(crate) struct BackendTls {
    trust: Trust,
}

/// `host:port` of the backends that were logged as not verified, by any worker or probe.
static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Which versions of HTTP the handshake offers (ALPN).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    Http1,
    /// HTTP/2, and HTTP/1.1 in case the backend cannot.
    Http2,
}

/// A connection after its TLS handshake.
pub(crate) struct TlsConnection<S> {
    pub(crate) stream: TlsStream<S>,
    /// The backend chose HTTP/2.
    pub(crate) is_http2: bool,
    /// Whether the certificate is valid. Always true for a backend with a name.
    pub(crate) is_valid: bool,
}

/// Why a TLS handshake failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("no TLS: {0}")]
    Handshake(std::io::Error),
    #[error("no TLS: {0}")]
    Config(rustls::Error),
    #[error("no TLS within {} s", HANDSHAKE_TIMEOUT.as_secs())]
    Timeout,
}

impl BackendTls {
    pub(crate) fn new(trust: Trust) -> Self {
        BackendTls { trust }
    }

    /// Does the handshake on a connection to `backend`, within 5 s. `sni` is the server name to send; without one it is
    /// the backend's own name.
    pub(crate) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        backend: &BackendUrl,
        sni: Option<DnsName<'static>>,
        offer: Offer,
    ) -> Result<TlsConnection<S>, TlsError> {
        let identity = identity(backend);
        let verifier = Arc::new(Verifier {
            enforce: matches!(backend.host(), Host::Name(_)),
            roots: self.trust.roots().await,
            algorithms: provider().signature_verification_algorithms,
            backend: identity.clone(),
            error: OnceLock::new(),
        });
        let config = client_config(Arc::clone(&verifier), offer).map_err(TlsError::Config)?;
        let name = sni.map_or(identity, ServerName::DnsName);
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        let stream = match timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(result) => result.map_err(TlsError::Handshake)?,
            Err(_) => return Err(TlsError::Timeout),
        };
        if !verifier.enforce {
            warn_once(backend);
        }
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(TlsConnection { stream, is_http2, is_valid: verifier.error.get().is_none() })
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

fn client_config(verifier: Arc<Verifier>, offer: Offer) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // A resumed session would not be verified again, and pooled connections make resumption unnecessary.
    config.resumption = Resumption::disabled();
    config.alpn_protocols = match offer {
        Offer::Http1 => vec![b"http/1.1".to_vec()],
        Offer::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
    };
    Ok(config)
}

/// The name or address that the backend's certificate must be for. A name that is invalid in DNS becomes an address
/// that no certificate has.
fn identity(backend: &BackendUrl) -> ServerName<'static> {
    match backend.host() {
        Host::Ip(ip) => ServerName::from(*ip),
        Host::Name(name) => match dns_name(name) {
            Some(name) => ServerName::DnsName(name),
            None => ServerName::from(IpAddr::from([0, 0, 0, 0])),
        },
    }
}

/// The DNS name in a Host header; `None` for an address.
pub(crate) fn dns_name(host: &str) -> Option<DnsName<'static>> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    match ServerName::try_from(name.trim_end_matches('.')).ok()? {
        ServerName::DnsName(name) => Some(name.to_owned()),
        _ => None,
    }
}

/// Verifies the chain, and that the certificate is for the backend's own name or for the server name that was sent: a
/// backend may present the certificate of its public name.
#[derive(Debug)]
struct Verifier {
    /// Whether an invalid certificate fails the handshake.
    enforce: bool,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    backend: ServerName<'static>,
    /// Why the certificate is invalid.
    error: OnceLock<rustls::Error>,
}

impl Verifier {
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        sni: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let certificate = ParsedCertificate::try_from(certificate)?;
        let algorithms = self.algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        verify_server_name(&certificate, &self.backend)
            .or_else(|error| verify_server_name(&certificate, sni).map_err(|_| error))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        sni: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Err(error) = self.verify(certificate, intermediates, sni, now) {
            if self.enforce {
                return Err(error);
            }
            let _ = self.error.set(error);
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
    fn a_dns_name_is_read_without_its_port_and_an_address_has_none() {
        let name = |host: &str| dns_name(host).map(|name| name.as_ref().to_owned());
        assert_eq!(name("a.example:8443").as_deref(), Some("a.example"));
        assert_eq!(name("a.example.").as_deref(), Some("a.example"));
        assert_eq!(name("app_1:80").as_deref(), Some("app_1"));
        for address in ["10.2.2.7", "10.2.2.7:443", "[::1]:443", "[::1]", ""] {
            assert_eq!(name(address), None, "{address}");
        }
    }

    #[test]
    fn an_empty_or_broken_file_of_authorities_is_refused() {
        assert!(matches!(Trust::only(b""), Err(TrustError::Empty)));
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(Trust::only(broken), Err(TrustError::Unreadable(_))));
    }
}
