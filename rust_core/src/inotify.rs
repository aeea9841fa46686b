//! What sandboxes may have of `inotify(7)`, whose instances and watches are counted for each user.
//!
//! What a user of a user namespace has counts for whoever made that namespace too, and so on up to
//! the caller. Without limits of their own, sandboxes could leave the caller nothing.

use std::fs;
use std::io::{self, ErrorKind};

use crate::error::{At, Result, Step};

/// All sandboxes of a runtime together may have one of so many parts of what a user may.
const PARTS_FOR_ALL: u64 = 2;
/// And one sandbox one of so many.
const PARTS_FOR_ONE: u64 = 8;

/// What a user of the host may have, and the setting of a user namespace for it.
const KINDS: [(&str, &str); 2] = [
    ("/proc/sys/fs/inotify/max_user_instances", "/proc/sys/user/max_inotify_instances"),
    ("/proc/sys/fs/inotify/max_user_watches", "/proc/sys/user/max_inotify_watches"),
];

/// What one sandbox may have of each of `KINDS`; nothing where the kernel does not count it.
#[derive(Debug, Clone, Copy)]
pub struct Share([Option<u64>; KINDS.len()]);

/// Limits this user namespace to the part of all sandboxes; returns what each of them may have.
///
/// # Errors
/// [`Step::SetLimit`] with the setting.
pub fn limit_all() -> Result<Share> {
    let mut share = Share([None; KINDS.len()]);
    for ((host, setting), part) in KINDS.into_iter().zip(&mut share.0) {
        if let Some(most) = read(host).at(Step::SetLimit, host)? {
            write(setting, of(most, PARTS_FOR_ALL))?;
            *part = Some(of(most, PARTS_FOR_ONE));
        }
    }
    Ok(share)
}

/// Limits this user namespace to the part of one sandbox.
///
/// # Errors
/// [`Step::SetLimit`] with the setting.
pub fn limit_one(share: Share) -> Result<()> {
    for ((_, setting), part) in KINDS.into_iter().zip(share.0) {
        if let Some(most) = part {
            write(setting, most)?;
        }
    }
    Ok(())
}

/// One of so many parts, and one where there is too little to share.
fn of(most: u64, parts: u64) -> u64 {
    (most / parts).max(1)
}

fn read(path: &str) -> io::Result<Option<u64>> {
    match fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None), // a kernel without inotify
        Err(error) => Err(error),
    }
}

fn write(setting: &str, most: u64) -> Result<()> {
    fs::write(setting, most.to_string()).at(Step::SetLimit, setting)
}
