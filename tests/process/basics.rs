//! Exit codes, streams, descriptors, orphans, users, terminals.

use std::fs;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::thread;

use crate::programs::wait_until;
use crate::{Env, SIDECAR, code, is_root, prepared, program, run, text, wrap_script};

#[test]
fn the_commands_exit_code_is_ours() {
    for expected in [0, 1, 3, 77, 255] {
        assert_eq!(code(&run(&[], &["sh", "-c", &format!("exit {expected}")])), expected);
    }
    assert_eq!(code(&run(&[], &["sh", "-c", "kill -KILL $$"])), 137);
    assert_eq!(code(&run(&[], &["sh", "-c", "kill -USR1 $$"])), 138);
}

#[test]
fn a_command_that_is_missing_or_not_executable_is_named() {
    for (words, expected, named) in [
        (["/no/such/program"], 127, "/no/such/program"),
        (["no-such-program"], 127, "PATH"),
        (["/etc/passwd"], 126, "/etc/passwd"),
        (["/etc"], 126, "/etc"),
    ] {
        let output = run(&[], &words);
        assert_eq!(code(&output), expected, "{words:?}");
        assert!(text(&output.stderr).contains(named), "{}", text(&output.stderr));
    }
    let output = run(&[("APP_DIR", "/no/such/directory")], &["true"]);
    assert!(code(&output) == 126 && text(&output.stderr).contains("APP_DIR"), "{output:?}");
}

#[test]
fn nothing_after_two_dashes_is_a_usage_error_that_says_so() {
    let output = Command::new(SIDECAR).env_clear().arg("--").output().unwrap();
    assert_eq!(code(&output), 64);
    assert!(text(&output.stderr).contains("nothing stands after it"), "{}", text(&output.stderr));
}

