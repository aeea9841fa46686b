//! What is said over the sockets, as plain data. Python's side of it is `sandbox_runtime/messages.py`.

use std::ffi::CString;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::error::{Failure, Result, Step};

/// What a sandbox may use. All sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory of all processes together, with what they keep in the writable directories.
    pub memory_bytes: u64,
    /// Processes and threads of all jails together.
    pub processes: u64,
    /// Processor time of all processes together, in hundredths of one processor; none: no bound.
    #[serde(default)]
    pub cpu_percent: Option<u64>,
    /// Open descriptors of one process.
    pub open_files: u64,
    /// Largest file that may be written.
    pub file_size_bytes: u64,
    /// Size of `/workspace`.
    pub workspace_bytes: u64,
    /// Size of `/tmp`.
    pub tmp_bytes: u64,
    /// Size of `/dev/shm`.
    pub shm_bytes: u64,
}

/// Strings for the kernel, where none may have a NUL.
///
/// # Errors
/// [`Step::Execute`] with the first that has one, as an element of `what`.
pub fn c_strings(values: &[ByteBuf], what: &str) -> Result<Vec<CString>> {
    values
        .iter()
        .enumerate()
        .map(|(index, value)| {
            CString::new(value.as_slice()).map_err(|e| Failure {
                step: Step::Execute,
                errno: libc::EINVAL,
                subject: format!("{what}[{index}] has a NUL at byte {}", e.nul_position()),
            })
        })
        .collect()
}

/// What comes in on the supervisor's socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Asked {
    /// A request.
    Known(SupervisorRequest),
    /// Something else: whoever waits for the answer to this number is told that there is none.
    Unknown {
        /// The number of a sandbox, if it was about one.
        #[serde(default)]
        id: Option<u64>,
    },
}

/// What network a sandbox's sessions and processes have. Its contexts have a loopback device of
/// their own in either case, unless one asks for the sandbox's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Network {
    /// A namespace with a loopback device and nothing else.
    Loopback {},
    /// The namespace of the control process, with what it knows of names.
    Host {
        /// What `/etc/resolv.conf` says.
        resolv_conf: ByteBuf,
        /// What `/etc/hosts` says.
        hosts: ByteBuf,
    },
}

impl Network {
    /// Whether it is shared with the control process.
    pub fn is_host(&self) -> bool {
        matches!(self, Self::Host { .. })
    }
}

/// What the control process asks the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SupervisorRequest {
    /// The first, once: make the outer namespaces and the root that all sandboxes share.
    Start {
        /// Directories beside `/usr` that sandboxes see, read-only.
        read_only_paths: Vec<String>,
    },
    /// A new sandbox. Carries the socket on which its keeper will answer; with the host's network a
    /// second one, for jails that shall not have it.
    CreateSandbox {
        /// The caller's number for it.
        id: u64,
        /// What `hostname` says inside.
        host_name: String,
        /// What it may use.
        limits: Limits,
        /// What it may reach.
        network: Network,
    },
    /// A warmed interpreter outside of all sandboxes. Carries the socket it finds as descriptor 3.
    StartZygote {
        /// Program and arguments.
        argv: Vec<ByteBuf>,
        /// `NAME=value`, the whole environment.
        env: Vec<ByteBuf>,
        /// Whether it has the network of the control process, for its contexts to keep, or none.
        host_network: bool,
    },
}

/// What the supervisor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SupervisorReply {
    /// It serves.
    Started {
        /// Whether each sandbox gets ids of its own.
        separate_ids: bool,
        /// The ids that they are taken from, as the control process numbers them: first, how many.
        private_ids: Option<(u32, u32)>,
    },
    /// It could not start, and ends.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// A sandbox, its processes, mounts and cgroups are gone.
    SandboxEnded {
        /// The number given at its creation.
        id: u64,
    },
}

/// A program to run in a jail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Program {
    /// An executable. The packet's descriptors become its 0, 1, 2 …
    Execute {
        /// Program and arguments; a program without a slash is looked up in `env`'s `PATH`.
        argv: Vec<ByteBuf>,
        /// `NAME=value`, the whole environment.
        env: Vec<ByteBuf>,
        /// Where it starts.
        cwd: ByteBuf,
        /// Return descriptors of the `children` files of init and of this process (proc(5)), of
        /// this process's own directory there, and its pidfd.
        watch_children: bool,
        /// Say nothing of its start, for whoever waits for its end: if it starts,
        /// [`InitReply::Exited`] comes first and, unless `Ready` has told it, carries the jail's pidfd.
        /// Not with `namespaces`.
        until_end: bool,
    },
    /// The file service, see `files.rs`. The packet has one descriptor, its socket.
    Files,
    /// The self-check, see `probe.rs`. The packet has one descriptor, a pipe for its findings.
    Check,
}

