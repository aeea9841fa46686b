//! Frames over a packet socket: one value a packet, `MessagePack`, with descriptors.
//!
//! The first byte says where the value is: `0` behind it, `1` in a memory file that is the
//! packet's last descriptor (a packet cannot be longer than the socket's buffer).

use std::io::{self, Read, Seek, SeekFrom};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{At, Result, Step};
use crate::sys;

/// Values up to this size travel in the packet itself.
pub const INLINE_BYTES: usize = 64 * 1024;
/// No value is larger than this; whoever sends more is not obeyed.
const LARGEST_BYTES: u64 = 256 * 1024 * 1024;

/// Values up to this size are written without the heap.
const SMALL_BYTES: usize = 256;

const INLINE: u8 = 0;
const IN_FILE: u8 = 1;

/// Writes a value as `MessagePack`, structures as maps.
///
/// # Errors
/// `InvalidInput`; none of the types in `spec.rs` gives it.
pub fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    rmp_serde::to_vec_named(value).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}

/// Reads one value; anything behind it is an error.
///
/// # Errors
/// `InvalidData` with what was wrong.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let mut rest = bytes;
    let value = rmp_serde::from_read(&mut rest)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "bytes follow the value"))
    }
}

/// One end of a socket on which `In` comes and `Out` goes.
#[derive(Debug)]
pub struct Channel<In, Out> {
    socket: OwnedFd,
    types: PhantomData<fn(Out) -> In>,
}

impl<In, Out> AsFd for Channel<In, Out> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<In: DeserializeOwned, Out: Serialize> Channel<In, Out> {
    /// Over this socket.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, types: PhantomData }
    }

    /// Sends one value.
    ///
    /// # Errors
    /// [`Step::SendMessage`], with `EPIPE` when the other side has gone.
    pub fn send(&self, value: &Out, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let send = || {
            // Most values are small, and none of these needs the heap: what a fork writes to of
            // that is copied first.
            let mut small = [INLINE; SMALL_BYTES];
            let mut rest = &mut small[1..];
            if rmp_serde::encode::write_named(&mut rest, value).is_ok() {
                let unused = rest.len();
                return sys::send_packet(self.as_fd(), &small[..SMALL_BYTES - unused], fds);
            }
            let body = encode(value)?;
            if body.len() > INLINE_BYTES {
                let file = sys::sealed_file(c"sandbox-frame", &body)?;
                let all: Vec<_> = fds.iter().copied().chain([file.as_fd()]).collect();
                return sys::send_packet(self.as_fd(), &[IN_FILE], &all);
            }
            let mut packet = Vec::with_capacity(body.len() + 1);
            packet.push(INLINE);
            packet.extend_from_slice(&body);
            sys::send_packet(self.as_fd(), &packet, fds)
        };
        send().at(Step::SendMessage, "")
    }

    /// Waits for one value. `None`: the other side has closed.
    ///
    /// # Errors
    /// [`Step::ReceiveMessage`]; the sender is not to be obeyed any more.
    pub fn receive(&self) -> Result<Option<(In, Vec<OwnedFd>)>> {
        let receive = || {
            let (packet, mut fds) = sys::receive_packet(self.as_fd())?;
            let bad = |what| io::Error::new(io::ErrorKind::InvalidData, what);
            let value = match packet.split_first() {
                None => return Ok(None),
                Some((&INLINE, body)) => decode(body)?,
                Some((&IN_FILE, [])) => {
                    let fd = fds.pop().ok_or_else(|| bad("no file with the value"))?;
                    let mut file = std::fs::File::from(fd);
                    file.seek(SeekFrom::Start(0))?;
                    let mut body = Vec::new();
                    file.take(LARGEST_BYTES).read_to_end(&mut body)?;
                    decode(&body)?
                }
                Some(_) => return Err(bad("unknown kind of packet")),
            };
            Ok(Some((value, fds)))
        };
        receive().at(Step::ReceiveMessage, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{InitReply, InitRequest};

    #[test]
    fn a_value_of_any_size_arrives_with_its_descriptors() {
        let (left, right) = sys::packet_pair().expect("sockets");
        let left: Channel<InitRequest, InitRequest> = Channel::new(left);
        let right: Channel<InitRequest, InitReply> = Channel::new(right);
        let (pipe, _other) = sys::pipe().expect("pipe");
        for length in [0, 10, 30_000, 1_000_000] {
            let sent = InitRequest::Sweep {
                id: 1,
                spare: vec![],
                keep: vec![7; length],
                since_ticks: 1,
                trees: vec![],
                ends: vec![],
                break_shell: true,
            };
            left.send(&sent, &[pipe.as_fd()]).expect("sent");
            let (got, fds) = right.receive().expect("received").expect("not the end");
            assert_eq!((got, fds.len()), (sent, 1));
        }
        drop(left);
        assert!(right.receive().expect("the end is no error").is_none());
    }

    #[test]
    fn bytes_behind_a_value_are_refused() {
        let mut bytes = encode(&InitReply::Ready { pid: None, failure: None }).expect("encodes");
        bytes.push(0);
        assert!(decode::<InitReply>(&bytes).is_err());
    }
}
