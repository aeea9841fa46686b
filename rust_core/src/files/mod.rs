//! The file service: it does the file API's work inside the sandbox, as user code's own user.
//!
//! So a path means what it means to user code, and whatever user code does to a path while it is
//! being resolved, it does to itself. Reading hands out a descriptor; writing takes a pipe.
//!
//! Several workers serve at once. What may take long, because it is large or waits for whoever
//! sends, has workers of its own, so that it never stands before what does not.

mod pool;
mod tree;
mod write;

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde_bytes::ByteBuf;

use crate::channel::Channel;
use crate::spec::{Entry, FilesAnswer, FilesCall, FilesReply, FilesRequest, Kind, Source};
use crate::sys;
use pool::Pool;

type Socket = Channel<FilesCall, FilesAnswer>;
type Job = (FilesCall, Vec<OwnedFd>);

/// Workers for what is over soon.
const QUICK_WORKERS: usize = 4;
/// Workers for transfers and whole trees.
const LONG_WORKERS: usize = 32;
/// How many entries go into one answer.
const ENTRIES_AT_ONCE: usize = 5_000;

/// Serves until the socket closes; returns the exit status.
pub fn run(socket: OwnedFd) -> i32 {
    sys::set_name(c"sbx-files");
    sys::ignore_signal(libc::SIGXFSZ); // the write fails instead, and that is an answer
    let socket: Socket = Channel::new(socket);
    let work = |(call, fds): Job| answer(&socket, call, fds);
    let (quick, long) = (Pool::new(QUICK_WORKERS, &work), Pool::new(LONG_WORKERS, &work));
    std::thread::scope(|scope| {
        // Now, since user code may later leave no room for a thread.
        quick.add_worker(scope);
        long.add_worker(scope);
        let status = loop {
            match socket.receive() {
                Ok(Some((call, fds))) if may_take_long(&call.request) => {
                    long.submit(scope, (call, fds));
                }
                Ok(Some(job)) => quick.submit(scope, job),
                Ok(None) => break 0,
                Err(_) => break 1,
            }
        };
        sys::exit_now(status) // and with this process its workers
    })
}

fn may_take_long(request: &FilesRequest) -> bool {
    match request {
        FilesRequest::Write { source, .. } => !matches!(source, Source::Inline { .. }),
        FilesRequest::List { .. } | FilesRequest::Move { .. } => true,
        FilesRequest::Remove { recursive, .. } => *recursive,
        _ => false,
    }
}

fn answer(socket: &Socket, call: FilesCall, fds: Vec<OwnedFd>) {
    let FilesCall { id, request } = call;
    let say = |reply: FilesReply, file: Option<OwnedFd>| {
        let carried: Vec<_> = file.iter().map(AsFd::as_fd).collect();
        let _ = socket.send(&FilesAnswer { id, reply }, &carried); // whoever has gone hears nothing
    };
    match serve(request, fds, &say) {
        Ok((reply, file)) => say(reply, file),
        Err(e) => {
            let errno = e.raw_os_error().unwrap_or(libc::EINVAL);
            say(FilesReply::Refused { errno, detail: e.to_string() }, None);
        }
    }
}

fn serve(
    request: FilesRequest,
    fds: Vec<OwnedFd>,
    say: &dyn Fn(FilesReply, Option<OwnedFd>),
) -> io::Result<(FilesReply, Option<OwnedFd>)> {
    match request {
        FilesRequest::Read { path } => {
            let (file, meta) = open_regular(as_path(&path))?;
            let Entry(_, _, size_bytes, mode, modified_ns) = entry(ByteBuf::new(), &meta);
            let in_memory = sys::is_in_memory(file.as_fd()).unwrap_or(false);
            let reply = FilesReply::Opened { size_bytes, mode, modified_ns, in_memory };
            return Ok((reply, Some(file.into())));
        }
        FilesRequest::Write { path, mode, make_parents, source } => {
            write::write(as_path(&path), source, fds, mode, make_parents)?;
        }
        FilesRequest::Stat { path, follow } => {
            let path = as_path(&path);
            let meta = if follow { path.metadata()? } else { path.symlink_metadata()? };
            return Ok((FilesReply::Found { entry: entry(ByteBuf::new(), &meta) }, None));
        }
        FilesRequest::List { path, recursive, hidden, limit } => {
            let (entries, truncated) = tree::list(as_path(&path), recursive, hidden, limit)?;
            let mut rest = entries.into_iter();
            loop {
                let entries: Vec<_> = rest.by_ref().take(ENTRIES_AT_ONCE).collect();
                let more = rest.len() > 0;
                let reply = FilesReply::Listed { entries, more, truncated };
                if !more {
                    return Ok((reply, None));
                }
                say(reply, None);
            }
        }
        FilesRequest::MakeDirectory { path, make_parents } => {
            let path = as_path(&path);
            fs::DirBuilder::new().mode(0o755).recursive(make_parents).create(path)?;
        }
        FilesRequest::Remove { path, recursive } => tree::remove(as_path(&path), recursive)?,
        FilesRequest::Move { source, target } => {
            tree::move_to(as_path(&source), as_path(&target))?;
        }
    }
    Ok((FilesReply::Done {}, None))
}

fn as_path(bytes: &ByteBuf) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn refused(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

fn entry(path: ByteBuf, meta: &fs::Metadata) -> Entry {
    let kind = match meta.file_type() {
        t if t.is_dir() => Kind::Directory,
        t if t.is_file() => Kind::File,
        t if t.is_symlink() => Kind::Symlink,
        _ => Kind::Other,
    };
    let modified_ns = meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec());
    Entry(path, kind, meta.len(), meta.mode() & 0o7777, modified_ns)
}

/// Opens a regular file without ever waiting: a FIFO or a device is refused, not read.
fn open_regular(path: &Path) -> io::Result<(fs::File, fs::Metadata)> {
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(refused(libc::EISDIR));
    }
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok((file, meta))
}
