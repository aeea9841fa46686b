//! The `/proc` of each jail, and what of it is hidden.

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{At, Result, Step};
use crate::sys;

/// Entries of `/proc` that tell of the host's activity or memory; hidden where anybody may read
/// them. Each one hidden costs every jail 30 µs, so the list holds no more than that: what only
/// root may read is closed by the id of user code (never root's), and kernel addresses are zeros
/// to whoever has no capability.
const PROC_MASKED: [&str; 9] = [
    "interrupts",
    "kcore",
    "kmsg",
    "latency_stats",
    "sched_debug",
    "scsi",
    "slabinfo",
    "timer_list",
    "vmallocinfo",
];
/// An empty directory of the root, to hide others with.
const EMPTY: &CStr = c"/var/empty";

const FLAGS: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

/// Mounts the `/proc` of this process's PID namespace.
///
/// # Errors
/// [`Step::MountProc`] with `whose`.
pub fn mount(place: &Path, whose: &str) -> Result<()> {
    sys::mount(c"proc", place, c"proc", FLAGS, "").at(Step::MountProc, whose)
}

/// Which entries of `/proc` are to be hidden: those that exist and that anybody may read.
///
/// User code never has the id of root, so what only root may read or write needs no mount
/// of its own.
pub fn proc_masks() -> Vec<(PathBuf, bool)> {
    PROC_MASKED
        .iter()
        .map(|name| Path::new("/proc").join(name))
        .filter_map(|path| {
            let meta = path.symlink_metadata().ok()?;
            let open = meta.permissions().mode() & 0o007 != 0;
            open.then_some((path, meta.is_dir()))
        })
        .collect()
}

/// Where something is mounted below `/proc`, makes a mount namespace for this process alone, with a
/// `/proc` on top that is whole.
///
/// Container engines hide parts of `/proc` that way, and then the kernel lets nobody mount a fresh
/// one in a user namespace, since that would show what was hidden. Who may mount here may see it
/// anyway. No sandbox gets this one: each jail mounts its own, and hides what is to be hidden.
///
/// # Errors
/// [`Step::MountProc`]; then the namespace may be new, and shows what the old one did.
pub fn uncover_proc() -> Result<()> {
    let table = fs::read("/proc/self/mountinfo").at(Step::MountProc, "/proc/self/mountinfo")?;
    let covers = |line: &[u8]| {
        line.split(|byte| *byte == b' ').nth(4).is_some_and(|point| point.starts_with(b"/proc/"))
    };
    if !table.split(|byte| *byte == b'\n').any(covers) {
        return Ok(());
    }
    sys::leave_namespaces(libc::CLONE_NEWNS).at(Step::MountProc, "a mount namespace")?;
    let private = libc::MS_REC | libc::MS_PRIVATE;
    sys::mount(c"", Path::new("/"), c"", private, "").at(Step::MountProc, "/")?;
    mount(Path::new("/proc"), "/proc of the launcher")
}

/// Mounts the `/proc` of this PID namespace over the sandbox's and hides `masks`.
///
/// `settings_read_only`: also makes `/proc/sys` read-only. With ids of its own a sandbox has no
/// process that owns a kernel setting, so that costs 30 µs for nothing; an ordinary user's own
/// id, which user code then has, owns the settings of the sandbox's network.
///
/// # Errors
/// [`Step::MountProc`] or [`Step::MaskProc`] with the path.
pub fn mount_jail(masks: &[(PathBuf, bool)], settings_read_only: bool) -> Result<()> {
    mount(Path::new("/proc"), "/proc of the jail")?;
    for (path, is_directory) in masks {
        let source = if *is_directory { EMPTY } else { c"/dev/null" };
        sys::mount(source, path, c"", libc::MS_BIND, "").at(Step::MaskProc, path.display())?;
    }
    if !settings_read_only {
        return Ok(());
    }
    let settings = Path::new("/proc/sys");
    let read_only = FLAGS | libc::MS_RDONLY;
    sys::mount(c"/proc/sys", settings, c"", libc::MS_BIND, "")
        .and_then(|()| {
            let remount = libc::MS_REMOUNT | libc::MS_BIND | read_only;
            sys::mount(c"", settings, c"", remount, "")
        })
        .at(Step::MaskProc, settings.display())
}
