//! Processes: the one place that spawns and waits, and the wrapped command with everything around it.
//!
//! `supervisor` decides and is pure; `wrapper` carries out. What is `unsafe` is in `os`.

pub(crate) mod exec_check;
mod os;
pub mod reaper;
pub(crate) mod shell_line;
mod signals;
mod supervisor;
pub(crate) mod wrapper;
