//! A zygote's loop: it forks the process that runs it for each request, and tells how they ended.
//!
//! It is native so that the zygote writes to next to none of its memory once it is warm. What it
//! wrote to would be copied after each fork, by it and by its children, and a huge page that is
//! written to while it is shared falls apart, for good.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::channel::Channel;
use crate::error::{At, Failure, Result, Step};
use crate::spec::{ZygoteReply, ZygoteRequest};
use crate::sys::{self, Forked};

/// What a child has to know and to hold.
#[derive(Debug)]
pub struct Born {
    /// How it enters its jail.
    pub plan: Vec<u8>,
    /// Its socket, the PID namespace it was born in, and what the plan speaks of.
    pub fds: Vec<OwnedFd>,
}

type Socket = Channel<ZygoteRequest, ZygoteReply>;

/// Serves until the control process has closed its end, which returns `None`; each child returns
/// from here too. The process must have one thread.
///
/// # Errors
/// What the kernel says, and the control process was told of it, if the socket is sound: it has
/// broken, or a child would be born in the wrong jail.
pub fn serve(socket: BorrowedFd<'_>, own_pid_namespace: BorrowedFd<'_>) -> Result<Option<Born>> {
    let copy = socket.try_clone_to_owned().at(Step::OpenDescriptor, "socket")?;
    let socket = Socket::new(copy);
    serve_on(&socket, own_pid_namespace).inspect_err(|failure| {
        let _ = socket.send(&ZygoteReply::Failed { failure: failure.clone() }, &[]);
    })
}

fn serve_on(socket: &Socket, own_pid_namespace: BorrowedFd<'_>) -> Result<Option<Born>> {
    let ends = sys::child_signals().at(Step::WatchProcesses, "signalfd")?;
    let mut children: Vec<(i32, u64)> = Vec::new();
    let mut more = true;
    loop {
        let timeout = more.then_some(Duration::ZERO);
        let [request, ended] = sys::wait_readable([socket.as_fd(), ends.as_fd()], timeout)
            .at(Step::ReceiveMessage, "poll")?;
        if ended || more {
            sys::drain(ends.as_fd());
            more = reap(socket, &mut children)?;
        }
        if request {
            let Some((ZygoteRequest::Fork { id, plan }, fds)) = socket.receive()? else {
                return Ok(None);
            };
            let reply = match fork_into(fds.get(1), own_pid_namespace)? {
                Ok(Forked::Child) => {
                    let _ = sys::unblock_signals(); // cannot fail: it takes a mask and no more
                    return Ok(Some(Born { plan: plan.into_vec(), fds }));
                }
                Ok(Forked::Parent(pid)) => {
                    children.push((pid, id));
                    ZygoteReply::Forked { id, pid }
                }
                Err(failure) => ZygoteReply::NotForked { id, failure },
            };
            socket.send(&reply, &[])?;
        }
    }
}

/// Bears a child in a PID namespace. The outer error is that there is no way back to the own one.
fn fork_into(
    pid_namespace: Option<&OwnedFd>,
    own: BorrowedFd<'_>,
) -> Result<std::result::Result<Forked, Failure>> {
    let Some(pid_namespace) = pid_namespace else {
        let subject = "no descriptors".to_owned();
        return Ok(Err(Failure { step: Step::EnterNamespace, errno: libc::EINVAL, subject }));
    };
    let joined = sys::enter_namespace(pid_namespace.as_fd(), libc::CLONE_NEWPID)
        .at(Step::EnterNamespace, "pid");
    let forked = match joined {
        Ok(()) => sys::fork_with_handlers().at(Step::CloneProcess, ""),
        Err(failure) => Err(failure),
    };
    if let Ok(Forked::Child) = forked {
        return Ok(forked);
    }
    if let Err(failure) =
        sys::enter_namespace(own, libc::CLONE_NEWPID).at(Step::EnterNamespace, "own pid")
    {
        // The next child would be born in the wrong jail.
        if let Ok(Forked::Parent(pid)) = forked {
            let _ = sys::kill(pid, libc::SIGKILL);
        }
        return Err(failure);
    }
    Ok(forked)
}

/// How many ended children are told of before the socket is looked at again.
const REAPED_AT_ONCE: usize = 64;

/// Tells of children that have ended; true if there may be more.
fn reap(socket: &Socket, children: &mut Vec<(i32, u64)>) -> Result<bool> {
    for _ in 0..REAPED_AT_ONCE {
        let ended = match sys::wait(-1, false) {
            Ok(Some(ended)) => ended,
            Ok(None) => return Ok(false),
            Err(e) if e.raw_os_error() == Some(libc::ECHILD) => return Ok(false),
            Err(e) => return Err(e).at(Step::WaitForProcess, "children"),
        };
        // Others are a context's clone(CLONE_PARENT), where no filter refuses that.
        if let Some(index) = children.iter().position(|(pid, _)| *pid == ended.pid) {
            let (_, id) = children.swap_remove(index);
            socket.send(&ZygoteReply::Ended { id, exit: ended.exit, signal: ended.signal }, &[])?;
        }
    }
    Ok(true)
}

/// Whether serving has ended because nobody is there any more.
#[must_use]
pub fn is_abandoned(failure: &Failure) -> bool {
    matches!(
        io::Error::from_raw_os_error(failure.errno).kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}
