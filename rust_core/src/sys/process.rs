//! Processes: making, replacing, waiting, signalling, and what a process says of itself.

use std::convert::Infallible;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering::Acquire};
use std::time::Duration;

use super::{check, check_long, key, long_to_fd, own};

/// linux/sched.h; the constant of `libc` overflows its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of [`fork`] one is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// In the new process.
    Child,
    /// In the old one; the number is the child's, in the caller's PID namespace.
    Parent(i32),
}

/// `clone3(2)` in the manner of fork, in new namespaces and, where given, in a v2 cgroup.
///
/// Falls back to `clone(2)` where the kernel or a filter answers `ENOSYS`; then `cgroup` is
/// refused with that error, since only `clone3` can do it.
///
/// # Errors
/// What the kernel says; `EPERM` where a namespace is not allowed.
pub fn fork(namespaces: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    // SAFETY: an all-zero `clone_args` is valid (clone(2): unused fields must be zero).
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::try_from(namespaces).unwrap_or_default();
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(fd.as_raw_fd()).unwrap_or_default();
    }
    // Whoever has a key has a filter that refuses clone3.
    let newer = if key() == 0 || cgroup.is_some() {
        // SAFETY: `args` is valid and no CLONE_VM is set, so the child runs on a copy of this
        // stack. Every process of this crate that forks has one thread, so no lock is held by
        // another.
        check_long(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of_val(&args)) })
    } else {
        Err(io::Error::from_raw_os_error(libc::ENOSYS))
    };
    let result = match newer {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) && cgroup.is_none() => {
            let flags = libc::c_long::from(namespaces | libc::SIGCHLD);
            // SAFETY: as above; with a null stack clone(2) is fork(2). The kernel ignores a sixth
            // argument, which is this process's key (see `seccomp.rs`).
            let result = unsafe {
                libc::syscall(libc::SYS_clone, flags, 0usize, 0usize, 0usize, 0usize, key())
            };
            check_long(result)?
        }
        other => other?,
    };
    Ok(match i32::try_from(result).unwrap_or_default() {
        0 => Forked::Child,
        pid => Forked::Parent(pid),
    })
}

/// `fork(3)`, with what libraries have asked for by `pthread_atfork(3)`. For a process of one thread:
/// a lock that another one holds would stay locked in the child.
///
/// # Errors
/// `EAGAIN` when there are too many processes, `ENOMEM`.
pub fn fork_with_handlers() -> io::Result<Forked> {
    // SAFETY: a process of one thread, as is asked for above, so no lock is held by another.
    Ok(match check(unsafe { libc::fork() })? {
        0 => Forked::Child,
        pid => Forked::Parent(pid),
    })
}

/// Room for the child of [`fork_sharing_memory`] to run on; it goes a few calls deep. From 64 KiB
/// on, freeing it would make malloc tidy up, which touches pages that are better left alone.
const CHILD_STACK_BYTES: usize = 48 * 1024;

/// Runs `child` in a new process that shares this one's memory, and waits until that process has
/// executed a program or ended (`CLONE_VM | CLONE_VFORK`, clone(2)). Returns its pid.
///
/// Nothing is copied, which is what makes it cheap. What `child` writes through its references is
/// seen here; descriptors, signal actions, ids and the current directory are the child's own. The
/// number it returns is its exit status.
///
/// `child` must leave everything that this process still uses as it is: it may borrow, allocate
/// and write results, and must not drop what it did not make itself.
///
/// # Errors
/// `EAGAIN` when there are too many processes.
pub fn fork_sharing_memory(child: &mut dyn FnMut() -> i32) -> io::Result<i32> {
    let (mut child, mut stack) = (Work(child), child_stack());
    // SAFETY: this thread is suspended until the child has executed or ended, so stack and closure
    // outlive its use of them, and no two processes touch this memory at once.
    unsafe { clone_sharing_memory(&mut child, libc::CLONE_VFORK, &AtomicI32::new(0), &mut stack) }
}

