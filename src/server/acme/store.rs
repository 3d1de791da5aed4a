//! The folder that keeps account and certificates: `account.json`, and `HOST.pem` with the key, then the chain.
//!
//! Each file is written beside its place and then renamed, so that it is always whole, and is readable by its owner only.
//! Each authority has a folder of its own: certificates of a staging authority must not serve after the change to another.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use instant_acme::AccountCredentials;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use x509_parser::parse_x509_certificate;

use super::plan::Validity;

/// The account at an authority.
#[derive(Serialize, Deserialize)]
pub(super) struct Account {
    /// ACME_DIRECTORY when it was made.
    pub(super) directory: String,
    /// ACME_EMAIL then.
    pub(super) email: String,
    pub(super) credentials: AccountCredentials,
}

/// A certificate with its key, both in PEM.
#[derive(Debug)]
pub(super) struct Issued {
    pub(super) host: String,
    pub(super) key: String,
    pub(super) chain: String,
    pub(super) validity: Validity,
}

impl Issued {
    /// # Errors
    /// If the chain does not begin with a certificate. The text is for people.
    pub(super) fn new(host: &str, key: String, chain: String) -> Result<Issued, String> {
        let validity = validity(&chain)?;
        Ok(Issued { host: host.to_owned(), key, chain, validity })
    }
}

/// The folder of one authority.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes the folder for `directory` below `folder`, if there is none.
    pub(super) fn open(folder: &Path, directory: &str) -> Result<Folder, String> {
        let name = directory.split_once("://").map_or(directory, |(_, rest)| rest);
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-', "_");
        let path = folder.join(name.trim_start_matches('.'));
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|error| format!("cannot make {}: {error}", path.display()))?;
        Ok(Folder(path))
    }

    /// The account that is kept for these settings.
    pub(super) fn account(&self, directory: &str, email: &str) -> Option<Account> {
        let path = self.0.join("account.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::error!("cannot read {}: {error}; a new account is made", path.display());
                return None;
            }
        };
        match serde_json::from_slice::<Account>(&text) {
            Ok(account) => {
                Some(account).filter(|account| account.directory == directory && account.email == email)
            }
            Err(error) => {
                tracing::error!("{} is no account: {error}; a new one is made", path.display());
                None
            }
        }
    }

    pub(super) fn keep_account(&self, account: &Account) -> Result<(), String> {
        let text = serde_json::to_vec_pretty(account).map_err(|error| error.to_string())?;
        self.write("account.json", &text)
    }

    pub(super) fn forget_account(&self) -> Result<(), String> {
        match fs::remove_file(self.0.join("account.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("cannot remove the account: {error}"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn keep(&self, issued: &Issued) -> Result<(), String> {
        let text = format!("{}\n{}", issued.key.trim_end(), issued.chain);
        self.write(&format!("{}.pem", issued.host), text.as_bytes())
    }

    /// All certificates that are kept and can be read. The others are logged.
    pub(super) fn certificates(&self) -> Vec<Issued> {
        let entries = match fs::read_dir(&self.0) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::error!("cannot read {}: {error}", self.0.display());
                return Vec::new();
            }
        };
        let paths = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
        paths.filter_map(|path| read(&path)).collect()
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<(), String> {
        let (path, new) = (self.0.join(name), self.0.join(format!("{name}.new")));
        let write = || {
            // What a crash has left is not appended to, and its mode is not kept.
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            fs::File::open(&self.0)?.sync_all()
        };
        write().map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}

/// The certificate in a file; `None`: there is none in it, which is logged if there should be one.
fn read(path: &Path) -> Option<Issued> {
    let host = path.file_name()?.to_str()?.strip_suffix(".pem")?;
    let content = fs::read_to_string(path).map_err(|error| error.to_string());
    let issued = content.and_then(|content| {
        let begin = content.find("-----BEGIN CERTIFICATE").ok_or("there is no certificate in it")?;
        let (key, chain) = content.split_at(begin);
        Issued::new(host, key.to_owned(), chain.to_owned())
    });
    match issued {
        Ok(issued) => Some(issued),
        Err(error) => {
            tracing::error!("cannot use {}: {error}; a new one is ordered", path.display());
            None
        }
    }
}

fn validity(chain: &str) -> Result<Validity, String> {
    let first = CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|error| error.to_string())?;
    let (_, certificate) = parse_x509_certificate(&first).map_err(|error| error.to_string())?;
    let time = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.max(0).cast_unsigned());
    let validity = certificate.validity();
    Ok(Validity { begins: time(validity.not_before.timestamp()), ends: time(validity.not_after.timestamp()) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    const DIRECTORY: &str = "https://acme.example/directory";

    fn issued(host: &str) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([host.to_owned()]).unwrap().self_signed(&key).unwrap();
        Issued::new(host, key.serialize_pem(), certificate.pem()).unwrap()
    }

    #[test]
    fn what_is_kept_is_found_again_whole_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let kept = issued("a.example.com");
        let opened = Folder::open(&folder.path().join("acme"), DIRECTORY).unwrap();
        fs::write(opened.0.join("a.example.com.pem.new"), "half").unwrap();
        opened.keep(&kept).unwrap();
        opened.keep(&kept).unwrap();
        let again = Folder::open(&folder.path().join("acme"), DIRECTORY).unwrap();
        let found = again.certificates();
        let names: Vec<_> = fs::read_dir(&again.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["a.example.com.pem"], "nothing is left over");
        assert_eq!((found.len(), found[0].host.as_str()), (1, "a.example.com"));
        assert_eq!(found[0].key.trim_end(), kept.key.trim_end());
        assert_eq!((&found[0].chain, found[0].validity), (&kept.chain, kept.validity));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&again.0.join("a.example.com.pem")), 0o600);
        assert_eq!(mode(&again.0), 0o700);
    }

    #[test]
    fn another_authority_has_another_folder_and_broken_files_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let opened = Folder::open(folder.path(), DIRECTORY).unwrap();
        opened.keep(&issued("a.example.com")).unwrap();
        fs::write(opened.0.join("b.example.com.pem"), "no certificate").unwrap();
        fs::write(opened.0.join("account.json"), "{").unwrap();
        assert_eq!(opened.certificates().len(), 1);
        assert!(opened.account(DIRECTORY, "me@example.com").is_none());
        let other = Folder::open(folder.path(), "https://staging.example/../directory").unwrap();
        assert!(other.certificates().is_empty());
        assert!(other.0.parent() == Some(folder.path()), "{:?}", other.0);
    }
}
