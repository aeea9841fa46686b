//! Init: PID 1 of a jail. It spawns, reaps, reports, sweeps; when its socket closes it ends, and
//! the kernel ends everything in its PID namespace before anybody can see that it has.

use std::collections::{HashMap, HashSet};
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
use crate::probe;
use crate::spec::{InitReply, InitRequest, Program, c_strings};
use crate::sys::{self, Forked};

/// The socket to the control process.
pub type Socket = Channel<InitRequest, InitReply>;

/// Which real-time signal tells a session's shell to give up what it runs.
const BREAK_SIGNAL_OFFSET: i32 = 5;
/// How often a sweep looks again. A bomb of forks takes a handful.
const SWEEP_ROUNDS: usize = 500;
/// How often nothing must have been found while processes were born, before it is believed: jobs that
/// are spared may be what bears them.
const SWEEP_LOOKS: usize = 16;
/// Where a program without a slash is looked for when its environment has no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/bin:/usr/bin:/bin";

/// How many ended processes are taken note of before the socket is looked at again.
const REAPED_AT_ONCE: usize = 256;

/// What there is to look at: the socket, ended children.
type Seen = [bool; 2];

struct Init<'a> {
    socket: &'a Socket,
    prepared: &'a Prepared,
    /// Programs whose end is reported; other children are orphans that were reparented.
    spawned: HashSet<i32>,
    /// A program of which only the end is to be told, and the pidfd that goes with it.
    untold: Option<(i32, OwnedFd)>,
    /// Whether a program was started, or was to be.
    has_program: bool,
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
) -> ! {
    sys::set_name(c"sbx-init");
    let has_program = program.is_some();
    let mut init = Init { socket, prepared, spawned: HashSet::new(), untold: None, has_program };
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
            .collect()
    }

    /// Serves the jail, beginning with what was seen already.
    fn serve(&mut self, mut seen: Seen) -> Result<()> {
        let children = self.prepared.children.as_fd();
        let mut more = false;
        loop {
            let [request, child] = seen;
            if child || more {
                sys::drain(children);
                more = self.reap()?;
            }
            if request {
                let Some((request, fds)) = self.socket.receive()? else {
                    return self.tell_start();
                };
                seen = self.obey(request, fds)?;
                if seen != Seen::default() {
                    continue;
                }
            }
            let timeout = more.then_some(Duration::ZERO);
            seen = sys::wait_readable([self.socket.as_fd(), children], timeout)
                .at(Step::ReceiveMessage, "poll")?;
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
        let awaited = [self.socket.as_fd(), self.prepared.children.as_fd()];
        let (pid, seen) = execute(&executable?, self.prepared, |child| {
            sys::fork_sharing_memory_and_wait(child, fds, awaited)
        })?;
        self.spawned.insert(pid);
        Ok((pid, seen))
    }

    /// Tells of the start what was held back, to whoever does not wait for the end any more.
    fn tell_start(&mut self) -> Result<()> {
        let Some((pid, pidfd)) = self.untold.take() else { return Ok(()) };
        self.socket.send(&InitReply::Ready { pid: Some(pid), failure: None }, &[pidfd.as_fd()])
    }

    /// Returns what was seen meanwhile.
    fn obey(&mut self, request: InitRequest, fds: Vec<OwnedFd>) -> Result<Seen> {
        if let InitRequest::Start { program } = &request {
            return self.start(program, fds);
        }
        sys::end_burst();
        let done = match request {
            InitRequest::Start { .. } => Ok(()),
            InitRequest::Signal { pid, signal, group } => {
                // Whoever is gone needs no signal; 0 would be this process's own group. The kernel
                // sends to all at one moment, and no fork that is under way escapes it.
                if pid > 1 || pid == -1 {
                    let _ = sys::kill(if group && pid > 1 { -pid } else { pid }, signal);
                }
                Ok(())
            }
            InitRequest::Adopt { pid, origin } => self.adopt_branch(pid, origin),
            InitRequest::Sweep { id, spare, keep, since_ticks, trees, ends, break_shell } => {
                let bounds =
                    Bounds { spare: &spare, keep: &keep, since_ticks, trees: &trees, ends: &ends };
                let killed = self.sweep(bounds, break_shell)?;
                self.socket.send(&InitReply::Swept { id, killed }, &[])
            }
        };
        done.map(|()| Seen::default())
    }

    /// Takes a branch as its own, by what the kernel says of it: user code of its origin may have made
    /// it otherwise, and has all of its memory.
    fn adopt_branch(&mut self, pid: i32, origin: i32) -> Result<()> {
        let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        let row = parse_stat(&String::from_utf8_lossy(&stat));
        let reply = match row {
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

    /// Ends what a command started. Processes are first all stopped, so that none can fork away
    /// from the list, then killed, and then waited for; that is repeated until none is found.
    ///
    /// # Errors
    /// [`Step::Sweep`] when they come faster than they can be listed; the jail is to end then.
    fn sweep(&mut self, bounds: Bounds<'_>, break_shell: bool) -> Result<u64> {
        let Bounds { spare, .. } = bounds;
        if break_shell {
            for pid in spare {
                let _ = sys::kill(*pid, libc::SIGSTOP);
            }
        }
        // With the time of its start, for a number may be another process's by the next look.
        let mut stopped: HashSet<(i32, u64)> = HashSet::new();
        let mut rounds = 0;
        let mut looks = 0;
        loop {
            let newest = newest_pid();
            let table = processes().at(Step::Sweep, "/proc")?;
            let found: HashSet<i32> = doomed(&table, bounds).into_iter().collect();
            let found: Vec<(i32, u64)> = table
                .iter()
                .filter(|row| found.contains(&row.pid))
                .map(|row| (row.pid, row.started_ticks))
                .collect();
            if found.is_empty() {
                looks += 1;
                if looks < SWEEP_LOOKS && newest_pid() != newest {
                    continue;
                }
                break;
            }
            rounds += 1;
            if rounds > SWEEP_ROUNDS {
                return Err(Failure {
                    step: Step::Sweep,
                    errno: libc::EAGAIN,
                    subject: "processes come faster than they can be ended".to_owned(),
                });
            }
            let fresh: Vec<_> = found.iter().filter(|one| !stopped.contains(one)).collect();
            if fresh.is_empty() {
                for (pid, _) in &found {
                    let _ = sys::kill(*pid, libc::SIGKILL);
                }
                for one in &found {
                    wait_gone(*one)?;
                }
            } else {
                for (pid, _) in &fresh {
                    let _ = sys::kill(*pid, libc::SIGSTOP);
                }
                stopped.extend(fresh);
            }
        }
        if break_shell {
            for pid in spare {
                let _ = sys::kill(*pid, sys::realtime_signal(BREAK_SIGNAL_OFFSET));
                let _ = sys::kill(*pid, libc::SIGCONT);
            }
        }
        while self.reap()? {}
        Ok(stopped.len() as u64)
    }
}

/// Waits for the end of a process that was killed. One descriptor at a time: there may be more
/// processes than this one may have descriptors.
fn wait_gone((pid, started_ticks): (i32, u64)) -> Result<()> {
    let pidfd = match sys::pidfd_open(pid) {
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        result => result.at(Step::Sweep, "pidfd")?,
    };
    let path = format!("/proc/{pid}/stat");
    let Ok(stat) = fs::read(&path) else { return Ok(()) };
    match parse_stat(&String::from_utf8_lossy(&stat)) {
        Some(row) if row.started_ticks == started_ticks => {
            sys::wait_readable([pidfd.as_fd()], None).at(Step::Sweep, path).map(drop)
        }
        _ => Ok(()),
    }
}

/// The number that was given last here. Numbers come round after 32768 of them, and a process that
/// forks and exits without pause may then be born behind the place where `/proc` is being read: what
/// was seen is all there is only if nothing was born meanwhile.
fn newest_pid() -> Option<i32> {
    fs::read_to_string("/proc/loadavg").ok()?.split_ascii_whitespace().last()?.parse().ok()
}

/// One process of the jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Row {
    pid: i32,
    parent: i32,
    session: i32,
    started_ticks: u64,
    is_dead: bool,
}

/// Reads one `/proc/PID/stat` (`proc_pid_stat(5)`): the command may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<Row> {
    let (pid, rest) = stat.split_once(" (")?;
    let (_, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(Row {
        pid: pid.parse().ok()?,
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        started_ticks: fields.get(19)?.parse().ok()?,
        // A first thread that has ended is a zombie too, while others run on.
        is_dead: matches!(*fields.first()?, "Z" | "X") && fields.get(17)?.parse::<u32>().ok()? <= 1,
    })
}

fn processes() -> std::io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if !entry.file_name().as_bytes().first().is_some_and(u8::is_ascii_digit) {
            continue;
        }
        match fs::read(entry.path().join("stat")) {
            Ok(stat) => rows.extend(parse_stat(&String::from_utf8_lossy(&stat))),
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(rows)
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

/// What a sweep ends and what it leaves alone, see [`InitRequest::Sweep`].
#[derive(Debug, Clone, Copy, Default)]
struct Bounds<'a> {
    spare: &'a [i32],
    keep: &'a [i32],
    since_ticks: u64,
    trees: &'a [i32],
    ends: &'a [i32],
}

/// Who is to end: all but init, the spared, the kept, the descendants of the kept, and whoever was
/// there before the command. The kept are those that a clock of 10 ms cannot tell from its own.
fn doomed(table: &[Row], bounds: Bounds<'_>) -> Vec<i32> {
    let Bounds { spare, keep, since_ticks, trees, ends } = bounds;
    let rows: HashMap<i32, &Row> = table.iter().map(|row| (row.pid, row)).collect();
    // Whatever else holds: with what is to end its descendants end, up to another interpreter.
    let is_to_end = |row: &Row| {
        let mut current = row;
        while !ends.contains(&current.pid) {
            match rows.get(&current.parent) {
                Some(parent) if parent.pid > 1 && !trees.contains(&current.pid) => current = parent,
                _ => return false,
            }
        }
        true
    };
    let is_kept = |row: &Row| {
        let mut current = row;
        loop {
            if current.started_ticks < since_ticks || trees.contains(&current.pid) {
                return true;
            }
            if keep.contains(&current.pid) && current.started_ticks <= since_ticks {
                return true;
            }
            match rows.get(&current.parent) {
                Some(parent) if parent.pid > 1 && !spare.contains(&parent.pid) => current = parent,
                _ => return false,
            }
        }
    };
    table
        .iter()
        .filter(|row| row.pid != 1 && !row.is_dead && !spare.contains(&row.pid))
        .filter(|row| is_to_end(row) || !is_kept(row))
        .map(|row| row.pid)
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(pid: i32, parent: i32, started_ticks: u64) -> Row {
        Row { pid, parent, session: pid, started_ticks, is_dead: false }
    }

    #[test]
    fn a_command_name_may_hold_anything() {
        let fields = "S 7 4 4 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 1";
        let stat = format!("42 (a) Z (b) {fields}");
        assert_eq!(parse_stat(&stat), Some(Row { session: 4, ..row(42, 7, 98765) }));
        assert_eq!(parse_stat("42 (a"), None);
        let zombie = format!("42 (a) {}", fields.replacen('S', "Z", 1));
        assert!(parse_stat(&zombie).is_some_and(|row| row.is_dead));
        let others_run = zombie.replace(" 20 0 1 0 ", " 20 0 2 0 ");
        assert!(parse_stat(&others_run).is_some_and(|row| !row.is_dead));
    }

    #[test]
    fn what_was_there_before_survives_with_its_descendants() {
        // 2 is the shell; 3 an earlier job, 4 its child; 5 this command's, 6 its orphan's child.
        let table = [row(1, 0, 0), row(2, 1, 1), row(3, 2, 5), row(4, 3, 50)];
        let table = [&table[..], &[row(5, 2, 50), row(6, 1, 51), row(7, 6, 52)]].concat();
        assert_eq!(
            doomed(
                &table,
                Bounds { spare: &[2], keep: &[3], since_ticks: 10, ..Bounds::default() }
            ),
            [5, 6, 7]
        );
    }

    #[test]
    fn an_orphan_of_an_earlier_job_survives_its_parent() {
        let table = [row(1, 0, 0), row(2, 1, 1), row(4, 1, 9), row(5, 4, 50), row(6, 1, 10)];
        assert_eq!(
            doomed(&table, Bounds { spare: &[2], since_ticks: 10, ..Bounds::default() }),
            [6]
        );
    }

    #[test]
    fn another_interpreter_is_left_alone_with_its_descendants() {
        // 2 ends, 3 and its child stay, 5 was 2's; 6 is nobody's any more.
        let table = [row(1, 0, 0), row(2, 1, 1), row(3, 2, 5), row(4, 3, 6), row(5, 2, 7)];
        let table = [&table[..], &[row(6, 1, 8)]].concat();
        assert_eq!(doomed(&table, Bounds { trees: &[3], ..Bounds::default() }), [2, 5, 6]);
    }

    #[test]
    fn what_is_to_end_ends_even_below_another_interpreter() {
        // 3 is to end with 4 and its child 5, though it is a child of 2, which stays with 6.
        let table = [row(1, 0, 0), row(2, 1, 1), row(3, 2, 5), row(4, 3, 6), row(5, 4, 7)];
        let table = [&table[..], &[row(6, 2, 8)]].concat();
        let bounds = Bounds { trees: &[2], ends: &[3], ..Bounds::default() };
        assert_eq!(doomed(&table, bounds), [3, 4, 5]);
    }

    #[test]
    fn an_interpreter_ends_alone_where_all_else_was_there_before() {
        // 3 ends with its child 4; 2 and its child 5 stay, and 6, which is nobody's any more.
        let table = [row(1, 0, 0), row(2, 1, 1), row(3, 1, 5), row(4, 3, 6), row(5, 2, 7)];
        let table = [&table[..], &[row(6, 1, 8)]].concat();
        let bounds = Bounds { since_ticks: u64::MAX, ends: &[3], ..Bounds::default() };
        assert_eq!(doomed(&table, bounds), [3, 4]);
    }

    #[test]
    fn a_number_that_was_used_again_is_not_kept() {
        let table = [row(1, 0, 0), row(2, 1, 1), row(3, 2, 11)];
        assert_eq!(
            doomed(
                &table,
                Bounds { spare: &[2], keep: &[3], since_ticks: 10, ..Bounds::default() }
            ),
            [3]
        );
    }
}
