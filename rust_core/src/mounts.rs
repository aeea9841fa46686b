//! Mounts: the read-only root that all sandboxes share, and the writable directories of each.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::devices;
use crate::error::{At, Result, Step};
use crate::procfs;
use crate::shown::{Covered, Link, READ_ONLY, SYSTEM, Shown};
use crate::spec::Limits;
use crate::sys;

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

const NO_SUID_DEV: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;

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
    procfs::mount(&staged(stage, "proc"), "/proc of the sandboxes")?;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_paths_stay_below_the_stage() {
        assert_eq!(staged(Path::new("/tmp"), "/usr/lib"), Path::new("/tmp/usr/lib"));
        assert_eq!(staged(Path::new("/tmp"), "etc"), Path::new("/tmp/etc"));
    }
}
