//! Control groups: one for each sandbox, with its limits on memory and processes.
//!
//! The launcher makes a group of its own and gives it to the supervisor's id; the supervisor makes
//! one below it for each sandbox. Joining is what costs: writing `cgroup.procs` waits for an RCU
//! grace period (10 ms), so a process enters by `clone3` (v2) or writes `0` to `tasks` itself
//! (v1, 40 µs).

use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use crate::error::{At, Result, Step};
use crate::spec::{Achieved, Limits, Protection};

/// What is limited, by the name of its controller.
pub const CONTROLLERS: [&str; 2] = ["memory", "pids"];

/// Where a hierarchy is mounted, and this process's place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The controllers of a v1 hierarchy; empty for v2.
    pub controllers: Vec<String>,
    /// The directory of this process's own group.
    pub own: PathBuf,
    /// The top of what is mounted.
    pub top: PathBuf,
}

/// Finds the hierarchies in `/proc/self/cgroup` and `/proc/self/mountinfo` (cgroups(7), proc(5)).
///
/// A hierarchy whose mount does not show this process's group is left out.
pub fn places(cgroup: &str, mountinfo: &str) -> Vec<Place> {
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let left: Vec<&str> = left.split(' ').collect();
        let right: Vec<&str> = right.split(' ').collect();
        let (&[_, _, _, root, mount_point, ..], &[kind, _, options, ..]) = (&left[..], &right[..])
        else {
            continue;
        };
        let membership = cgroup.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, path) = (fields.next()?, fields.next()?);
            let matches = match kind {
                "cgroup2" => names.is_empty(),
                "cgroup" => names.split(',').any(|n| options.split(',').any(|o| o == n)),
                _ => false,
            };
            matches.then_some((names, path))
        });
        let Some((names, path)) = membership else { continue };
        let Ok(below) = Path::new(path).strip_prefix(root) else { continue };
        found.push(Place {
            controllers: names.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect(),
            own: Path::new(mount_point).join(below),
            top: PathBuf::from(mount_point),
        });
    }
    found
}

/// A directory that the supervisor may make groups in.
#[derive(Debug)]
struct Base {
    controllers: Vec<String>,
    version: u8,
    path: PathBuf,
    directory: OwnedFd,
}

/// All that could be had.
#[derive(Debug, Default)]
pub struct Delegation {
    bases: Vec<Base>,
    reasons: Vec<String>,
}

/// The groups of one sandbox.
#[derive(Debug)]
pub struct Group {
    /// Files to which a process writes `0` to join. The keeper needs only those of v1.
    pub join: Vec<OwnedFd>,
    /// v2: the directory for `clone3`.
    pub into: Option<OwnedFd>,
    /// Rows for the report.
    pub protections: Vec<Protection>,
}

fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(path)
        .map(OwnedFd::from)
}

/// A path below a directory descriptor, which may lie outside of this process's own root.
fn below(directory: BorrowedFd<'_>, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

impl Delegation {
    /// Makes a group named `name` in each hierarchy that has a wanted controller and gives it to
    /// `owner`. What cannot be had is noted as a reason, never an error: the report will say so.
    pub fn prepare(name: &str, owner: (u32, u32)) -> Self {
        let mut delegation = Self::default();
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        for place in places(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo")) {
            let made = if place.controllers.is_empty() {
                // Processes may live only in leaves (cgroups(7)), so where this process's own
                // group cannot have limited children, one at the top can.
                Base::make_v2(&place.own, name, owner)
                    .or_else(|_| Base::make_v2(&place.top, name, owner))
            } else if place.controllers.iter().any(|c| CONTROLLERS.contains(&c.as_str())) {
                Base::make_v1(&place, name, owner)
            } else {
                continue;
            };
            match made {
                Ok(base) if base.controllers.is_empty() => {
                    let _ = fs::remove_dir(&base.path);
                }
                Ok(base) => delegation.bases.push(base),
                Err(e) => delegation.reasons.push(format!("{}: {e}", place.own.display())),
            }
        }
        delegation
    }

    /// Makes the groups of sandbox `id` with its limits.
    ///
    /// # Errors
    /// [`Step::JoinCgroup`] when a group that was delegated cannot be made.
    pub fn make_group(&self, id: u64, limits: &Limits) -> Result<Group> {
        let mut group = Group { join: Vec::new(), into: None, protections: Vec::new() };
        for base in &self.bases {
            let path = below(base.directory.as_fd(), &format!("sandbox-{id}"));
            fs::create_dir(&path).at(Step::JoinCgroup, path.display())?;
            for (file, value) in base.settings(limits) {
                fs::write(path.join(file), value.to_string()).at(Step::JoinCgroup, file)?;
            }
            let file = if base.version == 1 { "tasks" } else { "cgroup.procs" };
            let join = fs::OpenOptions::new().write(true).open(path.join(file));
            group.join.push(join.at(Step::JoinCgroup, file)?.into());
            if base.version == 2 {
                group.into = Some(open_directory(&path).at(Step::JoinCgroup, path.display())?);
            }
        }
        for controller in CONTROLLERS {
            let holder = self.bases.iter().find(|b| b.controllers.iter().any(|c| c == controller));
            let (achieved, detail) = match holder {
                Some(base) => (Achieved::Full, format!("cgroup v{}", base.version)),
                None if self.reasons.is_empty() => {
                    (Achieved::Absent, format!("no hierarchy has the {controller} controller"))
                }
                None => (Achieved::Absent, self.reasons.join("; ")),
            };
            let name = format!("cgroup_{controller}");
            group.protections.push(Protection::new(&name, achieved, detail));
        }
        Ok(group)
    }

    /// Removes the groups of a sandbox whose processes are gone.
    pub fn remove_group(&self, id: u64) {
        for base in &self.bases {
            let _ = fs::remove_dir(below(base.directory.as_fd(), &format!("sandbox-{id}")));
        }
    }

    /// The v2 directory for the supervisor itself, which may not live above its sandboxes.
    pub fn supervisor_leaf(&self, owner: (u32, u32)) -> Option<OwnedFd> {
        let base = self.bases.iter().find(|base| base.version == 2)?;
        let path = base.path.join("supervisor");
        fs::create_dir(&path).ok()?;
        chown(path.join("cgroup.procs"), Some(owner.0), Some(owner.1)).ok()?;
        open_directory(&path).ok()
    }

    /// Removes what [`Delegation::prepare`] made, once nothing lives in it.
    pub fn remove(self) {
        for base in self.bases {
            for entry in fs::read_dir(&base.path).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    let _ = fs::remove_dir(entry.path());
                }
            }
            let _ = fs::remove_dir(&base.path);
        }
    }
}

