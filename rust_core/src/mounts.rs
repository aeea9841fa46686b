//! Mounts: the read-only root that all sandboxes share, the writable directories of each, and the
//! `/proc` of each jail.
//!
//! Sources are opened before the new root exists and attached by descriptor, so that nothing in
//! the new root steers where a mount goes.

use std::collections::VecDeque;
use std::ffi::{CStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use crate::devices;
use crate::error::{At, Failure, Result, Step};
use crate::spec::Limits;
use crate::sys;

/// System directories; where one is a symlink (merged `/usr`) the link is made again.
const SYSTEM: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// What of `/etc` is copied, if everybody may read it: no host names, users or secrets.
const ETC: [&str; 18] = [
    "alternatives",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "fonts",
    "gai.conf",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "mime.types",
    "networks",
    "os-release",
    "pki/tls",
    "protocols",
    "services",
    "ssl",
    "timezone",
];
/// Files that are written for the sandbox.
const WRITTEN: [(&str, &str); 6] = [
    (
        "etc/passwd",
        "root:x:0:0:init:/:/usr/sbin/nologin\n\
         sandbox:x:1000:1000:sandbox:/workspace:/bin/bash\n\
         nobody:x:65534:65534:host:/:/usr/sbin/nologin\n",
    ),
    ("etc/group", "root:x:0:\nsandbox:x:1000:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost sandbox\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    ("etc/resolv.conf", ""),
    ("etc/hostname", "sandbox\n"),
];
/// More than this of `/etc` is not copied.
const ETC_BYTES: u64 = 16 * 1024 * 1024;
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
/// Trees of the root in which nothing of the host can be shown.
const OWN_TREES: [&str; 3] = ["/dev", "/proc", "/sys"];
/// Directories of the root that something of the host may be shown in, but not in their place.
const OWN_DIRECTORIES: [&str; 4] = ["/etc", "/tmp", "/var/empty", "/workspace"];
/// Those of them that each sandbox covers with its own.
const COVERED: [&str; 2] = ["/tmp", "/workspace"];
/// An empty directory of the root, to hide others with.
const EMPTY: &CStr = c"/var/empty";

const READ_ONLY: u64 = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
const NO_SUID_DEV: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;

/// Something of the host that will be in the root.
#[derive(Debug)]
pub struct Source {
    tree: OwnedFd,
    path: PathBuf,
    is_directory: bool,
}

/// What the root will show of the host.
#[derive(Debug)]
pub struct Shown {
    sources: Vec<Source>,
    links: Vec<Link>,
}

/// A symlink that leads to something shown; it is made again where it lies outside of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    path: PathBuf,
    target: PathBuf,
}

/// What of the host lies below directories that each sandbox covers with its own.
#[derive(Debug, Default)]
pub struct Covered {
    paths: Vec<PathBuf>,
    links: Vec<Link>,
}

/// As many symlinks as the kernel follows before it says `ELOOP`.
const MOST_LINKS: usize = 40;

/// Follows a path on the host: where it ends, and every symlink on the way, at its real place.
fn follow(path: &Path) -> io::Result<(PathBuf, Vec<Link>)> {
    let mut links = Vec::new();
    let mut real = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = parts(path);
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            real.pop();
            continue;
        }
        let next = real.join(&part);
        if !next.symlink_metadata()?.is_symlink() {
            real = next;
            continue;
        }
        if links.len() == MOST_LINKS {
            return Err(io::Error::from_raw_os_error(libc::ELOOP));
        }
        let target = fs::read_link(&next)?;
        if target.is_absolute() {
            real = PathBuf::from("/");
        }
        for part in parts(&target).into_iter().rev() {
            rest.push_front(part);
        }
        links.push(Link { path: next, target });
    }
    Ok((real, links))
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(_) | Component::ParentDir => Some(component.as_os_str().to_owned()),
            _ => None,
        })
        .collect()
}

/// Whether the root has something of its own there, which is not to be covered or written to.
fn is_taken(path: &Path) -> bool {
    let own = |name: &&str| path.starts_with(name);
    path == Path::new("/")
        || OWN_TREES.iter().any(|name| own(name) || Path::new(name).starts_with(path))
        || OWN_DIRECTORIES.iter().any(|name| Path::new(name).starts_with(path))
}

