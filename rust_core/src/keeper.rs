//! The keeper: PID 1 of one sandbox. It holds the sandbox's namespaces and makes its jails.
//!
//! A jail is a fork of the keeper, whose mounts, filters and limits are already in place; that is
//! what makes one cheap. When its socket closes it ends, and the kernel ends every jail with it.

use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::cgroup::{self, Group};
use crate::channel::{self, Channel};
use crate::contain::{self, Prepared, Role};
use crate::error::{At, Failure, Result, Step};
use crate::init;
use crate::inotify;
use crate::probe;
use crate::shown::Covered;
use crate::spec::{
    EnterPlan, KeeperReply, KeeperRequest, Limits, Network, Program, Protection, SocketsReply,
};
use crate::sys::{self, Forked};

/// Where fewer are allowed, the first jail could lack the process that a self-check in its last
/// moments still is, so its end is waited for.
const FEW_PROCESSES: u64 = 64;

/// The socket to the control process.
pub type Socket = Channel<KeeperRequest, KeeperReply>;

/// The sockets of a sandbox's keepers.
#[derive(Debug)]
pub struct Sockets<'a> {
    /// Of PID 1, or of the only one.
    pub own: &'a Socket,
    /// Of the one whose jails do not have the host's network, where the others have.
    pub inner: Option<Socket>,
}

/// What sandbox to make.
#[derive(Debug)]
pub struct Order<'a> {
    /// What `hostname` says.
    pub host_name: &'a str,
    /// What it may use.
    pub limits: Limits,
    /// What it may reach.
    pub network: &'a Network,
    /// What of the host lies below the sandbox's own directories.
    pub covered: &'a Covered,
    /// What it may have of what watches files.
    pub inotify: inotify::Share,
    /// Its control groups.
    pub group: Group,
    /// What is to be said of its ids.
    pub of_ids: Protection,
    /// Whether it has ids of its own.
    pub separate_ids: bool,
    /// The launcher's namespaces, which must not be the sandbox's.
    pub namespaces: &'a [(String, String)],
}

/// Confines this process as the keeper of a sandbox and serves it. Does not return.
pub fn run(sockets: Sockets<'_>, order: Order<'_>) -> ! {
    sys::set_name(c"sbx-keeper");
    let own = sockets.own;
    let status = match make(sockets, order) {
        Ok((inner, prepared)) => {
            i32::from(serve(inner.as_ref().unwrap_or(own), &prepared).is_err())
        }
        Err(failure) => {
            let _ = own.send(&KeeperReply::Failed { failure }, &[]);
            1
        }
    };
    sys::exit_now(status)
}

/// Makes the sandbox; returns what its jails are made with. With the host's network this returns in
/// two processes, in the inner one with its socket.
fn make(sockets: Sockets<'_>, order: Order<'_>) -> Result<(Option<Socket>, Prepared)> {
    let Order {
        host_name,
        limits,
        network,
        covered,
        inotify,
        group,
        of_ids,
        separate_ids,
        namespaces,
    } = order;
    let Sockets { own: socket, inner } = sockets;
    // Nothing of the supervisor's stays open: not its socket, not the groups of other sandboxes.
    let own = std::iter::once(socket.as_fd())
        .chain(inner.as_ref().map(AsFd::as_fd))
        .chain(group.join.iter().map(AsFd::as_fd))
        .chain(group.events.as_ref().map(AsFd::as_fd));
    let own: Vec<_> = own.map(|fd| fd.as_raw_fd()).collect();
    sys::close_from(3, &own).at(Step::PlaceDescriptors, "keeper")?;
    let Group { name, join, into, events, protections: mut of_groups } = group;
    let joined_by_clone = into.is_some();
    std::mem::forget(into); // closed above with everything else that is not this sandbox's
    let to_join: &[OwnedFd] = if joined_by_clone { &[] } else { &join };
    let prepared =
        contain::sandbox(&limits, network, host_name, covered, to_join, separate_ids, inotify)?;
    let inner_network = match (&prepared.role, inner) {
        (Role::Inner, Some(inner)) => return Ok((Some(inner), prepared)),
        (Role::Inner | Role::Host(_), None) => return Err(no_socket()),
        (Role::Host(namespace), Some(_)) => Some(namespace.try_clone()), // its socket is closed
        (Role::Alone, _) => None,
    };
    let mut protections = check(&prepared, namespaces, &of_ids, &limits)?;
    cgroup::check_membership(&mut of_groups, &name, &prepared.groups);
    protections.extend(of_groups);
    let open = |name: &str| {
        let path = format!("/proc/self/ns/{name}");
        fs::File::open(&path).map(OwnedFd::from).at(Step::OpenDescriptor, path)
    };
    let pidfd = sys::pidfd_open(sys::pid()).at(Step::OpenDescriptor, "pidfd")?;
    let network = match inner_network {
        Some(inner) => inner.at(Step::OpenDescriptor, "inner network")?,
        None => open("net")?,
    };
    let spaces = [network, open("ipc")?, open("uts")?, open("cgroup")?, open("user")?];
    let tables = socket_tables()?;
    let ruleset = prepared.landlock.as_ref().ok().map(|(fd, _)| fd);
    let fds: Vec<BorrowedFd<'_>> = std::iter::once(&pidfd)
        .chain(&tables)
        .chain(&events)
        .chain(&join)
        .chain(&spaces)
        .chain(ruleset)
        .map(AsFd::as_fd)
        .collect();
    let enter = EnterPlan {
        cgroup_files: join.len(),
        network: true,
        landlock: ruleset.is_some(),
        separate_ids,
        limits,
    };
    let memory_events = events.is_some();
    let reply = KeeperReply::Ready { tables: tables.len(), memory_events, protections, enter };
    socket.send(&reply, &fds)?;
    Ok((None, prepared))
}