/// As [`fork_sharing_memory`], but nobody wakes this process when the child executes: it sleeps
/// until one of `awaited` is readable, as when the child has ended, and the child shares this
/// memory no longer. Returns the child's pid, and which are readable.
///
/// `handed_over` is for `child`, which borrows it; here it is closed as soon as the child has its own.
///
/// # Errors
/// `EAGAIN` when there are too many processes.
pub fn fork_sharing_memory_and_wait<const N: usize>(
    child: &mut dyn FnMut(&[BorrowedFd<'_>]) -> i32,
    handed_over: Vec<OwnedFd>,
    awaited: [BorrowedFd<'_>; N],
) -> io::Result<(i32, [bool; N])> {
    let borrowed: Vec<BorrowedFd<'_>> = handed_over.iter().map(AsFd::as_fd).collect();
    let mut child = || child(&borrowed);
    let sharing = AtomicI32::new(1);
    let (mut child, mut stack) = (Work(&mut child), child_stack());
    // SAFETY: all of it is this function's until the loop at its end is over, that is, until the
    // child shares no memory any more. Up to there this process makes system calls, which touch
    // its own stack only: `errno` would be touched by one that fails, and with open descriptors
    // and no signal that is handled none of them does.
    let pid = unsafe {
        clone_sharing_memory(&mut child, libc::CLONE_CHILD_CLEARTID, &sharing, &mut stack)
    }?;
    for fd in &handed_over {
        // To drop it would free memory, which the child may be using. Its owner is forgotten below.
        // SAFETY: takes no pointer; it is owned here, and only that number is looked at after this.
        unsafe { libc::close(fd.as_raw_fd()) };
    }
    let readable = wait_readable(awaited, None).unwrap_or([false; N]);
    while sharing.load(Acquire) != 0 {
        let forever = std::ptr::null::<libc::timespec>();
        // SAFETY: the number is live, and without a timeout nothing else is read.
        unsafe { libc::syscall(libc::SYS_futex, &raw const sharing, libc::FUTEX_WAIT, 1, forever) };
    }
    // Closed above.
    handed_over.into_iter().for_each(std::mem::forget);
    Ok((pid, readable))
}

/// What a child does, in one word for `clone(2)`.
struct Work<'a>(&'a mut dyn FnMut() -> i32);

type ChildStack = Vec<std::mem::MaybeUninit<u128>>;

fn child_stack() -> ChildStack {
    Vec::with_capacity(CHILD_STACK_BYTES / size_of::<u128>())
}

/// `clone(2)` of a process that runs `child` in this memory. With `CLONE_CHILD_CLEARTID` the kernel
/// makes `sharing` 0 once the child has executed or ended, and wakes whoever waits for that.
///
/// # Safety
/// Until then everything that is passed is live, this process touches nothing that `child` may touch,
/// the heap and `errno` among it, and it has one thread.
unsafe fn clone_sharing_memory(
    child: &mut Work<'_>,
    flags: libc::c_int,
    sharing: &AtomicI32,
    stack: &mut ChildStack,
) -> io::Result<i32> {
    extern "C" fn enter(argument: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `argument` is the reference passed below, alive until the child is done with it.
        let child = unsafe { &mut *argument.cast::<Work<'_>>() };
        child.0()
    }
    // SAFETY: one past the end of the allocation, which is where a stack that grows down begins.
    let top = unsafe { stack.as_mut_ptr().add(stack.capacity()) };
    let flags = libc::CLONE_VM | libc::SIGCHLD | flags;
    let argument = (&raw mut *child).cast::<libc::c_void>();
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: as the caller promises. The child has a stack of its own; the two that are null belong
    // to flags that are not set.
    check(unsafe { libc::clone(enter, top.cast(), flags, argument, none, none, sharing.as_ptr()) })
}

/// `_exit(2)`: ends this process without running anything of its parent's.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: takes no pointer and does not return.
    unsafe { libc::_exit(status) }
}

/// A NULL-terminated array of C strings, as `execve(2)` wants it.
fn pointers<S: AsRef<CStr>>(strings: &[S]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ref().as_ptr()).chain([std::ptr::null()]).collect()
}

/// `execve(2)`.
///
/// # Errors
/// Returns only when it failed.
pub fn execve<S: AsRef<CStr>>(program: &CStr, argv: &[S], env: &[S]) -> io::Result<Infallible> {
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: all three are NUL-terminated, the arrays end with NULL, and all outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    Err(io::Error::last_os_error())
}

/// How a process ended, and what it and the descendants that it waited for used (`wait4(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The process, in the caller's PID namespace.
    pub pid: i32,
    /// The exit code, or `None` when a signal ended it.
    pub exit: Option<i32>,
    /// The signal, or `None` when it exited.
    pub signal: Option<i32>,
    /// CPU time in user mode.
    pub user_us: u64,
    /// CPU time in the kernel.
    pub system_us: u64,
    /// Largest resident set of any one process of that tree.
    pub max_rss_bytes: u64,
}

fn micros(time: libc::timeval) -> u64 {
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000
        + u64::try_from(time.tv_usec).unwrap_or_default()
}

