//! The daemon: configuration, address, readiness, and the one [`run`] that puts them together.
//!
//! It knows the client library, and never the server. Only [`config`] reads the environment.

pub mod address;
mod advice;
mod agent;
mod check;
mod company;
pub mod config;
mod connections;
pub mod control;
mod daemon;
mod follow;
mod http;
mod intent;
mod leave;
mod maintenance;
mod metrics;
mod os;
mod reach;
pub mod readiness;
pub mod reaper;
mod registration;
mod repeats;
mod roster;
mod sessions;
pub mod signals;
pub mod supervisor;
mod visibility;
mod wrapper;

pub use check::check;
pub use daemon::{run, run_with};
pub use wrapper::wrap;
