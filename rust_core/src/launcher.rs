//! The launcher: what the control process starts, with the caller's privileges.
//!
//! It reads one message, makes the supervisor, writes its id maps, and from then on only waits for
//! it to end, to remove the control groups that nobody else may. It never reads again, so nothing
//! that happens later reaches its privileges.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::cgroup::Delegation;
use crate::channel::Channel;
use crate::contain;
use crate::error::{At, Failure, Result, Step};
use crate::idmap::{self, Plan};
use crate::procfs;
use crate::shown::{self, Shown};
use crate::spec::{Asked, SupervisorReply, SupervisorRequest};
use crate::supervisor;
use crate::sys::{self, Forked};

/// The socket to the control process.
pub type Control = Channel<Asked, SupervisorReply>;

/// Runs the launcher over this socket; returns the exit status of the process.
pub fn run(socket: OwnedFd) -> u8 {
    sys::set_name(c"sbx-launcher");
    sys::umask(0o022); // every sandbox looks into what is made, whatever the caller's own mask
    let control = Control::new(socket);
    let paths = match control.receive() {
        Ok(Some((Asked::Known(SupervisorRequest::Start { read_only_paths }), _))) => {
            read_only_paths
        }
        Ok(None) => return 0,
        Ok(Some(_)) => {
            let subject = "the first message must be `start`".to_owned();
            let failure = Failure { step: Step::ReadConfiguration, errno: 0, subject };
            return refuse(&control, failure);
        }
        Err(failure) => return refuse(&control, failure),
    };
    match launch(control, &paths) {
        Ok(()) => 0,
        Err((control, failure)) => refuse(&control, failure),
    }
}

fn refuse(control: &Control, failure: Failure) -> u8 {
    let _ = control.send(&SupervisorReply::Failed { failure }, &[]);
    1
}

/// What an ordinary user's sandboxes show: not opened, for that takes the supervisor's rights.
fn open_as_caller(paths: &[String]) -> Result<Option<Shown>> {
    match shown::open_sources(paths) {
        Ok(shown) => Ok(Some(shown)),
        Err(failure) if failure.errno == libc::EPERM => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Claims the range that starts at this id for as long as the descriptor is open, against every
/// launcher of this network namespace: the kernel lets one socket have an abstract name
/// (`unix(7)`), and takes the name away when its owner ends, however that is.
fn claim_range(first: u32) -> Option<OwnedFd> {
    let name = format!("sandbox-runtime/ids/{first}");
    let address = SocketAddr::from_abstract_name(name).ok()?;
    UnixDatagram::bind_addr(&address).ok().map(OwnedFd::from)
}

/// Chooses ids; with them comes what keeps them from others.
fn choose_ids(privileged: bool) -> Result<(Plan, Option<OwnedFd>)> {
    let text = fs::read("/proc/self/uid_map").at(Step::ChooseIds, "/proc/self/uid_map")?;
    let own = idmap::parse_uid_map(&text).map_err(|bad| Failure {
        step: Step::ChooseIds,
        errno: libc::EINVAL,
        subject: format!("/proc/self/uid_map: {}", bad.0),
    })?;
    let (uid, gid) = sys::effective_ids();
    // Seeded by the kernel at random, which is all that is wanted of it.
    let random = RandomState::new().build_hasher().finish();
    let start = u32::try_from(random >> 32).unwrap_or_default();
    let mut claim = None;
    let plan = idmap::plan(&own, privileged && uid == 0, (uid, gid), start, |first| {
        claim = claim_range(first);
        claim.is_some()
    });
    Ok((plan, claim))
}

/// The namespaces of the caller, for the self-check to compare with.
fn own_namespaces() -> Vec<(String, String)> {
    ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"]
        .into_iter()
        .filter_map(|name| {
            let link = fs::read_link(format!("/proc/self/ns/{name}")).ok()?;
            Some((name.to_owned(), link.to_string_lossy().into_owned()))
        })
        .collect()
}

fn launch(control: Control, paths: &[String]) -> std::result::Result<(), (Control, Failure)> {
    let namespaces = own_namespaces();
    let prepare = || {
        let shown = open_as_caller(paths)?;
        if shown.is_some() {
            let _ = procfs::uncover_proc(); // what that leads to is told where `/proc` is needed
        }
        let (plan, claim) = choose_ids(shown.is_some())?;
        let gate = sys::pipe().at(Step::CloneSupervisor, "pipe")?;
        let owner = match plan {
            Plan::Separate { first, .. } => (first, first),
            Plan::Shared { uid, gid } => (uid, gid),
        };
        let groups = Delegation::prepare(owner); // the last that can leave something behind
        let leaf = groups.supervisor_leaf(owner);
        Ok((shown, plan, claim, groups, leaf, gate))
    };
    let (shown, plan, claim, groups, leaf, (gate, opener)) = match prepare() {
        Ok(prepared) => prepared,
        Err(failure) => return Err((control, failure)),
    };
    let leaf = leaf.as_ref().map(AsFd::as_fd);
    match sys::fork(contain::OUTER_NAMESPACES, leaf).at(Step::CloneSupervisor, "") {
        Ok(Forked::Child) => {
            drop((opener, claim));
            if wait_for_gate(gate) {
                supervisor::run(control, shown, paths, plan, groups, namespaces);
            }
            sys::exit_now(1)
        }
        Ok(Forked::Parent(pid)) => {
            let started = write_maps(pid, plan, plan.outer_uid_map(), plan.outer_gid_map())
                .and_then(|()| open_gate(opener));
            let result = match started {
                Ok(()) => {
                    drop(control); // so that the control process sees when the supervisor ends
                    Ok(())
                }
                Err(failure) => {
                    let _ = sys::kill(pid, libc::SIGKILL);
                    Err((control, failure))
                }
            };
            drop((gate, shown));
            let _ = sys::wait(pid, true);
            groups.remove();
            drop(claim);
            result
        }
        Err(failure) => {
            groups.remove();
            Err((control, failure))
        }
    }
}

/// Writes both id maps of a child's new user namespace (`user_namespaces(7)`).
///
/// # Errors
/// [`Step::WriteIdMaps`] with the file.
pub fn write_maps(pid: i32, plan: Plan, uid_map: String, gid_map: String) -> Result<()> {
    let write = |file: &str, text: String| {
        let path = format!("/proc/{pid}/{file}");
        fs::write(&path, text).at(Step::WriteIdMaps, path)
    };
    if !plan.is_separate() {
        write("setgroups", "deny".to_owned())?;
    }
    write("gid_map", gid_map)?;
    write("uid_map", uid_map)
}

/// Blocks a new process until its parent has written its id maps. False: the parent gave up.
pub fn wait_for_gate(gate: OwnedFd) -> bool {
    fs::File::from(gate).read_exact(&mut [0]).is_ok()
}

/// Lets the child behind the gate go on.
///
/// # Errors
/// [`Step::SendMessage`] when it has died.
pub fn open_gate(opener: OwnedFd) -> Result<()> {
    fs::File::from(opener).write_all(&[1]).at(Step::SendMessage, "gate")
}
