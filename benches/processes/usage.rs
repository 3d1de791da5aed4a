//! What processes use, from /proc.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// CPU time of a process and those that it has started, so far. To a hundredth of a second.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Behind the name, which may hold anything: user and system time are the 12th and 13th, in ticks of 10 ms.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let own =
        Duration::from_millis(10 * (fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()));
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    own + children.split_whitespace().map(|child| cpu_time(child.parse().unwrap())).sum::<Duration>()
}

/// How long all threads of a process have run so far, to a few milliseconds.
pub(crate) fn run_time(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.map(|thread| thread_time(&thread.unwrap().path())).sum()
}

/// The same of one thread, by its directory in /proc.
pub(crate) fn thread_time(thread: &Path) -> Duration {
    let text = fs::read_to_string(thread.join("schedstat")).unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// A figure of /proc/PID/status: `VmRSS:`, `RssAnon:`.
pub(crate) fn memory_kb(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
