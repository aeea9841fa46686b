//! The supervisor: PID 1 and root of the outer namespaces. It makes sandboxes and zygotes.
//!
//! It has no view of the host's files, no power over the network, and no id of a person. When its
//! socket closes it ends, and the kernel ends everything below it.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};

use serde_bytes::ByteBuf;

use crate::capabilities;
use crate::cgroup::Delegation;
use crate::contain;
use crate::error::{At, Failure, Result, Step};
use crate::idmap::{Pairs, Plan};
use crate::inotify;
use crate::keeper;
use crate::launcher::{Control, open_gate, wait_for_gate, write_maps};
use crate::mounts;
use crate::shown::{Covered, Shown};
use crate::spec::{
    Asked, KeeperReply, Limits, Network, SupervisorReply, SupervisorRequest, c_strings,
};
use crate::sys::{self, Forked};

/// A zygote's own `/tmp`, for what its libraries cache.
const ZYGOTE_TMP_BYTES: u64 = 64 * 1024 * 1024;

struct Supervisor {
    control: Control,
    covered: Covered,
    inotify: inotify::Share,
    plan: Plan,
    groups: Delegation,
    namespaces: Vec<(String, String)>,
    /// Keepers by pid.
    keepers: HashMap<i32, Kept>,
    pairs: Pairs,
}

/// A sandbox that is there.
struct Kept {
    /// The caller's number for it.
    id: u64,
    /// Which of the runtime's ids it has.
    pair: u32,
}

/// Confines this process as the supervisor and serves until the socket closes. Does not return.
pub fn run(
    control: Control,
    shown: Option<Shown>,
    paths: &[String],
    plan: Plan,
    groups: Delegation,
    namespaces: Vec<(String, String)>,
) -> ! {
    sys::set_name(c"sbx-supervisor");
    let (covered, inotify) = match contain::supervisor(shown, paths, plan.is_separate()) {
        Ok(made) => made,
        Err(failure) => {
            let _ = control.send(&SupervisorReply::Failed { failure }, &[]);
            sys::exit_now(1)
        }
    };
    let keepers = HashMap::new();
    let pairs = Pairs::new(plan);
    let mut supervisor =
        Supervisor { control, covered, inotify, plan, groups, namespaces, keepers, pairs };
    sys::exit_now(i32::from(supervisor.serve().is_err()))
}

impl Supervisor {
    fn serve(&mut self) -> Result<()> {
        let children = sys::child_signals().at(Step::WatchProcesses, "signalfd")?;
        let separate_ids = self.plan.is_separate();
        let private_ids = self.plan.private_ids();
        self.control.send(&SupervisorReply::Started { separate_ids, private_ids }, &[])?;
        // While the control process makes its first request. Without it a jail costs a little more.
        let _ = sys::put_text_on_huge_pages();
        loop {
            let [request, child] =
                sys::wait_readable([self.control.as_fd(), children.as_fd()], None)
                    .at(Step::ReceiveMessage, "poll")?;
            if child {
                sys::drain(children.as_fd());
                self.bury()?;
            }
            if request {
                let Some((request, fds)) = self.control.receive()? else { return Ok(()) };
                match request {
                    Asked::Known(SupervisorRequest::CreateSandbox {
                        id,
                        host_name,
                        limits,
                        network,
                    }) => {
                        self.create_sandbox(id, &host_name, limits, &network, fds)?;
                    }
                    Asked::Known(SupervisorRequest::StartZygote { argv, env, host_network }) => {
                        // A failure closes the zygote's socket, which is how its owner learns.
                        let _ = self.start_zygote(&argv, &env, host_network, fds);
                    }
                    Asked::Known(SupervisorRequest::Start { .. }) => {}
                    Asked::Unknown { id } => {
                        // Its socket closes with `fds`; the other sandboxes go on.
                        if let Some(id) = id {
                            self.control.send(&SupervisorReply::SandboxEnded { id }, &[])?;
                        }
                    }
                }
            }
        }
    }

    /// Waits for ended children; what was left of a sandbox is removed, and that is reported.
    fn bury(&mut self) -> Result<()> {
        while let Ok(Some(ended)) = sys::wait(-1, false) {
            if let Some(Kept { id, pair }) = self.keepers.remove(&ended.pid) {
                self.pairs.give_back(pair);
                self.groups.remove_group(id);
                self.control.send(&SupervisorReply::SandboxEnded { id }, &[])?;
            }
        }
        Ok(())
    }

