//! MAX_BUFFERED where it is not set: a part of the memory that this process may have.

use std::fs;
use std::path::Path;

use super::Config;

impl Config {
    /// MAX_BUFFERED, or a quarter of the memory. `None`: the kernel does not tell how much there is.
    pub fn buffered_limit(&self) -> Option<usize> {
        self.max_buffered.or_else(quarter)
    }
}

/// A quarter of the memory that the control group may have, or else of the machine's. `None`: the kernel does not tell.
fn quarter() -> Option<usize> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let limit = control_group_files(&own).iter().filter_map(|file| limit_in(Path::new(file))).min();
    let memory = limit.into_iter().chain(machine).min()?;
    Some(usize::try_from(memory / 4).unwrap_or(usize::MAX))
}

/// Where the limits of the group and of those above it may be, of both versions. `own` is /proc/self/cgroup. In a container
/// the root of the tree is the container's group.
fn control_group_files(own: &str) -> Vec<String> {
    let mut files = vec![
        "/sys/fs/cgroup/memory.max".to_owned(),
        "/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned(),
    ];
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(kinds), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match kinds {
            "" => ("/sys/fs/cgroup", "memory.max"),
            kinds if kinds.split(',').any(|kind| kind == "memory") => {
                ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let above = Path::new(path).ancestors().filter_map(|group| group.to_str());
        files.extend(above.map(|group| format!("{root}{}/{file}", group.trim_end_matches('/'))));
    }
    files
}

/// `None`: there is no such file, or it says `max`.
fn limit_in(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// MemTotal of /proc/meminfo, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_both_versions_are_found_with_those_above() {
        let second = control_group_files("0::/system.slice/proxy.service\n");
        assert!(second.contains(&"/sys/fs/cgroup/system.slice/proxy.service/memory.max".to_owned()));
        assert!(second.contains(&"/sys/fs/cgroup/system.slice/memory.max".to_owned()));
        let first = control_group_files("5:cpu,memory:/docker/ab\n3:pids:/docker/ab\n");
        assert!(first.contains(&"/sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes".to_owned()));
        assert!(!first.iter().any(|file| file.contains("pids")));
    }

    #[test]
    fn the_machines_memory_is_read_in_bytes() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       2048 kB\n"), Some(2048 * 1024));
        assert_eq!(total("MemTotal: much\n"), None);
        assert!(quarter().is_some_and(|bytes| bytes > 0));
    }
}
