//! Which signal reaches whom, and what it brings about.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use crate::programs::Program;
use crate::{Env, program, wrap, wrap_script};

/// The program that records signals, ready to.
fn recorder(env: Env<'_>) -> Program {
    let sidecar = wrap(env, &[&program("record-signals")]);
    sidecar.wait_for_log("recording");
    sidecar
}

#[test]
fn a_command_that_says_nothing_of_it_ends_with_143() {
    let mut sidecar = wrap_script(&[], "echo up; exec sleep 60");
    sidecar.wait_for_log("up");
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(143));
}

#[test]
fn signals_that_do_not_ask_for_the_stop_are_passed_on() {
    let mut sidecar = recorder(&[]);
    for signal in ["HUP", "USR1", "USR2", "WINCH", "CONT", "TSTP", "ALRM"] {
        sidecar.signal(signal);
        sidecar.wait_for_log(&format!("got {signal}"));
    }
    // These are for whoever uses a terminal from the background; we must not be stopped by them.
    for signal in ["TTIN", "TTOU"] {
        sidecar.signal(signal);
    }
    sidecar.signal("QUIT");
    sidecar.wait_for_log("got QUIT");
    assert_eq!(sidecar.wait().code(), Some(7));
}

#[test]
fn the_stop_signal_comes_as_configured() {
    let mut sidecar = recorder(&[("SIDECAR_STOP_SIGNAL", "SIGQUIT")]);
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(7));
    let mut sidecar = recorder(&[("SIDECAR_SIGNAL_REWRITE", "15:3,HUP:USR2")]);
    sidecar.signal("HUP");
    sidecar.wait_for_log("got USR2");
    sidecar.signal("INT");
    assert_eq!(sidecar.wait().code(), Some(7));
}

/// The recorder under another name, behind an entrypoint script that becomes it.
fn recorder_named(directory: &tempfile::TempDir, name: &str) -> Program {
    let renamed = directory.path().join(name);
    symlink("/bin/sh", &renamed).unwrap();
    let entrypoint = directory.path().join("docker-entrypoint");
    fs::write(&entrypoint, "#!/bin/sh\nset -e\nexec \"$@\"\n").unwrap();
    fs::set_permissions(&entrypoint, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let (entrypoint, renamed) = (entrypoint.to_str().unwrap(), renamed.to_str().unwrap());
    let sidecar = wrap(&[], &[entrypoint, renamed, &program("record-signals")]);
    sidecar.wait_for_log("recording");
    sidecar
}

#[test]
fn the_stop_signal_is_that_of_the_program_that_runs_then() {
    let directory = tempfile::tempdir().unwrap();
    let mut fpm = recorder_named(&directory, "php-fpm8.2");
    fpm.signal("TERM");
    fpm.wait_for_log("sending SIGQUIT");
    assert_eq!(fpm.wait().code(), Some(7));
}

#[test]
fn the_commands_own_stop_signal_starts_the_stop_too() {
    let directory = tempfile::tempdir().unwrap();
    let httpd = recorder_named(&directory, "httpd");
    httpd.signal("WINCH");
    httpd.wait_for_log("SIGWINCH: stopping in order");
    httpd.wait_for_log("got WINCH");
    // To others the same signal means that the window has another size.
    let mut other = recorder(&[]);
    other.signal("WINCH");
    other.wait_for_log("got WINCH");
    other.signal("QUIT");
    other.wait();
    assert!(!other.log().iter().any(|line| line.contains("stopping")), "{:?}", other.log());
}

#[test]
fn a_shell_line_is_signalled_as_a_group_and_a_program_only_if_asked() {
    let line = format!("{0} & {0}; wait", program("record-signals"));
    let both = |sidecar: &Program, signal: &str| {
        let got = format!("got {signal}");
        let count = || sidecar.log().iter().filter(|line| **line == got).count();
        crate::programs::wait_until("both got it", || count() == 2);
    };
    let up = |sidecar: &Program| {
        let count = || sidecar.log().iter().filter(|line| *line == "recording").count();
        crate::programs::wait_until("both record", || count() == 2);
    };
    let shell_line = wrap(&[("ENTRY_COMMAND", &line)], &[]);
    up(&shell_line);
    let asked = wrap_script(&[("SIDECAR_SIGNAL_GROUP", "true")], &line);
    up(&asked);
    // The shells themselves do not mind this one.
    shell_line.signal("WINCH");
    both(&shell_line, "WINCH");
    asked.signal("WINCH");
    both(&asked, "WINCH");
}

const STUBBORN: &str = "trap '' TERM; echo up; while :; do sleep 0.05; done";

#[test]
fn nothing_is_killed_unless_a_grace_period_is_known() {
    let mut sidecar = wrap_script(&[("SIDECAR_STOP_GRACE_PERIOD", "1200ms")], STUBBORN);
    sidecar.wait_for_log("up");
    let asked = Instant::now();
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(137));
    let took = asked.elapsed();
    assert!(took >= Duration::from_millis(600) && took < Duration::from_millis(1200), "{took:?}");
}