fn no_socket() -> Failure {
    let subject = "the keeper of the inner network has no socket".to_owned();
    Failure { step: Step::ReadConfiguration, errno: 0, subject }
}

/// The tables of this network's TCP sockets. Whoever holds one reads what is true at that moment.
fn socket_tables() -> Result<Vec<OwnedFd>> {
    let mut tables = Vec::new();
    for name in ["tcp", "tcp6"] {
        let path = format!("/proc/self/net/{name}");
        match fs::File::open(&path) {
            Ok(table) => tables.push(table.into()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {} // a kernel without IPv6
            failed => drop(failed.at(Step::OpenDescriptor, path)?),
        }
    }
    Ok(tables)
}

/// Opens sockets where this process lives, and nothing more.
fn open_sockets(answer: OwnedFd) -> Result<()> {
    let answer: Channel<(), SocketsReply> = Channel::new(answer);
    let mut sockets = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        match sys::tcp_socket(family).at(Step::OpenDescriptor, "socket") {
            Ok(socket) => sockets.push(socket),
            Err(failure) if failure.errno == libc::EAFNOSUPPORT => {}
            Err(failure) => return answer.send(&SocketsReply::Refused { failure }, &[]),
        }
    }
    let sockets: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    answer.send(&SocketsReply::Opened {}, &sockets)
}

fn serve(socket: &Socket, prepared: &Prepared) -> Result<()> {
    let children = prepared.children.as_fd();
    let mut spent = None;
    sys::trim_heap();
    sys::begin_burst();
    loop {
        let [request, child] = sys::wait_readable([socket.as_fd(), children], None)
            .at(Step::ReceiveMessage, "poll")?;
        if child {
            sys::drain(children);
            while let Ok(Some(_)) = sys::wait(-1, false) {}
        }
        if request {
            drop(spent.take());
            let Some((request, mut fds)) = socket.receive()? else { return Ok(()) };
            if fds.is_empty() {
                continue;
            }
            let init_socket = fds.remove(0);
            let (program, namespaces, called) = match request {
                KeeperRequest::CreateJail { program, namespaces, called } => {
                    (program, namespaces, called)
                }
                KeeperRequest::OpenSockets {} => {
                    let _ = open_sockets(init_socket); // whoever asked may have gone
                    continue;
                }
            };
            let init_socket = init::Socket::new(init_socket);
            let fork = sys::fork(contain::JAIL_NAMESPACES, None).at(Step::CloneJail, "");
            match fork {
                Ok(Forked::Child) => {
                    init::run(&init_socket, prepared, program, fds, namespaces, called)
                }
                Ok(Forked::Parent(_)) => {}
                Err(failure) => init::refuse(&init_socket, failure),
            }
            fds.clear();
            // The child may wait for this very processor, and to free memory that it still shares
            // would copy pages meanwhile.
            spent = Some((program, fds));
        }
    }
}

/// Makes a jail and lets the self-check run in it as user code would.
fn check(
    prepared: &Prepared,
    namespaces: &[(String, String)],
    of_ids: &Protection,
    limits: &Limits,
) -> Result<Vec<Protection>> {
    let (ours, theirs) = sys::packet_pair().at(Step::SelfCheck, "socket")?;
    let (reader, writer) = sys::pipe().at(Step::SelfCheck, "pipe")?;
    match sys::fork(contain::JAIL_NAMESPACES, None).at(Step::CloneJail, "self-check")? {
        Forked::Child => {
            drop((ours, reader));
            let socket = init::Socket::new(theirs);
            init::run(&socket, prepared, Some(Program::Check), vec![writer], false, false)
        }
        Forked::Parent(pid) => {
            drop((theirs, writer));
            let mut found = Vec::new();
            fs::File::from(reader).read_to_end(&mut found).at(Step::SelfCheck, "pipe")?;
            let rows = channel::decode(&found).map_err(|_| why_no_findings(&ours));
            drop(ours); // ends the jail, which `serve` reaps
            if limits.processes < FEW_PROCESSES {
                let _ = sys::wait(pid, true); // fails only if it is gone already
            }
            Ok(probe::report(rows?, prepared, namespaces, of_ids))
        }
    }
}

/// The init of the self-check said why it failed, if it could.
fn why_no_findings(socket: &OwnedFd) -> Failure {
    let unknown = Failure {
        step: Step::SelfCheck,
        errno: 0,
        subject: "the check ended without a word".to_owned(),
    };
    let Ok(copy) = socket.try_clone() else { return unknown };
    let replies: Channel<crate::spec::InitReply, crate::spec::InitRequest> = Channel::new(copy);
    while let Ok([true]) = sys::wait_readable([replies.as_fd()], Some(std::time::Duration::ZERO)) {
        use crate::spec::InitReply::{Failed, Ready};
        match replies.receive() {
            Ok(Some((Failed { failure } | Ready { failure: Some(failure), .. }, _))) => {
                return failure;
            }
            Ok(Some(_)) => {}
            _ => break,
        }
    }
    unknown
}
