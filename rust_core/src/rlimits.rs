//! Resource limits of each process (getrlimit(2)): the walls that need no privilege.

use crate::error::{At, Result, Step};
use crate::spec::Limits;
use crate::sys;

/// Locked memory: what an ordinary user gets.
const LOCKED_BYTES: u64 = 64 * 1024;
/// Pending signals of one user.
const PENDING_SIGNALS: u64 = 4096;

/// What is set: resource, value, name.
///
/// Not `RLIMIT_AS`: runtimes reserve far more address space than they use, and node does not
/// start under 1 GiB of it. `RLIMIT_DATA` counts what can become memory.
pub fn plan(limits: &Limits) -> [(u32, u64, &'static str); 9] {
    [
        (libc::RLIMIT_CORE, 0, "core"),
        (libc::RLIMIT_NPROC, limits.processes, "nproc"),
        (libc::RLIMIT_NOFILE, limits.open_files, "nofile"),
        (libc::RLIMIT_FSIZE, limits.file_size_bytes, "fsize"),
        (libc::RLIMIT_DATA, limits.memory_bytes, "data"),
        (libc::RLIMIT_MEMLOCK, LOCKED_BYTES, "memlock"),
        (libc::RLIMIT_MSGQUEUE, 0, "msgqueue"),
        (libc::RLIMIT_RTPRIO, 0, "rtprio"),
        (libc::RLIMIT_SIGPENDING, PENDING_SIGNALS, "sigpending"),
    ]
}

/// Sets them all, never above a hard limit that is already in force.
///
/// # Errors
/// [`Step::SetLimit`] with the limit's name.
pub fn apply(limits: &Limits) -> Result<()> {
    for (resource, value, name) in plan(limits) {
        let value = sys::hard_limit(resource).at(Step::SetLimit, name)?.min(value);
        sys::set_limit(resource, value).at(Step::SetLimit, name)?;
    }
    Ok(())
}
