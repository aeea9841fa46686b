//! THE order: every step from the first clone to the first instruction of user code.
//!
//! Theory of operation. Five kinds of process, each a fork of the one above, each with less:
//!
//! ```text
//! launcher    the caller's own privileges; writes two id maps, then only waits and cleans up
//! supervisor  root of an outer user namespace that maps no id of a person; host root unmounted
//! keeper      PID 1 of one sandbox: its user, PID, mount, IPC, UTS, network, cgroup namespace
//! init        PID 1 of one jail: its PID and mount namespace, its own /proc; filtered
//! program     user code: no capability, another id, Landlock, no descriptor but its own
//! ```
//!
//! A context does not come down this ladder: it is forked by a zygote inside the jail's PID
//! namespace and steps in from the side ([`enter`]). The order within each function is the point
//! of this file; what each step does is in the module that it names.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::capabilities;
use crate::cgroup;
use crate::channel::Channel;
use crate::error::{At, Failure, Result, Step};
use crate::idmap::{INIT_ID, PAYLOAD_ID};
use crate::inotify;
use crate::landlock;
use crate::mounts;
use crate::procfs;
use crate::rlimits;
use crate::seccomp::{self, Key};
use crate::shown::{self, Covered, Shown};
use crate::spec::{EnterPlan, Limits, Network};
use crate::sys::{self, Forked};

/// Namespaces of the supervisor. It keeps the caller's network, over which it has no power: a
/// sandbox that is to share it can only be born there, since no one below may join it.
pub const OUTER_NAMESPACES: i32 = libc::CLONE_NEWUSER | libc::CLONE_NEWPID | libc::CLONE_NEWNS;
/// Namespaces of a zygote, and a network of its own unless its contexts are to have the caller's.
pub const ZYGOTE_NAMESPACES: i32 = libc::CLONE_NEWNS | libc::CLONE_NEWIPC;
/// Namespaces of a jail.
pub const JAIL_NAMESPACES: i32 = libc::CLONE_NEWPID | libc::CLONE_NEWNS;

/// Namespaces of a sandbox. The cgroup namespace comes after joining the group, which becomes
/// its root.
pub fn sandbox_namespaces(network: &Network) -> i32 {
    let all = libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    match network {
        Network::Loopback {} => all | libc::CLONE_NEWNET,
        Network::Host { .. } => all,
    }
}

/// User code is the first to go when memory runs out.
const OOM_SCORE_ADJ: &str = "500";

/// From the clone of the supervisor to its first request.
///
/// # Errors
/// The step that failed; the process is of no use then.
pub fn supervisor(
    shown: Option<Shown>,
    paths: &[String],
    separate: bool,
) -> Result<(Covered, inotify::Share)> {
    sys::become_user(0, 0, separate).at(Step::BecomeUser, "supervisor")?;
    sys::set_dumpable(true).at(Step::SetDumpable, "")?; // else /proc/self is not its own
    sys::die_with_parent().at(Step::CloneSupervisor, "parent death signal")?;
    sys::setsid().at(Step::StartSession, "")?;
    make_mounts_private()?;
    let shown = match shown {
        Some(shown) => shown, // opened by the launcher, who may read where this id may not
        None => shown::open_sources(paths)?,
    };
    let covered = mounts::enter_shared_root(&shown)?;
    Ok((covered, inotify::limit_all()?))
}

/// What a keeper prepares once for all its jails.
#[derive(Debug)]
pub struct Prepared {
    /// `/proc` entries to hide.
    pub proc_masks: Vec<(PathBuf, bool)>,
    /// The Landlock ruleset with the kernel's ABI, or why there is none.
    pub landlock: std::result::Result<(OwnedFd, i32), String>,
    /// Why the session keyring is not new, if it is not.
    pub keyring: Option<String>,
    /// Whether sandboxes have ids of their own.
    pub separate_ids: bool,
    /// `/proc/self/cgroup`, read before the group became the root that the sandbox sees.
    pub groups: String,
    /// What the sandbox may use.
    pub limits: Limits,
    /// Tells whoever reads it, a keeper or an init, of its own ended children (`signalfd(2)`).
    pub children: OwnedFd,
    /// Whose jails this process makes.
    pub role: Role,
}

/// Which keeper one is. With the host's network there are two, which differ in their network only.
#[derive(Debug)]
pub enum Role {
    /// The only one, in a network of the sandbox's own.
    Alone,
    /// PID 1, in the network of the control process; it holds the other one's network namespace.
    Host(OwnedFd),
    /// The other one, whose jails have a loopback device only.
    Inner,
}

