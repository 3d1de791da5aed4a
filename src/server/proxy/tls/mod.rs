//! TLS: to backends, and to clients.
//!
//! | module | what it is |
//! |---|---|
//! | `backend` | whom we trust and what is verified when we are the client |
//! | `clients` | versions, protocols and the deadline when we are the server |
//! | `certificates` | which certificate for which name, kept at what the files say |
//! | `files` | the pairs of CERT_DIR |
//!
//! It must not know HTTP, nor the routing table.

mod backend;
mod certificates;
mod clients;
mod files;

pub(super) use backend::{BackendTls, TlsError, Wanted, dns_name};
pub use backend::{Trust, TrustError};
pub use certificates::{CERTIFICATE_CHECK_INTERVAL, CertificateEvent, Certificates};
pub(super) use clients::ClientTls;

use crate::tls::provider;
