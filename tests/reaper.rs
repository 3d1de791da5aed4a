//! The reaper, in a process of its own: it takes every dead child, so no other test may run beside it.
#![allow(clippy::unwrap_used, reason = "a failed assumption ends the test")]

use std::io;
use std::process::Command;

use registry_sidecar::sidecar::config::Signal;
use registry_sidecar::sidecar::process::reaper::{Child, Exit, Reaper, Target, Terminal};

fn shell(line: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]);
    command
}

#[tokio::test]
async fn no_exit_code_is_lost_however_fast_and_many_the_children_are() {
    let reaper = Reaper::start().unwrap();
    let spawn = |line: &str| reaper.spawn(shell(line), Terminal::Kept, Signal::KILL).unwrap();

    let mut children: Vec<Child> = (0..40).map(|code| spawn(&format!("exit {code}"))).collect();
    for (code, child) in children.iter_mut().enumerate() {
        assert_eq!(usize::from(child.wait().await.code()), code);
    }

    // A grandchild whose parent is gone is ours, and is reaped without being mistaken for a child.
    let mut parent = spawn("sh -c 'exit 3' & exit 5");
    assert_eq!(parent.wait().await, Exit::Code(5));

    let missing = reaper.spawn(Command::new("/no/such/program"), Terminal::Kept, Signal::KILL).unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);

    let mut sleeper = spawn("sleep 1000 & wait");
    let handle = sleeper.handle();
    handle.signal(Target::Group, Signal::TERM);
    assert_eq!(sleeper.wait().await, Exit::Signal(15));
    // Too late, and without effect: whoever has that number by now is not ours.
    handle.signal(Target::Process, Signal::KILL);

    // Nothing is left, dead or alive.
    let mut last = spawn("exit 0");
    last.wait().await;
    while let Ok(children) = children_of_this_process()
        && !children.is_empty()
    {
        tokio::task::yield_now().await;
    }
}

fn children_of_this_process() -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("children"))?;
        children.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(children)
}
