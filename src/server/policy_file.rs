//! The file of REGISTRY_POLICY. It is read at the start and whenever it changes.

use std::path::{Path, PathBuf};

use tokio::sync::mpsc;
use tracing::{error, info};

use crate::environment::read_file;

use super::followed_file::FollowedFile;
use super::registry::{ClaimPolicy, Input};

/// Reads a file. The error is text for people.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> Result<Vec<u8>, String>;

/// A policy and its file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFile {
    /// REGISTRY_POLICY
    pub path: PathBuf,
    /// The policy in the file.
    pub policy: ClaimPolicy,
    /// The file's content, to notice a change.
    content: Vec<u8>,
}

impl PolicyFile {
    /// Reads the file, and those that it names.
    ///
    /// # Errors
    /// If one of them cannot be read or is not valid.
    pub fn read(path: PathBuf, read: ReadFile<'_>) -> Result<Self, String> {
        let content = read(&path)?;
        let policy = parse(&content, read)?;
        Ok(PolicyFile { path, policy, content })
    }

    /// Sends every changed policy to the registry. An invalid file is logged once and changes nothing. Ends when the
    /// registry ends.
    pub async fn watch(self, registry: mpsc::Sender<Input>) {
        let (path, shown) = (self.path.clone(), self.path.display().to_string());
        let mut file = FollowedFile::new((self.content, Ok(self.policy)), move || look(&path));
        loop {
            let found = tokio::select! {
                found = file.changed() => found,
                () = registry.closed() => return,
            };
            match found.and_then(|(_, policy)| policy) {
                Ok(policy) => {
                    info!("REGISTRY_POLICY={shown} has changed and is in force");
                    if registry.send(Input::Policy(policy)).await.is_err() {
                        return;
                    }
                }
                Err(error) => error!("REGISTRY_POLICY={shown}: {error}; the policy before stays in force"),
            }
        }
    }
}

/// What is in the file, and the policy that it makes with the secrets in the files that it names.
type Found = Result<(Vec<u8>, Result<ClaimPolicy, String>), String>;

fn look(path: &Path) -> Found {
    let content = read_file(path)?;
    let policy = parse(&content, &read_file);
    Ok((content, policy))
}

fn parse(content: &[u8], read: ReadFile<'_>) -> Result<ClaimPolicy, String> {
    ClaimPolicy::parse(content, read).map_err(|error| error.to_string())
}
