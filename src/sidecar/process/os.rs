//! The only place with `unsafe`: three things around `fork` and `exec` that std and rustix have no safe call for.

#![allow(unsafe_code, reason = "each block says why it is sound")]

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

use rustix::process::getpgrp;
use rustix::termios::tcsetpgrp;

/// Where the kernel has no `close_range`, descriptors up to this one are looked at one by one.
const OLD_KERNEL_DESCRIPTORS: i32 = 1024;

/// From now on no descriptor above 2 that is open now outlives an `exec`: what somebody left open when they
/// started us is not for the command. Descriptors opened later by std, tokio and rustix never do.
pub(super) fn keep_descriptors_to_ourselves() {
    let (first, last): (libc::c_uint, libc::c_uint) = (3, libc::c_uint::MAX);
    // SAFETY: it takes three integers and touches no memory; with this flag it closes nothing.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) } == 0;
    if marked {
        return;
    }
    for descriptor in 3..OLD_KERNEL_DESCRIPTORS {
        // SAFETY: integers only; for a number that is no descriptor it fails with EBADF and changes nothing.
        unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// This thread, and those it starts, can use the terminal from the background without being stopped. A
/// blocked SIGTTIN or SIGTTOU counts as ignored, and unlike an ignored one it is not inherited by commands,
/// whose mask std empties.
pub(super) fn bear_background() -> io::Result<()> {
    change_mask(libc::SIG_BLOCK)
}

/// Has the command put its own process group into the terminal's foreground before it runs, as a shell does.
/// The command's standard input must be that terminal.
pub(super) fn take_terminal(command: &mut Command) {
    let take = || {
        // In a group of its own it is in the background, where tcsetpgrp() stops whoever calls it.
        change_mask(libc::SIG_BLOCK)?;
        // SAFETY: 0 is the terminal, open for as long as this closure runs.
        let terminal = unsafe { std::os::fd::BorrowedFd::borrow_raw(0) };
        let taken = tcsetpgrp(terminal, getpgrp());
        change_mask(libc::SIG_UNBLOCK)?;
        Ok(taken?)
    };
    // SAFETY: between fork and exec only async-signal-safe calls are allowed: these are sigprocmask(),
    // getpgrp() and tcsetpgrp(), and nothing here allocates or takes a lock.
    unsafe { command.pre_exec(take) };
}

fn change_mask(how: i32) -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset() initialises the set before anything reads it; both signals exist; no old mask is
    // asked for.
    let failed = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTTIN);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTTOU);
        libc::pthread_sigmask(how, set.as_ptr(), ptr::null_mut())
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(failed)) }
}
