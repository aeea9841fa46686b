//! Init: PID 1 of a jail. It spawns, reaps, reports, sweeps; when its socket closes it ends, and
//! the kernel ends everything in its PID namespace before anybody can see that it has.

mod sweep;

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde_bytes::ByteBuf;

use crate::channel::Channel;
use crate::contain::{self, Prepared};
use crate::error::{At, Failure, Result, Step};
use crate::files;
use crate::idmap::PAYLOAD_ID;
use crate::nearby;
use crate::probe;
use crate::spec::{InitReply, InitRequest, Program, c_strings};
use crate::sys::{self, Forked};
use sweep::{Bounds, Row};

/// The socket to the control process.
pub type Socket = Channel<InitRequest, InitReply>;

/// Where a program without a slash is looked for when its environment has no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/bin:/usr/bin:/bin";

/// How many ended processes are taken note of before the socket is looked at again.
const REAPED_AT_ONCE: usize = 256;

/// What there is to look at.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// The socket has something to read, or its end.
    request: bool,
    /// A child has ended.
    child: bool,
}

impl From<[bool; 2]> for Seen {
    fn from([request, child]: [bool; 2]) -> Self {
        Self { request, child }
    }
}

struct Init<'a> {
    socket: &'a Socket,
    prepared: &'a Prepared,
    /// Programs whose end is reported; other children are orphans that were reparented.
    spawned: HashSet<i32>,
    /// A program of which only the end is to be told, and the pidfd that goes with it.
    untold: Option<(i32, OwnedFd)>,
    /// Whether a program was started, or was to be.
    has_program: bool,
    /// Whether it is narrowed to one processor, as its program is not to be (`nearby.rs`).
    called: bool,
}

/// Says that the jail could not be made.
pub fn refuse(socket: &Socket, failure: Failure) {
    let _ = socket.send(&InitReply::Failed { failure }, &[]);
}

/// Confines this process as a jail's init and serves the jail. Does not return.
pub fn run(
    socket: &Socket,
    prepared: &Prepared,
    program: Option<Program>,
    fds: Vec<OwnedFd>,
    namespaces: bool,
    called: bool,
) -> ! {
    sys::set_name(c"sbx-init");
    let has_program = program.is_some();
    let mut init =
        Init { socket, prepared, spawned: HashSet::new(), untold: None, has_program, called };
    let result = init.confine(&fds).and_then(|()| {
        let seen = match program {
            Some(Program::Execute { argv, env, cwd, until_end: true, .. }) if !namespaces => {
                let pidfd = sys::pidfd_open(sys::pid()).at(Step::OpenDescriptor, "pidfd")?;
                match init.start_and_wait(Executable::new(&argv, &env, &cwd), fds) {
                    Ok((pid, seen)) => {
                        init.untold = Some((pid, pidfd));
                        seen
                    }
                    Err(failure) => {
                        let reply = InitReply::Ready { pid: None, failure: Some(failure) };
                        socket.send(&reply, &[pidfd.as_fd()])?;
                        Seen::default()
                    }
                }
            }
            program => {
                if called {
                    nearby::spread(); // nobody is called for that: what is started may live for long
                }
                // The program first: it is already running while the rest is told.
                let started = program.map(|program| (start(&program, &fds, prepared), program));
                drop(fds);
                init.report_ready(namespaces, started)?;
                Seen::default()
            }
        };
        if init.has_program {
            sys::end_burst(); // it may live for long
        }
        init.serve(seen)
    });
    if let Err(failure) = result {
        refuse(socket, failure);
        sys::exit_now(1);
    }
    sys::exit_now(0)
}

