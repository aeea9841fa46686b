//! The self-check: it runs in a jail as user code does and says what it found there.
//!
//! A step that returned without an error is not yet a protection. What the report calls achieved
//! was looked at, or tried and refused, from the inside.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use crate::channel;
use crate::contain::Prepared;
use crate::idmap::PAYLOAD_ID;
use crate::spec::Achieved::{Absent, Full, Partial};
use crate::spec::Protection;
use crate::sys;

/// The devices of a sandbox, and nothing else.
const DEVICES: [&str; 14] = [
    "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
    "urandom", "zero", "",
];

/// Writes what it finds to the pipe; returns the exit status.
pub fn run(mut pipe: fs::File) -> i32 {
    let rows = look();
    let sent = channel::encode(&rows).and_then(|bytes| pipe.write_all(&bytes));
    i32::from(sent.is_err())
}

/// A row from a condition, with what was seen either way.
fn row(name: &str, holds: bool, seen: impl Into<String>) -> Protection {
    Protection::new(name, if holds { Full } else { Absent }, seen)
}

/// A row for an attempt that has to be refused.
fn refusal(name: &str, what: &str, result: io::Result<()>) -> Protection {
    match result {
        Ok(()) => row(name, false, format!("{what} was allowed")),
        Err(e) => row(name, true, format!("{what}: {e}")),
    }
}

fn status_field(name: &str) -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or_default().trim().to_owned()
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

fn look() -> Vec<Protection> {
    let (uid, gid) = sys::effective_ids();
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
    rows.push(refusal("read_only_root", "making a file in /", create(Path::new("/x"))));
    rows.push(refusal("read_only_usr", "making a file in /usr", create(Path::new("/usr/x"))));
    rows.push(own_proc());
    rows.push(refusal(
        "proc_masks",
        "writing /proc/sys/kernel/core_pattern",
        fs::OpenOptions::new().write(true).open("/proc/sys/kernel/core_pattern").map(drop),
    ));
    let devices = names_in("/dev");
    let private = devices.iter().all(|name| DEVICES.contains(&name.as_str()));
    rows.push(row("private_dev", private, format!("{} entries in /dev", devices.len())));
    rows.push(row("no_new_privs", status_field("NoNewPrivs") == "1", "NoNewPrivs"));
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(status_field);
    let empty = sets.iter().all(|set| !set.is_empty() && set.bytes().all(|b| b == b'0'));
    rows.push(row("no_capabilities", empty, sets.join(" ")));
    rows.push(filter());
    rows.push(refusal(
        "no_nested_user_namespaces",
        "unshare(CLONE_NEWUSER)",
        sys::leave_namespaces(libc::CLONE_NEWUSER),
    ));
    let core = sys::hard_limit(libc::RLIMIT_CORE).unwrap_or(1);
    let files = sys::hard_limit(libc::RLIMIT_NOFILE).unwrap_or(u64::MAX);
    rows.push(row(
        "resource_limits",
        core == 0 && files < u64::MAX,
        format!("core {core}, open files {files}"),
    ));
    // 0 is this check's own pipe; reading the directory takes one more for the while.
    let open = names_in("/proc/self/fd").len();
    rows.push(row("descriptor_hygiene", open <= 2, format!("{} open", open.saturating_sub(1))));
    rows.push(writable());
    rows
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
fn filter() -> Protection {
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
    let mode = status_field("Seccomp");
    let holds = mode == "2" && passed.is_empty();
    let seen = if passed.is_empty() {
        format!("mode {mode}, {} calls tried and refused", attempts.len())
    } else {
        format!("mode {mode}, not refused: {}", passed.join(", "))
    };
    row("seccomp", holds, seen)
}

fn writable() -> Protection {
    let failed: Vec<&str> = ["/workspace", "/tmp", "/dev/shm"]
        .into_iter()
        .filter(|directory| {
            let path = Path::new(directory).join(".sandbox-check");
            let made = create(&path);
            let _ = fs::remove_file(&path);
            made.is_err()
        })
        .collect();
    let seen = if failed.is_empty() {
        "/workspace, /tmp, /dev/shm".to_owned()
    } else {
        format!("not writable: {}", failed.join(", "))
    };
    row("sized_directories", failed.is_empty(), seen)
}

/// Completes what was found inside with what only the outside knows.
pub fn report(
    mut rows: Vec<Protection>,
    prepared: &Prepared,
    outside: &[(String, String)],
) -> Vec<Protection> {
    for (name, link) in outside {
        let name = format!("{name}_namespace");
        for row in rows.iter_mut().filter(|row| row.name == name) {
            if row.detail == *link || row.detail.is_empty() {
                row.achieved = Absent;
                row.detail = format!("the caller's own, {link}");
            }
        }
    }
    rows.push(if prepared.separate_ids {
        Protection::new("separate_ids", Full, "two host ids that nothing else has")
    } else {
        Protection::new("separate_ids", Absent, "an ordinary user has one id only")
    });
    rows.push(match &prepared.landlock {
        Ok((_, abi @ 6..)) => Protection::new("landlock", Full, format!("ABI {abi}")),
        Ok((_, abi)) => {
            Protection::new("landlock", Partial, format!("ABI {abi}: no signal scope before 6"))
        }
        Err(reason) => Protection::new("landlock", Absent, reason.clone()),
    });
    rows.push(match &prepared.keyring {
        None => Protection::new("keyring", Full, "a new session keyring"),
        Some(reason) => Protection::new("keyring", Absent, reason.clone()),
    });
    rows
}