/// From the clone of a keeper to its first jail.
///
/// # Errors
/// The step that failed; the sandbox is gone then.
pub fn sandbox(
    limits: &Limits,
    network: &Network,
    host_name: &str,
    covered: &Covered,
    join: &[OwnedFd],
    separate_ids: bool,
    inotify: inotify::Share,
) -> Result<Prepared> {
    cgroup::join(join)?; // while this is still the id that opened the files, which v1 compares
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    sys::become_user(INIT_ID, INIT_ID, separate_ids).at(Step::BecomeUser, "keeper")?;
    sys::set_dumpable(true).at(Step::SetDumpable, "")?;
    sys::die_with_parent().at(Step::CloneSandbox, "parent death signal")?;
    sys::setsid().at(Step::StartSession, "")?;
    sys::leave_namespaces(libc::CLONE_NEWCGROUP).at(Step::CloneSandbox, "cgroup namespace")?;
    sys::set_host_name(host_name).at(Step::SetHostName, host_name)?;
    if !network.is_host() {
        sys::bring_loopback_up().at(Step::LoopbackUp, "lo")?;
    }
    let keyring = sys::new_session_keyring().err().map(|e| e.to_string());
    make_mounts_private()?;
    let owner = if separate_ids { PAYLOAD_ID } else { 0 };
    mounts::mount_sandbox(limits, covered, owner)?;
    if let Network::Host { resolv_conf, hosts } = network {
        mounts::mount_name_service(resolv_conf, hosts)?;
    }
    if !separate_ids {
        second_user_namespace()?; // devpts wants an id 0, user code is to be 1000
    }
    fs::write("/proc/sys/user/max_user_namespaces", "0").at(Step::LimitUserNamespaces, "")?;
    inotify::limit_one(inotify)?;
    fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ).at(Step::SetLimit, "oom_score_adj")?;
    rlimits::apply(limits)?;
    let prepared = Prepared {
        proc_masks: procfs::proc_masks(),
        landlock: landlock::build(network.is_host())?,
        keyring,
        separate_ids,
        groups,
        limits: limits.clone(),
        children: sys::child_signals().at(Step::WatchProcesses, "signalfd")?,
        role: if network.is_host() { part_networks()? } else { Role::Alone },
    };
    capabilities::hold_only(capabilities::KEEPER)?;
    sys::set_no_new_privs().at(Step::NoNewPrivs, "")?;
    install_keyed_filter()?;
    sys::set_dumpable(false).at(Step::SetDumpable, "")?;
    Ok(prepared)
}

/// Forks the keeper whose jails have a loopback device of their own. Returns in both.
fn part_networks() -> Result<Role> {
    let (ours, theirs) = sys::packet_pair().at(Step::CloneSandbox, "socket")?;
    match sys::fork(libc::CLONE_NEWNET, None).at(Step::CloneSandbox, "inner network")? {
        Forked::Child => {
            let channel: Channel<(), Option<Failure>> = Channel::new(theirs);
            let own = || {
                sys::bring_loopback_up().at(Step::LoopbackUp, "lo")?;
                fs::File::open("/proc/self/ns/net").at(Step::OpenDescriptor, "/proc/self/ns/net")
            };
            match own() {
                Ok(namespace) => channel.send(&None, &[namespace.as_fd()])?,
                Err(failure) => {
                    let _ = channel.send(&Some(failure), &[]);
                    sys::exit_now(1)
                }
            }
            Ok(Role::Inner)
        }
        Forked::Parent(_) => {
            drop(theirs);
            let channel: Channel<Option<Failure>, ()> = Channel::new(ours);
            match channel.receive()? {
                Some((Some(failure), _)) => Err(failure),
                Some((None, fds)) if fds.len() == 1 => {
                    fds.into_iter().next().map(Role::Host).ok_or_else(no_inner_keeper)
                }
                _ => Err(no_inner_keeper()),
            }
        }
    }
}

fn no_inner_keeper() -> Failure {
    let subject = "the keeper of the inner network has died".to_owned();
    Failure { step: Step::CloneSandbox, errno: 0, subject }
}

/// From the clone of an init to its first program.
///
/// # Errors
/// The step that failed; the jail is gone then.
pub fn jail(prepared: &Prepared) -> Result<()> {
    procfs::mount_jail(&prepared.proc_masks, !prepared.separate_ids)?;
    let kept = if prepared.separate_ids { capabilities::INIT } else { &[] };
    capabilities::shrink(kept)?;
    sys::forget_key(); // from here on this process mounts as little as user code does
    sys::set_dumpable(false).at(Step::SetDumpable, "")
}

