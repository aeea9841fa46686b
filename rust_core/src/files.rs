//! The file service: it does the file API's work inside the sandbox, as user code's own user.
//!
//! So a path means what it means to user code, and whatever user code does to a path while it is
//! being resolved, it does to itself. Reading hands out a descriptor; writing takes a pipe.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_bytes::ByteBuf;

use crate::channel::Channel;
use crate::spec::{Entry, FilesReply, FilesRequest};
use crate::sys;

/// Serves until the socket closes; returns the exit status.
pub fn run(socket: OwnedFd) -> i32 {
    sys::set_name(c"sbx-files");
    sys::ignore_signal(libc::SIGXFSZ); // the write fails instead, and that is an answer
    let channel: Channel<FilesRequest, FilesReply> = Channel::new(socket);
    loop {
        let (request, fds) = match channel.receive() {
            Ok(Some(received)) => received,
            Ok(None) => return 0,
            Err(_) => return 1,
        };
        let (reply, file) = match serve(request, fds) {
            Ok(done) => done,
            Err(e) => {
                let errno = e.raw_os_error().unwrap_or(libc::EINVAL);
                (FilesReply::Refused { errno, detail: e.to_string() }, None)
            }
        };
        let carried: Vec<_> = file.iter().map(AsFd::as_fd).collect();
        if channel.send(&reply, &carried).is_err() {
            return 1;
        }
    }
}

fn serve(request: FilesRequest, fds: Vec<OwnedFd>) -> io::Result<(FilesReply, Option<OwnedFd>)> {
    match request {
        FilesRequest::Read { path } => {
            let (file, meta) = open_regular(as_path(&path))?;
            let reply = FilesReply::Opened { size_bytes: meta.len(), mode: meta.mode() & 0o7777 };
            Ok((reply, Some(file.into())))
        }
        FilesRequest::Write { path, mode, make_parents, size_bytes } => {
            let pipe = fds.into_iter().next().ok_or(io::Error::from_raw_os_error(libc::EBADF))?;
            write(as_path(&path), pipe, mode, make_parents, size_bytes)?;
            Ok((FilesReply::Done {}, None))
        }
        FilesRequest::List { path, recursive, limit } => {
            let (entries, truncated) = list(as_path(&path), recursive, limit)?;
            Ok((FilesReply::Listed { entries, truncated }, None))
        }
        FilesRequest::MakeDirectory { path, make_parents } => {
            let path = as_path(&path);
            fs::DirBuilder::new().mode(0o755).recursive(make_parents).create(path)?;
            Ok((FilesReply::Done {}, None))
        }
        FilesRequest::Remove { path, recursive } => {
            remove(as_path(&path), recursive)?;
            Ok((FilesReply::Done {}, None))
        }
    }
}

fn as_path(bytes: &ByteBuf) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn refused(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
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

/// Where writing to `path` ends up, and the mode of what is there.
fn target(path: &Path, mode: u32) -> io::Result<(PathBuf, u32)> {
    let path = match path.symlink_metadata() {
        Ok(meta) if meta.is_symlink() => {
            // A dangling link is written through as open(2) would.
            fs::canonicalize(path).or_else(|_| {
                let link = fs::read_link(path)?;
                Ok::<_, io::Error>(path.parent().unwrap_or(Path::new("/")).join(link))
            })?
        }
        _ => path.to_owned(),
    };
    match path.metadata() {
        Ok(meta) if meta.is_dir() => Err(refused(libc::EISDIR)),
        Ok(meta) if !meta.is_file() => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
        }
        Ok(meta) => Ok((path, meta.permissions().mode() & 0o777)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok((path, mode & 0o777)),
        Err(e) => Err(e),
    }
}

fn write(
    path: &Path,
    pipe: OwnedFd,
    mode: u32,
    make_parents: bool,
    size_bytes: u64,
) -> io::Result<()> {
    let (path, mode) = target(path, mode)?;
    let name = path.file_name().ok_or(refused(libc::EISDIR))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    if make_parents {
        fs::DirBuilder::new().mode(0o755).recursive(true).create(parent)?;
    }
    let (temporary, mut file) = create_beside(parent, name)?;
    let copy = || {
        let mut source = fs::File::from(pipe).take(size_bytes);
        let copied = io::copy(&mut source, &mut file)?;
        if copied < size_bytes {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{copied} of {size_bytes} bytes came"),
            ));
        }
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        fs::rename(&temporary, &path)
    };
    copy().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// A new file in `parent` under a name that nobody has.
fn create_beside(parent: &Path, name: &OsStr) -> io::Result<(PathBuf, fs::File)> {
    let short = &name.as_bytes()[..name.len().min(200)];
    let mut number = 0u32;
    loop {
        let suffix = format!(".{}-{number}.part", sys::pid());
        let temporary = parent.join(OsStr::from_bytes(&[b".", short, suffix.as_bytes()].concat()));
        let created = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&temporary);
        match created {
            Ok(file) => return Ok((temporary, file)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && number < 1000 => number += 1,
            Err(e) => return Err(e),
        }
    }
}

fn list(top: &Path, recursive: bool, limit: usize) -> io::Result<(Vec<Entry>, bool)> {
    let mut entries = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(below) = pending.pop() {
        let directory = match fs::read_dir(top.join(&below)) {
            Err(_) if !below.as_os_str().is_empty() => continue, // gone or closed to this user
            other => other?,
        };
        for entry in directory {
            let entry = entry?;
            let Ok(meta) = entry.metadata() else { continue };
            if entries.len() == limit {
                return Ok((sorted(entries), true));
            }
            let path = below.join(entry.file_name());
            let kind = match meta.file_type() {
                t if t.is_dir() => "directory",
                t if t.is_file() => "file",
                t if t.is_symlink() => "symlink",
                _ => "other",
            };
            entries.push(Entry {
                path: ByteBuf::from(path.as_os_str().as_bytes()),
                kind: kind.to_owned(),
                size_bytes: meta.len(),
                mode: meta.mode() & 0o7777,
                modified_ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
            });
            if recursive && meta.is_dir() {
                pending.push(path);
            }
        }
    }
    Ok((sorted(entries), false))
}

fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries
}

fn remove(path: &Path, recursive: bool) -> io::Result<()> {
    if !path.symlink_metadata()?.is_dir() {
        fs::remove_file(path)
    } else if recursive {
        fs::remove_dir_all(path) // follows no symlink, see its documentation
    } else {
        fs::remove_dir(path)
    }
}
