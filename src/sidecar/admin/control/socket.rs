//! Where the control socket is: a file, or a name in Linux's abstract namespace where `/run` cannot be written.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};
use tracing::debug;

use crate::sidecar::config::{ControlSocket, Owner};

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

pub(super) async fn listen(socket: &ControlSocket) -> io::Result<(UnixListener, SocketFile)> {
    let configured = socket.path.as_deref();
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
            Ok((UnixListener::bind(default_abstract_name(socket.owner.as_ref()))?, SocketFile(None)))
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

/// The longest name in the abstract namespace, in bytes, without the NUL at its beginning.
const MAX_ABSTRACT: usize = 107;

/// Containers that share a network namespace share its abstract names, and some share the PID namespace as well. So both
/// the PID namespace and the daemon's owner are part of ours.
fn default_abstract_name(owner: Option<&Owner>) -> PathBuf {
    let mut name = beginning();
    if let Some(Owner { service, instance }) = owner {
        let whole = format!("{name}/{service}/{instance}");
        let hash = whole.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        name = match whole.len() <= MAX_ABSTRACT {
            true => whole,
            false => format!("{name}/{hash:016x}"),
        };
    }
    PathBuf::from(format!("\0{name}"))
}

/// What the names of all sidecars in this PID namespace begin with.
fn beginning() -> String {
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let inode: String = namespace.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    format!("registry-sidecar-{inode}")
}

/// The only sidecar of this PID namespace in the abstract namespace, for a command whose environment does not say whose
/// it is: a step of the wrapped command, for example.
///
/// # Errors
/// Where there are several: which one is meant, nobody knows.
fn only_abstract_name(table: &str, beginning: &str) -> io::Result<Option<PathBuf>> {
    let names = table.lines().filter_map(|line| line.split_whitespace().nth(7)?.strip_prefix('@'));
    let is_ours = |name: &&str| {
        name.strip_prefix(beginning).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut found: Vec<&str> = names.filter(is_ours).collect();
    found.sort_unstable();
    found.dedup();
    match found[..] {
        [] => Ok(None),
        [one] => Ok(Some(PathBuf::from(format!("\0{one}")))),
        _ => Err(io::Error::other(
            "several sidecars run here: set SERVICE_NAME and INSTANCE_NAME as for the one that is meant",
        )),
    }
}

/// Connects to the running daemon: at CONTROL_SOCKET, or else to the one with our owner in the abstract namespace, or to
/// that at the default path.
///
/// # Errors
/// Those of `connect`, where no daemon runs or its socket is elsewhere.
pub(super) async fn connect(socket: &ControlSocket) -> io::Result<UnixStream> {
    if let Some(path) = &socket.path {
        return UnixStream::connect(abstract_name(path).unwrap_or_else(|| path.clone())).await;
    }
    if let Ok(stream) = UnixStream::connect(default_abstract_name(socket.owner.as_ref())).await {
        return Ok(stream);
    }
    let refused = match UnixStream::connect(DEFAULT_PATH).await {
        Ok(stream) => return Ok(stream),
        Err(refused) => refused,
    };
    // A daemon whose owner we are not is not ours.
    let table =
        if socket.owner.is_none() { std::fs::read_to_string("/proc/net/unix") } else { Ok(String::new()) };
    match only_abstract_name(&table.unwrap_or_default(), &beginning())? {
        Some(name) => UnixStream::connect(name).await,
        None => Err(refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &Path) -> ControlSocket {
        ControlSocket { path: Some(path.to_owned()), owner: None }
    }

    fn owner(service: &str, instance: &str) -> Owner {
        Owner { service: service.to_owned(), instance: instance.to_owned() }
    }

    #[tokio::test]
    async fn a_socket_that_was_left_behind_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (first, file) = listen(&at(&path)).await.unwrap();
        assert!(listen(&at(&path)).await.is_err());
        drop((first, file));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn an_abstract_name_needs_no_folder() {
        let name = PathBuf::from(format!("@registry-sidecar-test-{}", fastrand::u64(..)));
        let (_listener, _file) = listen(&at(&name)).await.unwrap();
        connect(&at(&name)).await.unwrap();
        assert!(default_abstract_name(None).as_os_str().as_bytes().starts_with(b"\0registry-sidecar-"));
    }

    #[test]
    fn sidecars_that_share_all_namespaces_have_names_of_their_own() {
        let name = |service: &str, instance: &str| default_abstract_name(Some(&owner(service, instance)));
        assert_ne!(name("shop", "shop-1"), name("shop", "shop-2"));
        assert_ne!(name("shop", "1"), name("blog", "1"));
        assert_ne!(name("a/b", "c"), default_abstract_name(None));
        let long = "x".repeat(255);
        assert_ne!(name(&long, "1"), name(&long, "2"));
        assert!(name(&long, &long).as_os_str().len() <= MAX_ABSTRACT + 1);
    }

    #[test]
    fn who_does_not_say_whose_sidecar_is_meant_gets_the_only_one() {
        let line = |name: &str| format!("0000: 00000002 00000000 00010000 0001 01 1234 @{name}\n");
        let table = |names: &[&str]| {
            format!("Num RefCount\n{}", names.iter().map(|name| line(name)).collect::<String>())
        };
        let only = |names: &[&str]| only_abstract_name(&table(names), "registry-sidecar-7");
        assert_eq!(only(&["x", "registry-sidecar-77/a/b"]).unwrap(), None);
        let found = only(&["registry-sidecar-7/a/b", "registry-sidecar-7/a/b", "x"]).unwrap();
        assert_eq!(found, Some(PathBuf::from("\0registry-sidecar-7/a/b")));
        assert!(only(&["registry-sidecar-7/a/b", "registry-sidecar-7/a/c"]).is_err());
    }
}