/// From the fork of a program to the moment before it runs: its descriptors are `0..fds.len()`,
/// and nothing else is open.
///
/// # Errors
/// The step that failed; the process is to exit then.
pub fn program(
    fds: &[BorrowedFd<'_>],
    ruleset: Option<BorrowedFd<'_>>,
    separate_ids: bool,
) -> Result<()> {
    sys::setsid().at(Step::StartSession, "")?;
    if separate_ids {
        // Without other groups, which the keeper gave up for all.
        sys::become_user(PAYLOAD_ID, PAYLOAD_ID, false).at(Step::BecomeUser, "program")?;
    }
    capabilities::give_up_the_rest()?;
    if let Some(ruleset) = ruleset {
        sys::restrict_self(ruleset).at(Step::RestrictByLandlock, "")?;
    }
    sys::place_descriptors(fds).at(Step::PlaceDescriptors, "")?;
    sys::umask(0o022);
    sys::unblock_signals().at(Step::Execute, "signal mask")
}

/// From a zygote's fork, born in the jail's PID namespace, to user code in this process.
///
/// `fds`, in this order: the jail's mount namespace; `plan.cgroup_files` cgroup files; with
/// `plan.network`, a network namespace; the sandbox's IPC, UTS, cgroup and user namespace; with
/// `plan.landlock`, the ruleset.
/// Every descriptor but `kept` and 0, 1, 2 is closed.
///
/// # Errors
/// The step that failed; the process is to exit then, for it is half in and half out.
pub fn enter(plan: &EnterPlan, fds: &[OwnedFd], kept: i32) -> Result<()> {
    let wrong = || Failure {
        step: Step::EnterNamespace,
        errno: libc::EINVAL,
        subject: format!("{} descriptors do not fit the plan", fds.len()),
    };
    let kinds = [
        (libc::CLONE_NEWNET, "net"),
        (libc::CLONE_NEWIPC, "ipc"),
        (libc::CLONE_NEWUTS, "uts"),
        (libc::CLONE_NEWCGROUP, "cgroup"),
        (libc::CLONE_NEWUSER, "user"),
    ];
    let (mount_namespace, rest) = fds.split_first().ok_or_else(wrong)?;
    let (cgroup_files, rest) = rest.split_at_checked(plan.cgroup_files).ok_or_else(wrong)?;
    let count = kinds.len() - usize::from(!plan.network);
    let (namespaces, rest) = rest.split_at_checked(count).ok_or_else(wrong)?;
    let ruleset = match (rest, plan.landlock) {
        ([], false) => None,
        ([ruleset], true) => Some(ruleset.as_fd()),
        _ => return Err(wrong()),
    };
    sys::setsid().at(Step::StartSession, "")?;
    fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJ).at(Step::SetLimit, "oom_score_adj")?;
    cgroup::join(cgroup_files)?;
    sys::enter_namespace(mount_namespace.as_fd(), libc::CLONE_NEWNS)
        .at(Step::EnterNamespace, "mnt")?;
    // The user namespace comes last: with it go the capabilities that the others need.
    let kinds = kinds.into_iter().skip(usize::from(!plan.network));
    for (namespace, (kind, name)) in namespaces.iter().zip(kinds) {
        sys::enter_namespace(namespace.as_fd(), kind).at(Step::EnterNamespace, name)?;
    }
    // And with it come all capabilities of that namespace, the bounding set included.
    rlimits::apply(&plan.limits)?;
    capabilities::empty_bounding_set()?;
    sys::become_user(PAYLOAD_ID, PAYLOAD_ID, plan.separate_ids).at(Step::BecomeUser, "context")?;
    capabilities::give_up_the_rest()?;
    sys::set_no_new_privs().at(Step::NoNewPrivs, "")?;
    if let Some(ruleset) = ruleset {
        sys::restrict_self(ruleset).at(Step::RestrictByLandlock, "")?;
    }
    sys::close_from(3, &[kept]).at(Step::PlaceDescriptors, "")?;
    sys::umask(0o022);
    sys::install_filter(&seccomp::compile(None)).at(Step::InstallSeccompFilter, "context")?;
    // The change of ids closed this process's own /proc/self to it; a program gets it back by exec.
    sys::set_dumpable(true).at(Step::SetDumpable, "context")
}

/// From the fork of a branch to user code in it. Everything that its origin gave up it lacks too;
/// this keeps the two and its siblings apart, which are in one jail and have one id.
///
/// # Errors
/// The step that failed; the process is to exit then.
pub fn branch() -> Result<()> {
    sys::setsid().at(Step::StartSession, "")?;
    // Nobody but itself reads or traces it, not even its origin, which Landlock would let.
    sys::set_dumpable(false).at(Step::SetDumpable, "branch")?;
    landlock::separate().map(drop)
}

/// The filter of a sandbox; this process alone, and what it forks, can open its keyed rules.
fn install_keyed_filter() -> Result<()> {
    let key = loop {
        let number = sys::draw_key().at(Step::InstallSeccompFilter, "key")?;
        if let Some(key) = Key::new(number) {
            break key;
        }
    };
    let program = seccomp::compile(Some(key));
    let installed = sys::install_filter(&program).at(Step::InstallSeccompFilter, "sandbox");
    seccomp::wipe(program);
    installed
}

fn make_mounts_private() -> Result<()> {
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    sys::mount(c"none", Path::new("/"), c"none", flags, "").at(Step::MakeMountsPrivate, "/")
}

/// With one id only: what was 0 while mounting is 1000 from here on.
fn second_user_namespace() -> Result<()> {
    sys::leave_namespaces(libc::CLONE_NEWUSER | libc::CLONE_NEWNS)
        .at(Step::UnshareSecondUserNamespace, "")?;
    for file in ["uid_map", "gid_map"] {
        fs::write(Path::new("/proc/self").join(file), format!("{PAYLOAD_ID} 0 1\n"))
            .at(Step::WriteIdMaps, file)?;
    }
    Ok(())
}
