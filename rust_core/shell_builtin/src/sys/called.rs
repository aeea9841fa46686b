//! A shell that was called to the asker's processor (`nearby.rs` of the core), until its program runs.
//!
//! The asker has narrowed what this process may use to its own processor, so that neither this one
//! nor the child that it starts is woken on another. No program is to start with that: just before
//! the child executes the program it lets itself and this process use all processors again. Where
//! the shell itself runs something of the user's, or no program is executed, it does so before.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Every processor: of these the kernel takes those that are there and that are allowed.
const EVERY: [u64; 128] = [u64::MAX; 128];

/// Of the whole process, since the child, which shares its memory, has no way to a value on a stack.
static NARROWED: AtomicBool = AtomicBool::new(false);

/// While this lives the shell may be narrowed; when it is dropped it is not any more.
pub(crate) struct Called(());

impl Called {
    /// `called` is what the request says.
    pub(crate) fn new(called: bool) -> Self {
        NARROWED.fetch_or(called, Relaxed);
        Self(())
    }

    /// The text that is run next sees to it.
    pub(crate) fn leave_to_text(self) {
        std::mem::forget(self);
    }
}

impl Drop for Called {
    fn drop(&mut self) {
        spread_now();
    }
}

/// Before anything that the user's code may see, and after it, whatever became of it.
pub(super) fn spread_now() {
    if NARROWED.swap(false, Relaxed) {
        spread(0);
    }
}

/// In the child, which shares this memory and whose parent stands still.
pub(super) fn spread_before_the_program() {
    if NARROWED.swap(false, Relaxed) {
        // SAFETY: no preconditions.
        spread(unsafe { libc::getppid() });
        spread(0);
    }
}

/// Lets a process use all processors; 0 is this one.
fn spread(process: libc::pid_t) {
    let length = size_of_val(&EVERY);
    // SAFETY: the array is of the length that is passed, and only read.
    unsafe { libc::syscall(libc::SYS_sched_setaffinity, process, length, EVERY.as_ptr()) };
}
