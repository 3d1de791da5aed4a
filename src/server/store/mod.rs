//! Where applied state lives. The registry asks for a change and goes on when it is held.
//!
//! So far there is one place: nowhere beyond this process. A file and etcd come behind the same trait.

use std::task::{Context, Poll};

use crate::server::registry::{Change, Tx};

/// Whether a store holds a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Committed,
    /// It does not, and never will.
    Rejected,
}

/// Holds what sessions have applied.
pub trait Store: Send + 'static {
    /// Takes a change. Pending: the verdict comes from [`Store::poll_verdict`], in any order, within 5 s.
    fn commit(&mut self, tx: Tx, change: Change) -> Poll<Verdict>;

    /// The next verdict that [`Store::commit`] left open.
    fn poll_verdict(&mut self, cx: &mut Context<'_>) -> Poll<(Tx, Verdict)>;
}

/// Holds nothing: what was applied is in the registry, and gone with it.
#[derive(Debug, Default, Clone, Copy)]
pub struct MemoryStore;

impl Store for MemoryStore {
    fn commit(&mut self, _tx: Tx, _change: Change) -> Poll<Verdict> {
        Poll::Ready(Verdict::Committed)
    }

    fn poll_verdict(&mut self, _cx: &mut Context<'_>) -> Poll<(Tx, Verdict)> {
        Poll::Pending
    }
}
