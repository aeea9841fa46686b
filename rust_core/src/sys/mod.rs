//! The only `unsafe` of the crate: one safe function for each system call that the standard
//! library lacks.
//!
//! Every function owns or borrows descriptors, returns `io::Result`, and does one thing; what the
//! calls are for, and in which order they come, is decided above. Calls that have no wrapper in
//! glibc 2.31 go through `syscall(2)`.

mod arenas;
mod confine;
mod directory;
mod fork_away;
mod memory;
mod mount;
mod nonblocking;
mod own_pages;
mod process;
mod processors;
mod socket;
mod text;

pub use arenas::*;
pub use confine::*;
pub use directory::*;
pub use fork_away::*;
pub use memory::*;
pub use mount::*;
pub use nonblocking::*;
pub use own_pages::*;
pub use process::*;
pub use processors::*;
pub use socket::*;
pub use text::*;

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Turns `-1` into the calling thread's `errno`.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// As [`check`], for `syscall(2)`.
fn check_long(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes ownership of a descriptor that a system call has just returned.
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: every caller passes the fresh return value of a successful call, which nobody else
    // owns yet.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A path as the kernel wants it; a NUL inside is `EINVAL`.
fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// The descriptor number a system call returned, in the type that owns it.
fn long_to_fd(value: libc::c_long) -> io::Result<OwnedFd> {
    RawFd::try_from(value).map(own).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))
}
