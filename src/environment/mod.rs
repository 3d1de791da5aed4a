//! What the configurations of the sidecar and the server share: turns an environment into texts and values, and
//! collects every mistake. It knows the rules of names, prefixes and files (SEMANTICS section 10), but not what a
//! variable means, and it does not read the process's environment itself.

mod error;
mod file;
mod reader;
mod secret;
mod source;
pub mod values;
mod variable;

use std::fmt;
use std::path::Path;

pub use error::{ConfigErrors, Problem, reason_of};
pub use file::{host_name, read as read_file};
pub use reader::{Reader, Reported};
pub use secret::Secret;
pub use source::{Source, without_ends};
pub use variable::{FILE_SUFFIX, Fallback, Table, Variable, nearest};

/// What a configuration depends on beside the environment; tests bring their own.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// What the kernel calls this host; empty where that is not known.
    pub host_name: &'a str,
    /// Reads a file; the error says, for a person, why it cannot be read.
    pub read_file: &'a dyn Fn(&Path) -> Result<Vec<u8>, String>,
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("host_name", &self.host_name).finish_non_exhaustive()
    }
}
