//! A copy of what etcd holds, in a local file, from which a replica serves that starts while etcd is away.
//!
//! It is a state file. It has no marks: a replica that begins with it takes all sessions for lost, as a server does that
//! starts again. A file that holds the state of another registry is left as it is.

use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::noop_waker_ref;
use tracing::warn;

use crate::server::registry::Tx;
use crate::server::registry::persist::{SavedState, StoreChange};
use crate::server::store::{Decision, FileStore, StateError, Store, file};

/// How often, and after which pauses, a file is opened that another process has open.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// The copy of a replica.
pub(super) struct Copy {
    path: PathBuf,
    boot_id: String,
    grace: Duration,
    /// `None`: there is no file that is up to date.
    store: Option<FileStore>,
    last: u64,
    /// Whose state the file has; `None`: of nobody.
    cluster_id: Option<String>,
    has_complained: bool,
}

impl Copy {
    /// Opens the copy and reads it, or makes an empty one. Blocks. One that cannot be used is none.
    pub(super) fn open(path: PathBuf, boot_id: String, grace: Duration) -> (Copy, Option<SavedState>) {
        let mut copy =
            Copy { path, boot_id, grace, store: None, last: 0, cluster_id: None, has_complained: false };
        match open_when_free(&copy.path, &copy.boot_id, grace) {
            Ok(mut store) => {
                let saved = store.take_saved().filter(|saved| !saved.sessions.is_empty());
                copy.cluster_id = saved.as_ref().map(|saved| saved.cluster_id.clone());
                copy.store = Some(store);
                (copy, saved)
            }
            Err(error) => {
                copy.complain(&error);
                (copy, None)
            }
        }
    }

    /// Replaces the copy by everything that etcd holds.
    pub(super) async fn replace(&mut self, state: SavedState) {
        if self.cluster_id.as_ref().is_some_and(|id| *id != state.cluster_id) {
            self.store = None;
            if !std::mem::replace(&mut self.has_complained, true) {
                let file = self.path.display();
                warn!(
                    "STATE_FILE={file} holds the state of another registry and is left as it is; import that, or name another file"
                );
            }
            return;
        }
        self.close().await;
        let cluster_id = state.cluster_id.clone();
        let (path, boot_id, grace) = (self.path.clone(), self.boot_id.clone(), self.grace);
        let made = tokio::task::spawn_blocking(move || {
            file::replace(&path, &state)?;
            FileStore::open(&path, &boot_id, grace)
        });
        match made.await {
            Ok(Ok(store)) => {
                (self.store, self.cluster_id, self.has_complained) = (Some(store), Some(cluster_id), false);
            }
            Ok(Err(error)) => self.complain(&error),
            // The runtime ends.
            Err(_) => {}
        }
    }

    /// Makes changes to the copy. Returns false if it has not taken all so far, and is to be replaced.
    pub(super) fn change(&mut self, changes: &[StoreChange]) -> bool {
        let Some(store) = &mut self.store else { return self.has_complained };
        let mut cx = Context::from_waker(noop_waker_ref());
        let mut is_good = true;
        for change in changes {
            self.last += 1;
            is_good &= store.commit(Tx(self.last), change.clone()).is_pending();
        }
        while let Poll::Ready((_, decision)) = store.poll_decision(&mut cx) {
            is_good &= decision == Decision::Committed;
        }
        is_good
    }

    /// Waits until everything is written.
    pub(super) async fn close(&mut self) {
        let Some(mut store) = self.store.take() else { return };
        let end = store.take_end();
        drop(store);
        if let Some(end) = end {
            // It ends with an error: nothing is ever sent.
            let _ = end.await;
        }
    }

    fn complain(&mut self, error: &StateError) {
        self.store = None;
        if !std::mem::replace(&mut self.has_complained, true) {
            warn!("no copy of what etcd holds is kept: {error}");
        }
    }
}

/// Opens the file. The server that ran before may be about to close it.
fn open_when_free(path: &Path, boot_id: &str, grace: Duration) -> Result<FileStore, StateError> {
    for _ in 1..TRIES {
        match FileStore::open(path, boot_id, grace) {
            Err(StateError::Busy { .. }) => std::thread::sleep(PAUSE),
            opened => return opened,
        }
    }
    FileStore::open(path, boot_id, grace)
}
