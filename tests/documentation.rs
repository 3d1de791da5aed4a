//! What the documentation says is so: each page is compared with the code, or with what the programs do.
//!
//! After a change of a table of variables: `UPDATE_DOCS=1 cargo test --test documentation` writes the tables of
//! docs/reference/configuration.md anew.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

#[path = "documentation/commands.rs"]
mod commands;
#[path = "support/compose.rs"]
mod compose;
#[path = "documentation/configuration.rs"]
mod configuration;
#[path = "documentation/guides.rs"]
mod guides;
#[path = "documentation/links.rs"]
mod links;
#[path = "documentation/log_lines.rs"]
mod log_lines;
#[path = "documentation/names.rs"]
mod names;
#[path = "documentation/page.rs"]
mod page;
#[path = "support/programs.rs"]
mod programs;