impl Init<'_> {
    /// What this process sleeps for, in the order of [`Seen::from`].
    fn awaited(&self) -> [BorrowedFd<'_>; 2] {
        [self.socket.as_fd(), self.prepared.children.as_fd()]
    }

    fn confine(&self, fds: &[OwnedFd]) -> Result<()> {
        let ruleset = self.prepared.landlock.as_ref().ok().map(|(fd, _)| fd.as_raw_fd());
        let kept: Vec<_> = fds
            .iter()
            .map(AsRawFd::as_raw_fd)
            .chain(ruleset)
            .chain([self.prepared.children.as_raw_fd()])
            .chain([self.socket.as_fd().as_raw_fd()])
            .collect();
        sys::close_from(3, &kept).at(Step::PlaceDescriptors, "init")?;
        contain::jail(self.prepared)
    }

    fn report_ready(
        &mut self,
        namespaces: bool,
        started: Option<(Result<i32>, Program)>,
    ) -> Result<()> {
        let mut carried = vec![sys::pidfd_open(sys::pid()).at(Step::OpenDescriptor, "pidfd")?];
        if namespaces {
            for name in ["pid", "mnt"] {
                let path = format!("/proc/self/ns/{name}");
                carried.push(fs::File::open(&path).at(Step::OpenDescriptor, path)?.into());
            }
        }
        let (mut pid, mut failure) = (None, None);
        match started {
            Some((Ok(number), program)) => {
                carried.extend(self.adopt(number, &program));
                pid = Some(number);
            }
            Some((Err(reason), _)) => failure = Some(reason),
            None => {}
        }
        let carried: Vec<_> = carried.iter().map(AsFd::as_fd).collect();
        self.socket.send(&InitReply::Ready { pid, failure }, &carried)
    }

    /// Takes note of a program that runs; returns what [`Program::Execute`] has `watch_children` for.
    fn adopt(&mut self, pid: i32, program: &Program) -> Vec<OwnedFd> {
        self.spawned.insert(pid);
        if !matches!(program, Program::Execute { watch_children: true, .. }) {
            return Vec::new();
        }
        [1, pid]
            .into_iter()
            .map(|pid| format!("/proc/{pid}/task/{pid}/children"))
            .chain([format!("/proc/{pid}")])
            .filter_map(|path| fs::File::open(path).ok())
            .map(OwnedFd::from)
            .chain(sys::pidfd_open(pid).ok())
            .collect()
    }

    /// Serves the jail, beginning with what was seen already.
    fn serve(&mut self, mut seen: Seen) -> Result<()> {
        let mut more = false;
        loop {
            if seen.child || more {
                sys::drain(self.prepared.children.as_fd());
                more = self.reap()?;
            }
            if seen.request {
                let Some((request, fds)) = self.socket.receive()? else {
                    return self.tell_start();
                };
                seen = self.obey(request, fds)?;
                if seen.request || seen.child {
                    continue;
                }
            }
            let timeout = more.then_some(Duration::ZERO);
            seen = sys::wait_readable(self.awaited(), timeout)
                .at(Step::ReceiveMessage, "poll")?
                .into();
        }
    }

    /// Starts the program of a jail that was made ahead.
    fn start(&mut self, program: &Program, fds: Vec<OwnedFd>) -> Result<Seen> {
        if std::mem::replace(&mut self.has_program, true) {
            return Ok(Seen::default()); // a jail has one
        }
        let reply = if let Program::Execute { argv, env, cwd, until_end: true, .. } = program {
            let started = self.start_and_wait(Executable::new(argv, env, cwd), fds);
            sys::end_burst();
            match started {
                Ok((_, seen)) => return Ok(seen),
                Err(failure) => InitReply::Started { pid: None, failure: Some(failure) },
            }
        } else {
            let started = start(program, &fds, self.prepared);
            sys::end_burst();
            match started {
                Ok(pid) => {
                    let watched = self.adopt(pid, program);
                    let watched: Vec<_> = watched.iter().map(AsFd::as_fd).collect();
                    let reply = InitReply::Started { pid: Some(pid), failure: None };
                    return self.socket.send(&reply, &watched).map(|()| Seen::default());
                }
                Err(failure) => InitReply::Started { pid: None, failure: Some(failure) },
            }
        };
        self.socket.send(&reply, &[]).map(|()| Seen::default())
    }

    /// Starts a program of which only the end is to be told, and sleeps until it has ended or
    /// something is asked for. To wake for its `execve` would cost the program a processor's waking.
    fn start_and_wait(
        &mut self,
        executable: Result<Executable>,
        fds: Vec<OwnedFd>,
    ) -> Result<(i32, Seen)> {
        let called = self.called;
        let (pid, seen) = execute(&executable?, self.prepared, |child| {
            let mut child = |fds: &[BorrowedFd<'_>]| {
                if called {
                    nearby::spread();
                }
                child(fds)
            };
            sys::fork_sharing_memory_and_wait(&mut child, fds, self.awaited())
        })?;
        self.spawned.insert(pid);
        Ok((pid, seen.into()))
    }

    /// Tells of the start what was held back, to whoever does not wait for the end any more.
    fn tell_start(&mut self) -> Result<()> {
        let Some((pid, pidfd)) = self.untold.take() else { return Ok(()) };
        self.socket.send(&InitReply::Ready { pid: Some(pid), failure: None }, &[pidfd.as_fd()])
    }

    /// Returns what was seen meanwhile.
    fn obey(&mut self, request: InitRequest, fds: Vec<OwnedFd>) -> Result<Seen> {
        // A start ends it when the program runs.
        if !matches!(request, InitRequest::Start { .. }) {
            sys::end_burst();
        }
        match request {
            InitRequest::Start { program } => return self.start(&program, fds),
            InitRequest::Signal { pid, signal, group } => {
                // Whoever is gone needs no signal; 0 would be this process's own group. The kernel
                // sends to all at one moment, and no fork that is under way escapes it.
                if pid > 1 || pid == -1 {
                    let _ = sys::kill(if group && pid > 1 { -pid } else { pid }, signal);
                }
            }
            InitRequest::Adopt { pid, origin } => self.adopt_branch(pid, origin)?,
            InitRequest::Sweep { id, spare, keep, since_ticks, trees, ends, break_shell } => {
                let bounds =
                    Bounds { spare: &spare, keep: &keep, since_ticks, trees: &trees, ends: &ends };
                let killed = sweep::sweep(bounds, break_shell)?;
                while self.reap()? {}
                self.socket.send(&InitReply::Swept { id, killed }, &[])?;
            }
        }
        Ok(Seen::default())
    }

    /// Takes a branch as its own, by what the kernel says of it: user code of its origin may have made
    /// it otherwise, and has all of its memory.
    fn adopt_branch(&mut self, pid: i32, origin: i32) -> Result<()> {
        let reply = match Row::of(pid) {
            // It was reaped before it was asked for.
            None => InitReply::Exited {
                pid,
                exit: None,
                signal: None,
                user_us: 0,
                system_us: 0,
                max_rss_bytes: 0,
                alone: false,
            },
            Some(row) => {
                let refused = why_no_branch(&row, self.prepared.separate_ids);
                if refused.is_none() {
                    self.spawned.insert(pid);
                } else if row.parent == origin || row.parent == 1 {
                    // No other's, so that a wrong number is no way to end what is.
                    let _ = sys::kill(pid, libc::SIGKILL);
                }
                InitReply::Adopted { pid, refused }
            }
        };
        self.socket.send(&reply, &[])
    }

    /// Takes note of who has ended, and tells of programs. True: there may be more.
    fn reap(&mut self) -> Result<bool> {
        // Mostly it is one, which takes no heap: its pages would be copied first.
        let (mut first, mut others) = (None, Vec::new());
        let (mut alone, mut more) = (false, true);
        for _ in 0..REAPED_AT_ONCE {
            match sys::wait(-1, false) {
                Ok(Some(ended)) if self.spawned.remove(&ended.pid) => {
                    if let Some(other) = first.replace(ended) {
                        others.push(other);
                    }
                }
                Ok(Some(_)) => {}
                // Whoever lives here is a child of this process or of one that lives here too, but
                // for who was born into the namespace from outside.
                result => {
                    alone = result.is_err();
                    more = false;
                    break;
                }
            }
        }
        for ended in others.into_iter().chain(first) {
            let sys::Ended { pid, exit, signal, user_us, system_us, max_rss_bytes } = ended;
            let reply =
                InitReply::Exited { pid, exit, signal, user_us, system_us, max_rss_bytes, alone };
            let pidfd = self.untold.take_if(|(untold, _)| *untold == pid).map(|(_, pidfd)| pidfd);
            let carried = pidfd.as_ref().map(AsFd::as_fd);
            self.socket.send(&reply, carried.as_slice())?;
        }
        Ok(more)
    }
}

