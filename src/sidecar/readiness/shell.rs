//! How a readiness check runs a shell line. This room knows no processes: their owner passes in a [`Shell`].

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

/// Completes with how the line ended. Dropping it kills what the line has started.
pub(crate) type Run = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// Runs shell lines. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shell(Arc<dyn Fn(&str) -> Run + Send + Sync>);

impl Shell {
    /// `run` starts a line and completes with `Ok` where it exits with 0, else with what a person should know.
    pub(crate) fn new(run: impl Fn(&str) -> Run + Send + Sync + 'static) -> Self {
        Shell(Arc::new(run))
    }

    /// Runs a line.
    ///
    /// # Errors
    /// Says how it ended, and the last line of its output.
    pub(super) async fn run(&self, line: &str) -> Result<(), String> {
        (self.0)(line).await
    }
}

impl fmt::Debug for Shell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shell")
    }
}
