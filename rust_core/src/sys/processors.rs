//! Processors: which one this is, and which ones a process may use.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{check_long, pid, pidfd_open};

/// A set of processors as the kernel has it: bit `N % 64` of word `N / 64` is processor `N`. No
/// kernel of the architectures that are served knows more than 8 192.
pub type Processors = [u64; 128];

/// The processor that this runs on, for this moment.
pub fn this_processor() -> Option<usize> {
    // SAFETY: takes nothing.
    usize::try_from(unsafe { libc::sched_getcpu() }).ok()
}

/// Those that a process may use now; 0 is this one.
///
/// # Errors
/// `ESRCH` when it is gone.
pub fn processors_of(process: i32) -> io::Result<Processors> {
    let mut found: Processors = [0; 128];
    // The call itself, since that of the C library knows 1 024 processors.
    // SAFETY: the array is live, of the length that is passed and aligned for words.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            process,
            size_of::<Processors>(),
            found.as_mut_ptr(),
        )
    };
    check_long(result).map(|_| found)
}

/// Lets a process use these, of which the kernel takes those that are there and that its control
/// group allows; 0 is this process.
///
/// # Errors
/// `EPERM` for another user's process, `ESRCH` when it is gone, `EINVAL` if none is left.
pub fn set_processors(process: i32, processors: &Processors) -> io::Result<()> {
    // SAFETY: the array is live and of the length that is passed; it is only read.
    let result = unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            process,
            size_of::<Processors>(),
            processors.as_ptr(),
        )
    };
    check_long(result).map(drop)
}

/// The number by which this process knows the one of a pidfd; `None` if it has ended or cannot be seen
/// from here, or if `/proc` is not that of this process's own PID namespace, so that nobody can tell.
pub fn pid_of(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let own = pidfd_open(pid()).ok()?;
    let [number] = numbers_of(own.as_raw_fd())?[..] else { return None };
    let number = (number == pid()).then(|| numbers_of(pidfd.as_raw_fd()))??.first().copied()?;
    (number > 1).then_some(number)
}

/// The numbers of a pidfd's process, from the PID namespace of `/proc` down to its own.
fn numbers_of(pidfd: i32) -> Option<Vec<i32>> {
    let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{pidfd}")).ok()?;
    let numbers = about.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().map(|number| number.parse().ok()).collect()
}
