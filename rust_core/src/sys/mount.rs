//! Mounts, by path and by descriptor (`open_tree(2)` and its kin, Linux 5.12).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::{c_path, check, check_long, key, long_to_fd};

/// `mount(2)`, with this process's key (see `seccomp.rs`).
///
/// # Errors
/// What the kernel says; `EINVAL` for a NUL in a name.
pub fn mount(
    source: &CStr,
    target: &Path,
    kind: &CStr,
    flags: libc::c_ulong,
    options: &str,
) -> io::Result<()> {
    let target = c_path(target)?;
    let options = CString::new(options).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    // Of options the kernel copies a whole page, whatever their length.
    let data = if options.is_empty() { std::ptr::null() } else { options.as_ptr() };
    // SAFETY: NUL-terminated strings that outlive the call, and null where there are no options. The
    // kernel ignores a sixth argument.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount,
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data,
            key(),
        )
    };
    check_long(result).map(drop)
}

/// A detached copy of the mount at `path` with all that is mounted below it (`open_tree(2)`).
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` over this mount namespace, `ENOENT`, `ENOSYS` before 5.2.
pub fn clone_tree(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let flags = libc::OPEN_TREE_CLONE
        | libc::OPEN_TREE_CLOEXEC
        | u32::try_from(libc::AT_RECURSIVE).unwrap_or_default();
    // SAFETY: the path is NUL-terminated.
    let result =
        unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    long_to_fd(check_long(result)?)
}

/// Sets attributes on the mount that `tree` is the root of and, if `recursive`, on all below it;
/// every one becomes private (`mount_setattr(2)`, Linux 5.12).
///
/// # Errors
/// What the kernel says.
pub fn set_attributes(tree: BorrowedFd<'_>, attributes: u64, recursive: bool) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` is live and its size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of_val(&attr),
        )
    };
    check_long(result).map(drop)
}

/// A new tmpfs that is mounted nowhere yet (`fsopen(2)`, `fsmount(2)`).
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` over this mount namespace, `EINVAL` for an option that it does
/// not know, `ENOSYS` before 5.2.
pub fn new_tmpfs(options: &[(&CStr, &CStr)]) -> io::Result<OwnedFd> {
    const FSOPEN_CLOEXEC: libc::c_uint = 1;
    const FSCONFIG_SET_STRING: libc::c_uint = 1;
    const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
    const FSMOUNT_CLOEXEC: libc::c_uint = 1;
    // SAFETY: the name is NUL-terminated.
    let opened = unsafe { libc::syscall(libc::SYS_fsopen, c"tmpfs".as_ptr(), FSOPEN_CLOEXEC) };
    let context = long_to_fd(check_long(opened)?)?;
    let configure =
        |command: libc::c_uint, name: *const libc::c_char, value: *const libc::c_char| {
            // SAFETY: NUL-terminated strings that outlive the call, or null where there is none.
            let result = unsafe {
                libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), command, name, value, 0)
            };
            check_long(result).map(drop)
        };
    for (name, value) in options {
        configure(FSCONFIG_SET_STRING, name.as_ptr(), value.as_ptr())?;
    }
    configure(FSCONFIG_CMD_CREATE, std::ptr::null(), std::ptr::null())?;
    // SAFETY: takes no pointer.
    let mounted =
        unsafe { libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0) };
    long_to_fd(check_long(mounted)?)
}

/// Attaches a detached tree at `target` (`move_mount(2)`).
///
/// # Errors
/// What the kernel says.
pub fn attach_tree(tree: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
    let target = c_path(target)?;
    // SAFETY: both paths are NUL-terminated.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    check_long(result).map(drop)
}

/// `pivot_root(".", ".")`: the current directory becomes the root, the old root is stacked on it.
///
/// # Errors
/// `EINVAL` when the current directory is no mount point.
pub fn pivot_here() -> io::Result<()> {
    // SAFETY: both are C strings.
    let result = unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) };
    check_long(result).map(drop)
}

/// The size of the file system that `path` lies in, and whether it is read-only where it is
/// mounted there (`statvfs(3)`).
///
/// # Errors
/// What the kernel says.
pub fn file_system(path: &Path) -> io::Result<(u64, bool)> {
    let path = c_path(path)?;
    // SAFETY: all-zero is a valid `statvfs`.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is NUL-terminated and `found` is live.
    check(unsafe { libc::statvfs(path.as_ptr(), &raw mut found) })?;
    let read_only = found.f_flag & libc::ST_RDONLY != 0;
    Ok((found.f_blocks.saturating_mul(found.f_frsize), read_only))
}

/// `umount2(2)` with `MNT_DETACH`.
///
/// # Errors
/// `EINVAL` when nothing that may be unmounted is there.
pub fn detach(target: &Path) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: the path is NUL-terminated.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }).map(drop)
}