/// `wait4(2)`: `pid` -1 waits for any child. `Ok(None)`: with `block` false, none has ended.
///
/// # Errors
/// `ECHILD` when there is no such child.
pub fn wait(pid: i32, block: bool) -> io::Result<Option<Ended>> {
    let mut status = 0;
    // SAFETY: all-zero is a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let flags = if block { 0 } else { libc::WNOHANG };
    loop {
        // SAFETY: both pointers are to live locals of the right type.
        let result = unsafe { libc::wait4(pid, &raw mut status, flags, &raw mut usage) };
        match check(result) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(0) => return Ok(None),
            Ok(pid) => {
                let exit = libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status));
                let signal = libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status));
                return Ok(Some(Ended {
                    pid,
                    exit,
                    signal,
                    user_us: micros(usage.ru_utime),
                    system_us: micros(usage.ru_stime),
                    max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or_default() * 1024,
                }));
            }
        }
    }
}

/// `kill(2)`.
///
/// # Errors
/// `ESRCH` when it is gone, `EPERM` when it may not be signalled.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// The number of the first real-time signal plus `offset` (glibc keeps the first two).
pub fn realtime_signal(offset: i32) -> i32 {
    libc::SIGRTMIN() + offset
}

/// `pidfd_open(2)`.
///
/// # Errors
/// `ESRCH` when there is no such process, `ENOSYS` before Linux 5.3.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    long_to_fd(check_long(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?)
}

/// This process's number in its own PID namespace.
pub fn pid() -> i32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::getpid() }
}

/// Effective user and group ids, as this process's user namespace numbers them.
pub fn effective_ids() -> (u32, u32) {
    // SAFETY: takes nothing and cannot fail.
    let uid = unsafe { libc::geteuid() };
    // SAFETY: as above.
    let gid = unsafe { libc::getegid() };
    (uid, gid)
}

/// `setsid(2)`: a session and a process group of its own, no controlling terminal.
///
/// # Errors
/// `EPERM` when this process leads a process group already.
pub fn setsid() -> io::Result<()> {
    // SAFETY: takes nothing.
    check(unsafe { libc::setsid() }).map(drop)
}

/// `umask(2)`.
pub fn umask(mask: u32) {
    // SAFETY: takes no pointer and cannot fail.
    unsafe { libc::umask(mask) };
}

/// Every signal to its default action, as a program expects at its start. Descendants inherit that.
///
/// # Errors
/// What the kernel says.
pub fn reset_signals() -> io::Result<()> {
    // As the kernel has it, of at most 32 bytes: all zero is SIG_DFL without flags.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // Not by `signal(3)`, which refuses glibc's own two, 32 and 33; its `posix_spawn` leaves them
        // ignored. The kernel refuses KILL and STOP, which cannot be ignored.
        // SAFETY: it installs no handler; the action is live, the old one is not asked for.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    unblock_signals()
}

/// This process and its later children do not notice `signal`.
pub fn ignore_signal(signal: i32) {
    // SAFETY: SIG_IGN installs no handler.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// No signal blocked.
///
/// # Errors
/// What the kernel says.
pub fn unblock_signals() -> io::Result<()> {
    // SAFETY: an all-zero `sigset_t` is the empty set on Linux.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `none` is valid, the old mask is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) })
        .map(drop)
}

/// Blocks `SIGCHLD` and returns a descriptor that is readable while one is pending
/// (`signalfd(2)`), so that a process waits for its children and its socket in one `poll(2)`.
///
/// # Errors
/// What the kernel says.
pub fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: as in `unblock_signals`.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is a valid set and SIGCHLD a valid number.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGCHLD) };
    // SAFETY: `set` is valid, the old mask is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) })?;
    // SAFETY: `set` is valid; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check(fd).map(own)
}

/// Empties the descriptor of [`child_signals`]: of one signal that is not queued, one is pending.
pub fn drain(fd: BorrowedFd<'_>) {
    let mut buffer = [0u8; size_of::<libc::signalfd_siginfo>()];
    // SAFETY: the buffer is live and its length is passed.
    unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
}

/// `poll(2)` for reading. True for each descriptor that is readable, at its end, or in error.
///
/// # Errors
/// What the kernel says; an interrupted wait is taken up again.
pub fn wait_readable<const N: usize>(
    fds: [BorrowedFd<'_>; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled =
        fds.map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let timeout_ms = timeout.map_or(-1, |t| i32::try_from(t.as_millis()).unwrap_or(i32::MAX));
    loop {
        // SAFETY: the array is live and its length is passed.
        let result = unsafe { libc::poll(polled.as_mut_ptr(), N as libc::nfds_t, timeout_ms) };
        match check(result) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(_) => return Ok(polled.map(|p| p.revents != 0)),
        }
    }
}

