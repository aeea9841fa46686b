//! What a fresh jail costs, measured from a native process, interleaved with its peers.
//!
//! Rounds of: `vfork` + `exec` of the program; a jail made on demand with every protection, the
//! same program in it; likewise in a jail that was made ahead; the program, and bash's own, as a command of a live session, its output
//! captured; and in every fourth round `bash -c true` and, where it is installed,
//! `bwrap --unshare-all`. Prints one JSON object: `series`, with each one's microseconds in order.
//! `benches/native` builds and runs it, for `sandbox-runtime bench --native`.
//!
//! It measures what is shipped: `SANDBOX_SUPERVISOR` and `SANDBOX_SHELL_BUILTIN` name the supervisor
//! and bash's builtin, built as `rust_core/build.rs` builds them.

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rust_core::channel::Channel;
use rust_core::command::{Command as SessionCommand, Shell};
use rust_core::nearby::{Neighbour, UnderWay};
use rust_core::spec::{
    InitReply, InitRequest, KeeperReply, KeeperRequest, Limits, Network, Program, SupervisorReply,
    SupervisorRequest,
};
use rust_core::sys;
use serde_bytes::ByteBuf;

type Init = Channel<InitReply, InitRequest>;
type Outcome<T> = Result<T, Box<dyn Error>>;

const ROUNDS: usize = 200;
const WARM_UP: usize = 5;
const TRUE: &str = "/bin/true";

/// Where something that the extension carries lies.
fn shipped(variable: &str) -> Outcome<OsString> {
    Ok(std::env::var_os(variable).ok_or_else(|| format!("{variable} is not set"))?)
}

fn bytes(text: &str) -> ByteBuf {
    ByteBuf::from(text.as_bytes().to_vec())
}

/// `vfork` + `exec` with nothing around it, until the child was waited for.
fn raw(argv: &[&str]) -> Outcome<f64> {
    let argv: Vec<CString> = argv.iter().map(|a| CString::new(*a)).collect::<Result<_, _>>()?;
    let start = Instant::now();
    let pid = sys::fork_sharing_memory(&mut || {
        let _ = sys::execve(&argv[0], &argv, &argv[..0]);
        127
    })?;
    let ended = sys::wait(pid, true)?.ok_or("no status")?;
    let took = start.elapsed().as_secs_f64() * 1e6;
    if ended.exit == Some(0) { Ok(took) } else { Err(format!("{argv:?}: {ended:?}").into()) }
}

struct Sandbox {
    neighbour: Option<Neighbour>,
    keeper: Channel<KeeperReply, KeeperRequest>,
    _supervisor: Channel<SupervisorReply, SupervisorRequest>,
    null: OwnedFd,
}

/// Of a process's pidfd; `NO_NEIGHBOURS` in the environment is for comparison.
fn neighbour(pidfd: Option<&OwnedFd>) -> Option<Neighbour> {
    if std::env::var_os("NO_NEIGHBOURS").is_some() {
        return None;
    }
    Neighbour::new(pidfd?.as_fd())
}

fn open_sandbox() -> Outcome<Sandbox> {
    let (ours, theirs) = sys::packet_pair()?;
    Command::new(shipped("SANDBOX_SUPERVISOR")?).env_clear().stdin(Stdio::from(theirs)).spawn()?;
    let supervisor: Channel<SupervisorReply, SupervisorRequest> = Channel::new(ours);
    supervisor.send(&SupervisorRequest::Start { read_only_paths: vec![] }, &[])?;
    match supervisor.receive()? {
        Some((SupervisorReply::Started { .. }, _)) => {}
        other => return Err(format!("no supervisor: {other:?}").into()),
    }
    let (ours, theirs) = sys::packet_pair()?;
    let gib = 1 << 30;
    let limits = Limits {
        memory_bytes: 2 * gib,
        processes: 512,
        cpu_percent: None,
        open_files: 4096,
        file_size_bytes: gib,
        workspace_bytes: gib,
        tmp_bytes: gib,
        shm_bytes: gib,
    };
    let request = SupervisorRequest::CreateSandbox {
        id: 1,
        host_name: "sandbox".into(),
        limits,
        network: Network::Loopback {},
    };
    supervisor.send(&request, &[theirs.as_fd()])?;
    drop(theirs);
    let keeper: Channel<KeeperReply, KeeperRequest> = Channel::new(ours);
    let neighbour = match keeper.receive()? {
        Some((KeeperReply::Ready { .. }, fds)) => neighbour(fds.first()),
        other => return Err(format!("no sandbox: {other:?}").into()),
    };
    let null = File::options().read(true).write(true).open("/dev/null")?.into();
    Ok(Sandbox { neighbour, keeper, _supervisor: supervisor, null })
}

