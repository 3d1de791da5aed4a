//! Reads the files behind `_FILE` variables, and explains why one cannot be read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The longest file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The content of `path`.
///
/// # Errors
/// Says why, with the user, and the file's owner and mode. The usual cause is a secret of Compose: a bind mount,
/// which keeps the owner and mode of the host.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut content = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut content));
    match read {
        Err(error) => Err(explain(&error, effective_user(), Owner::of(path))),
        Ok(_) if content.len() as u64 > MAX_FILE => Err("the file is longer than 1 MiB".to_owned()),
        Ok(_) => Ok(content),
    }
}

/// The owner and mode of a file.
#[derive(Debug, Clone, Copy)]
struct Owner {
    user: u32,
    group: u32,
    mode: u32,
}

impl Owner {
    /// `None` where this user may not even know that.
    fn of(path: &Path) -> Option<Owner> {
        let found = path.metadata().ok()?;
        Some(Owner { user: found.uid(), group: found.gid(), mode: found.mode() & 0o7777 })
    }
}

fn explain(error: &io::Error, user: Option<u32>, owner: Option<Owner>) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file: is the secret mounted into this container?".into(),
        io::ErrorKind::IsADirectory => {
            "it is a directory (the engine makes one where the source of a bind mount is missing)".into()
        }
        io::ErrorKind::PermissionDenied => {
            let user = user.map_or("this user".to_owned(), |id| format!("user {id}"));
            match owner {
                Some(Owner { user: owner, group, mode }) => format!(
                    "{user} may not read the file, whose owner is {owner}:{group} and mode {mode:04o}: \
                     let the user read it (chmod 0444, or chown) or run as its owner"
                ),
                None => format!("{user} may not enter a directory on the way to the file"),
            }
        }
        _ => format!("the file cannot be read: {error}"),
    }
}

/// The effective user, from procfs, because std has no call for it.
fn effective_user() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    ids.split_whitespace().nth(1)?.parse().ok()
}

/// The kernel's name of this host; in a container that is its name or id. Empty where it is not known.
pub fn host_name() -> String {
    ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .map(|name| name.trim().to_owned())
        .find(|name| !name.is_empty())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_secret_names_user_owner_and_mode() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let owner = Owner { user: 0, group: 0, mode: 0o600 };
        let text = explain(&denied, Some(65532), Some(owner));
        assert!(
            text.starts_with("user 65532 may not read the file, whose owner is 0:0 and mode 0600"),
            "{text}"
        );
        assert!(explain(&denied, None, None).contains("directory on the way"));
    }

    #[test]
    fn what_is_no_readable_file_is_named_as_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(&dir.path().join("absent")).unwrap_err().contains("no such file"));
        assert!(read(dir.path()).unwrap_err().contains("is a directory"));
        let long = dir.path().join("long");
        std::fs::write(&long, vec![b'x'; MAX_FILE as usize + 1]).unwrap();
        assert!(read(&long).unwrap_err().contains("longer than"));
    }

    #[test]
    fn the_host_and_the_user_are_known_here() {
        assert!(effective_user().is_some());
        assert!(!host_name().is_empty());
    }
}
