//! What the root of all sandboxes shows of the host: which paths, where they really lie, and the
//! symlinks on the way to them.
//!
//! Sources are opened before the new root exists and attached by descriptor, so that nothing in
//! the new root steers where a mount goes.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use crate::devices;
use crate::error::{At, Failure, Result, Step};
use crate::sys;

/// System directories; where one is a symlink (merged `/usr`) the link is made again.
pub const SYSTEM: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Trees of the root in which nothing of the host can be shown.
const OWN_TREES: [&str; 3] = ["/dev", "/proc", "/sys"];
/// Directories of the root that something of the host may be shown in, but not in their place.
const OWN_DIRECTORIES: [&str; 4] = ["/etc", "/tmp", "/var/empty", "/workspace"];
/// Those of them that each sandbox covers with its own.
const COVERED: [&str; 2] = ["/tmp", "/workspace"];
/// As many symlinks as the kernel follows before it says `ELOOP`.
const MOST_LINKS: usize = 40;
/// How everything of the host is mounted.
pub const READ_ONLY: u64 =
    libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;

/// Something of the host that will be in the root.
#[derive(Debug)]
pub struct Source {
    pub(crate) tree: OwnedFd,
    pub(crate) path: PathBuf,
    pub(crate) is_directory: bool,
}

/// What the root will show of the host.
#[derive(Debug)]
pub struct Shown {
    pub(crate) sources: Vec<Source>,
    pub(crate) links: Vec<Link>,
}

/// A symlink that leads to something shown; it is made again where it lies outside of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    pub(crate) path: PathBuf,
    pub(crate) target: PathBuf,
}

/// What of the host lies below directories that each sandbox covers with its own.
#[derive(Debug, Default)]
pub struct Covered {
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) links: Vec<Link>,
}

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
    pub fn covered(&self) -> Covered {
        let lies = |path: &Path| COVERED.iter().any(|directory| path.starts_with(directory));
        Covered {
            paths: self.sources.iter().map(|s| s.path.clone()).filter(|path| lies(path)).collect(),
            links: self.links.iter().filter(|link| lies(&link.path)).cloned().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

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
}
