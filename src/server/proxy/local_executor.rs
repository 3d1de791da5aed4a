//! Runs the tasks of HTTP/2 connections on the worker's own thread.

use std::future::Future;

use hyper::rt::Executor;

/// Spawns futures that need not be `Send` on the current thread's runtime.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F: Future + 'static> Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
