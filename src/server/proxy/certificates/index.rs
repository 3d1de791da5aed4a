//! Which certificate serves which name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::CertifiedKey;

use super::files::CertificatePair;

/// What people are told of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Its host names in lower case.
    pub names: Vec<String>,
    /// When it ends; `None`: it does not say it in a form that is understood.
    pub ends: Option<SystemTime>,
}

/// Certificates by name. An exact name wins over a wildcard.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// Keyed by the name without its `*.`.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    all: Vec<CertificateInfo>,
}

impl Index {
    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty()
    }

    /// Every certificate.
    pub(super) fn all(&self) -> &[CertificateInfo] {
        &self.all
    }

    pub(super) fn find(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        let wildcard = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        self.exact.get(name).or_else(wildcard).cloned()
    }

    /// Indexes `pairs`. If several pairs have one name, the first pair serves it.
    pub(super) fn new<'a>(pairs: impl Iterator<Item = &'a CertificatePair>) -> Self {
        let mut index = Index::default();
        for pair in pairs {
            index.all.push(CertificateInfo { names: pair.names.clone(), ends: pair.ends });
            for name in &pair.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut index.wildcard, parent),
                    None => (&mut index.exact, name.as_str()),
                };
                map.entry(name.to_owned()).or_insert_with(|| Arc::clone(&pair.key));
            }
        }
        index
    }
}
