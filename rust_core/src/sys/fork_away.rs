//! A fork whose copy belongs to init.

use std::io;

use super::check;

/// Copies this process, which has one thread, into a child of the reaper of its PID namespace: it
/// is nobody's to wait for here, and does not end with this one. True in the copy.
///
/// The middleman between the two shares this process's memory, so that page tables are copied once
/// and not twice. What `pthread_atfork(3)` was told is not called.
///
/// # Errors
/// `EAGAIN` when there are too many processes, `ENOMEM`.
pub fn fork_away() -> io::Result<bool> {
    // SAFETY: an all-zero `sigset_t` is the empty set on Linux.
    let (mut all, mut before): (libc::sigset_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
    // SAFETY: `all` is live.
    unsafe { libc::sigfillset(&raw mut all) };
    // A handler must not run in the middleman, which has no stack of its own.
    // SAFETY: both sets are live.
    check(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const all, &raw mut before) })?;
    let forked = fork_by_middleman();
    // SAFETY: `before` was filled in above, the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    match forked {
        Ok(0) => {
            #[cfg(target_arch = "x86_64")]
            register_processor();
            Ok(true)
        }
        Ok(middleman) => {
            let mut status = 0;
            // SAFETY: `status` is live. Without a signal to its parent it is a "clone child".
            while check(unsafe { libc::waitpid(middleman, &raw mut status, libc::__WALL) })
                .is_err_and(|e| e.kind() == io::ErrorKind::Interrupted)
            {}
            match (libc::WIFEXITED(status), libc::WEXITSTATUS(status)) {
                (true, 0) => Ok(false),
                (true, errno) => Err(io::Error::from_raw_os_error(errno)),
                (false, _) => Err(io::Error::from_raw_os_error(libc::EINTR)),
            }
        }
        Err(e) => Err(e),
    }
}

/// The middleman's pid here, 0 in the copy. It exits with the number of the error, if there is one.
#[cfg(target_arch = "x86_64")]
fn fork_by_middleman() -> io::Result<i32> {
    let middleman = i64::from(libc::CLONE_VM | libc::CLONE_VFORK);
    let mut tid: *mut i32 = std::ptr::null_mut();
    // SAFETY: writes one pointer; where the kernel cannot tell, none is written.
    unsafe { libc::prctl(libc::PR_GET_TID_ADDRESS, &raw mut tid) };
    let mut copy = i64::from(libc::SIGCHLD);
    if !tid.is_null() {
        // As fork(3) does: libc keeps the thread's number there.
        copy |= i64::from(libc::CLONE_CHILD_SETTID | libc::CLONE_CHILD_CLEARTID);
    }
    let result: i64;
    // SAFETY: the middleman runs on this stack while this process is suspended, so it must not
    // write to it: it does nothing but these instructions, which touch registers alone, and ends.
    // The copy has memory of its own and leaves the block as this process would, with 0. The
    // kernel keeps all registers but rax, rcx and r11.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 4f",
            "mov rdi, {copy}",
            "mov eax, {clone}",
            "syscall",
            "test rax, rax",
            "jz 4f",
            "mov edi, 0",
            "jns 3f",
            "mov rdi, rax",
            "neg rdi",
            "3:",
            "mov eax, {exit}",
            "syscall",
            "ud2",
            "4:",
            copy = in(reg) copy,
            clone = const libc::SYS_clone,
            exit = const libc::SYS_exit,
            inout("rax") libc::SYS_clone => result,
            inout("rdi") middleman => _,
            in("rsi") 0u64,
            in("rdx") 0u64,
            in("r10") tid,
            in("r8") 0u64,
            in("r9") 0u64,
            out("rcx") _,
            out("r11") _,
        );
    }
    let result = i32::try_from(result).unwrap_or_default();
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

/// The same by two forks; the first copy of the page tables is for nothing.
#[cfg(not(target_arch = "x86_64"))]
fn fork_by_middleman() -> io::Result<i32> {
    // SAFETY: this process has one thread, so no lock is held by another.
    match check(unsafe { libc::fork() })? {
        // SAFETY: as above.
        0 => match check(unsafe { libc::fork() }) {
            Ok(0) => Ok(0),
            Ok(_) => super::exit_now(0),
            Err(e) => super::exit_now(e.raw_os_error().unwrap_or(libc::EAGAIN)),
        },
        middleman => Ok(middleman),
    }
}

/// Tells the kernel again of the structure by which libc knows its processor (rseq(2)): the
/// middleman had none to pass on. Where libc has none this does nothing.
#[cfg(target_arch = "x86_64")]
fn register_processor() {
    /// What libc registers it with on this architecture.
    const SIGNATURE: u32 = 0x5305_3053;
    // SAFETY: looks a name up.
    let offset = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()) };
    // SAFETY: as above.
    let size = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()) };
    if offset.is_null() || size.is_null() {
        return;
    }
    // SAFETY: libc has written a `ptrdiff_t` there before main.
    let offset = unsafe { *offset.cast::<isize>() };
    // SAFETY: likewise an `unsigned int`.
    let size = unsafe { *size.cast::<u32>() };
    if size > 0 {
        let thread: *mut u8;
        // SAFETY: reads a word: the thread pointer points to itself (x86-64 ABI).
        unsafe { std::arch::asm!("mov {}, fs:0", out(reg) thread) };
        let area = thread.wrapping_offset(offset);
        // SAFETY: the structure is libc's own for this thread and lives as long.
        unsafe { libc::syscall(libc::SYS_rseq, area, size.max(32), 0, SIGNATURE) };
    }
}
