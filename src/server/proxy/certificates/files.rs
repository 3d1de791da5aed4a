//! Finds pairs of certificate and key in a folder, tells whether they have changed, and reads them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use webpki::EndEntityCert;

use crate::tls::provider;

/// How many pairs are read; further ones are ignored.
const MAX_PAIRS: usize = 10_000;
/// The largest file that is read, in bytes.
const MAX_FILE: u64 = 256 * 1024;

/// The two files of a pair.
#[derive(Debug)]
pub(super) struct PairFiles {
    certificate: PathBuf,
    key: PathBuf,
}

/// The modification times and sizes of a pair's files, by which a change is noticed. Links are followed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fingerprint([Option<(SystemTime, u64)>; 2]);

/// A certificate with its key and its names.
#[derive(Debug, Clone)]
pub(super) struct CertificatePair {
    pub(super) key: Arc<CertifiedKey>,
    /// The host names of subjectAltName, in lower case.
    pub(super) names: Vec<String>,
    /// When it ends, if it says it in a form that is understood.
    pub(super) ends: Option<SystemTime>,
}

/// Finds the pairs in `folder`, by name.
pub(super) fn find(folder: &Path) -> io::Result<BTreeMap<String, PairFiles>> {
    let mut pairs = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let Some((name, files)) = pair_at(&path) else { continue };
        if pairs.len() < MAX_PAIRS {
            pairs.insert(name, files);
        }
    }
    Ok(pairs)
}

/// The pair whose certificate or whose folder `path` is. A certificate without its key is a pair too, so that the
/// missing file is reported.
fn pair_at(path: &Path) -> Option<(String, PairFiles)> {
    let name = path.file_name()?.to_str()?;
    if path.is_dir() {
        let certificate = path.join("fullchain.pem");
        let files = PairFiles { certificate, key: path.join("privkey.pem") };
        return files.certificate.is_file().then(|| (name.to_owned(), files));
    }
    let name = name.strip_suffix(".crt")?;
    Some((name.to_owned(), PairFiles { certificate: path.to_owned(), key: path.with_extension("key") }))
}

impl PairFiles {
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let of = |path: &Path| {
            let data = fs::metadata(path).ok()?;
            Some((data.modified().ok()?, data.len()))
        };
        Fingerprint([of(&self.certificate), of(&self.key)])
    }

    /// Reads both files. The error is text for the log and never holds key material.
    pub(super) fn load(&self) -> Result<CertificatePair, String> {
        let (certificate, key) = (self.certificate.display(), self.key.display());
        parse((&certificate, &read(&self.certificate)?), (&key, &read(&self.key)?))
    }
}

impl CertificatePair {
    /// Reads a chain and its key from PEM. The error never holds key material.
    pub(super) fn from_pem(chain: &str, key: &str) -> Result<CertificatePair, String> {
        parse((&"the certificate", chain.as_bytes()), (&"the key", key.as_bytes()))
    }
}

/// Makes a pair of two contents, each with what it is called in errors.
fn parse(
    (certificate_name, certificate): (&dyn Display, &[u8]),
    (key_name, key): (&dyn Display, &[u8]),
) -> Result<CertificatePair, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{certificate_name} is no PEM: {error}"))?;
    let names = names_of(&chain).map_err(|why| format!("{certificate_name}: {why}"))?;
    let ends = chain.first().and_then(|leaf| end_of(leaf));
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| format!("{key_name} holds no private key in PEM: {error}"))?;
    let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => format!("{key_name} is not the key of {certificate_name}"),
        error => format!("{key_name} cannot be used: {error}"),
    })?;
    Ok(CertificatePair { key: Arc::new(key), names, ends })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let refused = |error: io::Error| format!("{} cannot be read: {error}", path.display());
    let mut content = Vec::new();
    fs::File::open(path).map_err(refused)?.take(MAX_FILE + 1).read_to_end(&mut content).map_err(refused)?;
    if content.len() as u64 > MAX_FILE {
        return Err(format!("{} is larger than {MAX_FILE} bytes", path.display()));
    }
    Ok(content)
}

/// When a certificate ends.
pub(super) fn end_of(leaf: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn names_of(chain: &[CertificateDer<'_>]) -> Result<Vec<String>, String> {
    let leaf = chain.first().ok_or("there is no certificate in it")?;
    let leaf = EndEntityCert::try_from(leaf).map_err(|error| format!("it cannot be read: {error}"))?;
    let names: Vec<_> = leaf.valid_dns_names().map(str::to_ascii_lowercase).collect();
    if names.is_empty() {
        return Err("it names no host (subjectAltName)".to_owned());
    }
    Ok(names)
}