#[test]
fn streams_pass_through_untouched_however_much_comes() {
    let mut child = prepared(&[], &["cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // Every byte there is, and far more than a pipe holds.
    let sent: Vec<u8> = (0..8 << 20).map(|index: u32| (index ^ (index >> 8)) as u8).collect();
    let (mut stdin, writing) = (child.stdin.take().unwrap(), sent.clone());
    let writer = thread::spawn(move || stdin.write_all(&writing));
    let mut received = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut received).unwrap();
    writer.join().unwrap().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(received == sent, "{} bytes of {}", received.len(), sent.len());
}

#[test]
fn descriptors_above_2_are_not_for_the_command() {
    let script = format!("exec 5</etc/passwd 9>/dev/null; exec {SIDECAR} -- ls /proc/self/fd");
    let output = Command::new("sh").args(["-c", &script]).output().unwrap();
    // The last is the directory that ls reads.
    assert_eq!(text(&output.stdout).split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
}

/// Whether this machine lets us be PID 1 of a namespace.
fn may_unshare() -> bool {
    let tried = Command::new("unshare").args(["-pf", "--mount-proc", "true"]).output();
    let may = tried.is_ok_and(|output| output.status.success());
    if !may {
        println!("NOT RUN: unshare -pf --mount-proc is not permitted here");
    }
    may
}

fn as_pid_1(words: &[&str]) -> std::process::Output {
    let mut command = Command::new("unshare");
    command.args(["-pf", "--mount-proc", SIDECAR, "--"]).args(words).output().unwrap()
}

#[test]
fn as_pid_1_it_reaps_orphans_and_the_exit_code_is_not_lost_among_them() {
    if !may_unshare() {
        return;
    }
    assert_eq!(code(&as_pid_1(&[&program("leave-orphans")])), 0);
    for expected in [0, 42] {
        let script = format!("for i in 1 2 3 4 5 6 7 8; do (sleep 0.0$i &) ; done; exit {expected}");
        assert_eq!(code(&as_pid_1(&["sh", "-c", &script])), expected);
    }
}

#[test]
fn as_pid_1_it_hears_the_signals_that_init_would_ignore() {
    if !may_unshare() {
        return;
    }
    assert_eq!(code(&as_pid_1(&["sh", "-c", "kill -TERM 1; exec sleep 60"])), 143);
    assert_eq!(code(&as_pid_1(&["sh", "-c", "kill -INT 1; exec sleep 60"])), 143);
}

/// As PID 1 where `prepare` has been done to the mounts of its own namespace.
fn as_pid_1_after(prepare: &str, env: Env<'_>, words: &[&str]) -> std::process::Output {
    let script = format!("{prepare}; exec \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    command.args(["-pfm", "--mount-proc", "sh", "-c", &script, SIDECAR, "--"]).args(words);
    command.envs(env.iter().copied()).output().unwrap()
}

#[test]
fn as_pid_1_it_needs_no_proc_that_can_be_written_or_even_read() {
    if !may_unshare() {
        return;
    }
    let orphans = "(sleep 0.05 &); exit 42";
    for prepare in ["mount -o remount,ro /proc", "umount -l /proc"] {
        let output = as_pid_1_after(prepare, &[], &["sh", "-c", orphans]);
        assert_eq!(code(&output), 42, "{prepare}: {}", text(&output.stderr));
        // Its name cannot be told without procfs, so that it is asked as all others are.
        let output = as_pid_1_after(prepare, &[], &["sh", "-c", "kill -TERM 1; exec sleep 60"]);
        assert_eq!(code(&output), 143, "{prepare}: {}", text(&output.stderr));
    }
}

#[test]
fn as_pid_1_it_keeps_secrets_out_of_its_own_environment_and_descriptors_from_the_command() {
    if !may_unshare() {
        return;
    }
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "horse").unwrap();
    let env = [
        ("SIDECAR_SECRETS", "DB_PASSWORD"),
        ("DB_PASSWORD_FILE", secret.path().to_str().unwrap()),
        ("SIDECAR_ENV_URL", "x://%{DB_PASSWORD}@db"),
    ];
    let script =
        "echo $URL; cat /proc/1/environ | tr '\\0' '\\n' | grep -c horse; ls /proc/self/fd | tr '\\n' ' '";
    let output = as_pid_1_after("exec 7</etc/passwd", &env, &["sh", "-c", script]);
    let lines = text(&output.stdout);
    // The last of them is the directory that ls reads.
    assert_eq!(
        lines.lines().collect::<Vec<_>>(),
        ["x://horse@db", "0", "0 1 2 3 "],
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn below_another_init_it_reaps_orphans_as_well() {
    let sidecar = wrap_script(&[], "(sleep 0.1; exit 3) & sh -c '(echo orphan; sleep 0.2) &'; exec sleep 60");
    sidecar.wait_for_log("orphan");
    let children = |pid: u32| fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    wait_until("the orphan is adopted", || children(sidecar.id()).split_whitespace().count() > 1);
    wait_until("the orphan is reaped", || children(sidecar.id()).split_whitespace().count() == 1);
}

#[test]
fn another_user_gets_the_streams_and_no_group_of_ours() {
    if !is_root() {
        return println!("NOT RUN: only root can become another user");
    }
    let script =
        "id -u; id -G; echo opened >/dev/stdout; echo $HOME; kill -TERM $PPID 2>/dev/null || echo weak";
    let output = run(&[("SIDECAR_RUN_AS", "4711:4712")], &["sh", "-c", script]);
    let lines = text(&output.stdout);
    assert_eq!(lines.lines().collect::<Vec<_>>(), ["4711", "4712", "opened", "/", "weak"]);

    let mut dropped = Command::new("setpriv");
    dropped.args(["--bounding-set", "-setuid,-kill", "--inh-caps", "-all", SIDECAR, "--", "true"]);
    let output = dropped.env("SIDECAR_RUN_AS", "4711").output().unwrap();
    assert_eq!(code(&output), 64);
    assert!(text(&output.stderr).contains("SETUID, KILL"), "{}", text(&output.stderr));
}

#[test]
fn a_terminal_is_handed_over() {
    // A shell with job control complains, or hangs, where it is not in the foreground.
    let line = format!("{SIDECAR} -- bash -ic 'read word; echo \"read $word\"; exit 6'");
    let mut terminal = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    terminal.stdin.take().unwrap().write_all(b"hello\n").unwrap();
    let output = terminal.wait_with_output().unwrap();
    let said = text(&output.stdout);
    assert!(code(&output) == 6 && said.contains("read hello"), "{said}");
    assert!(!said.contains("job control"), "{said}");
}

/// The lines that a shell with job control says in a terminal below the sidecar, while `typed` comes from its keyboard.
fn in_terminal(command: &str, typed: &[u8]) -> (i32, String) {
    let line = format!("{SIDECAR} -- {command}");
    let mut terminal = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    terminal.stdin.take().unwrap().write_all(typed).unwrap();
    let output = terminal.wait_with_output().unwrap();
    (code(&output), text(&output.stdout))
}

#[test]
fn a_shell_below_has_job_control() {
    // Who reads the terminal in the background is stopped, and goes on in the foreground.
    let script =
        "bash -ic 'cat & until jobs | grep -q Stopped; do sleep 0.05; done; echo was-stopped; fg; exit 6'";
    let (code, said) = in_terminal(script, b"hello\n\x04");
    assert!(code == 6 && said.contains("was-stopped") && said.matches("hello").count() >= 1, "{code} {said}");
}

#[test]
fn every_child_has_the_mask_of_signals_that_we_were_started_with() {
    // Without a child of its own: a shell that waits for one changes its mask.
    let show = "while read line; do case $line in SigBlk*) echo \"$line\";; esac; done </proc/$$/status";
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    let check = format!("exec:{show} >>{}", seen.display());
    let mask_of = |blocked: &[&str], env: Env<'_>, words: &[&str]| {
        let mut command = Command::new("env");
        command.args(blocked).arg(SIDECAR).arg("--").args(words);
        command.env_clear().env("PATH", crate::PATH).envs(env.iter().copied());
        let output = command.output().unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        let masks = said.lines().filter_map(|line| line.split("SigBlk:").nth(1));
        masks.map(|mask| mask.trim().to_owned()).collect::<Vec<_>>()
    };
    let (none, usr2) = ("0000000000000000", "0000000000000800");
    let words = ["grep", "SigBlk", "/proc/self/status"];
    assert_eq!(mask_of(&[], &[], &words), [none]);
    assert_eq!(mask_of(&["--block-signal=USR2"], &[], &words), [usr2]);
    assert_eq!(
        mask_of(&[], &[("SIDECAR_PRE_START", show), ("SIDECAR_WAIT_FOR", &check)], &words),
        [none, none]
    );
    assert!(fs::read_to_string(&seen).unwrap().contains(none));
    if is_root() {
        assert_eq!(mask_of(&[], &[("SIDECAR_RUN_AS", "4711")], &words), [none]);
    }
}

/// An executable file with this content.
fn executable(folder: &tempfile::TempDir, name: &str, content: &[u8]) -> String {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    let open = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    fs::set_permissions(&path, open(0o755)).unwrap();
    fs::set_permissions(folder.path(), open(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_script_without_a_first_line_for_the_kernel_goes_to_the_shell_in_every_way_to_start_it() {
    let folder = tempfile::tempdir().unwrap();
    let script = executable(&folder, "script", b"echo \"$0 got $1\"; exit 5\n");
    let expected = format!("{script} got x\n");
    let output = run(&[], &[&script, "x"]);
    assert_eq!((code(&output), text(&output.stdout)), (5, expected.clone()));
    let path = format!("{}:{}", folder.path().display(), crate::PATH);
    let output = run(&[("PATH", &path)], &["script", "x"]);
    assert_eq!((code(&output), text(&output.stdout)), (5, expected.clone()));
    let output = run(&[("APP_DIR", folder.path().to_str().unwrap())], &["./script", "x"]);
    assert_eq!((code(&output), text(&output.stdout).as_str()), (5, "./script got x\n"));
    if is_root() {
        let output = run(&[("SIDECAR_RUN_AS", "4711")], &[&script, "x"]);
        assert_eq!((code(&output), text(&output.stdout)), (5, expected));
    }
    let (code, said) = in_terminal(&format!("{script} x"), b"");
    assert!(code == 5 && said.contains("got x"), "{code} {said}");
}

#[test]
fn what_is_neither_a_program_for_this_machine_nor_a_script_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut foreign = fs::read("/bin/true").unwrap();
    let machine = if cfg!(target_arch = "x86_64") { 183_u16 } else { 62 };
    foreign[18..20].copy_from_slice(&machine.to_le_bytes());
    let cases: [(&str, &[u8], &str); 3] = [
        ("foreign", &foreign, "it is a program for "),
        ("bom", b"\xef\xbb\xbf#!/bin/sh\nexit 0\n", "a byte-order mark stands before its #!"),
        ("binary", b"\x01\x02\0\x03\n", "neither a program for this machine nor a script"),
    ];
    for (name, content, named) in cases {
        let path = executable(&folder, name, content);
        for env in [&[][..], &[("SIDECAR_RUN_AS", "4711")]] {
            if env.is_empty() || is_root() {
                let output = run(env, &[&path]);
                assert!(code(&output) == 126 && text(&output.stderr).contains(named), "{name}: {output:?}");
            }
        }
    }
}

#[test]
fn a_command_of_our_own_user_cannot_read_our_environment() {
    // Root may read everything, so both are somebody else.
    if !is_root() {
        return println!("NOT RUN: only root can become another user");
    }
    let script = "cat /proc/$PPID/environ >/dev/null 2>&1 && echo READ || echo CONCEALED";
    let mut command = Command::new("setpriv");
    command.args(["--reuid=4711", "--regid=4711", "--clear-groups", SIDECAR, "--", "sh", "-c", script]);
    command.env("REGISTRY_TOKEN", "horse");
    let output = command.output().unwrap();
    assert_eq!(text(&output.stdout), "CONCEALED\n", "{}", text(&output.stderr));
}