/// Paths without those that lie below another one.
fn without_nested(mut paths: Vec<PathBuf>) -> Vec<PathBuf> {
    paths.sort();
    paths.dedup();
    let mut kept: Vec<PathBuf> = Vec::new();
    for path in paths {
        if !kept.iter().any(|above| path.starts_with(above)) {
            kept.push(path);
        }
    }
    kept
}

/// Opens everything that the root will show of the host, read-only: the system, and the paths
/// named, each under its name also where a symlink is part of that.
///
/// # Errors
/// [`Step::OpenSource`] with the path that is missing or may not be mounted.
pub fn open_sources(read_only_paths: &[String]) -> Result<Shown> {
    let mut wanted: Vec<PathBuf> = SYSTEM
        .iter()
        .map(|name| Path::new("/").join(name))
        .filter(|path| path.symlink_metadata().is_ok_and(|m| m.is_dir()))
        .collect();
    let mut links = Vec::new();
    for path in read_only_paths {
        let (real, passed) = follow(Path::new(path)).at(Step::OpenSource, path)?;
        let places = passed.iter().map(|link| link.path.as_path()).chain([real.as_path()]);
        if let Some(place) = places.into_iter().find(|place| is_taken(place)) {
            let subject = format!("{path}: {} is the sandbox's own", place.display());
            return Err(Failure { step: Step::OpenSource, errno: libc::EINVAL, subject });
        }
        wanted.push(real);
        links.extend(passed);
    }
    let wanted = without_nested(wanted);
    links.retain(|link| !wanted.iter().any(|shown| link.path.starts_with(shown)));
    links.sort();
    links.dedup();
    let open = |path: PathBuf| {
        let open = || {
            let tree = sys::clone_tree(&path)?;
            sys::set_attributes(tree.as_fd(), READ_ONLY, true)?;
            Ok((tree, path.is_dir()))
        };
        let (tree, is_directory) = open().at(Step::OpenSource, path.display())?;
        Ok(Source { tree, path, is_directory })
    };
    let mut sources = wanted.into_iter().map(open).collect::<Result<Vec<_>>>()?;
    sources.extend(devices::open()?.into_iter().map(|(tree, path)| {
        let is_directory = path == Path::new(devices::PLACE);
        Source { tree, path, is_directory }
    }));
    Ok(Shown { sources, links })
}

impl Shown {
    /// What of it a sandbox's own directories would hide.
    fn covered(&self) -> Covered {
        let lies = |path: &Path| COVERED.iter().any(|directory| path.starts_with(directory));
        Covered {
            paths: self.sources.iter().map(|s| s.path.clone()).filter(|path| lies(path)).collect(),
            links: self.links.iter().filter(|link| lies(&link.path)).cloned().collect(),
        }
    }
}

/// Where a path of the final root is while the root is being built.
fn staged(stage: &Path, path: impl AsRef<Path>) -> PathBuf {
    let path = path.as_ref();
    stage.join(path.strip_prefix("/").unwrap_or(path))
}

fn make_directories(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .at(Step::MakeMountPoint, path.display())
}

fn make_file(path: &Path, content: &[u8]) -> io::Result<()> {
    use io::Write;
    fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?.write_all(content)
}

/// Copies what everybody may read: files, links, and directories with what is in them.
fn copy(from: &Path, to: &Path, budget: &mut u64) -> io::Result<()> {
    let Ok(meta) = from.symlink_metadata() else { return Ok(()) };
    if meta.is_symlink() {
        symlink(fs::read_link(from)?, to)
    } else if meta.is_dir() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(to)?;
        let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
        for entry in entries {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()), budget)?;
        }
        Ok(())
    } else if meta.is_file() && meta.mode() & 0o004 != 0 && meta.len() <= *budget {
        *budget -= meta.len();
        match fs::read(from) {
            Ok(content) => make_file(to, &content),
            Err(_) => Ok(()),
        }
    } else {
        Ok(())
    }
}

