//! Landlock (landlock(7)): the second wall behind the read-only root, where the kernel offers it.
//!
//! The ruleset is built once for a sandbox; each program restricts itself by it (3 µs).

use std::os::fd::{AsFd, OwnedFd};

use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};

use crate::devices;
use crate::error::{Failure, Result, Step};
use crate::sys;

/// Where user code may write, make and remove. Not below `/proc`: a jail's own is mounted after the
/// ruleset was made, and nothing there is user code's to write.
const WRITABLE: [&str; 3] = ["/workspace", "/tmp", "/dev"];

/// The newest ABI whose rights this file was written against. A newer one would be "handled but
/// not granted", which breaks programs that nobody has tried under it.
const NEWEST: ABI = ABI::V6;

/// A ruleset and the ABI of the kernel, or `None` with the reason where there is no Landlock.
///
/// `abstract_sockets`: also closes the abstract Unix sockets of others, which a network namespace
/// of one's own would hide.
///
/// # Errors
/// [`Step::BuildLandlockRuleset`] where the kernel offers it and yet it fails.
pub fn build(abstract_sockets: bool) -> Result<std::result::Result<(OwnedFd, i32), String>> {
    let abi = match sys::landlock_abi() {
        Ok(abi) => abi,
        Err(e) => return Ok(Err(format!("this kernel offers no Landlock ({e})"))),
    };
    let fail = |e: &dyn std::fmt::Display| Failure {
        step: Step::BuildLandlockRuleset,
        errno: 0,
        subject: e.to_string(),
    };
    let created = ruleset(abstract_sockets).map_err(|e| fail(&e))?;
    match Option::<OwnedFd>::from(created) {
        Some(fd) => Ok(Ok((fd, abi))),
        None => Err(fail(&"the ruleset is empty")),
    }
}

/// Puts this process into a domain of its own, below the one it is in: from here on it can neither
/// trace nor read a process outside of the domain, nor signal it where the ABI has scopes (6).
/// Where there is no Landlock it does nothing: the sandbox's report says so.
///
/// # Errors
/// [`Step::RestrictByLandlock`], also where the domains are too deep (16).
pub fn separate() -> Result<()> {
    let fail = |e: &dyn std::fmt::Display| Failure {
        step: Step::RestrictByLandlock,
        errno: 0,
        subject: e.to_string(),
    };
    if sys::landlock_abi().is_err() {
        return Ok(());
    }
    let ruleset = || -> std::result::Result<RulesetCreated, Box<dyn std::error::Error>> {
        // A domain has to forbid something; making devices is forbidden anyway.
        Ok(Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::MakeBlock)?
            .scope(Scope::Signal)?
            .scope(Scope::AbstractUnixSocket)?
            .create()?)
    };
    let fd = Option::<OwnedFd>::from(ruleset().map_err(|e| fail(&e))?)
        .ok_or_else(|| fail(&"the ruleset is empty"))?;
    sys::restrict_self(fd.as_fd()).map_err(|e| fail(&e))
}

fn ruleset(
    abstract_sockets: bool,
) -> std::result::Result<RulesetCreated, Box<dyn std::error::Error>> {
    let all = AccessFs::from_all(NEWEST);
    let read = AccessFs::from_read(NEWEST) | BitFlags::from(AccessFs::IoctlDev);
    // Devices and sockets of other processes cannot be made; FIFOs and sockets of one's own can.
    let write = all & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    let mut scope = BitFlags::from(Scope::Signal);
    if abstract_sockets {
        scope |= Scope::AbstractUnixSocket;
    }
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .scope(scope)?
        .create()?
        .add_rule(PathBeneath::new(PathFd::new("/")?, read))?;
    for path in WRITABLE {
        if let Ok(fd) = PathFd::new(path) {
            ruleset = ruleset.add_rule(PathBeneath::new(fd, write))?;
        }
    }
    // Who is given nothing to read has the host's `/dev/null`, which is below none of these. This
    // process has it as well (`bin/supervisor.rs`), so that `/dev/stdin` can be allowed.
    if let Some(null) = devices::null(std::io::stdin().as_fd()) {
        ruleset = ruleset.add_rule(PathBeneath::new(null, AccessFs::ReadFile))?;
    }
    Ok(ruleset)
}
