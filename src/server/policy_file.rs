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
    /// Reads the file.
    ///
    /// # Errors
    /// If the file cannot be read or is not a valid policy.
    pub fn read(path: PathBuf, read: ReadFile<'_>) -> Result<Self, String> {
        let (policy, content) = parse(read(&path))?;
        Ok(PolicyFile { path, policy, content })
    }

    /// Sends every changed policy to the registry. An invalid file is logged once and changes nothing. Ends when the
    /// registry ends.
    pub async fn watch(self, registry: mpsc::Sender<Input>) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shown = self.path.display().to_string();
        let (mut last, mut applied) = (Ok(self.content.clone()), Ok(self.content));
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = registry.closed() => return,
            }
            let path = self.path.clone();
            let looking = tokio::task::spawn_blocking(move || read_file(&path));
            let found = looking.await.unwrap_or_else(|_| Err("reading it broke off".to_owned()));
            // The file may be half written: use its content only when two checks have found the same.
            let is_steady = last == found;
            last.clone_from(&found);
            if !is_steady || applied == found {
                continue;
            }
            applied.clone_from(&found);
            match parse(found) {
                Ok((policy, _)) => {
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

fn parse(found: Result<Vec<u8>, String>) -> Result<(ClaimPolicy, Vec<u8>), String> {
    let content = found?;
    let policy = ClaimPolicy::parse(&content).map_err(|error| error.to_string())?;
    Ok((policy, content))
}
