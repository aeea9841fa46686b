//! What a fresh jail costs, measured from a native process, interleaved with its peers.
//!
//! Rounds of: `vfork` + `exec` of the program; a jail made on demand with every protection, the
//! same program in it; and, where it is installed, `bwrap --unshare-all`. Prints one JSON object
//! with the medians in microseconds and their ratios. `benches/foundation.py` runs it.

use std::error::Error;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rust_core::channel::Channel;
use rust_core::spec::{
    InitReply, InitRequest, KeeperReply, KeeperRequest, Limits, Network, Program, SupervisorReply,
    SupervisorRequest,
};
use rust_core::sys;
use serde_bytes::ByteBuf;

type Outcome<T> = Result<T, Box<dyn Error>>;

const ROUNDS: usize = 200;
const TRUE: &str = "/bin/true";

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
    keeper: Channel<KeeperReply, KeeperRequest>,
    _supervisor: Channel<SupervisorReply, SupervisorRequest>,
    null: OwnedFd,
}

fn open_sandbox() -> Outcome<Sandbox> {
    let (ours, theirs) = sys::packet_pair()?;
    Command::new(env!("CARGO_BIN_EXE_sandbox-supervisor"))
        .env_clear()
        .stdin(Stdio::from(theirs))
        .spawn()?;
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
    match keeper.receive()? {
        Some((KeeperReply::Ready { .. }, _)) => {}
        other => return Err(format!("no sandbox: {other:?}").into()),
    }
    let null = File::options().read(true).write(true).open("/dev/null")?.into();
    Ok(Sandbox { keeper, _supervisor: supervisor, null })
}

impl Sandbox {
    fn live_jail(&self) -> Outcome<LiveJail<'_>> {
        let (ours, theirs) = sys::packet_pair()?;
        let request = KeeperRequest::CreateJail { program: None, namespaces: false };
        self.keeper.send(&request, &[theirs.as_fd()])?;
        let init = Channel::new(ours);
        match init.receive()? {
            Some((InitReply::Ready { .. }, _)) => Ok(LiveJail { init, sandbox: self }),
            other => Err(format!("no jail: {other:?}").into()),
        }
    }

    /// From the request for a jail to the program's exit status; the jail's end comes after.
    fn fresh_jail(&self, program: &str) -> Outcome<f64> {
        let start = Instant::now();
        let (ours, theirs) = sys::packet_pair()?;
        let program = Some(execute(program));
        let request = KeeperRequest::CreateJail { program, namespaces: false };
        let null = self.null.as_fd();
        self.keeper.send(&request, &[theirs.as_fd(), null, null, null])?;
        drop(theirs);
        let init: Channel<InitReply, InitRequest> = Channel::new(ours);
        let mut jail = None;
        loop {
            match init.receive()?.ok_or("the jail died")? {
                (InitReply::Ready { failure: None, .. }, fds) => jail = fds.into_iter().next(),
                (InitReply::Exited { exit: Some(0), .. }, _) => break,
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

/// A jail that lives on, and the same program spawned in it by its init.
struct LiveJail<'a> {
    init: Channel<InitReply, InitRequest>,
    sandbox: &'a Sandbox,
}

impl LiveJail<'_> {
    fn spawn(&self, program: &str) -> Outcome<f64> {
        let start = Instant::now();
        let null = self.sandbox.null.as_fd();
        self.init.send(&InitRequest::Spawn { program: execute(program) }, &[null, null, null])?;
        loop {
            match self.init.receive()?.ok_or("the jail died")?.0 {
                InitReply::Spawned { .. } => {}
                InitReply::Exited { exit: Some(0), .. } => break,
                other => return Err(format!("{other:?}").into()),
            }
        }
        Ok(start.elapsed().as_secs_f64() * 1e6)
    }
}

fn execute(program: &str) -> Program {
    Program::Execute {
        argv: vec![bytes(program)],
        env: vec![],
        cwd: bytes("/workspace"),
        watch_children: false,
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[allow(clippy::print_stdout, reason = "its result is what it prints")]
fn main() -> Outcome<()> {
    let sandbox = open_sandbox()?;
    let bwrap = ["/usr/bin/bwrap", "/bin/bwrap"].into_iter().find(|p| Path::new(p).exists());
    let live = sandbox.live_jail()?;
    let (mut raws, mut jails, mut spawns, mut bwraps) = (vec![], vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        raws.push(raw(&[TRUE])?);
        jails.push(sandbox.fresh_jail(TRUE)?);
        spawns.push(live.spawn(TRUE)?);
        if let Some(bwrap) = bwrap.filter(|_| round % 4 == 0) {
            let flags =
                ["--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev"];
            bwraps.push(raw(&[&[bwrap][..], &flags, &[TRUE]].concat())?);
        }
    }
    let (raw, jail, spawn) = (median(raws), median(jails), median(spawns));
    let bwrap = median(bwraps);
    let or_null = |value: f64| if value.is_nan() { "null".into() } else { format!("{value:.3}") };
    println!(
        "{{\"rounds\": {ROUNDS}, \"raw_us\": {raw:.1}, \"fresh_jail_us\": {jail:.1}, \
         \"live_jail_us\": {spawn:.1}, \"bwrap_us\": {}, \"jail_per_raw\": {:.3}, \
         \"live_per_raw\": {:.3}, \"jail_per_bwrap\": {}}}",
        or_null(bwrap),
        jail / raw,
        spawn / raw,
        or_null(jail / bwrap),
    );
    Ok(())
}
