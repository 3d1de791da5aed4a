//! RUN_AS: the command's user and group. Names are looked up in the text of /etc/passwd and /etc/group, because
//! libc's lookup loads modules at run time, which a static binary in another image cannot.

use registry_client::protocol::Invalid;

/// The user of the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    /// The user's id.
    pub uid: u32,
    /// The group's id; supplementary groups are dropped.
    pub gid: u32,
    /// HOME for the command.
    pub home: String,
}

/// Parses `uid[:gid]` or `user[:group]`, with names from these files. A user without an entry gets the group with the
/// same number, never root's.
pub(super) fn parse(text: &str, passwd: &str, groups: &str) -> Result<RunAs, Invalid> {
    let refuse = |reason: String| Invalid::new("user", text, reason, "1000:1000");
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let entry = passwd.lines().map(fields).find(|entry| entry.len() > 5 && names(entry, user));
    let uid = match (&entry, user.parse()) {
        (Some(entry), _) => number(entry[2]),
        (None, Ok(uid)) => Some(uid),
        (None, Err(_)) => return Err(refuse(format!("/etc/passwd has no user {user:?}"))),
    };
    let gid = match (group, &entry) {
        (Some(group), _) => {
            let entry = groups.lines().map(fields).find(|entry| entry.len() > 2 && names(entry, group));
            match (&entry, group.parse()) {
                (Some(entry), _) => number(entry[2]),
                (None, Ok(gid)) => Some(gid),
                (None, Err(_)) => return Err(refuse(format!("/etc/group has no group {group:?}"))),
            }
        }
        (None, Some(entry)) => number(entry[3]),
        (None, None) => uid,
    };
    let (Some(uid), Some(gid)) = (uid, gid) else {
        return Err(refuse("its entry in /etc/passwd or /etc/group is broken".to_owned()));
    };
    let home = entry.map(|entry| entry[5]).filter(|home| !home.is_empty()).unwrap_or("/").to_owned();
    Ok(RunAs { uid, gid, home })
}

fn fields(line: &str) -> Vec<&str> {
    line.split(':').collect()
}

/// Whether an entry has this name or this number.
fn names(entry: &[&str], wanted: &str) -> bool {
    !wanted.is_empty() && (entry[0] == wanted || entry[2] == wanted)
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok()
}

/// Whether a process with this `/proc/self/status` has to change its user to be `run_as`.
///
/// # Errors
/// Says what the process lacks to change its user.
pub(super) fn needs_change(run_as: &RunAs, status: &str) -> Result<bool, String> {
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let effective = |name| line(name)?.split_whitespace().nth(1)?.parse::<u32>().ok();
    let (Some(uid), Some(gid)) = (effective("Uid:"), effective("Gid:")) else {
        // Without procfs, the attempt itself will fail or not.
        return Ok(true);
    };
    if (uid, gid) == (run_as.uid, run_as.gid) {
        return Ok(false);
    }
    if uid != 0 {
        return Err(format!("only root can become another user, and this process is user {uid}"));
    }
    let Some(capabilities) = line("CapEff:").and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else {
        return Ok(true);
    };
    // KILL is needed to stop the command of another user.
    let needed = [("SETUID", 7), ("SETGID", 6), ("KILL", 5)];
    let missing: Vec<&str> =
        needed.iter().filter(|(_, bit)| capabilities & (1 << bit) == 0).map(|(name, _)| *name).collect();
    if missing.is_empty() {
        return Ok(true);
    }
    let missing = missing.join(", ");
    Err(format!("this container lacks the capabilities it takes, {missing}: add cap_add: [{missing}]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www:/var/www:/bin/sh\nbroken\n\
                          app:x:1000:2000::/home/app:\n";
    const GROUPS: &str = "root:x:0:\nwww-data:x:33:\nstaff:x:50:app\n";

    fn parsed(text: &str) -> (u32, u32, String) {
        let run_as = parse(text, PASSWD, GROUPS).unwrap();
        (run_as.uid, run_as.gid, run_as.home)
    }

    #[test]
    fn users_and_groups_have_names_and_numbers() {
        assert_eq!(parsed("app"), (1000, 2000, "/home/app".to_owned()));
        assert_eq!(parsed("1000"), (1000, 2000, "/home/app".to_owned()));
        assert_eq!(parsed("app:staff"), (1000, 50, "/home/app".to_owned()));
        assert_eq!(parsed("www-data:0"), (33, 0, "/var/www".to_owned()));
        // Nobody's number never ends up in root's group.
        assert_eq!(parsed("4711"), (4711, 4711, "/".to_owned()));
        assert_eq!(parsed("4711:4712"), (4711, 4712, "/".to_owned()));
        for text in ["nobody-here", "app:nogroup", ":33", "app:", "-1", "broken"] {
            assert!(parse(text, PASSWD, GROUPS).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_named_before_anything_starts() {
        let app = parse("app", PASSWD, GROUPS).unwrap();
        let status = |uid: u32, gid: u32, caps: u64| {
            format!(
                "Name:\tx\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{gid}\t{gid}\t{gid}\t{gid}\nCapEff:\t{caps:016x}\n"
            )
        };
        assert_eq!(needs_change(&app, &status(0, 0, u64::MAX)), Ok(true));
        assert_eq!(needs_change(&app, &status(1000, 2000, 0)), Ok(false));
        assert_eq!(needs_change(&app, ""), Ok(true));
        let bare = needs_change(&app, &status(0, 0, 0)).unwrap_err();
        assert!(bare.contains("SETUID, SETGID, KILL"), "{bare}");
        let no_kill = needs_change(&app, &status(0, 0, 0xc0)).unwrap_err();
        assert!(no_kill.contains("cap_add: [KILL]"), "{no_kill}");
        assert!(needs_change(&app, &status(33, 33, u64::MAX)).unwrap_err().contains("user 33"));
    }
}
