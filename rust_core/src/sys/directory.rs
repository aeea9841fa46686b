//! Files and directories by descriptor, so that no name is resolved twice.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::{check, check_long, own};

/// Bytes of entries that one call takes.
const BUFFER_BYTES: usize = 32 * 1024;
/// Where the fields of a `linux_dirent64` are: its length, its kind, its name (`getdents64(2)`).
const LENGTH_AT: usize = 16;
const KIND_AT: usize = 18;
const NAME_AT: usize = 19;

/// Opens a directory, itself and not what a link by that name leads to: of another directory, or
/// of this process's own.
///
/// # Errors
/// `ENOTDIR` or `ELOOP` when it is none.
pub fn open_directory(parent: Option<BorrowedFd<'_>>, name: &CStr) -> io::Result<OwnedFd> {
    let parent = parent.map_or(libc::AT_FDCWD, |fd| fd.as_raw_fd());
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: `name` is NUL-terminated.
    check(unsafe { libc::openat(parent, name.as_ptr(), flags) }).map(own)
}

/// `unlinkat(2)`.
///
/// # Errors
/// What the kernel says.
pub fn unlink_at(parent: BorrowedFd<'_>, name: &CStr, is_directory: bool) -> io::Result<()> {
    let flags = if is_directory { libc::AT_REMOVEDIR } else { 0 };
    // SAFETY: `name` is NUL-terminated.
    check(unsafe { libc::unlinkat(parent.as_raw_fd(), name.as_ptr(), flags) }).map(drop)
}

/// `mkdirat(2)`, for everybody to look into.
///
/// # Errors
/// What the kernel says.
pub fn make_directory_at(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated.
    check(unsafe { libc::mkdirat(parent.as_raw_fd(), name.as_ptr(), 0o755) }).map(drop)
}

/// `symlinkat(2)`.
///
/// # Errors
/// What the kernel says.
pub fn make_link_at(target: &CStr, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: both are NUL-terminated.
    check(unsafe { libc::symlinkat(target.as_ptr(), parent.as_raw_fd(), name.as_ptr()) }).map(drop)
}

/// `mknodat(2)`: a device of characters, with these permissions whatever the process's mask.
///
/// # Errors
/// `EPERM` without `CAP_MKNOD` in the initial user namespace, or where control groups forbid it.
pub fn make_device_at(
    parent: BorrowedFd<'_>,
    name: &CStr,
    permissions: u32,
    device: u64,
) -> io::Result<()> {
    let (parent, mode) = (parent.as_raw_fd(), libc::S_IFCHR | permissions);
    // SAFETY: `name` is NUL-terminated.
    check(unsafe { libc::mknodat(parent, name.as_ptr(), mode, device) })?;
    // SAFETY: as above.
    check(unsafe { libc::fchmodat(parent, name.as_ptr(), permissions, 0) }).map(drop)
}

/// Opens a file of a directory for reading and writing, in no terminal's name.
///
/// # Errors
/// What the kernel says; `EACCES` for a device where none may be opened.
pub fn open_at(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: `name` is NUL-terminated.
    check(unsafe { libc::openat(parent.as_raw_fd(), name.as_ptr(), flags) }).map(own)
}

/// What is in a directory, without itself and the one above: names, and whether each is a
/// directory itself.
///
/// # Errors
/// What the kernel says.
pub fn read_directory(directory: BorrowedFd<'_>) -> io::Result<Vec<(CString, bool)>> {
    let mut found = Vec::new();
    let mut buffer = vec![0u8; BUFFER_BYTES];
    loop {
        // SAFETY: the buffer is live and its length is passed.
        let length = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                directory.as_raw_fd(),
                buffer.as_mut_ptr(),
                buffer.len(),
            )
        };
        let mut rest = &buffer[..usize::try_from(check_long(length)?).unwrap_or_default()];
        if rest.is_empty() {
            return Ok(found);
        }
        while let Some((&[low, high], kind)) =
            rest.get(LENGTH_AT..KIND_AT).and_then(|l| l.first_chunk()).zip(rest.get(KIND_AT))
        {
            let (record, after) =
                rest.split_at(usize::from(u16::from_ne_bytes([low, high])).clamp(1, rest.len()));
            let name = record.get(NAME_AT..).map(CStr::from_bytes_until_nul);
            if let Some(Ok(name)) = name {
                if name != c"." && name != c".." {
                    found.push((name.to_owned(), *kind == libc::DT_DIR));
                }
            }
            rest = after;
        }
    }
}

/// Whether a file is on a tmpfs (`fstatfs(2)`).
///
/// # Errors
/// What the kernel says.
pub fn is_in_memory(file: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: all-zero is a valid `statfs`.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live local of the right type.
    check(unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut found) })?;
    Ok(found.f_type == libc::TMPFS_MAGIC)
}
