//! TLS: to backends, and to clients.
//!
//! | module | what it is |
//! |---|---|
//! | `backend` | whom we trust and what is verified when we are the client |
//!
//! It must not know HTTP, nor the routing table.

mod backend;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub(super) use backend::{BackendTls, TlsError, Wanted, dns_name};
pub use backend::{Trust, TrustError};

/// The one provider of cryptography in this program. It is named everywhere, never installed as the
/// process's default: a library must not decide that for its user.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
