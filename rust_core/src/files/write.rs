//! Writing a file so that whoever looks sees the old content or the new, never a part.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::refused;
use crate::spec::Source;
use crate::sys;

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

/// Writes a file.
pub(super) fn write(
    path: &Path,
    source: Source,
    fds: Vec<OwnedFd>,
    mode: u32,
    make_parents: bool,
) -> io::Result<()> {
    let (path, mode) = target(path, mode)?;
    let name = path.file_name().ok_or(refused(libc::EISDIR))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    if make_parents {
        fs::DirBuilder::new().mode(0o755).recursive(true).create(parent)?;
    }
    let (temporary, mut file) = create_beside(parent, name)?;
    let copy = || {
        fill(&mut file, source, fds)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        fs::rename(&temporary, &path)
    };
    copy().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

fn fill(file: &mut fs::File, source: Source, fds: Vec<OwnedFd>) -> io::Result<()> {
    let mut pipes = fds.into_iter().map(fs::File::from);
    let mut next = || pipes.next().ok_or(refused(libc::EBADF));
    match source {
        Source::Inline { content } => file.write_all(&content),
        Source::Sized { size_bytes } => {
            let copied = io::copy(&mut next()?.take(size_bytes), file)?;
            if copied == size_bytes {
                return Ok(());
            }
            let detail = format!("{copied} of {size_bytes} bytes came");
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, detail))
        }
        Source::Streamed {} => {
            let (mut pipe, mut verdict) = (next()?, next()?);
            io::copy(&mut pipe, file)?;
            match verdict.read(&mut [0])? {
                0 => Err(refused(libc::ECANCELED)),
                _ => Ok(()),
            }
        }
    }
}

/// A name in `parent` that nobody has, beside `name`.
pub(super) fn temporary_name(parent: &Path, name: &OsStr) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let short = &name.as_bytes()[..name.len().min(200)];
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let suffix = format!(".{}-{number}.part", sys::pid());
    parent.join(OsStr::from_bytes(&[b".", short, suffix.as_bytes()].concat()))
}

/// A new file in `parent`.
pub(super) fn create_beside(parent: &Path, name: &OsStr) -> io::Result<(PathBuf, fs::File)> {
    let mut tries = 0;
    loop {
        let temporary = temporary_name(parent, name);
        let created = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&temporary);
        match created {
            Ok(file) => return Ok((temporary, file)),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && tries < 1000 => tries += 1,
            Err(e) => return Err(e),
        }
    }
}
