//! The self-check: it runs in a jail as user code does and says what it found there.
//!
//! A step that returned without an error is not yet a protection. What the report calls achieved
//! was looked at, or tried and refused, from the inside.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use crate::channel;
use crate::contain::{Prepared, Role};
use crate::idmap::{self, PAYLOAD_ID};
use crate::rlimits;
use crate::spec::Achieved::{Absent, Full, Partial};
use crate::spec::Protection;
use crate::sys;

/// The devices of a sandbox, and nothing else.
const DEVICES: [&str; 14] = [
    "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
    "urandom", "zero", "",
];

/// The largest page of the architectures that this is built for.
const PAGE_BYTES: u64 = 64 * 1024;

/// Writes what it finds to the pipe; returns the exit status.
pub fn run(mut pipe: fs::File, prepared: &Prepared) -> i32 {
    let rows = look(prepared);
    let sent = channel::encode(&rows).and_then(|bytes| pipe.write_all(&bytes));
    i32::from(sent.is_err())
}

/// A row from a condition, with what was seen either way.
fn row(name: &str, holds: bool, seen: impl Into<String>) -> Protection {
    Protection::new(name, if holds { Full } else { Absent }, seen)
}

/// A row for an attempt that has to be refused, and for this reason: any other says nothing of
/// the protection that is meant.
fn refusal(name: &str, what: &str, errnos: &[i32], result: io::Result<()>) -> Protection {
    match result {
        Ok(()) => row(name, false, format!("{what} was allowed")),
        Err(e) if e.raw_os_error().is_some_and(|errno| errnos.contains(&errno)) => {
            row(name, true, format!("{what}: {e}"))
        }
        Err(e) => row(name, false, format!("{what} was refused, but for another reason: {e}")),
    }
}

/// What the kernel says of this process, read once: nothing here changes what is looked for.
struct Status(String);

impl Status {
    fn read() -> Self {
        Self(fs::read_to_string("/proc/self/status").unwrap_or_default())
    }

    fn field(&self, name: &str) -> &str {
        let value = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_default().trim()
    }
}

fn names_in(path: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn look(prepared: &Prepared) -> Vec<Protection> {
    let (uid, gid) = sys::effective_ids();
    let status = Status::read();
    let mut rows: Vec<Protection> = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"]
        .into_iter()
        .map(|name| {
            let link = fs::read_link(format!("/proc/self/ns/{name}"));
            let seen = link.map(|l| l.to_string_lossy().into_owned()).unwrap_or_default();
            Protection::new(&format!("{name}_namespace"), Full, seen)
        })
        .collect();
    rows.push(row(
        "unprivileged_user",
        uid == PAYLOAD_ID && gid == PAYLOAD_ID,
        format!("uid {uid}, gid {gid}"),
    ));
    rows.push(ids(&status));
    for (name, what, path) in [
        ("read_only_root", "making a file in /", "/x"),
        ("read_only_usr", "making a file in /usr", "/usr/x"),
    ] {
        rows.push(refusal(name, what, &[libc::EROFS], create(Path::new(path))));
    }
    rows.push(own_proc());
    let devices = names_in("/dev");
    let private = devices.iter().all(|name| DEVICES.contains(&name.as_str()));
    rows.push(row("private_dev", private, format!("{} entries in /dev", devices.len())));
    rows.push(row("no_new_privs", status.field("NoNewPrivs") == "1", "NoNewPrivs"));
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|name| status.field(name));
    let empty = sets.iter().all(|set| !set.is_empty() && set.bytes().all(|b| b == b'0'));
    rows.push(row("no_capabilities", empty, sets.join(" ")));
    rows.push(filter(&status));
    rows.push(refusal(
        "no_nested_user_namespaces",
        "unshare(CLONE_NEWUSER)",
        &[libc::EPERM],
        sys::leave_namespaces(libc::CLONE_NEWUSER),
    ));
    rows.push(limits(prepared));
    // 0 is this check's own pipe; reading the directory takes one more for the while.
    let open = names_in("/proc/self/fd").len();
    rows.push(row("descriptor_hygiene", open <= 2, format!("{} open", open.saturating_sub(1))));
    rows.push(writable(prepared));
    // From here on as a program that was executed, to which its own /proc/self is open.
    let opened = sys::set_dumpable(true);
    rows.push(settings(prepared));
    rows.push(landlock(prepared, opened.is_ok()));
    rows
}

