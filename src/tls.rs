//! What everybody who is a TLS client here has in common. Used by the proxy and by the sidecar's checks.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;

/// The one provider of cryptography in this program. It is named everywhere, never installed as the
/// process's default: a library must not decide that for its user.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Those of the system: what SSL_CERT_FILE or SSL_CERT_DIR name, else the distribution's; where there are none (an
/// image `FROM scratch`), Mozilla's as of this program's build. Blocks: it reads a few hundred files.
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

/// Mozilla's.
pub(crate) fn built_in_roots() -> RootCertStore {
    tracing::debug!("no certificate authorities in this system: certificates are verified against Mozilla's");
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}
