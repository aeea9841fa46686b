//! Packets with descriptors over a Unix socket (`unix(7)`, `SCM_RIGHTS`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::{check, own};

/// Descriptors that one packet may carry.
pub const MAX_DESCRIPTORS: usize = 32;

/// Room for the control message of [`MAX_DESCRIPTORS`], aligned as `cmsghdr` wants it.
#[repr(C, align(8))]
struct Control([u8; 16 + MAX_DESCRIPTORS * size_of::<RawFd>()]);

/// A connected pair of packet sockets, close-on-exec.
///
/// # Errors
/// `EMFILE`.
pub fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    Ok((own(fds[0]), own(fds[1])))
}

/// A TCP socket of this process's network, close-on-exec and never waiting.
///
/// # Errors
/// `EAFNOSUPPORT` where the kernel has no such family, `EMFILE`.
pub fn tcp_socket(family: libc::c_int) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes no pointer.
    check(unsafe { libc::socket(family, kind, 0) }).map(own)
}

/// Sends one packet with descriptors; waits while the receiver's queue is full.
///
/// # Errors
/// `EPIPE` when the other end is closed, `EMSGSIZE` when it is too long.
pub fn send_packet(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_DESCRIPTORS {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut raw = [-1; MAX_DESCRIPTORS];
    for (number, fd) in raw.iter_mut().zip(fds) {
        *number = fd.as_raw_fd();
    }
    let raw = &raw[..fds.len()];
    let mut control = Control([0; 16 + MAX_DESCRIPTORS * size_of::<RawFd>()]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !raw.is_empty() {
        let payload = u32::try_from(size_of_val(raw)).unwrap_or_default();
        message.msg_control = (&raw mut control).cast();
        // SAFETY: pure arithmetic.
        message.msg_controllen = unsafe { libc::CMSG_SPACE(payload) } as _;
        // SAFETY: `message` is valid.
        let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        // SAFETY: `msg_control` has room for one header (checked above by MAX_DESCRIPTORS).
        let header = unsafe { &mut *header };
        header.cmsg_level = libc::SOL_SOCKET;
        header.cmsg_type = libc::SCM_RIGHTS;
        // SAFETY: pure arithmetic.
        header.cmsg_len = unsafe { libc::CMSG_LEN(payload) } as _;
        // SAFETY: the data area follows the header inside `control`.
        let data = unsafe { libc::CMSG_DATA(&raw const *header) };
        // SAFETY: `control` has room for all of `raw`; the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(raw.as_ptr().cast(), data, payload as usize) };
    }
    loop {
        // SAFETY: every pointer in `message` is to a live local.
        let sent =
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        match sent {
            0.. => return Ok(()),
            _ => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e => return Err(e),
            },
        }
    }
}

/// Waits for one packet. An empty one with no descriptor is the end: the other side has closed.
///
/// # Errors
/// `EMSGSIZE` when it carried more descriptors than [`MAX_DESCRIPTORS`] (all are closed then).
pub fn receive_packet(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    // The length is asked first, so that a long-lived process does not keep pages for the longest
    // packet that it could ever get.
    let length = loop {
        // SAFETY: with length zero nothing is written; MSG_TRUNC returns the real length.
        let length = unsafe {
            libc::recv(
                socket.as_raw_fd(),
                std::ptr::null_mut(),
                0,
                libc::MSG_PEEK | libc::MSG_TRUNC,
            )
        };
        match usize::try_from(length) {
            Ok(length) => break length,
            Err(_) => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e => return Err(e),
            },
        }
    };
    let mut bytes = vec![0; length];
    let mut control = Control([0; 16 + MAX_DESCRIPTORS * size_of::<RawFd>()]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    let flags = libc::MSG_CMSG_CLOEXEC;
    let received = loop {
        // SAFETY: every pointer in `message` is to a live local of the length given.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
        match usize::try_from(received) {
            Ok(received) => break received,
            Err(_) => match io::Error::last_os_error() {
                e if e.kind() == io::ErrorKind::Interrupted => {}
                e => return Err(e),
            },
        }
    };
    bytes.truncate(received);
    let fds = received_descriptors(&message);
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok((bytes, fds))
}

/// The descriptors in a message that `recvmsg(2)` has filled in.
fn received_descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: `message` is as the kernel left it.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a header inside the buffer.
    while let Some(current) = unsafe { header.as_ref() } {
        if current.cmsg_level == libc::SOL_SOCKET && current.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: pure arithmetic.
            let overhead = unsafe { libc::CMSG_LEN(0) } as usize;
            #[allow(clippy::unnecessary_cast, reason = "the type differs between C libraries")]
            let count = (current.cmsg_len as usize - overhead) / size_of::<RawFd>();
            // SAFETY: the data area of this header.
            let data = unsafe { libc::CMSG_DATA(header) };
            for index in 0..count {
                // SAFETY: the kernel wrote `count` descriptors there.
                let place = unsafe { data.add(index * size_of::<RawFd>()) };
                // SAFETY: as above; perhaps unaligned.
                let fd = unsafe { place.cast::<RawFd>().read_unaligned() };
                fds.push(own(fd));
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    fds
}