/// Makes links where nothing is yet.
fn make_links(links: &[Link], place: impl Fn(&Path) -> PathBuf) -> Result<()> {
    for link in links {
        let at = place(&link.path);
        if at.symlink_metadata().is_ok() {
            continue; // the system's own, or a directory that something is shown in
        }
        if let Some(parent) = at.parent() {
            make_directories(parent)?;
        }
        symlink(&link.target, &at).at(Step::MakeMountPoint, link.path.display())?;
    }
    Ok(())
}

/// Attaches a tree where it is to be seen.
fn attach(tree: &OwnedFd, is_directory: bool, target: &Path) -> Result<()> {
    if is_directory {
        make_directories(target)?;
    } else {
        if let Some(parent) = target.parent() {
            make_directories(parent)?;
        }
        make_file(target, b"").at(Step::MakeMountPoint, target.display())?;
    }
    sys::attach_tree(tree.as_fd(), target).at(Step::AttachSource, target.display())
}

/// Builds the root that all sandboxes share and makes it this process's root.
///
/// The old root is unmounted: after this nothing of the host can be named but what is shown.
/// `/proc` is this PID namespace's own. Returns what of it a sandbox is to uncover.
///
/// # Errors
/// The step and the path.
pub fn enter_shared_root(shown: &Shown) -> Result<Covered> {
    let stage = ["/tmp", "/mnt", "/var"]
        .map(Path::new)
        .into_iter()
        .find(|path| path.is_dir())
        .ok_or(io::ErrorKind::NotFound.into())
        .at(Step::MountRoot, "neither /tmp nor /mnt nor /var is a directory")?;
    let options = "mode=755,size=32m,nr_inodes=16384";
    sys::mount(c"tmpfs", stage, c"tmpfs", NO_SUID_DEV, options)
        .at(Step::MountRoot, stage.display())?;

    for name in ["dev", "etc", "proc", "workspace", "tmp", "var/empty", "run"] {
        make_directories(&staged(stage, name))?;
    }
    let dev = staged(stage, devices::PLACE);
    open_path(&dev)
        .and_then(|directory| devices::fill(directory.as_fd()))
        .at(Step::MakeMountPoint, devices::PLACE)?;
    for name in SYSTEM {
        if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
            symlink(target, staged(stage, name)).at(Step::MakeMountPoint, name)?;
        }
    }
    copy_etc(stage)?;
    for source in &shown.sources {
        attach(&source.tree, source.is_directory, &staged(stage, &source.path))?;
    }
    make_links(&shown.links, |path| staged(stage, path))?;
    let var_tmp = staged(stage, "var/tmp");
    if !var_tmp.exists() {
        // Unless something of the host is shown below it, which must not hide in /tmp.
        symlink("/tmp", var_tmp).at(Step::MakeMountPoint, "/var/tmp")?;
    }
    // While the host's own /proc is still in sight: the kernel wants to see one before it lets a
    // user namespace mount another (mount_too_revealing).
    let proc = staged(stage, "proc");
    sys::mount(c"proc", &proc, c"proc", NO_SUID_DEV | libc::MS_NOEXEC, "")
        .at(Step::MountProc, "")?;

    std::env::set_current_dir(stage).at(Step::PivotRoot, stage.display())?;
    sys::pivot_here().at(Step::PivotRoot, stage.display())?;
    sys::detach(Path::new(".")).at(Step::PivotRoot, "the old root")?;
    std::env::set_current_dir("/").at(Step::PivotRoot, "/")?;
    make_read_only(Path::new("/"))?;
    Ok(shown.covered())
}

fn copy_etc(stage: &Path) -> Result<()> {
    let mut budget = ETC_BYTES;
    let python: Vec<String> = fs::read_dir("/etc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("python"))
        .collect();
    for name in ETC.iter().copied().chain(python.iter().map(String::as_str)) {
        let (from, to) = (Path::new("/etc").join(name), staged(stage, "etc").join(name));
        if let Some(parent) = to.parent() {
            make_directories(parent)?;
        }
        copy(&from, &to, &mut budget).at(Step::CopyFile, from.display())?;
    }
    for (name, content) in WRITTEN {
        make_file(&staged(stage, name), content.as_bytes()).at(Step::CopyFile, name)?;
    }
    Ok(())
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC)
        .open(path)
        .map(OwnedFd::from)
}