impl Sandbox {
    /// From the request for a jail to the program's exit status; the jail's end comes after.
    fn fresh_jail(&self, program: &str) -> Outcome<f64> {
        let start = Instant::now();
        let null = self.null.as_fd();
        let under_way = UnderWay::begin();
        let called =
            self.neighbour.as_ref().is_some_and(|keeper| keeper.keep_here(under_way.alone));
        let init = self.create_jail(Some(execute(program)), &[null, null, null], called)?;
        Self::to_the_end(init, start, None)
    }

    /// As [`Sandbox::fresh_jail`], in one that was made ahead of the request.
    fn prepared_jail(&self, program: &str) -> Outcome<f64> {
        if let Some(keeper) = &self.neighbour {
            keeper.keep_here(false);
        }
        let init = self.create_jail(None, &[], false)?;
        let jail = match init.receive()?.ok_or("the jail died")? {
            (InitReply::Ready { .. }, fds) => fds.into_iter().next(),
            (other, _) => return Err(format!("{other:?}").into()),
        };
        let start = Instant::now();
        let null = self.null.as_fd();
        init.send(&InitRequest::Start { program: execute(program) }, &[null, null, null])?;
        Self::to_the_end(init, start, jail)
    }

    fn create_jail(
        &self,
        program: Option<Program>,
        fds: &[BorrowedFd<'_>],
        called: bool,
    ) -> Outcome<Init> {
        let (ours, theirs) = sys::packet_pair()?;
        let request = KeeperRequest::CreateJail { program, namespaces: false, called };
        let fds: Vec<_> = std::iter::once(theirs.as_fd()).chain(fds.iter().copied()).collect();
        self.keeper.send(&request, &fds)?;
        Ok(Channel::new(ours))
    }

    fn to_the_end(init: Init, start: Instant, mut jail: Option<OwnedFd>) -> Outcome<f64> {
        loop {
            match init.receive()?.ok_or("the jail died")? {
                (InitReply::Ready { failure: None, .. }, fds) => jail = fds.into_iter().next(),
                (InitReply::Exited { exit: Some(0), .. }, fds) => {
                    jail = jail.or(fds.into_iter().next());
                    break;
                }
                (other, _) => return Err(format!("{other:?}").into()),
            }
        }
        let took = start.elapsed().as_secs_f64() * 1e6;
        drop(init);
        if let Some(pidfd) = jail {
            sys::wait_readable([pidfd.as_fd()], None)?;
        }
        Ok(took)
    }
}

/// A session's shell, driven as `sandbox_runtime/shell.py` drives it.
struct LiveSession<'a> {
    socket: OwnedFd,
    epoll: OwnedFd,
    sandbox: &'a Sandbox,
    neighbour: Option<Neighbour>,
    _init: Init,
}

const SETUP: &[u8] = b"enable -f /proc/self/fd/4 sandbox_session; sandbox_session 3 4\n";

impl<'a> LiveSession<'a> {
    fn start(sandbox: &'a Sandbox) -> Outcome<Self> {
        let library = std::fs::read(shipped("SANDBOX_SHELL_BUILTIN")?)?;
        let builtin = sys::sealed_executable(c"sandbox-session", &library)?;
        let (socket, theirs) = sys::packet_pair()?;
        let (script, writer) = sys::pipe()?;
        File::from(writer).write_all(SETUP)?;
        let (init, theirs_init) = sys::packet_pair()?;
        let argv = ["bash", "--norc", "--noprofile"].map(bytes).to_vec();
        let program = Some(Program::Execute {
            argv,
            env: vec![bytes("PATH=/usr/local/bin:/usr/bin:/bin")],
            cwd: bytes("/workspace"),
            watch_children: true,
            until_end: false,
        });
        let request = KeeperRequest::CreateJail { program, namespaces: false, called: false };
        let null = sandbox.null.as_fd();
        let fds =
            [theirs_init.as_fd(), script.as_fd(), null, null, theirs.as_fd(), builtin.as_fd()];
        sandbox.keeper.send(&request, &fds)?;
        drop(theirs);
        let (ready, _) = sys::receive_packet(socket.as_fd())?;
        if ready.first() != Some(&129) {
            return Err(format!("no session: {ready:?}").into());
        }
        let init: Init = Channel::new(init);
        let neighbour = match init.receive()?.ok_or("the jail died")? {
            (InitReply::Ready { failure: None, .. }, fds) => neighbour(fds.get(4)),
            (other, _) => return Err(format!("{other:?}").into()),
        };
        let epoll = sys::epoll()?;
        sys::watch(epoll.as_fd(), socket.as_fd())?;
        Ok(Self { socket, epoll, sandbox, neighbour, _init: init })
    }

