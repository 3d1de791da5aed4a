//! The file of REGISTRY_POLICY: read at the start, and again whenever it changes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info};

use crate::environment::read_file;

use super::registry::{ClaimPolicy, Input};

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// Reads a file; the error is for people.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> Result<Vec<u8>, String>;

/// A policy and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFile {
    /// REGISTRY_POLICY
    pub path: PathBuf,
    /// What the file said when it was read.
    pub policy: ClaimPolicy,
    /// The same as it was written, so that a change is seen.
    content: Vec<u8>,
}

impl PolicyFile {
    /// Reads the file.
    ///
    /// # Errors
    /// Why it cannot be read, or what is wrong in it.
    pub fn read(path: PathBuf, read: ReadFile<'_>) -> Result<Self, String> {
        let (policy, content) = parse(read(&path))?;
        Ok(PolicyFile { path, policy, content })
    }

    /// Tells the registry of every change from now on. A file that is wrong changes nothing, which is said once.
    /// Ends with the registry.
    pub async fn watch(self, registry: mpsc::Sender<Input>) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shown = self.path.display().to_string();
        let (mut seen, mut judged) = (Ok(self.content.clone()), Ok(self.content));
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = registry.closed() => return,
            }
            let path = self.path.clone();
            let looking = tokio::task::spawn_blocking(move || read_file(&path));
            let found = looking.await.unwrap_or_else(|_| Err("reading it broke off".to_owned()));
            // Somebody may be in the middle of writing it: what it holds counts when it has stayed the same.
            let is_steady = seen == found;
            seen.clone_from(&found);
            if !is_steady || judged == found {
                continue;
            }
            judged.clone_from(&found);
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