fn make_read_only(mount_point: &Path) -> Result<()> {
    let set = || sys::set_attributes(open_path(mount_point)?.as_fd(), READ_ONLY, false);
    set().at(Step::RemountReadOnly, mount_point.display())
}

/// A writable directory in memory, of this size.
fn mount_writable(path: &str, bytes: u64, mode: &str, owner: u32) -> Result<()> {
    // An inode costs about 1 KiB that the size does not count.
    let inodes = (bytes / 4096).clamp(1024, 1 << 20);
    let options = format!("mode={mode},size={bytes},nr_inodes={inodes},uid={owner},gid={owner}");
    sys::mount(c"tmpfs", Path::new(path), c"tmpfs", NO_SUID_DEV, &options)
        .at(Step::MountTmpfs, path)
}

/// As [`mount_writable`]; what of the host lies below it stays in sight.
fn cover(top: &str, covered: &Covered, bytes: u64, mode: &str, owner: u32) -> Result<()> {
    let mut hidden = Vec::new();
    for path in covered.paths.iter().filter(|path| path.starts_with(top)) {
        let tree = sys::clone_tree(path).at(Step::OpenSource, path.display())?;
        hidden.push((path, path.is_dir(), tree));
    }
    mount_writable(top, bytes, mode, owner)?;
    for (path, is_directory, tree) in hidden {
        attach(&tree, is_directory, path)?;
    }
    let below = covered.links.iter().filter(|link| link.path.starts_with(top));
    make_links(&below.cloned().collect::<Vec<_>>(), Path::to_path_buf)
}

/// Mounts a fresh `/tmp`; what of the host lies below it stays in sight.
///
/// # Errors
/// The step and the path.
pub fn mount_tmp(covered: &Covered, bytes: u64, owner: u32) -> Result<()> {
    cover("/tmp", covered, bytes, "1777", owner)
}

/// Mounts what is a sandbox's own: `/workspace`, `/tmp`, `/dev/shm`, `/dev/pts`.
///
/// `owner` is the id of user code, as the mounting process's user namespace numbers it.
///
/// # Errors
/// The step and the path.
pub fn mount_sandbox(limits: &Limits, covered: &Covered, owner: u32) -> Result<()> {
    cover("/workspace", covered, limits.workspace_bytes, "755", owner)?;
    mount_tmp(covered, limits.tmp_bytes, owner)?;
    mount_writable("/dev/shm", limits.shm_bytes, "1777", owner)?;
    let options = "newinstance,ptmxmode=0666,mode=620";
    let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
    sys::mount(c"devpts", Path::new("/dev/pts"), c"devpts", flags, options)
        .at(Step::MountDevpts, "/dev/pts")
}

/// Shows these as `/etc/resolv.conf` and `/etc/hosts`, read-only.
///
/// # Errors
/// The step and the path.
pub fn mount_name_service(resolv_conf: &[u8], hosts: &[u8]) -> Result<()> {
    let room = Path::new("/var/empty"); // hidden for the while, and an empty directory again after
    let bytes = resolv_conf.len() + hosts.len() + 64 * 1024;
    let options = format!("mode=755,size={bytes},nr_inodes=16");
    sys::mount(c"tmpfs", room, c"tmpfs", NO_SUID_DEV, &options)
        .at(Step::MountTmpfs, room.display())?;
    for (name, content) in [("resolv.conf", resolv_conf), ("hosts", hosts)] {
        let (file, shown) = (room.join(name), Path::new("/etc").join(name));
        let show = || {
            make_file(&file, content)?;
            let tree = sys::clone_tree(&file)?;
            sys::set_attributes(tree.as_fd(), READ_ONLY | libc::MOUNT_ATTR_NOEXEC, false)?;
            sys::attach_tree(tree.as_fd(), &shown)
        };
        show().at(Step::AttachSource, shown.display())?;
    }
    sys::detach(room).at(Step::MountTmpfs, room.display())
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
    sys::mount(c"proc", Path::new("/proc"), c"proc", NO_SUID_DEV | libc::MS_NOEXEC, "")
        .at(Step::MountProc, "/proc of the launcher")
}

