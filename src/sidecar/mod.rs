//! The daemon: configuration, address, readiness, and the one `run` that puts them together.

pub mod address;
pub mod config;
pub mod readiness;
