//! The certificates of CERT_DIR, and those that an authority has issued to this server. The files are reloaded when they
//! change; open connections keep what they have.
//!
//! | module | what it does |
//! |---|---|
//! | `files` | finds and reads the pairs of certificate and key |
//! | `index` | finds the certificate for a name |
//! | `watcher` | notices what has changed in the folder |
//! | `challenge` | what an authority asks this server to show (ACME) |
//!
//! It must not know connections: rustls asks it for a certificate by name.

mod challenge;
mod files;
mod index;
mod watcher;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::broadcast;

pub(crate) use challenge::{ACME_CHALLENGE, ACME_TLS};
pub use challenge::{KeyAuthorization, PendingChallenge};
use files::{CertificatePair, end_of};
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
    /// Those of files, which go first.
    index: ArcSwap<Index>,
    /// Those that an authority has issued, each for one host.
    issued: ArcSwap<HashMap<String, Arc<CertifiedKey>>>,
    challenge: ArcSwapOption<PendingChallenge>,
    events: broadcast::Sender<CertificateEvent>,
}

impl Certificates {
    /// No certificates but those of [`Certificates::issue`].
    pub fn without_files() -> Certificates {
        let (events, _) = broadcast::channel(MAX_UNREAD_EVENTS);
        Certificates(Arc::new(Inner {
            index: ArcSwap::default(),
            issued: ArcSwap::default(),
            challenge: ArcSwapOption::empty(),
            events,
        }))
    }

    /// Loads the pairs in `folder` (`NAME.crt` with `NAME.key`, or `NAME/fullchain.pem` with `NAME/privkey.pem`) and
    /// checks every `interval` whether they have changed. A pair that cannot be loaded is logged; its older
    /// certificate stays in use, and other pairs are not affected.
    ///
    /// # Errors
    /// If the watching thread cannot start.
    pub fn watch(folder: &Path, interval: Duration) -> std::io::Result<Certificates> {
        let certificates = Certificates::without_files();
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
        self.has_file_for(host) || self.0.issued.load().contains_key(host)
    }

    /// Whether CERT_DIR has a certificate for `host`, which is in lower case and has no port.
    pub fn has_file_for(&self, host: &str) -> bool {
        self.0.index.load().find(host).is_some()
    }

    /// Every certificate in use.
    pub fn list(&self) -> Vec<CertificateInfo> {
        let issued = self.0.issued.load();
        let issued = issued.iter().map(|(host, key)| CertificateInfo {
            names: vec![host.clone()],
            ends: key.cert.first().and_then(end_of),
        });
        self.0.index.load().all().iter().cloned().chain(issued).collect()
    }

    /// Whether there is no certificate at all.
    pub fn is_empty(&self) -> bool {
        self.0.index.load().is_empty() && self.0.issued.load().is_empty()
    }

    /// Puts a certificate into force that an authority has issued for `host`, both parts in PEM. A file of CERT_DIR for
    /// the host still goes first.
    ///
    /// # Errors
    /// If the parts are no pair, or the certificate is not for the host. The text is for people and holds no key.
    pub fn issue(&self, host: &str, chain: &str, key: &str) -> Result<(), String> {
        let CertificatePair { key, names, .. } = CertificatePair::from_pem(chain, key)?;
        if !names.iter().any(|name| name == host) {
            return Err(format!("the certificate is not for {host}, but for {}", names.join(" ")));
        }
        let mut issued = HashMap::clone(&self.0.issued.load());
        let renewed = issued.insert(host.to_owned(), key).is_some();
        self.0.issued.store(Arc::new(issued));
        // Fails only if there is no subscriber.
        let _ = self.0.events.send(CertificateEvent { pair: host.to_owned(), names, renewed });
        Ok(())
    }

    /// Shows an authority what it has asked for, until [`Certificates::end_challenge`]. There is one at a time.
    pub fn begin_challenge(&self, challenge: PendingChallenge) {
        self.0.challenge.store(Some(Arc::new(challenge)));
    }

    /// Shows it no longer.
    pub fn end_challenge(&self) {
        self.0.challenge.store(None);
    }

    /// The answer to a request for `path` on port 80, if an authority asks for just that.
    pub(crate) fn key_authorization(&self, path: &str) -> Option<KeyAuthorization> {
        self.0.challenge.load().as_ref()?.key_authorization(path)
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
        if challenge::is_asked_for(&hello) {
            return self.challenge.load().as_ref()?.certificate(hello.server_name()?);
        }
        let find = |name: &str| {
            let file = self.index.load().find(name);
            file.or_else(|| self.issued.load().get(name).cloned())
        };
        let found = hello.server_name().and_then(find);
        if found.is_none() {
            tracing::debug!(name = hello.server_name(), "there is no certificate for this name");
        }
        found
    }
}
