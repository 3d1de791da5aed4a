//! Where applied state is stored. The registry asks a store to hold a change, and goes on when it does.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod` (this) | what a store is; the one that stores nothing |
//! | `file` | STATE_FILE: opening and making it, the thread that writes it |
//! | `database` | its tables |
//! | `memory_copy` | a file's bytes in memory, to check it without changing it |
//! | `export` | the state as JSON, for `registry-server export` and `import` |
//! | `etcd` | the store that replicas share |
//!
//! The store that replicas share (feature `etcd`) implements the same trait.

mod database;
#[cfg(feature = "etcd")]
pub mod etcd;
mod export;
mod file;
mod memory_copy;

#[cfg(test)]
mod tests;

use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::server::registry::persist::SavedState;
use crate::server::registry::{StoreChange, Tx};

pub use export::{ImportError, export, import};
pub use file::{FileStore, StateError};

/// A store's answer to a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It holds the change.
    Committed,
    /// It does not hold the change and never will.
    Rejected,
}

/// Stores what sessions have applied.
pub trait Store: Send + 'static {
    /// What it held at the start. The listener calls this once, before anything else.
    fn take_saved(&mut self) -> Option<SavedState> {
        None
    }

    /// A receiver that ends, with a value or an error, when everything is written after the store was dropped. `None`: there
    /// is nothing to wait for.
    fn take_end(&mut self) -> Option<oneshot::Receiver<()>> {
        None
    }

    /// Takes a change. Pending: the decision comes from [`Store::poll_decision`], in any order. The registry waits for the
    /// decision on a session's change before it asks for the next one that it waits for.
    fn commit(&mut self, tx: Tx, change: StoreChange) -> Poll<Decision>;

    /// The next decision that [`Store::commit`] left pending.
    fn poll_decision(&mut self, cx: &mut Context<'_>) -> Poll<(Tx, Decision)>;
}

/// Stores nothing. What was applied is in the registry alone, and gone with the process.
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