/// Two ids, neither of them the supervisor's, and no group besides.
fn ids(status: &Status) -> Protection {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    let maps = [read("/proc/self/uid_map"), read("/proc/self/gid_map")];
    let separate = maps.iter().all(|map| {
        let ranges = idmap::parse_uid_map(map.as_bytes()).unwrap_or_default();
        ranges.len() == 2 && ranges.iter().all(|range| range.outside != 0 && range.count == 1)
    });
    let groups = status.field("Groups");
    let seen = format!("{} groups, map {:?}", groups.split_whitespace().count(), maps[0]);
    row("separate_ids", separate && groups.is_empty(), seen)
}

/// Each limit is in force, both the soft and the hard one.
fn limits(prepared: &Prepared) -> Protection {
    let plan = rlimits::plan(&prepared.limits);
    let found: Vec<_> = plan
        .iter()
        .map(|(resource, value, name)| (*name, *value, sys::limits(*resource)))
        .collect();
    let above: Vec<&str> = found
        .iter()
        .filter(|(_, value, limits)| {
            limits.as_ref().map_or(true, |(soft, hard)| soft.max(hard) > value)
        })
        .map(|(name, ..)| *name)
        .collect();
    let seen = if above.is_empty() {
        let shown = found.iter().map(|(name, _, limits)| {
            format!("{name} {}", limits.as_ref().map_or(0, |(_, hard)| *hard))
        });
        shown.collect::<Vec<_>>().join(", ")
    } else {
        format!("not in force: {}", above.join(", "))
    };
    row("resource_limits", above.is_empty(), seen)
}

/// Kernel settings: one that root owns, and those of the sandbox's own network and IPC, which an
/// ordinary user's one id owns. What anybody could read of the host is hidden.
fn settings(prepared: &Prepared) -> Protection {
    let name = "proc_masks";
    let mut refused = Vec::new();
    for setting in ["kernel/core_pattern", "net/ipv4/ip_default_ttl", "kernel/shmmax"] {
        let path = Path::new("/proc/sys").join(setting);
        if !path.exists() {
            continue; // a kernel without that part
        }
        let tried = fs::OpenOptions::new().write(true).open(&path).map(drop);
        let what = format!("writing {}", path.display());
        let found = refusal(name, &what, &[libc::EACCES, libc::EROFS], tried);
        if found.achieved != Full {
            return found;
        }
        refused.push(setting);
    }
    let read_only = sys::file_system(Path::new("/proc/sys")).is_ok_and(|(_, read_only)| read_only);
    if !prepared.separate_ids && !read_only {
        return row(name, false, "/proc/sys is not read-only");
    }
    let shown: Vec<String> = prepared
        .proc_masks
        .iter()
        .filter(|(path, is_directory)| {
            let first = |path| fs::File::open(path)?.read(&mut [0]);
            let has_names = *is_directory && !names_in(&path.to_string_lossy()).is_empty();
            has_names || (!is_directory && first(path).is_ok_and(|length| length > 0))
        })
        .map(|(path, _)| path.display().to_string())
        .collect();
    if shown.is_empty() {
        let hidden = prepared.proc_masks.len();
        let refused = refused.join(", ");
        row(name, true, format!("writing {refused} refused; {hidden} entries of /proc hidden"))
    } else {
        row(name, false, format!("not hidden: {}", shown.join(", ")))
    }
}

/// Tries what nothing but Landlock refuses: a process may change its own name, and files below
/// /proc are not for it to write.
fn landlock(prepared: &Prepared, opened: bool) -> Protection {
    let name = "landlock";
    let abi = match &prepared.landlock {
        Err(reason) => return Protection::new(name, Absent, reason.clone()),
        Ok((_, abi)) => abi,
    };
    let tried = fs::OpenOptions::new().write(true).open("/proc/self/comm").map(drop);
    if !opened {
        return Protection::new(name, Absent, "it could not be tried");
    }
    let found = refusal(name, "writing /proc/self/comm", &[libc::EACCES], tried);
    match (found.achieved, *abi) {
        (Full, 6..) => Protection::new(name, Full, format!("ABI {abi}; {}", found.detail)),
        (Full, _) => Protection::new(name, Partial, format!("ABI {abi}: no signal scope before 6")),
        _ => found,
    }
}

