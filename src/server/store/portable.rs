//! The state as JSON: what `registry-server export` writes and `import` reads (docs/reference/state-file.md).

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::server::registry::persist::{FORMAT, SavedState};

use super::file::{self, StateError};

/// The whole document.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    format: u32,
    /// Who wrote it; for people.
    #[serde(default)]
    server: String,
    state: SavedState,
}

/// Why a document was not imported. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// It is no export.
    #[error("this is no export of registry-server: {0}")]
    Document(String),
    /// It is one of a newer version.
    #[error("this export has format {0}, this version reads up to {FORMAT}")]
    Newer(u64),
    /// The file cannot be made.
    #[error(transparent)]
    File(#[from] StateError),
}

/// What a state file holds, as a JSON document. The file may not be in use. Blocks.
///
/// It has no secrets: sessions' ids are in it as SHA-256 only, tokens not at all.
///
/// # Errors
/// See [`StateError`].
pub fn export(path: &Path) -> Result<String, StateError> {
    let document = Document {
        format: FORMAT,
        server: concat!("registry-server/", env!("CARGO_PKG_VERSION")).to_owned(),
        state: file::load(path)?,
    };
    // Maps with text for keys, numbers and texts: there is nothing that JSON could not say.
    Ok(serde_json::to_string_pretty(&document).unwrap_or_default())
}

/// Makes a state file that holds what an export says. There may be none yet. Returns how many sessions it
/// has. Blocks.
///
/// # Errors
/// See [`ImportError`].
pub fn import(path: &Path, json: &str) -> Result<usize, ImportError> {
    let wrong = |error: serde_json::Error| ImportError::Document(error.to_string());
    // The format first: what a newer one has besides is no mistake of the document's.
    let value: serde_json::Value = serde_json::from_str(json).map_err(wrong)?;
    match value.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format > u64::from(FORMAT) => return Err(ImportError::Newer(format)),
        Some(_) => {}
        None => return Err(ImportError::Document("it has no format".to_owned())),
    }
    let document: Document = serde_json::from_value(value).map_err(wrong)?;
    file::create(path, &document.state)?;
    Ok(document.state.sessions.len())
}
