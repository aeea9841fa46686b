//! Capabilities (capabilities(7)): which are kept by whom, and how the rest is given up.

use crate::error::{At, Result, Step};
use crate::sys;

/// Send signals to processes of other ids.
pub const KILL: u32 = 5;
/// Change gids.
pub const SETGID: u32 = 6;
/// Change uids.
pub const SETUID: u32 = 7;
/// Drop from the bounding set.
pub const SETPCAP: u32 = 8;
/// Join a mount namespace.
pub const SYS_CHROOT: u32 = 18;
/// Mount, make namespaces, join them.
pub const SYS_ADMIN: u32 = 21;

/// What a keeper needs: it makes jails.
pub const KEEPER: &[u32] = &[KILL, SETGID, SETUID, SYS_ADMIN];
/// What an init needs: it spawns user code under another id and ends it.
pub const INIT: &[u32] = &[KILL, SETGID, SETUID];
/// What a zygote needs: its children join a jail's namespaces.
pub const ZYGOTE: &[u32] = &[SETGID, SETUID, SETPCAP, SYS_CHROOT, SYS_ADMIN];

/// One more than the highest number that any kernel knows (41 in Linux 6.18).
const NUMBERS: u32 = 64;

/// Drops all but `kept` from the bounding set. What is not in it is only looked at, which costs a
/// tenth; a number that this kernel does not know ends the list.
fn bound_to(kept: &[u32]) -> Result<()> {
    for number in (0..NUMBERS).filter(|n| !kept.contains(n)) {
        match sys::is_in_bounding_set(number) {
            Ok(false) => {}
            Ok(true) => sys::drop_from_bounding_set(number).at(Step::DropCapabilities, number)?,
            Err(_) => break,
        }
    }
    Ok(())
}

/// Leaves this process, and whatever it executes, with `kept` and nothing else.
///
/// # Errors
/// [`Step::DropCapabilities`].
pub fn keep_only(kept: &[u32]) -> Result<()> {
    bound_to(kept)?; // first, since it takes CAP_SETPCAP
    sys::clear_ambient_set().at(Step::DropCapabilities, "ambient set")?;
    let bits = kept.iter().fold(0, |bits, number| bits | 1 << number);
    sys::set_capabilities(bits).at(Step::DropCapabilities, "permitted set")
}

/// As [`keep_only`], for a process that executes nothing with them: its bounding set, and that of
/// all that it forks, is empty, so that no exec below it gains anything and nobody below it has a
/// bounding set to drop from.
///
/// # Errors
/// [`Step::DropCapabilities`].
pub fn hold_only(kept: &[u32]) -> Result<()> {
    bound_to(&[])?; // first, since it takes CAP_SETPCAP
    sys::clear_ambient_set().at(Step::DropCapabilities, "ambient set")?;
    shrink(kept)
}

/// Leaves a process whose bounding set is empty with `kept`.
///
/// # Errors
/// [`Step::DropCapabilities`].
pub fn shrink(kept: &[u32]) -> Result<()> {
    let bits = kept.iter().fold(0, |bits, number| bits | 1 << number);
    sys::set_capabilities(bits).at(Step::DropCapabilities, "permitted set")
}

/// Empties the bounding set of a process that has all capabilities, while the right to is there.
///
/// # Errors
/// [`Step::DropCapabilities`].
pub fn empty_bounding_set() -> Result<()> {
    bound_to(&[])
}

/// The second half, after the change of ids that the first half's capabilities were needed for.
///
/// # Errors
/// [`Step::DropCapabilities`].
pub fn give_up_the_rest() -> Result<()> {
    sys::set_capabilities(0).at(Step::DropCapabilities, "permitted set")
}
