//! The native side on a real kernel, without Python: sandboxes are made, programs end with their
//! status, and what ends takes with it all that lies below.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rust_core::channel::Channel;
use rust_core::error::{Failure, Step};
use rust_core::spec::{
    Achieved, Asked, InitReply, InitRequest, KeeperReply, KeeperRequest, Limits, Network, Program,
    Protection, SupervisorReply, SupervisorRequest,
};
use rust_core::sys;
use serde_bytes::ByteBuf;

const MIB: u64 = 1 << 20;

fn limits() -> Limits {
    Limits {
        memory_bytes: 1024 * MIB,
        processes: 64,
        cpu_percent: None,
        open_files: 256,
        file_size_bytes: MIB,
        workspace_bytes: MIB,
        tmp_bytes: MIB,
        shm_bytes: MIB,
    }
}

struct Runtime {
    launcher: Child,
    socket: Option<Channel<SupervisorReply, Asked>>,
}

impl Runtime {
    fn start() -> Self {
        let (ours, theirs) = sys::packet_pair().expect("sockets");
        let launcher = Command::new(env!("CARGO_BIN_EXE_sandbox-supervisor"))
            .env_clear()
            .stdin(Stdio::from(theirs))
            .spawn()
            .expect("the launcher starts");
        let runtime = Self { launcher, socket: Some(Channel::new(ours)) };
        runtime.ask(SupervisorRequest::Start { read_only_paths: vec![] }, None);
        match runtime.answer() {
            SupervisorReply::Started { .. } => runtime,
            other => panic!("these tests need user namespaces: {other:?}"),
        }
    }

    fn socket(&self) -> &Channel<SupervisorReply, Asked> {
        self.socket.as_ref().expect("it is open")
    }

    fn ask(&self, request: SupervisorRequest, fd: Option<&OwnedFd>) {
        let fds: Vec<_> = fd.into_iter().map(AsFd::as_fd).collect();
        self.socket().send(&Asked::Known(request), &fds).expect("sent");
    }

    fn answer(&self) -> SupervisorReply {
        self.socket().receive().expect("received").expect("it lives").0
    }

    fn sandbox(&self, id: u64) -> (Keeper, Vec<Protection>) {
        let (ours, theirs) = sys::packet_pair().expect("sockets");
        let host_name = "test".to_owned();
        let request = SupervisorRequest::CreateSandbox {
            id,
            host_name,
            limits: limits(),
            network: Network::Loopback {},
        };
        self.ask(request, Some(&theirs));
        drop(theirs);
        let keeper = Channel::new(ours);
        match keeper.receive().expect("received").expect("it lives").0 {
            KeeperReply::Ready { protections, .. } => (keeper, protections),
            KeeperReply::Failed { failure } => panic!("no sandbox: {failure}"),
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.socket = None; // which ends everything below
        self.launcher.wait().expect("the launcher ends");
    }
}

type Keeper = Channel<KeeperReply, KeeperRequest>;

/// A jail with a program in it, and the pipe that this program and its children write to.
struct Jail {
    init: Channel<InitReply, InitRequest>,
    output: File,
}

fn jail(keeper: &Keeper, text: &str) -> Jail {
    jail_with(keeper, Some(shell(text, false)))
}

/// A program that is a shell's text.
fn shell(text: &str, until_end: bool) -> Program {
    let bytes = |text: &str| ByteBuf::from(text.as_bytes().to_vec());
    Program::Execute {
        argv: vec![bytes("/bin/sh"), bytes("-c"), bytes(text)],
        env: vec![bytes("PATH=/usr/bin:/bin")],
        cwd: bytes("/workspace"),
        watch_children: false,
        until_end,
    }
}

fn jail_with(keeper: &Keeper, program: Option<Program>) -> Jail {
    let (ours, theirs) = sys::packet_pair().expect("sockets");
    let (reader, writer) = sys::pipe().expect("a pipe");
    let null: OwnedFd = File::open("/dev/null").expect("it is there").into();
    let count = if program.is_some() { 4 } else { 1 };
    let request = KeeperRequest::CreateJail { program, namespaces: false, called: false };
    let fds = [&theirs, &null, &writer, &writer].map(AsFd::as_fd);
    keeper.send(&request, &fds[..count]).expect("sent");
    Jail { init: Channel::new(ours), output: reader.into() }
}

impl Jail {
    fn reply(&self) -> (InitReply, Vec<OwnedFd>) {
        self.init.receive().expect("received").expect("it lives")
    }

