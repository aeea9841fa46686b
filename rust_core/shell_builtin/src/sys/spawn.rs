//! Starting a program without a copy of bash: `vfork` and `exec`.
//!
//! As `posix_spawn` does it, but for its price: that asks for and sets all 64 signal actions in the
//! child, 125 calls, which under a filter cost as much as waking a processor.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};

use super::{break_signal, called, change_mask, check, signal_is_ignored, signal_is_trapped};

/// What the child runs on; it goes a few calls deep.
const STACK_BYTES: usize = 32 * 1024;

/// What bash ignores for itself and not for its children.
const IGNORED_BY_BASH: [c_int; 4] = [libc::SIGQUIT, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];

/// What the child reads, and the one word that it writes.
struct Plan<'a> {
    program: &'a CStr,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    pipes: Option<[c_int; 3]>,
    mask: &'a libc::sigset_t,
    errno: c_int,
}

/// Starts `program` with `pipes` as its 0, 1 and 2, or with those of this process, and the signal
/// mask `mask`; returns its pid.
///
/// Every signal must be blocked: until it executes, the child runs in the memory of this process.
/// `arguments` and `environment` are lists of strings that end with NULL.
pub(super) fn spawn(
    program: &CStr,
    arguments: &[*const c_char],
    environment: *const *const c_char,
    pipes: Option<&[OwnedFd; 3]>,
    mask: &libc::sigset_t,
) -> io::Result<c_int> {
    let mut plan = Plan {
        program,
        arguments: arguments.as_ptr(),
        environment,
        pipes: pipes.map(|pipes| [0, 1, 2].map(|index| pipes[index].as_raw_fd())),
        mask,
        errno: 0,
    };
    let mut stack: Vec<MaybeUninit<u128>> = Vec::with_capacity(STACK_BYTES / size_of::<u128>());
    // SAFETY: one past the end of the allocation, where a stack that grows down begins.
    let top = unsafe { stack.as_mut_ptr().add(stack.capacity()) };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let argument = (&raw mut plan).cast::<c_void>();
    // SAFETY: this process, which has one thread, stands still until the child has executed or
    // ended; so stack and plan outlive its use of them, and no two touch this memory at once.
    let child = check(unsafe { libc::clone(enter, top.cast(), flags, argument) })?;
    if plan.errno == 0 {
        return Ok(child);
    }
    // SAFETY: a child of ours that has ended, or is about to.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    Err(io::Error::from_raw_os_error(plan.errno))
}

/// In the child: everything up to the program. Returns only if that failed.
extern "C" fn enter(argument: *mut c_void) -> c_int {
    // SAFETY: the plan of `spawn`, which waits.
    let plan = unsafe { &mut *argument.cast::<Plan<'_>>() };
    let error = match prepare(plan) {
        Ok(()) => {
            // SAFETY: a string and two lists of strings that end with NULL.
            unsafe { libc::execve(plan.program.as_ptr(), plan.arguments, plan.environment) };
            io::Error::last_os_error()
        }
        Err(error) => error,
    };
    plan.errno = error.raw_os_error().unwrap_or(libc::EIO);
    127
}

fn prepare(plan: &Plan<'_>) -> io::Result<()> {
    reset_actions();
    if let Some(pipes) = plan.pipes {
        put_pipes(pipes)?;
    }
    called::spread_before_the_program();
    change_mask(libc::SIG_SETMASK, plan.mask);
    Ok(())
}

fn put_pipes(mut pipes: [c_int; 3]) -> io::Result<()> {
    for pipe in pipes.iter_mut().filter(|pipe| **pipe < 3) {
        // A script had closed that number. It would be overwritten before it is copied.
        // SAFETY: no preconditions.
        *pipe = check(unsafe { libc::fcntl(*pipe, libc::F_DUPFD_CLOEXEC, 3) })?;
    }
    for (target, pipe) in (0..).zip(pipes) {
        // SAFETY: no preconditions; what was open as `target` is meant to be replaced.
        check(unsafe { libc::dup2(pipe, target) })?;
    }
    Ok(())
}

/// Takes bash's handlers away before the signals are let in, and what it ignores for itself.
///
/// bash handles real-time signals only where a script traps them, which it knows without a call.
fn reset_actions() {
    let real_time = (32..=libc::SIGRTMAX()).filter(|&signal| {
        // SAFETY: a valid signal number.
        signal == break_signal() || unsafe { signal_is_trapped(signal) } != 0
    });
    for signal in (1..32).chain(real_time) {
        // SAFETY: all zero is a valid `sigaction`.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: the place is ours; what cannot be asked for stays as zero, the default.
        unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
        let reset = match action.sa_sigaction {
            libc::SIG_DFL => false,
            libc::SIG_IGN => {
                // SAFETY: a valid signal number.
                IGNORED_BY_BASH.contains(&signal) && unsafe { signal_is_ignored(signal) } == 0
            }
            _ => true,
        };
        if reset {
            action.sa_sigaction = libc::SIG_DFL;
            action.sa_flags = 0;
            // SAFETY: no handler is installed.
            unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
        }
    }
}