/// Moves `fds` to the numbers 0, 1, 2 … of this process, inheritable, and closes every other one.
///
/// Meant for a child between fork and exec: it takes the place of whatever had those numbers, so
/// nothing that still owns a descriptor may be used or dropped after it.
///
/// # Errors
/// `EMFILE` when the table is full; what `close_range(2)` says (`ENOSYS` before Linux 5.9).
pub fn place_descriptors(fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let first_free = RawFd::try_from(fds.len()).unwrap_or(RawFd::MAX);
    let mut sources: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    for source in sources.iter_mut().filter(|source| **source < first_free) {
        // It would be overwritten before it is copied.
        // SAFETY: takes no pointer; the result is a fresh descriptor.
        *source = check(unsafe { libc::fcntl(*source, libc::F_DUPFD, first_free) })?;
    }
    for (target, source) in (0..).zip(&sources) {
        // SAFETY: takes no pointer. Whoever owned `target` is never used again (see above).
        check(unsafe { libc::dup2(*source, target) })?;
    }
    close_from(first_free, &[])
}

/// Closes every descriptor from `first` on but those in `kept` (`close_range(2)`).
///
/// For a fresh process that is about to forget what its parent had: whatever owned one of the
/// closed ones may not be used or dropped after this. The compiler cannot see that, and callers
/// may hold no `unsafe`, so each of them says where it leaves or forgets the owners.
///
/// # Errors
/// `ENOSYS` before Linux 5.9.
pub fn close_from(first: RawFd, kept: &[RawFd]) -> io::Result<()> {
    let mut kept: Vec<RawFd> = kept.iter().copied().filter(|fd| *fd >= first).collect();
    kept.sort_unstable();
    let mut from = u32::try_from(first).unwrap_or_default();
    for end in kept.into_iter().filter_map(|fd| u32::try_from(fd).ok()).chain([u32::MAX]) {
        let last = if end == u32::MAX { end } else { end.wrapping_sub(1) };
        if end > from {
            // SAFETY: takes no pointer; by this function's contract nobody uses these any more.
            let result = unsafe { libc::syscall(libc::SYS_close_range, from, last, 0) };
            check_long(result)?;
        }
        from = end.saturating_add(1);
    }
    Ok(())
}

/// Takes over a descriptor that this process was started with, or has just been given that
/// number by [`place_descriptors`]. Nothing else of this process may own it: each caller is the
/// first thing that its process does.
///
/// # Errors
/// `EBADF` when it is not open.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and by this function's contract the caller is its first user.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An executable, sealed, anonymous file (`memfd_create(2)`): nothing on disk to swap, nothing
/// that can be written to any more.
///
/// # Errors
/// What the kernel says.
pub fn sealed_executable(name: &CStr, content: &[u8]) -> io::Result<OwnedFd> {
    sealed(name, content, libc::MFD_EXEC)
}

/// A sealed, anonymous file that cannot be executed.
///
/// # Errors
/// What the kernel says.
pub fn sealed_file(name: &CStr, content: &[u8]) -> io::Result<OwnedFd> {
    sealed(name, content, libc::MFD_NOEXEC_SEAL)
}

/// How often a file is sealed again that is busy; nobody but the kernel can hold it.
const SEAL_ATTEMPTS: u32 = 20;

/// `mode` is known since Linux 6.3, where a sysctl may demand it; before, it is `EINVAL`.
fn sealed(name: &CStr, content: &[u8], mode: libc::c_uint) -> io::Result<OwnedFd> {
    use std::io::Write;
    let create = |flags: libc::c_uint| {
        // SAFETY: `name` is NUL-terminated.
        check(unsafe { libc::memfd_create(name.as_ptr(), flags) }).map(own)
    };
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let fd = create(flags | mode).or_else(|_| create(flags))?;
    let mut file = std::fs::File::from(fd);
    file.write_all(content)?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    let mut attempts = 0;
    loop {
        // SAFETY: takes no pointer.
        match check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }) {
            Ok(_) => return Ok(file.into()),
            // Memory management holds one of its pages for a while, as when it makes huge ones; the
            // call has waited for that, some tens of milliseconds.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && attempts < SEAL_ATTEMPTS => {
                attempts += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Borrows a descriptor by number, if it is open, for callers that own it elsewhere: Python's
/// objects, which the door's caller keeps alive and open until its call returns.
pub fn borrow<'a>(fd: RawFd) -> Option<BorrowedFd<'a>> {
    // SAFETY: takes no pointer; fails for a number that is not open.
    let open = fd >= 0 && check(unsafe { libc::fcntl(fd, libc::F_GETFD) }).is_ok();
    // SAFETY: it is open, and the caller of the door keeps it open during the call.
    open.then(|| unsafe { BorrowedFd::borrow_raw(fd) })
}
