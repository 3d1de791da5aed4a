//! The certificates of CERT_DIR. They are reloaded when their files change; open connections keep what they have.
//!
//! | module | what it does |
//! |---|---|
//! | `files` | finds and reads the pairs of certificate and key |
//! | `index` | finds the certificate for a name |
//! | `watcher` | notices what has changed in the folder |
//!
//! It must not know connections: rustls asks it for a certificate by name.

mod files;
mod index;
mod watcher;

use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::broadcast;

pub use index::CertificateInfo;
use index::Index;
pub use watcher::{CERTIFICATE_CHECK_INTERVAL, CertificateEvent};
use watcher::{Changes, Watcher};

/// How many events a subscriber may be behind before it loses the oldest.
const MAX_UNREAD_EVENTS: usize = 256;

/// The certificates in use. Cheap to clone; the thread that watches the files ends with the last clone.
#[derive(Debug, Clone)]
pub struct Certificates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    index: ArcSwap<Index>,
    events: broadcast::Sender<CertificateEvent>,
}

impl Certificates {
    /// Loads the pairs in `folder` (`NAME.crt` with `NAME.key`, or `NAME/fullchain.pem` with `NAME/privkey.pem`) and
    /// checks every `interval` whether they have changed. A pair that cannot be loaded is logged; its older
    /// certificate stays in use, and other pairs are not affected.
    ///
    /// # Errors
    /// If the watching thread cannot start.
    pub fn watch(folder: &Path, interval: Duration) -> std::io::Result<Certificates> {
        let (events, _) = broadcast::channel(MAX_UNREAD_EVENTS);
        let certificates = Certificates(Arc::new(Inner { index: ArcSwap::default(), events }));
        let mut watcher = Watcher::new(folder);
        certificates.0.apply(watcher.check());
        if certificates.is_empty() {
            tracing::warn!(folder = %folder.display(), "there is no certificate in CERT_DIR yet");
        }
        let watched = Arc::downgrade(&certificates.0);
        let run = move || watch_files(watcher, &watched, interval);
        thread::Builder::new().name("certificates".to_owned()).spawn(run)?;
        Ok(certificates)
    }

    /// Subscribes to events from now on. A subscriber that is more than 256 events behind loses the oldest.
    pub fn subscribe(&self) -> broadcast::Receiver<CertificateEvent> {
        self.0.events.subscribe()
    }

    /// Whether there is a certificate for `host`, which is in lower case and has no port.
    pub fn covers(&self, host: &str) -> bool {
        self.0.index.load().find(host).is_some()
    }

    /// Every certificate in use.
    pub fn list(&self) -> Vec<CertificateInfo> {
        self.0.index.load().all().to_vec()
    }

    /// Whether there is no certificate at all.
    pub fn is_empty(&self) -> bool {
        self.0.index.load().is_empty()
    }

    pub(crate) fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::clone(&self.0) as Arc<dyn ResolvesServerCert>
    }
}

/// Runs until the last [`Certificates`] is dropped.
fn watch_files(mut watcher: Watcher, watched: &Weak<Inner>, interval: Duration) {
    loop {
        thread::sleep(interval);
        let Some(inner) = watched.upgrade() else { return };
        inner.apply(watcher.check());
    }
}

impl Inner {
    fn apply(&self, changes: Option<Changes>) {
        let Some(changes) = changes else { return };
        self.index.store(Arc::new(changes.index));
        for event in changes.events {
            let action = if event.renewed { "renewed" } else { "loaded" };
            tracing::info!(pair = event.pair, names = event.names.join(" "), "certificate {action}");
            // Fails only if there is no subscriber.
            let _ = self.events.send(event);
        }
    }
}

impl ResolvesServerCert for Inner {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = hello.server_name().and_then(|name| self.index.load().find(name));
        if found.is_none() {
            tracing::debug!(name = hello.server_name(), "there is no certificate for this name");
        }
        found
    }
}
