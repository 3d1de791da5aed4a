//! Tells whether bytes that hyper writes belong to a response, or are hyper's own answer to bytes it cannot parse.

use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by an HTTP/1.1 client's requests and its stream, which hyper owns.
#[derive(Debug, Default)]
pub(crate) struct ResponseState {
    /// A request is not over, or the connection has become a tunnel.
    is_open: AtomicBool,
    /// Some bytes of a response may not be written yet.
    is_unwritten: AtomicBool,
}

impl ResponseState {
    pub(crate) fn request_begins(&self) {
        self.is_open.store(true, Ordering::Relaxed);
        self.is_unwritten.store(true, Ordering::Relaxed);
    }

    pub(crate) fn request_ends(&self) {
        self.is_open.store(false, Ordering::Relaxed);
    }

    /// `written` of the `length` bytes that hyper had ready were written.
    pub(crate) fn bytes_written(&self, written: usize, length: usize) {
        if written == length && !self.is_open.load(Ordering::Relaxed) {
            self.is_unwritten.store(false, Ordering::Relaxed);
        }
    }

    /// Whether what hyper writes next may belong to a response.
    pub(crate) fn is_unwritten(&self) -> bool {
        self.is_unwritten.load(Ordering::Relaxed)
    }
}