impl Base {
    fn make_v1(place: &Place, name: &str, owner: (u32, u32)) -> io::Result<Self> {
        let path = place.own.join(name);
        fs::create_dir(&path)?;
        chown(&path, Some(owner.0), Some(owner.1))?;
        Ok(Self {
            controllers: place.controllers.clone(),
            version: 1,
            directory: open_directory(&path)?,
            path,
        })
    }

    fn make_v2(parent: &Path, name: &str, owner: (u32, u32)) -> io::Result<Self> {
        let available = fs::read_to_string(parent.join("cgroup.controllers"))?;
        let controllers: Vec<String> = available
            .split_ascii_whitespace()
            .filter(|c| CONTROLLERS.contains(c))
            .map(str::to_owned)
            .collect();
        let enable: Vec<String> = controllers.iter().map(|c| format!("+{c}")).collect();
        if !enable.is_empty() {
            fs::write(parent.join("cgroup.subtree_control"), enable.join(" "))?;
        }
        let path = parent.join(name);
        fs::create_dir(&path)?;
        if !enable.is_empty() {
            fs::write(path.join("cgroup.subtree_control"), enable.join(" "))?;
        }
        for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
            chown(path.join(file), Some(owner.0), Some(owner.1))?;
        }
        Ok(Self { controllers, version: 2, directory: open_directory(&path)?, path })
    }

    fn settings(&self, limits: &Limits) -> Vec<(&'static str, u64)> {
        let mut settings = Vec::new();
        for controller in &self.controllers {
            match (controller.as_str(), self.version) {
                ("memory", 1) => settings.push(("memory.limit_in_bytes", limits.memory_bytes)),
                ("memory", _) => {
                    settings.push(("memory.max", limits.memory_bytes));
                    settings.push(("memory.swap.max", 0));
                }
                ("pids", _) => settings.push(("pids.max", limits.processes)),
                _ => {}
            }
        }
        settings
    }
}

/// Joins v1 groups by writing `0`, "whoever writes", to their `tasks` files.
///
/// # Errors
/// [`Step::JoinCgroup`].
pub fn join(files: &[OwnedFd]) -> Result<()> {
    for file in files {
        let file = file.try_clone().at(Step::JoinCgroup, "tasks")?;
        fs::File::from(file).write_all(b"0").at(Step::JoinCgroup, "writing 0 to it")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_found_where_this_process_is() {
        let cgroup = "8:pids:/\n4:memory:/jobs/a\n0::/user.slice\n";
        let mountinfo = "\
30 25 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
31 25 0:28 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
32 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
33 25 8:1 / / rw - ext4 /dev/vda rw
";
        let found = places(cgroup, mountinfo);
        let own: Vec<_> = found.iter().map(|p| p.own.to_string_lossy().into_owned()).collect();
        assert_eq!(
            own,
            [
                "/sys/fs/cgroup/memory/jobs/a",
                "/sys/fs/cgroup/pids/",
                "/sys/fs/cgroup/unified/user.slice"
            ]
        );
        assert!(found[2].controllers.is_empty());
    }

    #[test]
    fn a_mount_that_does_not_show_this_group_is_left_out() {
        let mountinfo = "30 25 0:27 /docker/x /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
        assert_eq!(places("8:pids:/other\n", mountinfo), []);
        let inside = places("8:pids:/docker/x/y\n", mountinfo);
        assert_eq!(inside[0].own, Path::new("/sys/fs/cgroup/pids/y"));
    }
}
