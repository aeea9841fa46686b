//! The `/dev` that all sandboxes share: the devices that user code gets, and nothing else.
//!
//! Each mount of a sandbox costs each of its jails 2 µs to copy, and as much to take down. So where
//! this process may make devices, `/dev` is one small file system with all of them; elsewhere each is
//! one of the host's, mounted by itself.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{At, Result, Step};
use crate::sys;

/// Devices that user code gets.
const DEVICES: [&CStr; 6] = [c"null", c"zero", c"full", c"random", c"urandom", c"tty"];
/// Links in `/dev`: target, name.
const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"pts/ptmx", c"ptmx"),
];
/// Directories in `/dev`, which each sandbox mounts its own on.
const DIRECTORIES: [&CStr; 2] = [c"pts", c"shm"];

const ATTRIBUTES: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC;

/// Where the devices are to be.
pub const PLACE: &str = "/dev";

/// Trees that are mounted nowhere yet, each with its place: `/dev` itself, or each device in it.
///
/// # Errors
/// [`Step::OpenSource`] with the device that the host lacks or that may not be mounted.
pub fn open() -> Result<Vec<(OwnedFd, PathBuf)>> {
    let host = Path::new(PLACE);
    // Whatever forbids it, a capability, a user namespace or a control group, is met by trying.
    if let Ok(tree) = make(host) {
        return Ok(vec![(tree, host.to_owned())]);
    }
    let take = |name: &&CStr| {
        let path = host.join(&*name.to_string_lossy());
        let open = || {
            let tree = sys::clone_tree(&path)?;
            sys::set_attributes(tree.as_fd(), ATTRIBUTES, true).map(|()| tree)
        };
        let tree = open().at(Step::OpenSource, path.display())?;
        Ok((tree, path))
    };
    DEVICES.iter().map(take).collect()
}

/// Makes what is in `/dev` beside the devices.
///
/// # Errors
/// What the kernel says.
pub fn fill(directory: BorrowedFd<'_>) -> io::Result<()> {
    for (target, name) in LINKS {
        sys::make_link_at(target, directory, name)?;
    }
    DIRECTORIES.iter().try_for_each(|name| sys::make_directory_at(directory, name))
}

/// A descriptor of its own for what is open there, if it is `/dev/null` of any file system.
#[must_use]
pub fn null(fd: BorrowedFd<'_>) -> Option<OwnedFd> {
    let file = fs::File::from(fd.try_clone_to_owned().ok()?);
    let found = file.metadata().ok()?;
    let is_null = found.file_type().is_char_device() && found.rdev() == libc::makedev(1, 3);
    is_null.then(|| file.into())
}

/// One file system with devices like those of `host`, each of which was opened there.
fn make(host: &Path) -> io::Result<OwnedFd> {
    let tree = sys::new_tmpfs(&[(c"mode", c"755"), (c"size", c"64k"), (c"nr_inodes", c"32")])?;
    let directory = tree.as_fd();
    for name in DEVICES {
        let found = fs::symlink_metadata(host.join(&*name.to_string_lossy()))?;
        if !found.file_type().is_char_device() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sys::make_device_at(directory, name, found.mode() & 0o666, found.rdev())?;
    }
    fill(directory)?;
    sys::set_attributes(directory, ATTRIBUTES | libc::MOUNT_ATTR_RDONLY, false)?;
    for name in DEVICES {
        match sys::open_at(directory, name) {
            Ok(_) => {}
            // A terminal that this process has not; the kernel has asked the device.
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) && name == c"tty" => {}
            Err(error) => return Err(error),
        }
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_devices_are_the_hosts_and_can_be_opened() {
        let tree = match make(Path::new(PLACE)) {
            Ok(tree) => tree,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EPERM), "not root: {error}");
                return;
            }
        };
        let null = fs::File::from(sys::open_at(tree.as_fd(), c"null").expect("it opens"));
        let (ours, hosts) = (null.metadata(), fs::metadata("/dev/null"));
        assert_eq!(ours.expect("it is there").rdev(), hosts.expect("it is there").rdev());
        let more = sys::make_directory_at(tree.as_fd(), c"x").map_err(|e| e.raw_os_error());
        assert_eq!(more, Err(Some(libc::EROFS)));
        let names = sys::open_directory(Some(tree.as_fd()), c".").expect("it opens");
        let found = sys::read_directory(names.as_fd()).expect("it is read");
        assert_eq!(found.len(), DEVICES.len() + LINKS.len() + DIRECTORIES.len());
    }

    #[test]
    fn what_is_no_device_on_the_host_is_none_here() {
        let host = std::env::temp_dir().join(format!("no-devices-{}", sys::pid()));
        fs::create_dir(&host).expect("a directory");
        fs::write(host.join("null"), "").expect("a plain file");
        let error = make(&host).expect_err("it is no device");
        fs::remove_dir_all(&host).expect("removed");
        match error.raw_os_error() {
            None => assert_eq!(error.kind(), io::ErrorKind::InvalidInput),
            errno => assert_eq!(errno, Some(libc::EPERM), "not root: {error}"),
        }
    }
}
