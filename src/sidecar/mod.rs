//! The daemon: configuration, address, readiness, and the one [`run`] that puts them together.
//!
//! It knows the client library, and never the server. Only [`config`] reads the environment.

pub mod address;
mod check;
pub mod config;
mod daemon;
mod intent;
mod os;
mod reach;
pub mod readiness;
pub mod reaper;
mod registration;
pub mod signals;
pub mod supervisor;
mod wrapper;

pub use check::check;
pub use daemon::run;
pub use wrapper::wrap;