/// Why a process cannot be adopted as a branch. Nobody can see from outside that it has restricted
/// itself by Landlock; and that it is not dumpable only where root's id is not user code's too.
fn why_no_branch(row: &Row, separate_ids: bool) -> Option<String> {
    let reason = if row.parent != 1 {
        "it is no child of init"
    } else if row.session != row.pid {
        "it has no session of its own"
    } else {
        // The kernel gives the files of who is not dumpable to root.
        let owner = fs::metadata(format!("/proc/{}/stat", row.pid)).map(|stat| stat.uid());
        match owner {
            Ok(PAYLOAD_ID) if separate_ids => "its memory is open to others",
            _ => return None,
        }
    };
    Some(reason.to_owned())
}

/// What `execve` needs, made before the fork.
struct Executable {
    candidates: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: ByteBuf,
}

impl Executable {
    fn new(argv: &[ByteBuf], env: &[ByteBuf], cwd: &ByteBuf) -> Result<Self> {
        let argv = c_strings(argv, "argv")?;
        let Some(program) = argv.first().filter(|program| !program.is_empty()) else {
            let subject = "the command is empty".to_owned();
            return Err(Failure { step: Step::Execute, errno: libc::EINVAL, subject });
        };
        let env = c_strings(env, "env")?;
        let candidates = if program.as_bytes().contains(&b'/') {
            vec![program.clone()]
        } else {
            let path = env.iter().find_map(|v| v.as_bytes().strip_prefix(b"PATH="));
            path.unwrap_or(DEFAULT_PATH)
                .split(|byte| *byte == b':')
                .filter_map(|directory| {
                    let directory = if directory.is_empty() { b"." } else { directory };
                    CString::new([directory, b"/", program.as_bytes()].concat()).ok()
                })
                .collect()
        };
        Ok(Self { candidates, argv, env, cwd: cwd.clone() })
    }

