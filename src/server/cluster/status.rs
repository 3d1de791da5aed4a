//! What people are told of a replica: in `/status`, `/metrics` and `/readyz`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use tokio::sync::watch;

use super::role::Role;
use super::shared::Revisions;

/// A replica at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterStatus {
    /// Its name.
    pub replica: String,
    /// Who leads, as far as it knows.
    pub role: Role,
    /// Since when it knows that.
    pub since: SystemTime,
    /// Whether it has ever known a table.
    pub is_loaded: bool,
    /// The store's revision that it knows.
    pub revision: u64,
    /// How many revisions the leader is ahead of it; 0 where that is not known.
    pub behind: u64,
    /// Why what it knows may be out of date.
    pub trouble: Option<String>,
    /// The replicas that are present, this one included.
    pub replicas: Vec<String>,
}

/// Reads it.
#[derive(Debug, Clone)]
pub struct StatusReader {
    status: watch::Receiver<ClusterStatus>,
    revisions: Arc<Revisions>,
}

pub(super) struct StatusWriter {
    status: watch::Sender<ClusterStatus>,
    revisions: Arc<Revisions>,
}

pub(super) fn channel(name: &str) -> (StatusWriter, StatusReader) {
    let (writer, reader) = watch::channel(ClusterStatus {
        replica: name.to_owned(),
        role: Role::Leaderless,
        since: SystemTime::now(),
        is_loaded: false,
        revision: 0,
        behind: 0,
        trouble: None,
        replicas: Vec::new(),
    });
    let revisions: Arc<Revisions> = Arc::default();
    let writer = StatusWriter { status: writer, revisions: Arc::clone(&revisions) };
    (writer, StatusReader { status: reader, revisions })
}

impl StatusWriter {
    pub(super) fn revisions(&self) -> Arc<Revisions> {
        Arc::clone(&self.revisions)
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut ClusterStatus)) {
        self.status.send_modify(change);
    }
}

impl StatusReader {
    /// How things are now.
    pub fn read(&self) -> ClusterStatus {
        let mut status = self.status.borrow().clone();
        status.revision = self.revisions.ours.load(Ordering::Relaxed);
        if matches!(status.role, Role::Following(_)) {
            let leaders = self.revisions.leaders.load(Ordering::Relaxed);
            status.behind = leaders.saturating_sub(status.revision);
        }
        status
    }

    /// Whether the replica has ever known a table.
    pub fn is_loaded(&self) -> bool {
        self.status.borrow().is_loaded
    }
}
