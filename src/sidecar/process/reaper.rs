//! The one place that spawns and waits: for our own children, and for the orphans that PID 1 or a subreaper inherits.
//!
//! `waitpid(-1)` reaps any dead child, so nothing else may spawn or wait: it would lose an exit code to this reaper
//! sooner or later. Spawning, waiting and signalling hold one lock. So a child that dies before `spawn` has returned
//! is known when it is reaped. And a process id is signalled only while it is ours: the kernel does not reuse the id
//! of a dead child before it is reaped.
//!
//! It does not know why a process runs.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, getpgrp, getpid, set_child_subreaper, wait};
use rustix::termios::tcgetpgrp;
use signal_hook::consts::signal::SIGCHLD;
use signal_hook_tokio::Signals;
use tokio::sync::oneshot;
use tracing::{debug, warn};

use crate::sidecar::config::Signal;

use super::os::{self, Image};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(u8),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// The exit code as a shell gives it: the code, or 128 plus the signal's number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => u8::try_from(signal).map_or(u8::MAX, |signal| signal.saturating_add(128)),
        }
    }

    /// Whether it exited with 0.
    pub fn is_success(self) -> bool {
        self == Exit::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => write!(f, "ended with {code}"),
            Exit::Signal(signal) => match Signal::from_number(*signal) {
                Some(signal) => write!(f, "was ended by {signal}"),
                None => write!(f, "was ended by signal {signal}"),
            },
        }
    }
}

/// What a signal is sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The process that was spawned.
    Process,
    /// All processes in its process group.
    Group,
}

/// Spawns and waits. Cheap to clone; there is one in a process.
#[derive(Debug, Clone)]
pub struct Reaper {
    children: Arc<Mutex<Children>>,
}

/// The senders of the exits, by process id.
type Children = BTreeMap<i32, oneshot::Sender<Exit>>;

/// A spawned process. Dropping it does not end the process, which is still reaped.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    exit: oneshot::Receiver<Exit>,
    reaper: Reaper,
}

/// Signals a process without waiting for it.
#[derive(Debug, Clone)]
pub struct ChildHandle {
    pid: Pid,
    reaper: Reaper,
}

impl Reaper {
    /// Starts to reap the children of this process, in a task of the current runtime. Where this is not PID 1, it
    /// makes the process a subreaper, so that orphaned descendants are reaped too. Call it once, on the main thread,
    /// before anything is spawned.
    ///
    /// # Errors
    /// Where SIGCHLD cannot be listened to. A kernel without subreapers is only warned about.
    pub fn start() -> io::Result<Reaper> {
        os::keep_descriptors_to_ourselves();
        os::bear_background()?;
        if !getpid().is_init()
            && let Err(error) = set_child_subreaper(Some(getpid()))
        {
            warn!("orphans of the command are left to another process: {error}");
        }
        let mut deaths = Signals::new([SIGCHLD])?;
        let reaper = Reaper { children: Arc::default() };
        let reaping = reaper.clone();
        tokio::spawn(async move {
            while deaths.next().await.is_some() {
                reaping.reap();
            }
        });
        Ok(reaper)
    }

    /// Starts `command` in a process group of its own, with the standard streams that it sets, the mask of signals with
    /// which this process was started, and no other descriptor. With [`Terminal::Handed`], where our standard input is
    /// a terminal and we are in its foreground, the command's group takes our place there. When this process ends,
    /// however it ends, the command gets the signal `death`. Call it on the main thread.
    ///
    /// # Errors
    /// Those of `fork` and `exec`; the child is then gone.
    pub fn spawn(&self, command: Command, inherits: Terminal, death: Signal) -> io::Result<Child> {
        self.spawn_image(command, None, inherits, death)
    }

    /// Like [`Reaper::spawn`]. With an `image` the command becomes that, whatever program it names itself.
    pub(super) fn spawn_image(
        &self,
        mut command: Command,
        image: Option<Image>,
        inherits: Terminal,
        death: Signal,
    ) -> io::Result<Child> {
        command.process_group(0);
        if inherits == Terminal::Handed && is_in_foreground() {
            os::take_terminal(&mut command);
        }
        os::prepare(&mut command, death);
        if let Some(image) = image {
            os::become_exactly(&mut command, image);
        }
        let mut children = self.lock();
        let spawned = command.spawn()?;
        let pid = i32::try_from(spawned.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("the kernel gave an impossible process id"))?;
        let (sender, exit) = oneshot::channel();
        children.insert(pid.as_raw_nonzero().get(), sender);
        Ok(Child { pid, exit, reaper: self.clone() })
    }

    /// Reaps every dead child, because one SIGCHLD may stand for several.
    fn reap(&self) {
        let mut children = self.lock();
        loop {
            let (pid, status) = match wait(WaitOptions::NOHANG) {
                Ok(Some(dead)) => dead,
                Ok(None) | Err(Errno::CHILD) => return,
                Err(Errno::INTR) => continue,
                Err(error) => return warn!("cannot wait for children: {error}"),
            };
            let exit = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(u8::try_from(code).unwrap_or(u8::MAX)),
                (None, Some(signal)) => Exit::Signal(signal),
                // Stopped or continued: we did not ask for those, and the child lives.
                (None, None) => continue,
            };
            match children.remove(&pid.as_raw_nonzero().get()) {
                // The `Child` may have been dropped.
                Some(waiting) => drop(waiting.send(exit)),
                None => debug!("reaped the orphan {pid:?}: it {exit}"),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Children> {
        self.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a command gets the terminal's foreground, if there is a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// It moves to the foreground.
    Handed,
    /// It stays in the background.
    Kept,
}

impl Child {
    /// A handle that signals the process while somebody waits for it.
    pub fn handle(&self) -> ChildHandle {
        ChildHandle { pid: self.pid, reaper: self.reaper.clone() }
    }

    /// Waits for its end. Cancel-safe, but the exit is returned only once.
    pub async fn wait(&mut self) -> Exit {
        match (&mut self.exit).await {
            Ok(exit) => exit,
            // The reaper is gone, because this process is about to end.
            Err(_) => std::future::pending().await,
        }
    }
}

impl ChildHandle {
    /// Its process id, which another process may have once this one has been reaped.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal, unless the process has been reaped. A failure is only warned about.
    pub fn signal(&self, target: Target, signal: Signal) {
        let children = self.reaper.lock();
        if !children.contains_key(&self.pid()) {
            return;
        }
        match os::send(self.pid, target == Target::Group, signal) {
            Ok(()) => {}
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => {}
            Err(error) => warn!("cannot send {signal} to process {}: {error}", self.pid()),
        }
    }
}

/// Whether our standard input is a terminal and our process group is in its foreground.
fn is_in_foreground() -> bool {
    tcgetpgrp(rustix::stdio::stdin()).is_ok_and(|group| group == getpgrp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_says_about_an_end() {
        assert_eq!((Exit::Code(7).code(), Exit::Signal(15).code(), Exit::Signal(9).code()), (7, 143, 137));
        assert_eq!(Exit::Signal(200).code(), 255);
        assert_eq!(Exit::Code(1).to_string(), "ended with 1");
        assert_eq!(Exit::Signal(9).to_string(), "was ended by SIGKILL");
        assert_eq!(Exit::Signal(40).to_string(), "was ended by SIGRTMIN+6");
        assert_eq!(Exit::Signal(33).to_string(), "was ended by signal 33");
    }
}
