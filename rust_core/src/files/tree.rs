//! Directories: listing, removing, and moving them, however deep they are.

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_bytes::ByteBuf;

use super::write::{create_beside, temporary_name};
use super::{entry, open_regular, refused};
use crate::spec::Entry;
use crate::sys;

/// The entries of a directory in the order of their paths, and whether there were more.
pub(super) fn list(
    top: &Path,
    recursive: bool,
    hidden: bool,
    limit: usize,
) -> io::Result<(Vec<Entry>, bool)> {
    let mut entries = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(below) = pending.pop() {
        let directory = match fs::read_dir(top.join(&below)) {
            Err(_) if !below.as_os_str().is_empty() => continue, // gone or closed to this user
            other => other?,
        };
        for found in directory {
            let found = found?;
            let name = found.file_name();
            if !hidden && name.as_bytes().starts_with(b".") {
                continue;
            }
            let Ok(meta) = found.metadata() else { continue };
            if entries.len() == limit {
                return Ok((sorted(entries), true));
            }
            let path = below.join(name);
            entries.push(entry(ByteBuf::from(path.as_os_str().as_bytes()), &meta));
            if recursive && meta.is_dir() {
                pending.push(path);
            }
        }
    }
    Ok((sorted(entries), false))
}

fn sorted(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    entries
}

/// Removes a file, a link, or a directory, with `recursive` also one that is not empty.
pub(super) fn remove(path: &Path, recursive: bool) -> io::Result<()> {
    if !path.symlink_metadata()?.is_dir() {
        return fs::remove_file(path);
    }
    if recursive {
        empty(sys::open_directory(None, &c_string(path.as_os_str())?)?)?;
    }
    fs::remove_dir(path)
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| refused(libc::EINVAL))
}

/// One directory that is being emptied, and what it is called in the one above.
struct Level {
    directory: OwnedFd,
    name: CString,
    left: Vec<(CString, bool)>,
}

impl Level {
    fn new(directory: OwnedFd, name: CString) -> io::Result<Self> {
        let left = sys::read_directory(directory.as_fd())?;
        Ok(Self { directory, name, left })
    }
}

/// Removes all that is in a directory. It goes by descriptors, so no link that somebody puts in its
/// way leads it elsewhere; what is gone already is no error. One descriptor for each level: where
/// there are more levels than may be open, that is the error.
fn empty(directory: OwnedFd) -> io::Result<()> {
    let gone_is_fine = |result: io::Result<()>| match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let mut levels = vec![Level::new(directory, CString::default())?];
    while let Some(level) = levels.last_mut() {
        let Some((name, is_directory)) = level.left.pop() else {
            let done = levels.pop();
            if let (Some(above), Some(done)) = (levels.last(), done) {
                gone_is_fine(sys::unlink_at(above.directory.as_fd(), &done.name, true))?;
            }
            continue;
        };
        let directory = level.directory.as_fd();
        if is_directory {
            match sys::open_directory(Some(directory), &name) {
                Ok(inner) => levels.push(Level::new(inner, name)?),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => remove_swapped(directory, &name).map_err(|_| e)?,
            }
        } else {
            match sys::unlink_at(directory, &name, false) {
                // A file system that does not say what its entries are.
                Err(e) if e.raw_os_error() == Some(libc::EISDIR) => level.left.push((name, true)),
                result => gone_is_fine(result)?,
            }
        }
    }
    Ok(())
}

/// What was a directory when it was listed, and is a link now or closed but empty.
fn remove_swapped(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    sys::unlink_at(directory, name, false).or_else(|_| sys::unlink_at(directory, name, true))
}

/// `rename(2)`; to another file system it is a copy and then a removal.
pub(super) fn move_to(source: &Path, target: &Path) -> io::Result<()> {
    match fs::rename(source, target) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => copy_then_remove(source, target),
        other => other,
    }
}

fn copy_then_remove(source: &Path, target: &Path) -> io::Result<()> {
    let name = target.file_name().ok_or(refused(libc::EBUSY))?;
    let parent = target.parent().unwrap_or(Path::new("/"));
    let is_directory = source.symlink_metadata()?.is_dir();
    match target.symlink_metadata() {
        Ok(meta) if meta.is_dir() && !is_directory => return Err(refused(libc::EISDIR)),
        Ok(meta) if !meta.is_dir() && is_directory => return Err(refused(libc::ENOTDIR)),
        _ => {}
    }
    let temporary = temporary_name(parent, name);
    let copied = copy(source, &temporary).and_then(|()| fs::rename(&temporary, target));
    copied.inspect_err(|_| {
        let _ = remove(&temporary, true);
    })?;
    remove(source, true)
}

/// Copies what is at `source`, links as links, with modes and times of change.
fn copy(source: &Path, target: &Path) -> io::Result<()> {
    let mut pending = vec![PathBuf::new()];
    let mut directories = Vec::new();
    while let Some(below) = pending.pop() {
        // `join` of nothing would add a slash, and a file has nothing below it.
        let at = |top: &Path| {
            if below.as_os_str().is_empty() { top.to_owned() } else { top.join(&below) }
        };
        let (from, to) = (at(source), at(target));
        let meta = from.symlink_metadata()?;
        if meta.is_symlink() {
            symlink(fs::read_link(&from)?, &to)?;
        } else if meta.is_dir() {
            fs::DirBuilder::new().mode(0o700).create(&to)?;
            for found in fs::read_dir(&from)? {
                pending.push(below.join(found?.file_name()));
            }
            directories.push((to, meta));
        } else {
            copy_file(&from, &to)?;
        }
    }
    for (directory, meta) in directories.into_iter().rev() {
        finish(&fs::File::open(&directory)?, &meta)?;
    }
    Ok(())
}

fn copy_file(source: &Path, target: &Path) -> io::Result<()> {
    let (mut from, meta) = open_regular(source)?;
    let name = target.file_name().ok_or(refused(libc::EBUSY))?;
    let (temporary, mut to) = create_beside(target.parent().unwrap_or(Path::new("/")), name)?;
    let filled = io::copy(&mut from, &mut to)
        .and_then(|_| finish(&to, &meta))
        .and_then(|()| fs::rename(&temporary, target));
    filled.inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

fn finish(file: &fs::File, meta: &fs::Metadata) -> io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(meta.mode() & 0o777))?;
    file.set_modified(meta.modified()?)
}
