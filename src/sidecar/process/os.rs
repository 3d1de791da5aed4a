//! The only file with `unsafe`: three calls around `fork` and `exec` for which std and rustix have no safe form.

#![allow(unsafe_code, reason = "each block says why it is sound")]

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use rustix::process::getpgrp;
use rustix::termios::tcsetpgrp;

/// Where the kernel has no `close_range`, descriptors below this one are marked one by one.
const OLD_KERNEL_DESCRIPTORS: i32 = 1024;

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
/// std clears the mask of blocked signals in commands.
pub(super) fn bear_background() -> io::Result<()> {
    change_mask(libc::SIG_BLOCK)
}

/// Makes the command move its own process group into the terminal's foreground before it runs, as a shell does. The
/// command's standard input must be that terminal.
pub(super) fn take_terminal(command: &mut Command) {
    let take = || {
        // The command's group is still in the background, where SIGTTOU would stop the caller of tcsetpgrp().
        change_mask(libc::SIG_BLOCK)?;
        // SAFETY: descriptor 0 is the terminal and stays open while this closure runs.
        let terminal = unsafe { std::os::fd::BorrowedFd::borrow_raw(0) };
        let taken = tcsetpgrp(terminal, getpgrp());
        change_mask(libc::SIG_UNBLOCK)?;
        Ok(taken?)
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. The closure calls sigprocmask(),
    // getpgrp() and tcsetpgrp(), which are; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(take) };
}

fn change_mask(how: i32) -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset() initialises the set before anything reads it, both signals exist, and the pointer for the
    // old mask may be null.
    let failed = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTTIN);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTTOU);
        libc::pthread_sigmask(how, set.as_ptr(), ptr::null_mut())
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(failed)) }
}
