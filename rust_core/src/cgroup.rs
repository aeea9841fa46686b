//! Control groups: one for each sandbox, with its limits on memory and processes.
//!
//! The launcher makes a group of its own and gives it to the supervisor's id; the supervisor makes
//! one below it for each sandbox. Joining is what costs: writing `cgroup.procs` waits for an RCU
//! grace period (10 ms), so a process enters by `clone3` (v2) or writes `0` to `tasks` itself
//! (v1, 40 µs).

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use crate::error::{At, Failure, Result, Step};
use crate::spec::{Achieved, Limits, Protection};
use crate::sys;

/// What is limited, by the name of its controller.
pub const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// How often processor time is given out anew; the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;

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

impl Place {
    fn limits_what_is_wanted(&self) -> bool {
        self.controllers.iter().any(|c| CONTROLLERS.contains(&c.as_str()))
    }
}

/// Who made a group, in a way that no other process of this machine is mistaken for: its number,
/// the PID namespace that gives this number a meaning, and when it started.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Launcher {
    pid: i32,
    namespace: u64,
    started_ticks: u64,
}

const GROUP: &str = "sandbox-runtime-";

impl Launcher {
    fn this() -> Self {
        let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let digits: String = link.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
        let namespace = digits.parse().unwrap_or_default();
        let pid = sys::pid();
        Self { pid, namespace, started_ticks: started_ticks(pid).unwrap_or_default() }
    }

    fn group_name(&self) -> String {
        let Self { pid, namespace, started_ticks } = self;
        format!("{GROUP}{pid}-{namespace}-{started_ticks}")
    }

    fn of_group(name: &str) -> Option<Self> {
        let mut numbers = name.strip_prefix(GROUP)?.split('-');
        let launcher = Self {
            pid: numbers.next()?.parse().ok()?,
            namespace: numbers.next()?.parse().ok()?,
            started_ticks: numbers.next()?.parse().ok()?,
        };
        numbers.next().is_none().then_some(launcher)
    }

    /// Whether that one is a process of this one's namespace, and has ended. Of other namespaces
    /// nothing is known.
    fn knows_dead(&self, other: &Self) -> bool {
        self.namespace != 0
            && self.started_ticks != 0
            && other.namespace == self.namespace
            && started_ticks(other.pid) != Some(other.started_ticks)
    }

    /// A launcher that was killed could not remove its groups. The kernel removes none in which
    /// a process lives.
    fn remove_those_of_the_dead(&self, parent: &Path) {
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            let made_by = entry.file_name().to_str().and_then(Self::of_group);
            if made_by.is_some_and(|other| self.knows_dead(&other)) {
                remove_tree(&entry.path());
            }
        }
    }
}

/// When a process of this one's PID namespace started, in clock ticks after boot; `None`: it has
/// ended, whether or not somebody has waited for it.
fn started_ticks(pid: i32) -> Option<u64> {
    // A /proc of another namespace numbers processes in its own way.
    if fs::read_link("/proc/self").ok()?.to_str()?.parse() != Ok(sys::pid()) {
        return None;
    }
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ended = matches!(*fields.first()?, "Z" | "X");
    fields.get(19)?.parse().ok().filter(|_| !ended)
}

