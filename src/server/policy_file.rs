//! The file of REGISTRY_POLICY. It is read at the start and whenever it changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info};

use crate::environment::read_file;

use super::registry::{ClaimPolicy, Input};

/// How often the file is checked.
const INTERVAL: Duration = Duration::from_secs(2);

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
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shown = self.path.display().to_string();
        let known: Found = Ok((self.content, Ok(self.policy)));
        let (mut last, mut applied) = (known.clone(), known);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = registry.closed() => return,
            }
            let path = self.path.clone();
            let looking = tokio::task::spawn_blocking(move || look(&path));
            let found = looking.await.unwrap_or_else(|_| Err("reading it broke off".to_owned()));
            // The file may be half written: use its content only when two checks have found the same.
            let is_steady = last == found;
            last.clone_from(&found);
            if !is_steady || applied == found {
                continue;
            }
            applied.clone_from(&found);
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