    /// A program in an argument vector.
    fn run(&self, program: &str) -> Outcome<f64> {
        let mut body = u32::try_from(program.len())?.to_le_bytes().to_vec();
        body.extend(program.as_bytes());
        self.ask(2, 1, &body)
    }

    /// Shell text.
    fn run_text(&self, text: &str) -> Outcome<f64> {
        self.ask(1, 0, text.as_bytes())
    }

    /// From the request to the shell's answer and the end of both pipes.
    fn ask(&self, kind: u8, words: u8, body: &[u8]) -> Outcome<f64> {
        let start = Instant::now();
        let mut packet = vec![kind, 0, 0, 0, words, 0, 0, 0];
        packet.extend([0; 12]);
        packet.extend(u32::try_from(body.len())?.to_le_bytes());
        packet.extend(body);
        let shell = Shell { socket: self.socket.as_fd(), epoll: self.epoll.as_fd() };
        let stdin = Some(self.sandbox.null.as_fd());
        let mut command =
            SessionCommand::send(shell, &packet, stdin, None, self.neighbour.as_ref())?;
        let found = loop {
            sys::wait_readable([shell.epoll], None)?;
            if let Some(found) = command.collect(shell, 64)? {
                break found;
            }
        };
        drop(command);
        let took = start.elapsed().as_secs_f64() * 1e6;
        let went_well = found.answer.first() == Some(&130) && found.answer[4..8] == [0; 4];
        if !went_well || !found.stdout.at_end || !found.stderr.at_end {
            return Err(format!("{found:?}").into());
        }
        Ok(took)
    }
}

fn execute(program: &str) -> Program {
    Program::Execute {
        argv: vec![bytes(program)],
        env: vec![],
        cwd: bytes("/workspace"),
        watch_children: false,
        until_end: true,
    }
}

#[allow(clippy::print_stdout, reason = "its result is what it prints")]
fn main() -> Outcome<()> {
    let sandbox = open_sandbox()?;
    let bwrap = ["/usr/bin/bwrap", "/bin/bwrap"].into_iter().find(|p| Path::new(p).exists());
    let session = LiveSession::start(&sandbox)?;
    let mut series: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut note = |name, took| series.entry(name).or_default().push(took);
    for round in 0..WARM_UP + ROUNDS {
        let raw_took = raw(&[TRUE])?;
        let jail = sandbox.fresh_jail(TRUE)?;
        let prepared = sandbox.prepared_jail(TRUE)?;
        let command = session.run(TRUE)?;
        let builtin = session.run_text("true")?;
        if round < WARM_UP {
            continue;
        }
        note("raw", raw_took);
        note("fresh_jail", jail);
        note("prepared_jail", prepared);
        note("session_command", command);
        note("session_builtin", builtin);
        if (round - WARM_UP) % 4 == 0 {
            note("bash", raw(&["/bin/bash", "-c", "true"])?);
            if let Some(bwrap) = bwrap {
                let flags =
                    ["--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"];
                note("bwrap", raw(&[&[bwrap][..], &flags, &[TRUE]].concat())?);
            }
        }
    }
    let lists: Vec<String> = series
        .iter()
        .map(|(name, values)| {
            let values: Vec<String> = values.iter().map(|v| format!("{v:.1}")).collect();
            format!("\"{name}\": [{}]", values.join(", "))
        })
        .collect();
    println!("{{\"series\": {{{}}}}}", lists.join(", "));
    Ok(())
}