/// Removes a group and those directly below it, as far as nothing lives in them.
fn remove_tree(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
    let _ = fs::remove_dir(path);
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
    /// What they are called in each hierarchy.
    pub name: String,
    /// Files to which a process writes `0` to join. The keeper needs only those of v1.
    pub join: Vec<OwnedFd>,
    /// v2: the directory for `clone3`.
    pub into: Option<OwnedFd>,
    /// Where the kernel counts those that it has ended for lack of memory, under `oom_kill`.
    pub events: Option<OwnedFd>,
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
    /// Makes a group for this process in each hierarchy that has a wanted controller and gives it
    /// to `owner`; removes those that launchers left behind which were killed. What cannot be had
    /// is noted as a reason, never an error: the report will say so.
    pub fn prepare(owner: (u32, u32)) -> Self {
        let mut delegation = Self::default();
        let launcher = Launcher::this();
        let name = &launcher.group_name();
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        for place in places(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo")) {
            if !place.controllers.is_empty() && !place.limits_what_is_wanted() {
                continue;
            }
            launcher.remove_those_of_the_dead(&place.own);
            let made = if place.controllers.is_empty() {
                launcher.remove_those_of_the_dead(&place.top);
                // Processes may live only in leaves (cgroups(7)), so where this process's own
                // group cannot have limited children, one at the top can.
                Base::make_v2(&place.own, name, owner)
                    .or_else(|_| Base::make_v2(&place.top, name, owner))
            } else {
                Base::make_v1(&place, name, owner)
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
        let name = format!("sandbox-{id}");
        let mut group = Group {
            name: name.clone(),
            join: Vec::new(),
            into: None,
            events: None,
            protections: Vec::new(),
        };
        let mut kept: HashMap<&str, String> = HashMap::new();
        for base in &self.bases {
            let settings = base.settings(limits);
            if base.version == 1 && settings.is_empty() {
                continue; // to join it would cost each context, and limit nothing
            }
            let path = below(base.directory.as_fd(), &name);
            fs::create_dir(&path).at(Step::JoinCgroup, path.display())?;
            for (file, value) in settings {
                let file = path.join(file);
                fs::write(&file, value.to_string()).at(Step::JoinCgroup, file.display())?;
                let read = fs::read_to_string(&file).at(Step::JoinCgroup, file.display())?;
                let read = read.split_ascii_whitespace().next().unwrap_or_default().to_owned();
                // The kernel rounds down to pages; it must not have kept more.
                if !read.parse::<u64>().is_ok_and(|kept| kept <= value) {
                    let subject = format!("{} is {read}, not {value}", file.display());
                    return Err(Failure { step: Step::JoinCgroup, errno: libc::EINVAL, subject });
                }
            }
            for (controller, value) in base.limited(limits) {
                kept.insert(controller, format!("cgroup v{}, {value}", base.version));
            }
            if base.controllers.iter().any(|controller| controller == "memory") {
                let file = if base.version == 1 { "memory.oom_control" } else { "memory.events" };
                group.events = fs::File::open(path.join(file)).ok().map(OwnedFd::from);
            }
            let file = if base.version == 1 { "tasks" } else { "cgroup.procs" };
            let join = fs::OpenOptions::new().write(true).open(path.join(file));
            group.join.push(join.at(Step::JoinCgroup, file)?.into());
            if base.version == 2 {
                group.into = Some(open_directory(&path).at(Step::JoinCgroup, path.display())?);
            }
        }
        let why = if self.reasons.is_empty() {
            "no hierarchy has its controller".to_owned()
        } else {
            self.reasons.join("; ")
        };
        let (bytes, processes) = (limits.memory_bytes, limits.processes);
        let cpu = limits.cpu_percent.map(|_| ("cpu", "no bound".to_owned()));
        for (controller, instead) in [
            (
                "memory",
                format!("each process up to {bytes} bytes of data, no bound on all together"),
            ),
            ("pids", format!("up to {processes} for the user id, whoever else has that")),
        ]
        .into_iter()
        .chain(cpu)
        {
            let (achieved, detail) = match kept.remove(controller) {
                Some(detail) => (Achieved::Full, detail),
                None if controller == "cpu" => (Achieved::Absent, format!("{instead}; {why}")),
                None => (Achieved::Partial, format!("{instead}; {why}")),
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
            remove_tree(&base.path);
        }
    }
}

/// Lets groups below a v2 group have these controllers.
fn enable(path: &Path, controllers: &[String]) -> io::Result<()> {
    if controllers.is_empty() {
        return Ok(());
    }
    let words: Vec<String> = controllers.iter().map(|c| format!("+{c}")).collect();
    fs::write(path.join("cgroup.subtree_control"), words.join(" "))
}

impl Base {
    fn make_v1(place: &Place, name: &str, owner: (u32, u32)) -> io::Result<Self> {
        Self::make(&place.own.join(name), |path| {
            chown(path, Some(owner.0), Some(owner.1))?;
            let directory = open_directory(path)?;
            let controllers = place.controllers.clone();
            Ok(Self { controllers, version: 1, directory, path: path.to_owned() })
        })
    }

    fn make_v2(parent: &Path, name: &str, owner: (u32, u32)) -> io::Result<Self> {
        let available = fs::read_to_string(parent.join("cgroup.controllers"))?;
        let mut controllers: Vec<String> = available
            .split_ascii_whitespace()
            .filter(|c| CONTROLLERS.contains(c))
            .map(str::to_owned)
            .collect();
        // Processor time cannot be had where somebody runs in real time (cgroups(7)); the rest can.
        if let Err(e) = enable(parent, &controllers) {
            let all = controllers.len();
            controllers.retain(|c| c != "cpu");
            if controllers.len() == all {
                return Err(e);
            }
            enable(parent, &controllers)?;
        }
        Self::make(&parent.join(name), |path| {
            enable(path, &controllers)?;
            for file in ["", "cgroup.procs", "cgroup.subtree_control"] {
                chown(path.join(file), Some(owner.0), Some(owner.1))?;
            }
            let directory = open_directory(path)?;
            Ok(Self { controllers, version: 2, directory, path: path.to_owned() })
        })
    }

    /// Makes the directory and prepares it; one that cannot be prepared is removed again.
    fn make(path: &Path, prepare: impl FnOnce(&Path) -> io::Result<Self>) -> io::Result<Self> {
        fs::create_dir(path)?;
        prepare(path).inspect_err(|_| {
            let _ = fs::remove_dir(path);
        })
    }

    /// What each controller of this hierarchy is told to allow, for the report.
    fn limited(&self, limits: &Limits) -> Vec<(&'static str, String)> {
        let has = |name: &str| self.controllers.iter().any(|c| c == name);
        [
            ("memory", format!("{} bytes", limits.memory_bytes)),
            ("pids", format!("{} processes", limits.processes)),
        ]
        .into_iter()
        .chain(limits.cpu_percent.map(|percent| ("cpu", format!("{percent} % of a processor"))))
        .filter(|(name, _)| has(name))
        .collect()
    }

    /// What keeps memory from being had twice, the second time as swap. Memory with swap can only be
    /// limited where the kernel counts that (`swapaccount`); without, nothing is swapped out.
    fn no_swap_v1(&self, limits: &Limits) -> (&'static str, u64) {
        const WITH_SWAP: &str = "memory.memsw.limit_in_bytes";
        if below(self.directory.as_fd(), WITH_SWAP).exists() {
            (WITH_SWAP, limits.memory_bytes)
        } else {
            ("memory.swappiness", 0)
        }
    }

    fn settings(&self, limits: &Limits) -> Vec<(&'static str, u64)> {
        let mut settings = Vec::new();
        for controller in &self.controllers {
            match (controller.as_str(), self.version) {
                ("memory", 1) => {
                    settings.push(("memory.limit_in_bytes", limits.memory_bytes));
                    settings.push(self.no_swap_v1(limits));
                }
                ("memory", _) => {
                    settings.push(("memory.max", limits.memory_bytes));
                    settings.push(("memory.swap.max", 0));
                }
                ("pids", _) => settings.push(("pids.max", limits.processes)),
                ("cpu", version) => {
                    // v2 takes the time alone too, and keeps its period.
                    let file = if version == 1 { "cpu.cfs_quota_us" } else { "cpu.max" };
                    let time_us = limits.cpu_percent.map(|percent| percent * CPU_PERIOD_US / 100);
                    settings.extend(time_us.map(|time_us| (file, time_us)));
                }
                _ => {}
            }
        }
        settings
    }
}

/// Takes back what the report says of groups that this process turns out not to be in, by its own
/// `/proc/self/cgroup` (cgroups(7)).
pub fn check_membership(protections: &mut [Protection], name: &str, own: &str) {
    for row in protections.iter_mut().filter(|row| row.achieved == Achieved::Full) {
        let controller = row.name.trim_start_matches("cgroup_");
        let is_in = own.lines().any(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (names, path) = (fields.next().unwrap_or_default(), fields.next());
            (names.is_empty() || names.split(',').any(|name| name == controller))
                && path.is_some_and(|path| path.ends_with(&format!("/{name}")))
        });
        if !is_in {
            row.achieved = Achieved::Absent;
            row.detail = format!("its processes are not in the group: {}", own.replace('\n', " "));
        }
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
    fn a_group_tells_who_made_it() {
        let this = Launcher::this();
        assert_eq!(Launcher::of_group(&this.group_name()), Some(this.clone()));
        assert!(!this.knows_dead(&this));
        let earlier = Launcher { started_ticks: this.started_ticks - 1, ..this.clone() };
        assert!(this.knows_dead(&earlier), "the number is another process's now");
        let elsewhere = Launcher { namespace: this.namespace + 1, ..earlier };
        assert!(!this.knows_dead(&elsewhere), "who knows what its number means there");
        for other in ["sandbox-runtime-7", "sandbox-runtime-7-8-9-10", "sandbox-runtime-a-b-c"] {
            assert_eq!(Launcher::of_group(other), None);
        }
    }

    #[test]
    fn groups_of_the_dead_are_removed_and_no_others() {
        let parent = std::env::temp_dir().join(format!("groups-{}", sys::pid()));
        let this = Launcher::this();
        let dead = Launcher { started_ticks: this.started_ticks - 1, ..this.clone() };
        let far = Launcher { namespace: 1, ..dead.clone() };
        for launcher in [&this, &dead, &far] {
            fs::create_dir_all(parent.join(launcher.group_name()).join("sandbox-1")).expect("made");
        }
        fs::create_dir(parent.join("sandbox-runtime-1")).expect("made");
        this.remove_those_of_the_dead(&parent);
        let left = fs::read_dir(&parent).expect("there").flatten().map(|entry| entry.file_name());
        let left: Vec<_> = left.collect();
        assert_eq!(left.len(), 3);
        assert!(!left.contains(&dead.group_name().into()));
        fs::remove_dir_all(parent).expect("removed");
    }

    #[test]
    fn what_is_not_in_its_group_is_not_limited() {
        let rows = || [Protection::new("cgroup_memory", Achieved::Full, "cgroup v1")];
        for (own, achieved) in [
            ("4:memory:/a/sandbox-1\n", Achieved::Full),
            ("4:cpu,memory:/a/sandbox-1\n", Achieved::Full),
            ("0::/a/sandbox-1\n", Achieved::Full),
            ("4:memory:/a/sandbox-10\n5:pids:/a/sandbox-1\n", Achieved::Absent),
            ("", Achieved::Absent),
        ] {
            let mut found = rows();
            check_membership(&mut found, "sandbox-1", own);
            assert_eq!(found[0].achieved, achieved, "{own}");
        }
    }

    #[test]
    fn a_mount_that_does_not_show_this_group_is_left_out() {
        let mountinfo = "30 25 0:27 /docker/x /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
        assert_eq!(places("8:pids:/other\n", mountinfo), []);
        let inside = places("8:pids:/docker/x/y\n", mountinfo);
        assert_eq!(inside[0].own, Path::new("/sys/fs/cgroup/pids/y"));
    }
}
