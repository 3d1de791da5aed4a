//! Certificates from an authority (ACME, RFC 8555) for the hosts that are claimed.
//!
//! | module | what it does |
//! |---|---|
//! | [`plan`] | pure: which certificate to order when |
//! | `wanted` | pure: for which of the claims there may be a certificate |
//! | `task` | carries the plan out, one order at a time |
//! | `order` | one order, from the account to the certificate |
//! | `http_client` | the requests to the authority |
//! | `store` | the folder that keeps account and certificates |
//!
//! It must not know how a challenge is answered and a handshake served: the proxy's certificates do that.

mod http_client;
mod order;
pub mod plan;
mod store;
mod task;
mod wanted;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::server::live_table::LiveTable;
use crate::server::proxy::Certificates;

use http_client::Authorities;
use order::Authority;
pub use plan::HostReport;
use store::Folder;
use task::Task;

/// What certificates are ordered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// ACME_EMAIL: whom the authority may write to.
    pub email: String,
    /// ACME_DIRECTORY: the authority, as the URL of its directory.
    pub directory: String,
    /// The content of ACME_CA_FILE; `None`: the system's authorities.
    pub ca: Option<String>,
    /// Where account and certificates are kept.
    pub folder: PathBuf,
}

/// Why no certificate can be ordered.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The folder cannot be used.
    #[error("{0}")]
    Folder(String),
    /// ACME_CA_FILE cannot be used.
    #[error("ACME_CA_FILE: {0}")]
    Ca(String),
}

/// The task that orders certificates. It ends when this is dropped.
#[derive(Debug)]
pub struct Acme {
    task: JoinHandle<()>,
    status: watch::Receiver<Vec<HostReport>>,
}

impl Acme {
    /// Puts the certificates that are kept into force, and orders those that are missing. Blocks shortly, to read files.
    ///
    /// # Errors
    /// If the folder cannot be read or made, or the authorities cannot be read.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(
        settings: &Settings,
        certificates: Certificates,
        table: Arc<LiveTable>,
    ) -> Result<Acme, AcmeError> {
        let authorities = Authorities::read(settings.ca.as_deref()).map_err(AcmeError::Ca)?;
        let folder = Folder::open(&settings.folder, &settings.directory).map_err(AcmeError::Folder)?;
        let authority = Authority::new(settings, authorities, folder.clone());
        let (sender, status) = watch::channel(Vec::new());
        let task = Task::new(authority, folder, certificates, table, sender);
        Ok(Acme { task: tokio::spawn(task.run()), status })
    }

    /// Tells how the hosts stand, as of each change.
    pub fn status(&self) -> watch::Receiver<Vec<HostReport>> {
        self.status.clone()
    }
}

impl Drop for Acme {
    fn drop(&mut self) {
        self.task.abort();
    }
}
