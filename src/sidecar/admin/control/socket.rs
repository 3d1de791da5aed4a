//! Where the control socket is: a file, or a name in Linux's abstract namespace where `/run` cannot be written.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};
use tracing::debug;

/// The default path.
const DEFAULT_PATH: &str = "/run/registry-sidecar.sock";

/// Removes the socket's file when dropped.
pub(super) struct SocketFile(Option<PathBuf>);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // It fails where the file is gone already.
            drop(std::fs::remove_file(path));
        }
    }
}

pub(super) async fn listen(configured: Option<&Path>) -> io::Result<(UnixListener, SocketFile)> {
    let path = configured.unwrap_or(Path::new(DEFAULT_PATH));
    if let Some(name) = abstract_name(path) {
        return Ok((UnixListener::bind(name)?, SocketFile(None)));
    }
    match listen_at(path).await {
        Ok(listener) => Ok((listener, SocketFile(Some(path.to_owned())))),
        Err(error) if configured.is_some() => {
            Err(io::Error::new(error.kind(), format!("{}: {error}", path.display())))
        }
        Err(error) => {
            debug!("{}: {error}; using the abstract namespace", path.display());
            Ok((UnixListener::bind(default_abstract_name())?, SocketFile(None)))
        }
    }
}

async fn listen_at(path: &Path) -> io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            // The file was left behind by a daemon that was killed, unless one answers.
            if UnixStream::connect(path).await.is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The name in the abstract namespace for which `@name` stands, as elsewhere in Linux.
fn abstract_name(path: &Path) -> Option<PathBuf> {
    let name = path.as_os_str().as_bytes().strip_prefix(b"@")?;
    Some(PathBuf::from(format!("\0{}", String::from_utf8_lossy(name))))
}

/// Containers that share a network namespace share its abstract names, so the PID namespace is part of ours.
fn default_abstract_name() -> PathBuf {
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let inode: String = namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    PathBuf::from(format!("\0registry-sidecar-{inode}"))
}

/// Connects to the running daemon.
///
/// # Errors
/// Those of `connect`, where no daemon runs or its socket is elsewhere.
pub(super) async fn connect(configured: Option<&Path>) -> io::Result<UnixStream> {
    let path = configured.unwrap_or(Path::new(DEFAULT_PATH));
    if let Some(name) = abstract_name(path) {
        return UnixStream::connect(name).await;
    }
    match UnixStream::connect(path).await {
        Err(_) if configured.is_none() => UnixStream::connect(default_abstract_name()).await,
        connected => connected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (first, file) = listen(Some(&path)).await.unwrap();
        assert!(listen(Some(&path)).await.is_err());
        drop((first, file));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn an_abstract_name_needs_no_folder() {
        let name = PathBuf::from(format!("@registry-sidecar-test-{}", fastrand::u64(..)));
        let (_listener, _file) = listen(Some(&name)).await.unwrap();
        connect(Some(&name)).await.unwrap();
        assert!(default_abstract_name().as_os_str().as_bytes().starts_with(b"\0registry-sidecar-"));
    }
}
