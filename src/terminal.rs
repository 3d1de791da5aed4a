//! Prints results and errors of both programs for a person at a terminal. Used by the two `main`s, uses nothing.

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Context;

/// The exit code for wrong usage or configuration, by the convention of sysexits.
pub const USAGE: u8 = 64;

/// Writes a result to the standard output, and returns the exit code 0.
///
/// # Errors
/// Where the standard output is closed or full.
pub fn print(text: &str) -> anyhow::Result<u8> {
    io::stdout().write_all(text.as_bytes()).context("cannot write to the standard output")?;
    Ok(0)
}

/// Writes an error to the standard error, if that is open, and returns the exit code.
pub fn print_error(code: u8, text: &str) -> ExitCode {
    let _ = io::stderr().write_all(text.as_bytes());
    ExitCode::from(code)
}
