//! Requests to read the configuration again. Each waits for its result, and the daemon answers one at a time.

use tokio::sync::{Mutex, mpsc, oneshot};

/// How many may ask at once.
const MAX_WAITING: usize = 4;

/// A request to reload. Send the result to it: what was done, or why nothing has changed.
pub(crate) type ReloadRequest = oneshot::Sender<Result<String, String>>;

pub(super) struct ReloadQueue {
    sender: mpsc::Sender<ReloadRequest>,
    receiver: Mutex<mpsc::Receiver<ReloadRequest>>,
}

impl ReloadQueue {
    pub(super) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        ReloadQueue { sender, receiver: Mutex::new(receiver) }
    }

    /// Asks, and waits for the result.
    ///
    /// # Errors
    /// Says, for a person, why nothing has changed.
    pub(super) async fn ask(&self) -> Result<String, String> {
        let (request, result) = oneshot::channel();
        self.sender.try_send(request).map_err(|_| "too many ask for that at once")?;
        result.await.unwrap_or_else(|_| Err("nothing is changed: the daemon is leaving".to_owned()))
    }

    /// The next request. Cancel-safe.
    pub(super) async fn next(&self) -> ReloadRequest {
        match self.receiver.lock().await.recv().await {
            Some(request) => request,
            // The queue owns a sender, so the channel cannot be closed.
            None => std::future::pending().await,
        }
    }
}
