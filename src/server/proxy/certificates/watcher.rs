//! Watches CERT_DIR and loads pairs that are new or have changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::{self, CertificatePair, Fingerprint, PairFiles};
use super::index::Index;

/// How often the server checks the files of CERT_DIR.
pub const CERTIFICATE_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// A certificate that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateEvent {
    /// The file's name without `.crt`, or the folder's name.
    pub pair: String,
    /// Its host names in lower case, wildcards as `*.example.com`.
    pub names: Vec<String>,
    /// Whether it replaces an older one.
    pub renewed: bool,
}

/// A pair in the folder.
struct WatchedPair {
    /// The fingerprint of the files when they were last read.
    read: Fingerprint,
    /// What was last read without a problem.
    loaded: Option<CertificatePair>,
    /// Why the files could not be loaded, until it is logged.
    problem: Option<String>,
}

/// What has changed in the folder since the last check.
pub(super) struct Changes {
    pub(super) index: Index,
    pub(super) events: Vec<CertificateEvent>,
}

/// The folder as of the last check.
pub(super) struct Watcher {
    folder: PathBuf,
    pairs: BTreeMap<String, WatchedPair>,
    /// Why the folder cannot be read, so that each reason is logged once.
    unreadable: Option<String>,
}

impl Watcher {
    pub(super) fn new(folder: &Path) -> Self {
        Watcher { folder: folder.to_owned(), pairs: BTreeMap::new(), unreadable: None }
    }

    /// Compares the folder with the last check and loads what has changed. `None` if nothing has.
    pub(super) fn check(&mut self) -> Option<Changes> {
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
        let mut changed = self.remove_missing(&found);
        let mut events = Vec::new();
        for (name, files) in found {
            if let Some(event) = self.check_pair(name, &files) {
                events.push(event);
            }
        }
        changed |= !events.is_empty();
        let loaded = self.pairs.values().filter_map(|pair| pair.loaded.as_ref());
        changed.then(|| Changes { index: Index::new(loaded), events })
    }

    /// Forgets pairs that are gone. Returns whether there were any.
    fn remove_missing(&mut self, found: &BTreeMap<String, PairFiles>) -> bool {
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

    fn check_pair(&mut self, name: String, files: &PairFiles) -> Option<CertificateEvent> {
        let fingerprint = files.fingerprint();
        if let Some(pair) = self.pairs.get_mut(&name)
            && pair.read == fingerprint
        {
            // The files have not changed since the last check, so the problem is not that one of them is being
            // replaced: report it.
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
        self.pairs.insert(name, WatchedPair { read: fingerprint, loaded: loaded.or(before), problem });
        event
    }
}
