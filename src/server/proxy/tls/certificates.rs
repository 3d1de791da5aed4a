//! The certificates of CERT_DIR, read anew whenever their files change, without a connection noticing.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::broadcast;

use super::files::{self, Fingerprint, PairFiles};

/// How often the files are looked at.
pub const CERTIFICATE_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Events that one listener may be behind; it then loses the oldest, and is told so.
const EVENTS: usize = 256;

/// What happened to a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateEvent {
    /// The file's name without its end, or the folder's name.
    pub pair: String,
    /// The hosts that it is for, wildcards as `*.example.com`.
    pub names: Vec<String>,
    /// Whether it took the place of an older one.
    pub renewed: bool,
}

/// The certificates in force. Cheap to clone; watching ends with the last clone.
#[derive(Debug, Clone)]
pub struct Certificates(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    index: ArcSwap<Index>,
    events: broadcast::Sender<CertificateEvent>,
}

impl Certificates {
    /// Reads the pairs in `folder` (`NAME.crt` with `NAME.key`, and `fullchain.pem` with `privkey.pem` in
    /// folders of their own), and looks every `interval` whether they have changed. What cannot be read is
    /// said in the log: an older certificate stays in force, the others are not touched.
    ///
    /// # Errors
    /// Where the thread that watches cannot start.
    pub fn watch(folder: &Path, interval: Duration) -> std::io::Result<Certificates> {
        let (events, _) = broadcast::channel(EVENTS);
        let certificates = Certificates(Arc::new(Inner { index: ArcSwap::default(), events }));
        let mut watcher = Watcher { folder: folder.to_owned(), pairs: BTreeMap::new(), unreadable: None };
        let first = watcher.look();
        certificates.0.take(first);
        if certificates.is_empty() {
            tracing::warn!(folder = %folder.display(), "there is no certificate in CERT_DIR yet");
        }
        let watched = Arc::downgrade(&certificates.0);
        let run = move || watcher.run(&watched, interval);
        thread::Builder::new().name("certificates".to_owned()).spawn(run)?;
        Ok(certificates)
    }

    /// What happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<CertificateEvent> {
        self.0.events.subscribe()
    }

    /// Whether there is one for `host`, in lower case and without a port.
    pub fn covers(&self, host: &str) -> bool {
        self.0.index.load().find(host).is_some()
    }

    /// Whether there is none at all.
    pub fn is_empty(&self) -> bool {
        let index = self.0.index.load();
        index.exact.is_empty() && index.wildcard.is_empty()
    }

    pub(super) fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        Arc::clone(&self.0) as Arc<dyn ResolvesServerCert>
    }
}

impl Inner {
    fn take(&self, news: Option<News>) {
        let Some(news) = news else { return };
        self.index.store(Arc::new(news.index));
        for event in news.events {
            let action = if event.renewed { "renewed" } else { "loaded" };
            tracing::info!(pair = event.pair, names = event.names.join(" "), "certificate {action}");
            // Nobody may be listening.
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

/// Which certificate for which name: exact before wildcard.
#[derive(Debug, Default)]
struct Index {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// Without the `*.`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
}

impl Index {
    fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let under = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        self.exact.get(name).or_else(under).cloned()
    }

    /// Of several for one name the pair that is first by the alphabet counts.
    fn of(pairs: &BTreeMap<String, Pair>) -> Self {
        let mut index = Index::default();
        for loaded in pairs.values().filter_map(|pair| pair.loaded.as_ref()) {
            for name in &loaded.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut index.wildcard, parent),
                    None => (&mut index.exact, name.as_str()),
                };
                map.entry(name.to_owned()).or_insert_with(|| Arc::clone(&loaded.key));
            }
        }
        index
    }
}

/// A certificate with its key, and whom it is for.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) key: Arc<CertifiedKey>,
    /// In lower case.
    pub(super) names: Vec<String>,
}

struct Pair {
    /// What the files looked like when they were last read.
    read: Fingerprint,
    loaded: Option<Loaded>,
    /// What is wrong with what was read, until it has been said.
    problem: Option<String>,
}

struct News {
    index: Index,
    events: Vec<CertificateEvent>,
}

/// What the folder held when it was last looked at.
struct Watcher {
    folder: PathBuf,
    pairs: BTreeMap<String, Pair>,
    /// Why the folder could not be read; said once.
    unreadable: Option<String>,
}

impl Watcher {
    fn run(mut self, watched: &Weak<Inner>, interval: Duration) {
        loop {
            thread::sleep(interval);
            let Some(inner) = watched.upgrade() else { return };
            inner.take(self.look());
        }
    }

    /// What has changed, if anything.
    fn look(&mut self) -> Option<News> {
        let found = match files::find(&self.folder) {
            Ok(found) => found,
            Err(error) => {
                let error = error.to_string();
                if self.unreadable.as_ref() != Some(&error) {
                    tracing::error!(folder = %self.folder.display(), error, "cannot read CERT_DIR");
                    self.unreadable = Some(error);
                }
                return None;
            }
        };
        self.unreadable = None;
        let mut changed = self.drop_missing(&found);
        let mut events = Vec::new();
        for (name, files) in found {
            if let Some(event) = self.look_at(name, &files) {
                events.push(event);
            }
        }
        changed |= !events.is_empty();
        changed.then(|| News { index: Index::of(&self.pairs), events })
    }

    fn drop_missing(&mut self, found: &BTreeMap<String, PairFiles>) -> bool {
        let before = self.pairs.len();
        self.pairs.retain(|name, _| {
            let stays = found.contains_key(name);
            if !stays {
                tracing::info!(pair = name, "certificate removed");
            }
            stays
        });
        self.pairs.len() != before
    }

    fn look_at(&mut self, name: String, files: &PairFiles) -> Option<CertificateEvent> {
        let print = files.fingerprint();
        if let Some(pair) = self.pairs.get_mut(&name)
            && pair.read == print
        {
            // It is as it was at the last look, so nobody is in the middle of replacing its two files.
            if let Some(problem) = pair.problem.take() {
                let kept = if pair.loaded.is_some() { "; the one before stays in force" } else { "" };
                tracing::error!("certificate {name}: {problem}{kept}");
            }
            return None;
        }
        let before = self.pairs.remove(&name).and_then(|pair| pair.loaded);
        let (loaded, problem) = match files.load() {
            Ok(loaded) => (Some(loaded), None),
            Err(problem) => (None, Some(problem)),
        };
        let event = loaded.as_ref().map(|loaded| CertificateEvent {
            pair: name.clone(),
            names: loaded.names.clone(),
            renewed: before.is_some(),
        });
        self.pairs.insert(name, Pair { read: print, loaded: loaded.or(before), problem });
        event
    }
}