    /// Waits until the program has written a line.
    fn wait_line(&mut self) {
        let mut byte = [0];
        while byte != *b"\n" {
            self.output.read_exact(&mut byte).expect("a line");
        }
    }

    /// Returns once every process that holds the pipe is gone.
    fn wait_all_gone(mut self) {
        self.output.read_to_end(&mut Vec::new()).expect("read");
    }
}

const LASTING: &str = "setsid sleep 1000 & (trap '' TERM HUP; sleep 1000) & echo up; sleep 1000";

#[test]
fn a_program_ends_with_its_status() {
    let runtime = Runtime::start();
    let (keeper, _) = runtime.sandbox(1);
    for (text, exit, signal) in [("exit 7", Some(7), None), ("kill -9 $$", None, Some(9))] {
        let jail = jail(&keeper, text);
        assert!(matches!(jail.reply().0, InitReply::Ready { pid: Some(_), failure: None }));
        match jail.reply().0 {
            InitReply::Exited { exit: code, signal: number, .. } => {
                assert_eq!((code, number), (exit, signal));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn whoever_waits_for_the_end_alone_is_told_once() {
    let runtime = Runtime::start();
    let (keeper, _) = runtime.sandbox(1);
    for (text, left) in [("exit 7", true), ("sleep 1000 & exit 7", false)] {
        let jail = jail_with(&keeper, Some(shell(text, true)));
        let (reply, fds) = jail.reply();
        assert!(matches!(reply, InitReply::Exited { exit: Some(7), alone, .. } if alone == left));
        drop(jail.init);
        sys::wait_readable([fds[0].as_fd()], None).expect("init's pidfd");
    }
}

#[test]
fn whoever_waits_for_the_end_no_longer_is_told_of_the_start() {
    let runtime = Runtime::start();
    let (keeper, _) = runtime.sandbox(1);
    let jail = jail_with(&keeper, Some(shell("sleep 1000", true)));
    let init = std::os::unix::net::UnixDatagram::from(
        jail.init.as_fd().try_clone_to_owned().expect("a copy"),
    );
    init.shutdown(std::net::Shutdown::Write).expect("shut down");
    let (reply, fds) = jail.reply();
    assert!(matches!(reply, InitReply::Ready { pid: Some(_), failure: None }));
    sys::wait_readable([fds[0].as_fd()], None).expect("init's pidfd");
}

#[test]
fn whoever_waits_for_the_end_learns_why_nothing_was_started() {
    let runtime = Runtime::start();
    let (keeper, _) = runtime.sandbox(1);
    let nowhere = || Program::Execute {
        argv: vec![ByteBuf::from(b"/nowhere".to_vec())],
        env: vec![],
        cwd: ByteBuf::from(b"/workspace".to_vec()),
        watch_children: false,
        until_end: true,
    };
    let is_told = |failure: Option<Failure>| {
        failure.is_some_and(|f| f.step == Step::Execute && f.errno == 2 && f.subject == "/nowhere")
    };
    match jail_with(&keeper, Some(nowhere())).reply() {
        (InitReply::Ready { pid: None, failure }, fds) if fds.len() == 1 => {
            assert!(is_told(failure));
        }
        other => panic!("{other:?}"),
    }
    let ahead = jail_with(&keeper, None);
    assert!(matches!(ahead.reply().0, InitReply::Ready { failure: None, .. }));
    ahead.init.send(&InitRequest::Start { program: nowhere() }, &[]).expect("sent");
    match ahead.reply().0 {
        InitReply::Started { pid: None, failure } => assert!(is_told(failure)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_init_that_waits_for_the_end_holds_none_of_its_programs_pipes() {
    let runtime = Runtime::start();
    let (keeper, _) = runtime.sandbox(1);
    let mut jail = jail_with(&keeper, Some(shell("exec >&- 2>&-; sleep 1000", true)));
    jail.output.read_to_end(&mut Vec::new()).expect("the end of the pipe");
}

#[test]
fn an_init_obeys_while_its_program_is_about_to_start() {
    let runtime = Runtime::start();
    let (keeper, _) = runtime.sandbox(1);
    for _ in 0..20 {
        let jail = jail_with(&keeper, Some(shell("sleep 1000", true)));
        let end = InitRequest::Signal { pid: -1, signal: 9, group: false };
        jail.init.send(&end, &[]).expect("sent");
        match jail.reply().0 {
            InitReply::Exited { signal: Some(9), .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_jail_that_was_made_ahead_runs_one_program() {
    let runtime = Runtime::start();
    let (keeper, _) = runtime.sandbox(1);
    let null: OwnedFd = File::open("/dev/null").expect("it is there").into();
    for until_end in [false, true] {
        let jail = jail_with(&keeper, None);
        assert!(matches!(jail.reply().0, InitReply::Ready { pid: None, failure: None }));
        for text in ["exit 7", "exit 8"] {
            let start = InitRequest::Start { program: shell(text, until_end) };
            jail.init.send(&start, &[null.as_fd(), null.as_fd(), null.as_fd()]).expect("sent");
        }
        if !until_end {
            assert!(matches!(jail.reply().0, InitReply::Started { pid: Some(_), failure: None }));
        }
        assert!(matches!(jail.reply().0, InitReply::Exited { exit: Some(7), alone: true, .. }));
        jail.init
            .send(&InitRequest::Signal { pid: -1, signal: 9, group: false }, &[])
            .expect("sent");
        let quiet = sys::wait_readable([jail.init.as_fd()], Some(Duration::from_millis(20)));
        assert_eq!(quiet.expect("polled"), [false], "a second one was started");
    }
}

#[test]
fn everything_required_is_found_inside() {
    let runtime = Runtime::start();
    let (_keeper, rows) = runtime.sandbox(1);
    let wanted = ["separate_ids", "landlock", "keyring", "cgroup_memory", "cgroup_pids"];
    for row in rows.iter().filter(|row| !wanted.contains(&row.name.as_str())) {
        assert_eq!(row.achieved, Achieved::Full, "{row:?}");
    }
    assert!(rows.len() > 20, "{rows:?}");
}

#[test]
fn whoever_closes_an_init_ends_its_whole_jail() {
    let runtime = Runtime::start();
    let (keeper, _) = runtime.sandbox(1);
    let mut jail = jail(&keeper, LASTING);
    let (_, fds) = jail.reply();
    jail.wait_line();
    let Jail { init, output } = jail;
    drop(init);
    sys::wait_readable([fds[0].as_fd()], None).expect("init's pidfd");
    File::read_to_end(&mut { output }, &mut Vec::new()).expect("nobody is left to write");
}

#[test]
fn a_sweep_ends_a_jails_processes_and_those_of_no_other() {
    let runtime = Runtime::start();
    let (keeper, _) = runtime.sandbox(1);
    let mut first = jail(&keeper, LASTING);
    let mut second = jail(&keeper, "echo up; sleep 1000");
    first.wait_line();
    second.wait_line();
    let sweep = InitRequest::Sweep {
        id: 7,
        spare: vec![],
        keep: vec![],
        since_ticks: 0,
        trees: vec![],
        ends: vec![],
        break_shell: false,
    };
    first.init.send(&sweep, &[]).expect("sent");
    while !matches!(first.reply().0, InitReply::Swept { id: 7, .. }) {}
    first.wait_all_gone();
    let quiet = sys::wait_readable([second.output.as_fd()], Some(Duration::ZERO));
    assert_eq!(quiet.expect("polled"), [false], "its pipe is still held");
}

#[test]
fn the_end_of_a_keeper_ends_its_jails_and_no_other_sandbox() {
    let runtime = Runtime::start();
    let (one, _) = runtime.sandbox(1);
    let (other, _) = runtime.sandbox(2);
    let mut lasting = jail(&one, LASTING);
    lasting.wait_line();
    drop(one);
    lasting.wait_all_gone();
    assert_eq!(runtime.answer(), SupervisorReply::SandboxEnded { id: 1 });
    jail(&other, "echo up").wait_line();
}

#[test]
fn the_end_of_a_runtime_ends_all_of_it() {
    let runtime = Runtime::start();
    let (keeper, _) = runtime.sandbox(1);
    let mut lasting = jail(&keeper, LASTING);
    lasting.wait_line();
    drop(runtime);
    lasting.wait_all_gone();
}

#[test]
fn a_request_that_is_none_is_answered_and_harms_nothing() {
    let runtime = Runtime::start();
    let (keeper, _) = runtime.sandbox(1);
    runtime.socket().send(&Asked::Unknown { id: Some(9) }, &[]).expect("sent");
    assert_eq!(runtime.answer(), SupervisorReply::SandboxEnded { id: 9 });
    jail(&keeper, "echo up").wait_line();
}