    fn create_sandbox(
        &mut self,
        id: u64,
        host_name: &str,
        limits: Limits,
        network: &Network,
        fds: Vec<OwnedFd>,
    ) -> Result<()> {
        let mut channels = fds.into_iter().map(keeper::Socket::new);
        let Some(channel) = channels.next() else {
            return self.control.send(&SupervisorReply::SandboxEnded { id }, &[]);
        };
        let sockets = keeper::Sockets { own: &channel, inner: channels.next() };
        let all_taken = || Failure {
            step: Step::ChooseIds,
            errno: libc::EUSERS,
            subject: "every id of this runtime is a sandbox's that is there".to_owned(),
        };
        let made = self.pairs.take().ok_or_else(all_taken).and_then(|pair| {
            let made = self.fork_keeper(id, pair, host_name, limits, network, sockets);
            made.map(|pid| (pid, pair)).inspect_err(|_| self.pairs.give_back(pair))
        });
        match made {
            Ok((pid, pair)) => {
                self.keepers.insert(pid, Kept { id, pair });
                Ok(())
            }
            Err(failure) => {
                self.groups.remove_group(id);
                let _ = channel.send(&KeeperReply::Failed { failure }, &[]);
                self.control.send(&SupervisorReply::SandboxEnded { id }, &[])
            }
        }
    }

    fn fork_keeper(
        &self,
        id: u64,
        pair: u32,
        host_name: &str,
        limits: Limits,
        network: &Network,
        sockets: keeper::Sockets<'_>,
    ) -> Result<i32> {
        let group = self.groups.make_group(id, &limits)?;
        let (gate, opener) = sys::pipe().at(Step::CloneSandbox, "pipe")?;
        let into = group.into.as_ref().map(AsFd::as_fd);
        match sys::fork(contain::sandbox_namespaces(network), into).at(Step::CloneSandbox, "")? {
            Forked::Child => {
                drop(opener);
                if wait_for_gate(gate) {
                    keeper::run(
                        sockets,
                        keeper::Order {
                            host_name,
                            limits,
                            network,
                            covered: &self.covered,
                            inotify: self.inotify,
                            group,
                            of_ids: self.plan.protection(pair),
                            separate_ids: self.plan.is_separate(),
                            namespaces: &self.namespaces,
                        },
                    );
                }
                sys::exit_now(1)
            }
            Forked::Parent(pid) => {
                let map = self.plan.sandbox_map(pair);
                let started =
                    write_maps(pid, self.plan, map.clone(), map).and_then(|()| open_gate(opener));
                if let Err(failure) = started {
                    let _ = sys::kill(pid, libc::SIGKILL);
                    let _ = sys::wait(pid, true);
                    return Err(failure);
                }
                Ok(pid)
            }
        }
    }

    /// Starts an interpreter in mount and IPC namespaces of its own, with the few capabilities
    /// that its children need to step into jails.
    #[expect(clippy::needless_pass_by_value, reason = "the zygote's alone from here on")]
    fn start_zygote(
        &self,
        argv: &[ByteBuf],
        env: &[ByteBuf],
        host_network: bool,
        fds: Vec<OwnedFd>,
    ) -> Result<()> {
        let (argv, env) = (c_strings(argv, "argv")?, c_strings(env, "env")?);
        let network = if host_network { 0 } else { libc::CLONE_NEWNET };
        if sys::fork(contain::ZYGOTE_NAMESPACES | network, None).at(Step::CloneProcess, "zygote")?
            != Forked::Child
        {
            return Ok(());
        }
        let start = || -> Result<()> {
            sys::die_with_parent().at(Step::CloneProcess, "parent death signal")?;
            sys::setsid().at(Step::StartSession, "")?;
            mounts::mount_tmp(&self.covered, ZYGOTE_TMP_BYTES, 0)?;
            capabilities::keep_only(capabilities::ZYGOTE)?;
            sys::unblock_signals().at(Step::Execute, "signal mask")?;
            let null = || {
                std::fs::OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open("/dev/null")
                    .map(OwnedFd::from)
                    .at(Step::OpenDescriptor, "/dev/null")
            };
            let standard = [null()?, null()?, null()?];
            let all: Vec<_> = standard.iter().chain(&fds).map(AsFd::as_fd).collect();
            sys::place_descriptors(&all).at(Step::PlaceDescriptors, "")?;
            let program = argv.first().cloned().unwrap_or_default();
            sys::execve(&program, &argv, &env).at(Step::Execute, "zygote")?;
            Ok(())
        };
        let _ = start();
        sys::exit_now(127)
    }
}
