//! The only file with `unsafe`: the calls around `fork`, `exec` and signals for which std and rustix have no safe form.

#![allow(unsafe_code, reason = "each block says why it is sound")]

use std::ffi::{CString, c_char};
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;
use std::sync::OnceLock;

use rustix::process::{Pid, getpgrp, getpid, getppid};
use rustix::termios::tcsetpgrp;

use crate::sidecar::config::Signal;

/// Where the kernel has no `close_range`, descriptors below this one are marked one by one.
const OLD_KERNEL_DESCRIPTORS: i32 = 1024;

/// The mask of blocked signals with which this process was started.
static FIRST_MASK: OnceLock<libc::sigset_t> = OnceLock::new();

/// Marks every open descriptor above 2 to be closed on `exec`, because what our parent left open is not meant for the
/// command. Std, tokio and rustix mark those that they open later.
pub(super) fn keep_descriptors_to_ourselves() {
    let (first, last): (libc::c_uint, libc::c_uint) = (3, libc::c_uint::MAX);
    // SAFETY: the call takes three integers and touches no memory; with this flag it closes nothing.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) } == 0;
    if marked {
        return;
    }
    for descriptor in 3..OLD_KERNEL_DESCRIPTORS {
        // SAFETY: the call takes integers only; for a number that is no descriptor it fails with EBADF.
        unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Blocks SIGTTIN and SIGTTOU in this thread and those that it starts, so that they can use the terminal from the
/// background without being stopped. Ignoring the signals would have the same effect, but commands would inherit it;
/// [`prepare`] gives commands the mask that was there before.
pub(super) fn bear_background() -> io::Result<()> {
    let before = change_mask(libc::SIG_BLOCK, &terminal_signals())?;
    FIRST_MASK.get_or_init(|| before);
    Ok(())
}

/// Makes the command move its own process group into the terminal's foreground before it runs, as a shell does. The
/// command's standard input must be that terminal.
pub(super) fn take_terminal(command: &mut Command) {
    let blocked = terminal_signals();
    let take = move || {
        // The command's group is still in the background, where SIGTTOU would stop the caller of tcsetpgrp().
        change_mask(libc::SIG_BLOCK, &blocked)?;
        // SAFETY: descriptor 0 is the terminal and stays open while this closure runs.
        let terminal = unsafe { std::os::fd::BorrowedFd::borrow_raw(0) };
        Ok(tcsetpgrp(terminal, getpgrp())?)
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure calls sigprocmask(),
    // getpgrp() and tcsetpgrp(), which are; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(take) };
}

/// Gives the command the mask of blocked signals with which this process was started, because std passes ours on. And
/// has the kernel send it `death` when this process ends, however it ends: a command that goes on alone is nobody's.
///
/// Call it last, and spawn the command from the main thread: the kernel means the thread that forks, and a change of
/// the user, which std makes before these closures, would undo it.
pub(super) fn prepare(command: &mut Command, death: Signal) {
    let mask = FIRST_MASK.get().copied();
    let (parent, death) = (getpid(), death.number());
    let set = move || {
        // SAFETY: with this option the call takes an integer and touches no memory.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, death) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent may have ended before the kernel knew.
        if getppid() != Some(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        match &mask {
            Some(mask) => change_mask(libc::SIG_SETMASK, mask).map(drop),
            None => Ok(()),
        }
    };
    // SAFETY: prctl(), getppid() and sigprocmask() are async-signal-safe; the closure neither allocates nor takes a lock,
    // since an error with a number is a plain value.
    unsafe { command.pre_exec(set) };
}

/// A program with its arguments and environment, ready for `execve`.
pub(super) struct Image {
    /// The paths to try, in this order.
    paths: Vec<CString>,
    arguments: Pointers,
    environment: Pointers,
}

impl Image {
    pub(super) fn new(paths: Vec<CString>, arguments: Vec<CString>, environment: Vec<CString>) -> Self {
        Image { paths, arguments: Pointers::to(arguments), environment: Pointers::to(environment) }
    }

    /// Tries the paths by the rules of `execvp`, and returns only where none can be executed.
    fn exec(&self) -> io::Error {
        let mut denied = None;
        for path in &self.paths {
            // SAFETY: the path ends with NUL, both lists end with a null pointer, and all of it lives as long as `self`.
            unsafe {
                libc::execve(path.as_ptr(), self.arguments.list.as_ptr(), self.environment.list.as_ptr())
            };
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EACCES) => denied = Some(error),
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                _ => return error,
            }
        }
        denied.unwrap_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
    }
}

/// Texts, and a list of pointers to them that ends with a null pointer.
struct Pointers {
    /// Keeps what the pointers lead to.
    _texts: Vec<CString>,
    list: Vec<*const c_char>,
}

impl Pointers {
    fn to(texts: Vec<CString>) -> Self {
        let list = texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Pointers { _texts: texts, list }
    }
}

// SAFETY: the pointers lead to texts that the same value owns, that nobody changes, and that do not move with it.
unsafe impl Send for Pointers {}
// SAFETY: as above.
unsafe impl Sync for Pointers {}

/// Makes the command become exactly this program, and nothing else where the kernel does not take it: `execvp`, which std
/// calls, runs such a file by a shell in some libraries and not in others.
pub(super) fn become_exactly(command: &mut Command, image: Image) {
    let exec = move || Err(image.exec());
    // SAFETY: execve() is async-signal-safe; the closure neither allocates nor takes a lock, since an error with a number
    // is a plain value.
    unsafe { command.pre_exec(exec) };
}

/// Sends a signal to a process, or to its whole group.
pub(super) fn send(pid: Pid, is_group: bool, signal: Signal) -> io::Result<()> {
    let pid = pid.as_raw_nonzero().get();
    // SAFETY: the call takes two integers and touches no memory.
    match unsafe { libc::kill(if is_group { -pid } else { pid }, signal.number()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn terminal_signals() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset() initialises the set before anything reads it, and both signals exist.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTTIN);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTTOU);
        set.assume_init()
    }
}

/// Changes the mask of this thread, and returns the mask before.
fn change_mask(how: i32, set: &libc::sigset_t) -> io::Result<libc::sigset_t> {
    let mut before = MaybeUninit::uninit();
    // SAFETY: both pointers lead to sets, of which the call reads one and initialises the other.
    match unsafe { libc::pthread_sigmask(how, set, before.as_mut_ptr()) } {
        // SAFETY: the call has succeeded.
        0 => Ok(unsafe { before.assume_init() }),
        failed => Err(io::Error::from_raw_os_error(failed)),
    }
}
