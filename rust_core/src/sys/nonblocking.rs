//! What never waits: pipes, reads and epoll for the control process, whose waiting is trio's.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;

use super::{check, own, pipe};

/// Makes reads and writes of this open file fail with `EAGAIN` where they would wait.
///
/// # Errors
/// What the kernel says.
pub fn set_non_blocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let mut on: libc::c_int = 1;
    // SAFETY: FIONBIO reads one `int`, which is live.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &raw mut on) }).map(drop)
}

/// As [`pipe`], with a reading end that does not block and a writing end that does, and that whoever
/// holds it may open once more by its name (`/dev/stderr`), whatever its user. Nobody else can:
/// `/proc/PID/fd` is for who may trace the process.
///
/// # Errors
/// `EMFILE`.
pub fn pipe_to_read() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe()?;
    set_non_blocking(reader.as_fd())?;
    let writer = File::from(writer);
    writer.set_permissions(Permissions::from_mode(0o666))?;
    Ok((reader, writer.into()))
}

/// The length that a system call returned; `None` where it would have waited.
fn now(mut call: impl FnMut() -> isize) -> io::Result<Option<usize>> {
    loop {
        if let Ok(count) = usize::try_from(call()) {
            return Ok(Some(count));
        }
        match io::Error::last_os_error() {
            e if e.kind() == io::ErrorKind::Interrupted => {}
            e if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            e => return Err(e),
        }
    }
}

/// `read(2)` of a non-blocking descriptor. `None`: nothing is there yet; 0: nothing will be.
///
/// # Errors
/// What the kernel says.
pub fn read_now(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<Option<usize>> {
    // SAFETY: the buffer is live and its length is passed.
    now(|| unsafe { libc::read(fd.as_raw_fd(), into.as_mut_ptr().cast(), into.len()) })
}

/// `recv(2)` of one packet, cut to the length of the buffer, without its descriptors.
///
/// # Errors
/// What the kernel says.
pub fn receive_now(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<Option<usize>> {
    let flags = libc::MSG_DONTWAIT;
    // SAFETY: the buffer is live and its length is passed.
    now(|| unsafe { libc::recv(socket.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), flags) })
}

/// A new `epoll(7)`, close-on-exec.
///
/// # Errors
/// `EMFILE`.
pub fn epoll() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(own)
}

/// Makes `epoll` wait for `fd` to be readable too.
///
/// # Errors
/// `EEXIST` when it does already; `ENOSPC` at the limit of the user's watches.
pub fn watch(epoll: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> io::Result<()> {
    control(epoll, libc::EPOLL_CTL_ADD, fd)
}

/// Takes [`watch`] back.
///
/// # Errors
/// `ENOENT` when it does not wait for that.
pub fn unwatch(epoll: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> io::Result<()> {
    control(epoll, libc::EPOLL_CTL_DEL, fd)
}

fn control(epoll: BorrowedFd<'_>, what: libc::c_int, fd: BorrowedFd<'_>) -> io::Result<()> {
    let number = fd.as_raw_fd();
    // With the number as its data, as Python's `select.epoll` expects it.
    let mut event = libc::epoll_event {
        events: u32::try_from(libc::EPOLLIN).unwrap_or_default(),
        u64: u64::try_from(number).unwrap_or_default(),
    };
    // SAFETY: the kernel reads one event, which is live.
    check(unsafe { libc::epoll_ctl(epoll.as_raw_fd(), what, number, &raw mut event) }).map(drop)
}

/// Appends what a file holds from its start, without moving its offset (`pread(2)`).
///
/// # Errors
/// What the kernel says; what was read before is kept.
pub fn read_whole(file: BorrowedFd<'_>, into: &mut Vec<u8>) -> io::Result<()> {
    let mut offset = 0;
    let mut piece = [0u8; 4096];
    loop {
        // SAFETY: the buffer is live and its length is passed.
        let count = unsafe {
            libc::pread(file.as_raw_fd(), piece.as_mut_ptr().cast(), piece.len(), offset)
        };
        match usize::try_from(count) {
            Ok(0) => return Ok(()),
            Ok(count) => into.extend_from_slice(&piece[..count]),
            Err(_) => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => continue,
                e => return Err(e),
            },
        }
        offset += count as libc::off_t;
    }
}