/// What the control process asks a sandbox's keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum KeeperRequest {
    /// A new jail. Carries the socket of its init, then the descriptors of `program`.
    CreateJail {
        /// Started at once, so that a jail with its program costs one message.
        program: Option<Program>,
        /// Return descriptors of the jail's own namespaces.
        namespaces: bool,
        /// The keeper was called to the asker's processor for this, see `nearby.rs`.
        #[serde(default)]
        called: bool,
    },
    /// TCP sockets of this network, neither bound nor connected: whoever connects one of them does
    /// so there. Carries the socket for the answer, a [`SocketsReply`].
    OpenSockets {},
}

/// What a keeper answers to [`KeeperRequest::OpenSockets`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SocketsReply {
    /// Carries the sockets: `AF_INET`, then `AF_INET6` where the kernel has it.
    Opened {},
    /// None could be opened.
    Refused {
        /// Why.
        failure: Failure,
    },
}

/// Whether a protection is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Achieved {
    /// All of it.
    Full,
    /// Some of it; the detail says what.
    Partial,
    /// None of it; the detail says why.
    Absent,
}

/// One row of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// Its name, one of `sandbox_runtime.report.PROTECTIONS`.
    pub name: String,
    /// Whether it is there.
    pub achieved: Achieved,
    /// What was seen, or what is missing.
    pub detail: String,
}

impl Protection {
    /// A row.
    pub fn new(name: &str, achieved: Achieved, detail: impl Into<String>) -> Self {
        Self { name: name.to_owned(), achieved, detail: detail.into() }
    }
}

/// What a keeper answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum KeeperReply {
    /// The sandbox is there. Carries its pidfd, its tables of TCP sockets (`proc_net(5)`), the file
    /// of its control group that counts `oom_kill` (cgroups(7)), then what `enter` needs (see
    /// `contain.rs`).
    Ready {
        /// How many tables: one for each version of IP.
        tables: usize,
        /// Whether that file is there.
        memory_events: bool,
        /// What was achieved.
        protections: Vec<Protection>,
        /// What the descriptors behind the tables are.
        enter: EnterPlan,
    },
    /// It could not be made, and is gone.
    Failed {
        /// Why.
        failure: Failure,
    },
}

/// How a zygote's child enters a jail; it travels as opaque bytes with the descriptors it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnterPlan {
    /// How many cgroup files come first; a `0` is written to each.
    pub cgroup_files: usize,
    /// Whether a network namespace comes next; without one the zygote's is kept.
    pub network: bool,
    /// Whether a Landlock ruleset comes last.
    pub landlock: bool,
    /// Whether the sandbox has ids of its own.
    pub separate_ids: bool,
    /// What it may use.
    pub limits: Limits,
}

/// What the control process asks a zygote that is warm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ZygoteRequest {
    /// Fork a context. Carries its socket, the PID namespace, and what the plan speaks of.
    Fork {
        /// Its number.
        id: u64,
        /// How it enters its jail, an [`EnterPlan`].
        plan: ByteBuf,
    },
}

/// What a zygote answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ZygoteReply {
    /// It was forked; whether it gets into its jail it says itself.
    Forked {
        /// Its number.
        id: u64,
        /// Its process, as the zygote sees it.
        pid: i32,
    },
    /// It was not.
    NotForked {
        /// Its number.
        id: u64,
        /// Why.
        failure: Failure,
    },
    /// It has ended.
    Ended {
        /// Its number.
        id: u64,
        /// Exit code.
        exit: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
    },
    /// The zygote cannot go on, and ends.
    Failed {
        /// Why.
        failure: Failure,
    },
}

/// What the control process asks a jail's init.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InitRequest {
    /// Start a program in a jail that was made without one, for once. Carries its descriptors.
    Start {
        /// What to start.
        program: Program,
    },
    /// Send a signal.
    Signal {
        /// To this process of the jail; -1 is all of them, without init.
        pid: i32,
        /// The signal's number.
        signal: i32,
        /// To its whole process group.
        group: bool,
    },
    /// Tell the end of a process that init has not started: a branch, which must be its child, in a
    /// session of its own and closed to the others. What is not, and is its origin's child, ends.
    Adopt {
        /// Its number in the jail.
        pid: i32,
        /// The interpreter that it is a copy of.
        origin: i32,
    },
    /// End all processes of the jail but the ones named and their descendants.
    Sweep {
        /// The asker's number for it.
        id: u64,
        /// Left alone themselves, though their descendants are not (a shell, an executor).
        spare: Vec<i32>,
        /// Left alone with their descendants: what was there before the command began.
        keep: Vec<i32>,
        /// A process in `keep` that started later than this many clock ticks after boot is
        /// another one with the same number.
        since_ticks: u64,
        /// Left alone with all their descendants: other interpreters in this jail.
        #[serde(default)]
        trees: Vec<i32>,
        /// To end with all their descendants, also where these descend from one of `trees`.
        #[serde(default)]
        ends: Vec<i32>,
        /// Then make the spared shell give up what it is running.
        break_shell: bool,
    },
}