#[test]
fn the_third_signal_kills() {
    let mut sidecar = wrap_script(&[], STUBBORN);
    sidecar.wait_for_log("up");
    for count in 1..=2 {
        sidecar.signal("TERM");
        let told = |line: &&String| line.contains("stopping in order");
        crate::programs::wait_until("it is heard", || sidecar.log().iter().filter(told).count() == count);
    }
    sidecar.signal("INT");
    assert_eq!(sidecar.wait().code(), Some(137));
    sidecar.wait_for_log("killing what is left");
}

#[test]
fn realtime_signals_are_passed_on_and_rewritten_and_any_signal_can_be_dropped() {
    let script = "trap 'echo got 34' 34; trap 'echo got 37' RTMIN+3; trap 'echo got 64' RTMAX; trap 'echo got USR1' USR1
        trap 'echo got USR2' USR2; trap 'echo got TERM; exit 7' TERM; echo recording; while :; do sleep 0.05; done";
    let env = [("SIDECAR_SIGNAL_REWRITE", "USR1:0,USR2:SIGRTMIN+3")];
    let mut sidecar = wrap(&env, &["bash", "-c", script]);
    sidecar.wait_for_log("recording");
    for (signal, got) in [("34", "got 34"), ("64", "got 64"), ("USR1", ""), ("USR2", "got 37")] {
        sidecar.signal(signal);
        sidecar.wait_for_log(got);
    }
    sidecar.signal("TERM");
    assert_eq!(sidecar.wait().code(), Some(7));
    assert!(!sidecar.log().iter().any(|line| line.contains("got USR")), "{:?}", sidecar.log());
}

#[test]
fn the_stop_signal_may_be_a_realtime_one() {
    let script = "trap 'echo stopped; exit 7' RTMIN+3; echo up; while :; do sleep 0.05; done";
    for asked in ["TERM", "37"] {
        let mut sidecar = wrap(&[("SIDECAR_STOP_SIGNAL", "SIGRTMIN+3")], &["bash", "-c", script]);
        sidecar.wait_for_log("up");
        sidecar.signal(asked);
        sidecar.wait_for_log("stopped");
        assert_eq!(sidecar.wait().code(), Some(7), "{asked}");
    }
}

#[test]
fn whatever_ends_us_takes_the_command_along_with_its_stop_signal() {
    let users: &[&str] = if crate::is_root() { &["", "4711"] } else { &[""] };
    for user in users {
        for signal in ["KILL", "ABRT"] {
            let env = [("SIDECAR_STOP_SIGNAL", "SIGQUIT"), ("SIDECAR_RUN_AS", *user)];
            let mut sidecar = recorder(&env);
            sidecar.signal(signal);
            sidecar.wait();
            sidecar.wait_for_log("got QUIT");
        }
    }
}
