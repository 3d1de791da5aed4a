//! This host's name, for those who have no better one.

use std::io;

use crate::protocol::InstanceName;

/// An instance name of this host's name: in a container that is the container's id unless it was given a name, so that
/// each replica has its own. It is stable across restarts of the process, not across a new container.
///
/// # Errors
/// Where the system does not tell (it is read from procfs or `/etc/hostname`), or the name is not one that the registry
/// takes.
pub fn host_instance_name() -> io::Result<InstanceName> {
    let name = ["/proc/sys/kernel/hostname", "/etc/hostname"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .map(|name| name.trim().to_owned())
        .find(|name| !name.is_empty())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "this host has no name"))?;
    name.parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_a_name() {
        assert!(!host_instance_name().unwrap().as_str().is_empty());
    }
}