    /// Tries the candidates as `execvp(3)` does: what may not be executed is remembered, not fatal.
    fn execute(&self) -> Failure {
        let cwd = Path::new(OsStr::from_bytes(&self.cwd));
        if let Err(failure) =
            std::env::set_current_dir(cwd).at(Step::ChangeDirectory, cwd.display())
        {
            return failure;
        }
        let mut errno = libc::ENOENT;
        for candidate in &self.candidates {
            let Err(error) = sys::execve(candidate, &self.argv, &self.env);
            match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => {}
                Some(libc::EACCES) => errno = libc::EACCES,
                other => {
                    errno = other.unwrap_or_default();
                    break;
                }
            }
        }
        let name = self.argv.first().map(|p| p.to_string_lossy().into_owned());
        Failure { step: Step::Execute, errno, subject: name.unwrap_or_default() }
    }
}

/// Confines and starts a program; returns when it runs, or with why it does not.
fn start(program: &Program, fds: &[OwnedFd], prepared: &Prepared) -> Result<i32> {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    if let Program::Execute { argv, env, cwd, .. } = program {
        let executable = Executable::new(argv, env, cwd)?;
        let started = execute(&executable, prepared, |child| {
            sys::fork_sharing_memory(&mut || child(&fds)).map(|pid| (pid, ()))
        });
        return started.map(|(pid, ())| pid);
    }
    match sys::fork(0, None).at(Step::CloneProcess, "")? {
        Forked::Child => {
            sys::end_burst();
            if confine(&fds, prepared).is_ok() {
                serve_inside(program, prepared);
            }
            sys::exit_now(127)
        }
        Forked::Parent(pid) => Ok(pid),
    }
}

/// What a process that shares this memory does with the descriptors that become the program's.
type Child<'a> = &'a mut dyn FnMut(&[BorrowedFd<'_>]) -> i32;

/// Confines and executes a program in a child that `fork` makes, which returns when the child no
/// longer shares this memory.
fn execute<T>(
    executable: &Executable,
    prepared: &Prepared,
    fork: impl FnOnce(Child<'_>) -> io::Result<(i32, T)>,
) -> Result<(i32, T)> {
    let mut failed = None;
    let mut child = |fds: &[BorrowedFd<'_>]| {
        failed = Some(confine(fds, prepared).err().unwrap_or_else(|| executable.execute()));
        127 // reached only if nothing was executed
    };
    let started = fork(&mut child).at(Step::CloneProcess, "")?;
    match failed {
        None => Ok(started),
        Some(failure) => {
            let _ = sys::wait(started.0, true);
            Err(failure)
        }
    }
}

/// Leaves this process, a program's fork, with what user code may have.
fn confine(fds: &[BorrowedFd<'_>], prepared: &Prepared) -> Result<()> {
    let ruleset = prepared.landlock.as_ref().ok().map(|(fd, _)| fd.as_fd());
    contain::program(fds, ruleset, prepared.separate_ids)
}

/// The programs that are functions of this one: they hold descriptor 0 and nothing else.
fn serve_inside(program: &Program, prepared: &Prepared) -> ! {
    let status = match (sys::inherited(0), program) {
        (Ok(socket), Program::Files) => files::run(socket),
        (Ok(pipe), Program::Check) => probe::run(fs::File::from(pipe), prepared),
        _ => 1,
    };
    sys::exit_now(status)
}
