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

/// Keeps other processes of our user from reading our memory and our environment in procfs: both tokens are there, and a
/// wrapped command of the same user is a stranger to them. Core dumps end with it. Call it before anything is started.
///
/// # Errors
/// Where the kernel refuses; everything else works without.
pub fn conceal() -> std::io::Result<()> {
    let hidden = rustix::process::DumpableBehavior::NotDumpable;
    Ok(rustix::process::set_dumpable_behavior(hidden)?)
}
