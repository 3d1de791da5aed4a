//! The state as JSON: what `registry-server export` writes and `import` reads (docs/reference/state-file.md).

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::server::registry::persist::{FORMAT, SavedState};

use super::file::{self, StateError};

/// The whole document.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    format: u32,
    /// The version that wrote it, for people.
    #[serde(default)]
    server: String,
    state: SavedState,
}

/// Why a document was not imported. Nothing has been changed then.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It is no export.
    #[error("this is no export of registry-server: {0}")]
    Document(String),
    /// A newer version wrote it.
    #[error("this export has format {0}, this version reads up to {FORMAT}")]
    Newer(u64),
    /// The file cannot be made.
    #[error(transparent)]
    File(#[from] StateError),
}

/// The contents of a state file as a JSON document. The file must not be in use. Blocks.
///
/// The document has no secrets in clear: ids of sessions are SHA-256 hashes, services' tokens salted ones.
///
/// # Errors
/// See [`StateError`].
pub fn export(path: &Path) -> Result<String, StateError> {
    Ok(write(file::load(path)?))
}

/// Makes a state file from an export. The file must not exist. Returns how many sessions it has. Blocks.
///
/// # Errors
/// See [`ImportError`].
pub fn import(path: &Path, json: &str) -> Result<usize, ImportError> {
    let state = read(json)?;
    file::create(path, &state)?;
    Ok(state.sessions.len())
}

/// The document of a state.
pub(super) fn write(state: SavedState) -> String {
    let server = concat!("registry-server/", env!("CARGO_PKG_VERSION")).to_owned();
    // It has only numbers, texts and maps with texts as keys, so this cannot fail.
    serde_json::to_string_pretty(&Document { format: FORMAT, server, state }).unwrap_or_default()
}

/// The state of a document.
pub(super) fn read(json: &str) -> Result<SavedState, ImportError> {
    let wrong = |error: serde_json::Error| ImportError::Document(error.to_string());
    // The format is checked first: unknown parts of a newer format are no mistake in the document.
    let value: serde_json::Value = serde_json::from_str(json).map_err(wrong)?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format > u64::from(FORMAT) => return Err(ImportError::Newer(format)),
        Some(_) => {}
        None => return Err(ImportError::Document("it has no format".to_owned())),
    }
    let document: Document = serde_json::from_value(value).map_err(wrong)?;
    Ok(document.state)
}