/// Mounts the `/proc` of this PID namespace over the sandbox's and hides `masks`.
///
/// `settings_read_only`: also makes `/proc/sys` read-only. With ids of its own a sandbox has no
/// process that owns a kernel setting, so that costs 30 µs for nothing; an ordinary user's own
/// id, which user code then has, owns the settings of the sandbox's network.
///
/// # Errors
/// [`Step::MountProc`] or [`Step::MaskProc`] with the path.
pub fn mount_jail_proc(masks: &[(PathBuf, bool)], settings_read_only: bool) -> Result<()> {
    sys::mount(c"proc", Path::new("/proc"), c"proc", NO_SUID_DEV | libc::MS_NOEXEC, "")
        .at(Step::MountProc, "/proc of the jail")?;
    for (path, is_directory) in masks {
        let source = if *is_directory { EMPTY } else { c"/dev/null" };
        sys::mount(source, path, c"", libc::MS_BIND, "").at(Step::MaskProc, path.display())?;
    }
    if !settings_read_only {
        return Ok(());
    }
    let settings = Path::new("/proc/sys");
    let read_only = NO_SUID_DEV | libc::MS_NOEXEC | libc::MS_RDONLY;
    sys::mount(c"/proc/sys", settings, c"", libc::MS_BIND, "")
        .and_then(|()| {
            let remount = libc::MS_REMOUNT | libc::MS_BIND | read_only;
            sys::mount(c"", settings, c"", remount, "")
        })
        .at(Step::MaskProc, settings.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_below_another_is_not_mounted_twice() {
        let paths = ["/usr/lib/x", "/opt/v", "/usr", "/opt/v2", "/opt/v"].map(PathBuf::from);
        let kept = without_nested(paths.to_vec());
        assert_eq!(kept, ["/opt/v", "/opt/v2", "/usr"].map(PathBuf::from));
    }

    #[test]
    fn a_path_is_followed_link_by_link() {
        let top = std::env::temp_dir().join(format!("follow-{}", std::process::id()));
        fs::create_dir_all(top.join("real/deep")).expect("directories");
        symlink("real", top.join("relative")).expect("a link");
        symlink(top.join("relative/deep"), top.join("absolute")).expect("a link");
        symlink("round", top.join("round")).expect("a link");
        let base = fs::canonicalize(&top).expect("it exists");
        let (real, links) = follow(&top.join("absolute/../deep")).expect("it leads somewhere");
        assert_eq!(real, base.join("real/deep"));
        let places: Vec<_> = links.iter().map(|link| link.path.clone()).collect();
        assert!(places.ends_with(&[base.join("absolute"), base.join("relative")]), "{places:?}");
        let endless = follow(&top.join("round")).map_err(|e| e.raw_os_error());
        assert_eq!(endless, Err(Some(libc::ELOOP)));
        let missing = follow(&top.join("real/none")).map_err(|e| e.raw_os_error());
        assert_eq!(missing, Err(Some(libc::ENOENT)));
        fs::remove_dir_all(top).expect("removed");
    }

    #[test]
    fn what_the_root_has_itself_is_not_covered() {
        for path in
            ["/", "/etc", "/dev", "/dev/shm", "/proc/1", "/sys", "/tmp", "/workspace", "/var"]
        {
            assert!(is_taken(Path::new(path)), "{path}");
        }
        for path in ["/etc/ssl", "/tmp/x", "/workspace/x", "/usr", "/opt", "/var/lib", "/device"] {
            assert!(!is_taken(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn absolute_paths_stay_below_the_stage() {
        assert_eq!(staged(Path::new("/tmp"), "/usr/lib"), Path::new("/tmp/usr/lib"));
        assert_eq!(staged(Path::new("/tmp"), "etc"), Path::new("/tmp/etc"));
    }
}
