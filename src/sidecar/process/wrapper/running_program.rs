//! Finds which program a process runs at this moment: an entrypoint script may have replaced itself by `exec`.

use std::fs;

/// Shells that may wait for the program that matters.
const SHELLS: [&str; 5] = ["sh", "bash", "dash", "ash", "busybox"];
/// How many shells in a row are followed.
const MAX_DEPTH: usize = 4;

/// The name of the program that `pid` runs. If that is a shell with exactly one child, the child's. `None` without
/// procfs.
pub(super) fn name_of(mut pid: i32) -> Option<String> {
    let mut name = command_name(pid)?;
    for _ in 0..MAX_DEPTH {
        if !SHELLS.contains(&name.as_str()) {
            break;
        }
        let Some(child) = only_child(pid) else { break };
        let Some(its_name) = command_name(child) else { break };
        (pid, name) = (child, its_name);
    }
    Some(name)
}

/// The kernel keeps at most 15 bytes, which is enough for the beginnings that matter.
fn command_name(pid: i32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end_matches('\n').to_owned())
}

fn only_child(pid: i32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let mut children = children.split_whitespace();
    match (children.next(), children.next()) {
        (Some(child), None) => child.parse().ok(),
        _ => None,
    }
}