fn create(path: &Path) -> io::Result<()> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).open(path).map(drop)
}

fn own_proc() -> Protection {
    let pids: Vec<String> = names_in("/proc")
        .into_iter()
        .filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        .collect();
    row("private_proc", pids.len() <= 2, format!("processes {}", pids.join(", ")))
}

/// Calls that do nothing with zeros for arguments, so that only a filter can refuse them thus.
fn filter(status: &Status) -> Protection {
    let attempts = [
        ("keyctl", libc::SYS_keyctl, libc::EPERM),
        ("io_uring_setup", libc::SYS_io_uring_setup, libc::EPERM),
        ("bpf", libc::SYS_bpf, libc::EPERM),
        ("mount", libc::SYS_mount, libc::EPERM),
        ("open_tree", libc::SYS_open_tree, libc::ENOSYS),
        ("clone3", libc::SYS_clone3, libc::ENOSYS),
    ];
    let passed: Vec<&str> = attempts
        .into_iter()
        .filter(|(_, number, errno)| {
            sys::try_call(*number).err().and_then(|e| e.raw_os_error()) != Some(*errno)
        })
        .map(|(name, ..)| name)
        .collect();
    let mode = status.field("Seccomp");
    let holds = mode == "2" && passed.is_empty();
    let seen = if passed.is_empty() {
        format!("mode {mode}, {} calls tried and refused", attempts.len())
    } else {
        format!("mode {mode}, not refused: {}", passed.join(", "))
    };
    row("seccomp", holds, seen)
}

fn writable(prepared: &Prepared) -> Protection {
    let limits = &prepared.limits;
    let sized = [
        ("/workspace", limits.workspace_bytes),
        ("/tmp", limits.tmp_bytes),
        ("/dev/shm", limits.shm_bytes),
    ];
    let wrong: Vec<String> = sized
        .iter()
        .filter_map(|(directory, bytes)| {
            let path = Path::new(directory).join(".sandbox-check");
            let made = create(&path);
            let _ = fs::remove_file(&path);
            let found = sys::file_system(Path::new(directory)).map_or(u64::MAX, |(bytes, _)| bytes);
            match made {
                Err(e) => Some(format!("{directory}: {e}")),
                // Whole pages, so a little more than was asked for.
                Ok(()) if found > bytes.saturating_add(PAGE_BYTES) => {
                    Some(format!("{directory} has {found} bytes, not {bytes}"))
                }
                Ok(()) => None,
            }
        })
        .collect();
    let seen = if wrong.is_empty() {
        let shown = sized.iter().map(|(directory, bytes)| format!("{directory} {bytes}"));
        format!("{} bytes", shown.collect::<Vec<_>>().join(", "))
    } else {
        wrong.join("; ")
    };
    row("sized_directories", wrong.is_empty(), seen)
}

/// What the host's network means for who can be reached.
fn reach(prepared: &Prepared) -> &'static str {
    match &prepared.landlock {
        Ok((_, 6..)) => ": all networks and the host's loopback, no abstract Unix sockets",
        _ => ": all networks, the host's loopback and its abstract Unix sockets",
    }
}

/// Completes what was found inside with what only the outside knows.
pub fn report(
    mut rows: Vec<Protection>,
    prepared: &Prepared,
    outside: &[(String, String)],
    of_ids: &Protection,
) -> Vec<Protection> {
    for (name, link) in outside {
        let name = format!("{name}_namespace");
        for row in rows.iter_mut().filter(|row| row.name == name) {
            if row.detail == *link || row.detail.is_empty() {
                row.achieved = Absent;
                row.detail = format!("the caller's own, {link}");
                if row.name == "net_namespace" && matches!(prepared.role, Role::Host(_)) {
                    row.detail.push_str(reach(prepared));
                }
            }
        }
    }
    for row in rows.iter_mut().filter(|row| row.name == of_ids.name) {
        // The inside sees that the ids are two, the outside knows whose they are besides.
        if row.achieved == Full || of_ids.achieved == Absent {
            *row = of_ids.clone();
        }
    }
    rows.push(match &prepared.keyring {
        None => Protection::new("keyring", Full, "a new session keyring, and keyctl is refused"),
        Some(reason) => Protection::new("keyring", Absent, reason.clone()),
    });
    rows
}
