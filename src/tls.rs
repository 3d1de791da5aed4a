//! What all TLS clients of this package share: the proxy, and the sidecar's readiness checks.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;

/// The provider of cryptography. It is passed to each configuration and never installed as the process's default,
/// because a library must not decide that for its user.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The system's certificate authorities: those that SSL_CERT_FILE or SSL_CERT_DIR name, otherwise the distribution's.
/// If there are none (an image `FROM scratch`), Mozilla's as of this program's build. Blocks: it reads a few hundred
/// files.
pub(crate) fn system_roots() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a file of certificate authorities cannot be read");
    }
    let mut roots = RootCertStore::empty();
    let (read, _) = roots.add_parsable_certificates(found.certs);
    if read == 0 {
        return built_in_roots();
    }
    tracing::debug!(read, "certificates are verified against the system's authorities");
    roots
}

/// Mozilla's certificate authorities as of this program's build.
pub(crate) fn built_in_roots() -> RootCertStore {
    tracing::debug!("no certificate authorities in this system: certificates are verified against Mozilla's");
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}