/// What an init answers, unasked or asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum InitReply {
    /// The jail is there. Carries its pidfd, then its PID and mount namespace if asked for, then
    /// what [`Program::Execute`] has `watch_children` for. One message for all, since each wakes its reader.
    Ready {
        /// Its program's number in the jail, if it was to start one and could.
        pid: Option<i32>,
        /// Why it could not.
        failure: Option<Failure>,
    },
    /// It could not be made, and is gone.
    Failed {
        /// Why.
        failure: Failure,
    },
    /// The program of a jail that was made without one. Carries what [`Program::Execute`] has
    /// `watch_children` for.
    Started {
        /// Its number in the jail, if it runs.
        pid: Option<i32>,
        /// Why it does not.
        failure: Option<Failure>,
    },
    /// What was to be adopted is, or was not fit for it.
    Adopted {
        /// Its number in the jail.
        pid: i32,
        /// Why it is not.
        refused: Option<String>,
    },
    /// Its program, or an adopted process, has ended; neither exit code nor signal is there when
    /// it was over before it was adopted.
    Exited {
        /// Its number in the jail.
        pid: i32,
        /// Exit code.
        exit: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// CPU time in user mode, of it and all descendants that were waited for.
        user_us: u64,
        /// CPU time in the kernel, likewise.
        system_us: u64,
        /// Largest resident set of any one of these.
        max_rss_bytes: u64,
        /// Whether init is the only process that the jail has left.
        alone: bool,
    },
    /// The sweep is over: nothing that it was to end is alive.
    Swept {
        /// The number of the question.
        id: u64,
        /// How many processes it ended.
        killed: u64,
    },
}

/// A question to the file service. Answers come in any order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesCall {
    /// The asker's number for it.
    pub id: u64,
    /// What is asked.
    pub request: FilesRequest,
}

/// An answer of the file service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesAnswer {
    /// The number of the question.
    pub id: u64,
    /// What is answered.
    pub reply: FilesReply,
}

/// Where the content of a file to be written comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Source {
    /// It is here.
    Inline {
        /// All of it.
        content: ByteBuf,
    },
    /// The carried pipe, until its end.
    Sized {
        /// How much must come; less is a broken transfer and changes nothing.
        size_bytes: u64,
    },
    /// The first carried pipe, until its end; then one byte must come from the second, or it is a
    /// broken transfer and changes nothing.
    Streamed {},
}

/// What the control process asks the file service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FilesRequest {
    /// Open a regular file for reading; its descriptor comes back.
    Read {
        /// Which.
        path: ByteBuf,
    },
    /// Write a file, in one step for whoever looks.
    Write {
        /// Where.
        path: ByteBuf,
        /// Permission bits.
        mode: u32,
        /// Make missing directories above it.
        make_parents: bool,
        /// What.
        source: Source,
    },
    /// Look at something.
    Stat {
        /// At what.
        path: ByteBuf,
        /// If it is a symlink, at its target.
        follow: bool,
    },
    /// List a directory; the entries come in several answers.
    List {
        /// Which.
        path: ByteBuf,
        /// And all directories below it.
        recursive: bool,
        /// And what begins with a dot.
        hidden: bool,
        /// Stop, and say so, after this many.
        limit: usize,
    },
    /// Make a directory.
    MakeDirectory {
        /// Which.
        path: ByteBuf,
        /// And those above it; it may exist.
        make_parents: bool,
    },
    /// Remove a file, a link, or a directory.
    Remove {
        /// Which.
        path: ByteBuf,
        /// With all that is in it.
        recursive: bool,
    },
    /// Give something another name, `rename(2)`, also on another file system of the sandbox.
    Move {
        /// What.
        source: ByteBuf,
        /// Its new name; what has it now is replaced.
        target: ByteBuf,
    },
}

/// What something in a file system is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "each variant is named after the one thing it is")]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Other,
}

/// One entry of a directory: its path below the directory that was listed, what it is, its size,
/// its permission bits, and its last change in nanoseconds since 1970. There may be very many, so
/// the fields have no names on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry(pub ByteBuf, pub Kind, pub u64, pub u32, pub i64);

/// What the file service answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FilesReply {
    /// The file is open; the packet carries it.
    Opened {
        /// Its size at that moment.
        size_bytes: u64,
        /// Permission bits.
        mode: u32,
        /// Last change, in nanoseconds since 1970.
        modified_ns: i64,
        /// Whether its content lies in memory, so that reading it never waits for a disk.
        in_memory: bool,
    },
    /// It is done.
    Done {},
    /// What was looked at; its path is empty.
    Found {
        /// What it is.
        entry: Entry,
    },
    /// What is in the directory.
    Listed {
        /// Some of it, in the order of the paths.
        entries: Vec<Entry>,
        /// Whether more answers follow.
        more: bool,
        /// Whether the limit cut it short.
        truncated: bool,
    },
    /// It could not be done, and nothing has changed.
    Refused {
        /// `errno(3)`.
        errno: i32,
        /// What exactly, where the errno is not enough.
        detail: String,
    },
}
