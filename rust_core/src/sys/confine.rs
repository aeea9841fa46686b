//! Giving up: ids, capabilities, filters, limits, namespaces.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{check, check_long, own};

fn prctl(option: libc::c_int, a: libc::c_ulong, b: libc::c_ulong) -> io::Result<libc::c_int> {
    // SAFETY: the options used in this file take integers only, and unused arguments are zero.
    check(unsafe { libc::prctl(option, a, b, 0 as libc::c_ulong, 0 as libc::c_ulong) })
}

/// `PR_SET_NO_NEW_PRIVS`: from here on no exec gains anything.
///
/// # Errors
/// What the kernel says.
pub fn set_no_new_privs() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// `PR_SET_DUMPABLE`.
///
/// # Errors
/// What the kernel says.
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, dumpable.into(), 0).map(drop)
}

/// `PR_SET_PDEATHSIG`: this process dies when its parent does.
///
/// # Errors
/// What the kernel says.
pub fn die_with_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong, 0).map(drop)
}

/// The name that `ps` shows, at most 15 bytes of it.
pub fn set_name(name: &std::ffi::CStr) {
    // SAFETY: a NUL-terminated string; the kernel copies at most 16 bytes, ending at the NUL.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) };
}

/// `PR_CAPBSET_READ` of one capability.
///
/// # Errors
/// `EINVAL` for a number that this kernel does not know.
pub fn is_in_bounding_set(capability: u32) -> io::Result<bool> {
    prctl(libc::PR_CAPBSET_READ, capability.into(), 0).map(|there| there == 1)
}

/// `PR_CAPBSET_DROP` of one capability.
///
/// # Errors
/// `EINVAL` for a number that this kernel does not know, `EPERM` without `CAP_SETPCAP`.
pub fn drop_from_bounding_set(capability: u32) -> io::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, capability.into(), 0).map(drop)
}

/// `PR_CAP_AMBIENT_CLEAR_ALL`.
///
/// # Errors
/// What the kernel says.
pub fn clear_ambient_set() -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0).map(drop)
}

/// `capset(2)`: the permitted and the effective set are `kept` (bit N for capability N), the
/// inheritable one is empty.
///
/// # Errors
/// `EPERM` when `kept` has what this process has not.
pub fn set_capabilities(kept: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const LINUX_CAPABILITY_VERSION_3: u32 = 0x2008_0522;
    let header = Header { version: LINUX_CAPABILITY_VERSION_3, pid: 0 };
    let half = |bits: u64| {
        let bits = u32::try_from(bits & 0xffff_ffff).unwrap_or_default();
        Data { effective: bits, permitted: bits, inheritable: 0 }
    };
    let data = [half(kept), half(kept >> 32)];
    // SAFETY: the layouts are those of linux/capability.h, version 3 has two data elements.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) };
    check_long(result).map(drop)
}

/// Real, effective and saved ids of user and group; no supplementary group.
///
/// `groups` is false where the user namespace forbids `setgroups(2)`.
///
/// # Errors
/// `EINVAL` for an id that is not mapped, `EPERM` without the capability.
pub fn become_user(uid: u32, gid: u32, groups: bool) -> io::Result<()> {
    if groups {
        // SAFETY: zero groups, so the pointer is not read.
        check(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    }
    // SAFETY: takes no pointer.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: takes no pointer.
    check(unsafe { libc::setresuid(uid, uid, uid) }).map(drop)
}

/// `setrlimit(2)`, soft and hard alike.
///
/// # Errors
/// `EPERM` for more than the hard limit in force.
pub fn set_limit(resource: u32, value: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: `limit` is live.
    check(unsafe { libc::setrlimit(resource, &raw const limit) }).map(drop)
}

/// `getrlimit(2)`: the hard limit.
///
/// # Errors
/// `EINVAL` for an unknown resource.
pub fn hard_limit(resource: u32) -> io::Result<u64> {
    limits(resource).map(|(_, hard)| hard)
}

/// `getrlimit(2)`: the soft and the hard limit.
///
/// # Errors
/// `EINVAL` for an unknown resource.
pub fn limits(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is live.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Installs a seccomp filter on this thread (`seccomp(2)`); all children inherit it.
///
/// # Errors
/// `EACCES` without `no_new_privs`, `EINVAL` for a program that the kernel refuses.
pub fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len())
            .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads `len` instructions and writes none; both outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    check_long(result).map(drop)
}

/// What opens the keyed rules of this sandbox's filter; 0 opens none. Nowhere else in memory.
static KEY: AtomicU64 = AtomicU64::new(0);

/// Draws the key of this process and of what it forks (`getrandom(2)`), and returns it.
///
/// # Errors
/// What the kernel says.
pub fn draw_key() -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    // SAFETY: the buffer is live and its length is passed.
    let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if usize::try_from(count) != Ok(bytes.len()) {
        return Err(io::Error::last_os_error());
    }
    let number = u64::from_ne_bytes(bytes);
    KEY.store(number, Relaxed);
    Ok(number)
}

/// Makes this process one that shows no key.
pub fn forget_key() {
    KEY.store(0, Relaxed);
}

/// The key of this process, or 0.
pub(super) fn key() -> u64 {
    KEY.load(Relaxed)
}

/// `landlock_restrict_self(2)`.
///
/// # Errors
/// `EPERM` without `no_new_privs`, `E2BIG` after sixteen layers.
pub fn restrict_self(ruleset: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: takes no pointer.
    let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    check_long(result).map(drop)
}

/// The Landlock ABI that this kernel offers.
///
/// # Errors
/// `ENOSYS` where it is not built in, `EOPNOTSUPP` where it is switched off.
pub fn landlock_abi() -> io::Result<i32> {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with this flag the pointer must be null and the size zero.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    Ok(i32::try_from(check_long(result)?).unwrap_or_default())
}

/// `setns(2)`.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` over that namespace.
pub fn enter_namespace(namespace: BorrowedFd<'_>, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::setns(namespace.as_raw_fd(), kind) }).map(drop)
}

/// `unshare(2)`.
///
/// # Errors
/// `EPERM` where it is not allowed.
pub fn leave_namespaces(kinds: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::unshare(kinds) }).map(drop)
}

/// `sethostname(2)`.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` over the UTS namespace.
pub fn set_host_name(name: &str) -> io::Result<()> {
    // SAFETY: a pointer with its length.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Brings the loopback device of this network namespace up (`SIOCSIFFLAGS`, netdevice(7)).
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN` over the network namespace.
pub fn bring_loopback_up() -> io::Result<()> {
    // SAFETY: takes no pointer.
    let socket =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })
            .map(own)?;
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or_default();
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`, which is live.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
        .map(drop)
}

/// A new, empty session keyring (`keyctl(2)`, `KEYCTL_JOIN_SESSION_KEYRING`).
///
/// # Errors
/// `ENOSYS` where the kernel has no keyrings.
pub fn new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<u8>())
    };
    check_long(result).map(drop)
}

/// Makes a system call with every argument zero, to see what a filter answers to it.
///
/// Only for calls that do nothing then (a null pointer or a zero flag is all that they get).
///
/// # Errors
/// What the kernel or the filter says.
pub fn try_call(number: libc::c_long) -> io::Result<()> {
    // SAFETY: zeros are null pointers and empty flags; the callers name calls that then fail or
    // do nothing.
    check_long(unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) }).map(drop)
}

/// A pipe, close-on-exec: reading end, writing end.
///
/// # Errors
/// `EMFILE`.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((own(fds[0]), own(fds[1])))
}
