//! What anybody may learn about the wrapped command: names and numbers, never command lines or output.

/// What the wrapped command does, as `status`, `healthcheck` and the maintenance page report it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CommandStatus {
    /// What goes on, such as `step 2 of 3: npm`; `None` while the command simply runs.
    pub(crate) doing: Option<String>,
    /// An update in place goes on.
    pub(crate) updating: bool,
    /// The result of the last update, in words.
    pub(crate) last_update: Option<String>,
    /// What `healthcheck` answers during a step, an update or a schedule; `None` leaves the answer to the
    /// application.
    pub(crate) healthy: Option<bool>,
}

/// How far the work is that people see the maintenance page for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// What is being done.
    pub(crate) message: Option<String>,
    /// How much of it is done, from 0 to 100.
    pub(crate) percent: Option<u8>,
}
