//! From an environment to texts and values, every mistake collected: what the sidecar's and the server's
//! configuration share. It knows the rules of names, prefixes and files (SEMANTICS section 10), not what a
//! variable means; and it reads no environment by itself.

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
pub use source::Source;
pub use variable::{FILE_SUFFIX, Fallback, Table, Variable, nearest};

/// What configuration depends on besides the environment; tests bring their own.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// What the kernel calls this host; empty where that is not known.
    pub host_name: &'a str,
    /// Reads a file; the error is what a person is told about it.
    pub read_file: &'a dyn Fn(&Path) -> Result<Vec<u8>, String>,
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("host_name", &self.host_name).finish_non_exhaustive()
    }
}
