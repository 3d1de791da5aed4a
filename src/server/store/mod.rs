//! Where applied state lives. The registry asks for a change and goes on when it is held.
//!
//! | file | where |
//! |---|---|
//! | `mod` (this) | what a store is; one that is nowhere beyond this process |
//! | `file` | STATE_FILE: the thread that owns it; when it cannot be used |
//! | `database` | its tables |
//! | `copy` | a file in memory, to look at it without changing it |
//! | `portable` | the same as JSON, for `registry-server export` and `import` |
//!
//! Etcd comes behind the same trait.

mod copy;
mod database;
mod file;
mod portable;
#[cfg(test)]
mod tests;

use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::server::registry::persist::SavedState;
use crate::server::registry::{StoreChange, Tx};

pub use file::{FileStore, StateError};
pub use portable::{ImportError, export, import};

/// Whether a store holds a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It does.
    Committed,
    /// It does not, and never will.
    Rejected,
}

/// Holds what sessions have applied.
pub trait Store: Send + 'static {
    /// What it held at the start. Asked once, before anything else.
    fn take_saved(&mut self) -> Option<SavedState> {
        None
    }

    /// What tells, after the store was dropped, that everything is written; an error of it tells the same.
    /// `None`: there is nothing to wait for.
    fn take_end(&mut self) -> Option<oneshot::Receiver<()>> {
        None
    }

    /// Takes a change. Pending: the verdict comes from [`Store::poll_decision`], in any order. Verdicts of one
    /// session's changes are in the order of the changes, because the registry asks for one at a time.
    fn commit(&mut self, tx: Tx, change: StoreChange) -> Poll<Decision>;

    /// The next verdict that [`Store::commit`] left open.
    fn poll_decision(&mut self, cx: &mut Context<'_>) -> Poll<(Tx, Decision)>;
}

/// Holds nothing: what was applied is in the registry, and gone with it.
#[derive(Debug, Default, Clone, Copy)]
pub struct MemoryStore;

impl Store for MemoryStore {
    fn commit(&mut self, _tx: Tx, _change: StoreChange) -> Poll<Decision> {
        Poll::Ready(Decision::Committed)
    }

    fn poll_decision(&mut self, _cx: &mut Context<'_>) -> Poll<(Tx, Decision)> {
        Poll::Pending
    }
}
