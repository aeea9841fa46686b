//! What the kernel refuses to sandboxed code: one table, compiled to a seccomp filter.
//!
//! # Theory of operation
//!
//! [`POLICY`] is a deny-list. Sandboxed code runs compilers, shells and virtual machines, so what
//! no rule names is allowed, and what a rule names gets an error that libraries know how to fall
//! back from. Only a foreign architecture kills, because there every number means another call.
//!
//! A filter is installed once per sandbox, in the keeper before any jail exists, and inherited. It
//! refuses what our own processes never do after their start (join a new session keyring *before*
//! it), and numbers newer than this file.
//!
//! # The key
//!
//! A keeper makes jails: it calls `mount`, and `clone` with namespaces. A second filter against
//! these two in each jail would cost as much as the rest of its confinement, since the kernel
//! compiles it and runs it once for each call number. Instead these rules are *keyed*: they let a
//! call pass whose sixth argument, which neither call has and the kernel ignores, is a number of 64
//! bits that the keeper drew (`getrandom(2)`). Why that is as strong as a filter without exception:
//!
//! * User code never shares memory with the number. A program is executed, so its memory is new; the
//!   zygote never had it, and a context gets a filter without a key ([`compile`] of `None`).
//! * It cannot look: keeper and init are not dumpable, which closes their memory, registers and
//!   system calls in `/proc` to every other process without capabilities over their user namespace;
//!   `ptrace`, `process_vm_readv` and `pidfd_getfd` are refused to it besides. To read an installed
//!   filter takes `ptrace` and `CAP_SYS_ADMIN`.
//! * It cannot guess: a wrong number is told by `EPERM` alone. Both halves are compared at once and
//!   always, so that no half can be found by itself in the time that a refusal takes.
//! * An init forgets the number before its first program starts, so that one that is taken over
//!   holds no more than user code. What is left of it on a stack opens nothing either: with the
//!   filter out of the way the kernel still asks for capabilities, which nobody below a keeper has,
//!   and for a new user namespace, of which the sandbox may have none (`max_user_namespaces`).
//!
//! # The shape of a program
//!
//! The price of installing a filter is one run of it for each call number, by which the kernel
//! learns the numbers that are always allowed; to these the filter costs nothing later. Hence the
//! shape of a program: the numbers are cut into ranges of equal treatment, and a search tree, which
//! reaches the widest ranges first, finds the range of a call.
//!
//! ```text
//! load arch, native? load number, search tree: allow | errno | a check of the arguments
//! ```
//!
//! Everything here is a pure function of the table. [`decide`] reads the table in the plainest way
//! and [`evaluate`] runs a program the way the kernel does; tests and the fuzz target hold one
//! against the other.

use std::fmt;
use std::num::NonZeroU64;

use libc::sock_filter;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the seccomp policy knows the call numbers of x86_64 and aarch64 only");
#[cfg(not(target_endian = "little"))]
compile_error!("the seccomp policy reads the low half of an argument at its own offset");

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The call is made.
    Allow,
    /// `EPERM`: the call exists, and not for you.
    NotPermitted,
    /// `ENOSYS`: the call does not exist, use the older one. Also the answer that makes a library
    /// fall back from a call whose arguments lie behind a pointer, which no filter can read.
    NotImplemented,
    /// `EAFNOSUPPORT`: the kernel was built without this family of sockets.
    FamilyNotSupported,
    /// `EPROTONOSUPPORT`: the kernel was built without this protocol.
    ProtocolNotSupported,
    /// The whole process dies by `SIGSYS`.
    KillProcess,
}

impl Verdict {
    /// The name for reports and documentation: `allow`, the symbol of an errno, or `kill`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::NotPermitted => "EPERM",
            Self::NotImplemented => "ENOSYS",
            Self::FamilyNotSupported => "EAFNOSUPPORT",
            Self::ProtocolNotSupported => "EPROTONOSUPPORT",
            Self::KillProcess => "kill",
        }
    }

    /// The value a filter returns for it.
    pub const fn action(self) -> u32 {
        const fn errno(code: i32) -> u32 {
            libc::SECCOMP_RET_ERRNO | word(code as i128)
        }
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::NotPermitted => errno(libc::EPERM),
            Self::NotImplemented => errno(libc::ENOSYS),
            Self::FamilyNotSupported => errno(libc::EAFNOSUPPORT),
            Self::ProtocolNotSupported => errno(libc::EPROTONOSUPPORT),
            Self::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        }
    }
}

/// What opens the keyed rules to those who make jails. Never 0, which is what shows no key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key(NonZeroU64);

impl Key {
    /// Of a number that nobody can know; `None` for 0.
    pub const fn new(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(_)")
    }
}

/// The argument that shows a key: one more than any keyed call has.
pub const KEY_ARGUMENT: u8 = 5;

/// A question about the low 32 bits of one argument.
///
/// All calls in the table take these arguments as 32-bit values, so the high bits mean nothing to
/// the kernel and must mean nothing here (CVE-2019-10063).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Which argument, from 0.
    pub argument: u8,
    /// The bits of it that count.
    pub mask: u32,
    /// What they are compared with.
    pub values: &'static [u32],
    /// Whether the check holds for a value in the list, or for any other value.
    pub listed: bool,
}

impl Check {
    const fn new(argument: u8, values: &'static [u32], listed: bool) -> Self {
        assert!(argument < 6, "a call has six arguments");
        let mask = u32::MAX;
        Self { argument, mask, values, listed }
    }

    const fn one_of(argument: u8, values: &'static [u32]) -> Self {
        Self::new(argument, values, true)
    }

    const fn none_of(argument: u8, values: &'static [u32]) -> Self {
        Self::new(argument, values, false)
    }

    const fn masked(self, mask: u32) -> Self {
        Self { mask, ..self }
    }
}

/// A verdict and the checks which must all hold for it. Without checks it always applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// What must hold.
    pub when: &'static [Check],
    /// What follows.
    pub verdict: Verdict,
}

impl Case {
    const fn always(verdict: Verdict) -> Self {
        Self::when(&[], verdict)
    }

    const fn when(when: &'static [Check], verdict: Verdict) -> Self {
        Self { when, verdict }
    }
}

/// One row of the table. The first case that applies decides; if none does, the call is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The name of the call.
    pub name: &'static str,
    /// Its number on this architecture.
    pub number: u32,
    /// Whether a key opens it.
    pub keyed: bool,
    /// The verdicts, in order.
    pub cases: &'static [Case],
}

/// The architecture this build is for, as the kernel writes it in `seccomp_data`.
pub const NATIVE_ARCH: u32 =
    if cfg!(target_arch = "x86_64") { AUDIT_ARCH_X86_64 } else { AUDIT_ARCH_AARCH64 };

/// The highest call number this table has judged (`file_setattr`, Linux 6.17). What comes later is
/// unknown, and does not exist for the sandbox until someone has read it.
pub const HIGHEST_KNOWN: u32 = 469;

// libc has no names for these. From linux/audit.h: the ELF machine, 64 bits, little endian.
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;

/// `x86_64` marks calls of its x32 dialect with bit 30. Numbers with bit 31 are negative to the
/// kernel, which answers `ENOSYS` by itself: they are no dialect, merely unknown.
const X32_FIRST: u32 = 0x4000_0000;
const X32_LAST: u32 = 0x7fff_ffff;

/// The namespace flags of `clone`. `CLONE_NEWTIME` (0x80) lies in the bits of the exit signal and
/// is a namespace only to `clone3` and `unshare`, which are refused whole.
const NAMESPACES: u32 = 0x7e02_0000;

const NOT_PERMITTED: &[Case] = &[Case::always(Verdict::NotPermitted)];
const NOT_IMPLEMENTED: &[Case] = &[Case::always(Verdict::NotImplemented)];

/// The flag of `clone` that makes the new process the caller's sibling. A context is a child of the
/// zygote, which is nobody's to give children to.
const CLONE_PARENT: u32 = word(libc::CLONE_PARENT as i128);

/// `clone(flags, …)`: processes and threads of one's own yes, namespaces no.
const NO_NAMESPACE: &[Case] = &[Case::when(
    &[Check::none_of(0, &[0]).masked(NAMESPACES | CLONE_PARENT)],
    Verdict::NotPermitted,
)];

/// `personality(persona)`: the ordinary one and the query. Others turn off address randomisation
/// or make the kernel pretend to be older.
const PLAIN_PERSONALITY: &[Case] =
    &[Case::when(&[Check::none_of(0, &[0, u32::MAX])], Verdict::NotPermitted)];

/// `prlimit64(pid, …)`: one's own limits, which is what libraries ask for (0). Those of another process
/// end it: the kernel kills whoever has used up its processor time, past Landlock's scope of signals.
/// Also to look is refused, as a pointer of 64 bits is not told from none by its low half.
const OWN_LIMITS: &[Case] = &[Case::when(&[Check::none_of(0, &[0])], Verdict::NotPermitted)];

/// `prctl(option, …)`: orphans are init's. A subreaper would take them from it, branches among them.
const NO_SUBREAPER: &[Case] =
    &[Case::when(&[Check::one_of(0, &[PR_SET_CHILD_SUBREAPER])], Verdict::NotPermitted)];

/// `fcntl(fd, command, …)`: no leases. Whoever executes a file on which another process has one, or
/// changes it, sleeps in the kernel until that gives it up: 45 s, and for each file.
const NO_LEASE: &[Case] =
    &[Case::when(&[Check::one_of(1, &[F_SETLEASE, F_SETDELEG])], Verdict::NotPermitted)];

/// `ioctl(fd, request, …)`: no typing into a terminal on behalf of its user, and no other line
/// discipline for one: each is a driver that loads on demand.
const PLAIN_TERMINAL: &[Case] =
    &[Case::when(&[Check::one_of(1, &[TIOCSTI, TIOCLINUX, TIOCSETD])], Verdict::NotPermitted)];

/// `socket(family, type, protocol)`, and `socketpair`, which makes sockets of any family too.
///
/// Families by name, as others bring kernel code nobody asked for (`AF_ALG`: CVE-2026-31431) or
/// ways past the network namespace (`AF_VSOCK`). To netlink raw and datagram are the same, and the
/// protocol chooses the part of the kernel that answers. Of the internet's protocols those that
/// programs use: SCTP, DCCP, L2TP and their like are drivers that load on demand, some of them
/// chosen by the type alone.
const PLAIN_SOCKET: &[Case] = &[
    Case::when(
        &[Check::none_of(0, &[AF_UNIX, AF_INET, AF_INET6, AF_NETLINK])],
        Verdict::FamilyNotSupported,
    ),
    Case::when(
        &[Check::one_of(0, &[AF_NETLINK]), Check::none_of(2, &[NETLINK_ROUTE])],
        Verdict::NotPermitted,
    ),
    Case::when(
        &[
            Check::none_of(0, &[AF_NETLINK]),
            Check::one_of(1, &[SOCK_RAW, SOCK_PACKET]).masked(SOCK_TYPE_MASK),
        ],
        Verdict::NotPermitted,
    ),
    Case::when(
        &[
            Check::one_of(0, &[AF_INET, AF_INET6]),
            Check::none_of(1, &[SOCK_STREAM, SOCK_DGRAM]).masked(SOCK_TYPE_MASK),
        ],
        Verdict::ProtocolNotSupported,
    ),
    Case::when(
        &[
            Check::one_of(0, &[AF_INET, AF_INET6]),
            Check::none_of(2, &[0, TCP, UDP, ICMP, ICMPV6, UDP_LITE, MPTCP]),
        ],
        Verdict::ProtocolNotSupported,
    ),
];

const PR_SET_CHILD_SUBREAPER: u32 = word(libc::PR_SET_CHILD_SUBREAPER as i128);
const F_SETLEASE: u32 = word(libc::F_SETLEASE as i128);
const F_SETDELEG: u32 = F_SETLEASE + 16; // linux/fcntl.h, from 6.19 on
const TIOCSTI: u32 = word(libc::TIOCSTI as i128);
const TIOCLINUX: u32 = word(libc::TIOCLINUX as i128);
const TIOCSETD: u32 = 0x5423; // asm-generic/ioctls.h, the same on both architectures
const AF_UNIX: u32 = word(libc::AF_UNIX as i128);
const AF_INET: u32 = word(libc::AF_INET as i128);
const AF_INET6: u32 = word(libc::AF_INET6 as i128);
const AF_NETLINK: u32 = word(libc::AF_NETLINK as i128);
const NETLINK_ROUTE: u32 = word(libc::NETLINK_ROUTE as i128);
const SOCK_STREAM: u32 = word(libc::SOCK_STREAM as i128);
const SOCK_DGRAM: u32 = word(libc::SOCK_DGRAM as i128);
const SOCK_RAW: u32 = word(libc::SOCK_RAW as i128);
const TCP: u32 = word(libc::IPPROTO_TCP as i128);
const UDP: u32 = word(libc::IPPROTO_UDP as i128);
const ICMP: u32 = word(libc::IPPROTO_ICMP as i128);
const ICMPV6: u32 = word(libc::IPPROTO_ICMPV6 as i128);
const UDP_LITE: u32 = word(libc::IPPROTO_UDPLITE as i128);
const MPTCP: u32 = word(libc::IPPROTO_MPTCP as i128);

/// An old way to ask for a packet socket, in any family. libc deprecates the name.
const SOCK_PACKET: u32 = 10;

/// The bits of a socket's type that are not flags.
const SOCK_TYPE_MASK: u32 = 0xf;

/// A constant of libc, whatever its type, as the 32-bit word a filter compares.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "asserted")]
const fn word(constant: i128) -> u32 {
    assert!(0 <= constant && constant <= u32::MAX as i128, "wider than a word of the filter");
    constant as u32
}

const fn rule(name: &'static str, number: i64, cases: &'static [Case]) -> Rule {
    Rule { name, number: word(number as i128), keyed: false, cases }
}

/// A call that builds jails.
const fn keyed(name: &'static str, number: i64, cases: &'static [Case]) -> Rule {
    Rule { keyed: true, ..rule(name, number, cases) }
}

/// Every call that is not simply allowed. Rules that exist on one architecture only stand last.
#[rustfmt::skip] // one rule, one line
pub const POLICY: &[Rule] = &[
    // Another process: reading it, steering it, taking its descriptors.
    rule("kcmp", libc::SYS_kcmp, NOT_PERMITTED),
    rule("pidfd_getfd", libc::SYS_pidfd_getfd, NOT_PERMITTED),
    rule("process_madvise", libc::SYS_process_madvise, NOT_PERMITTED),
    rule("process_vm_readv", libc::SYS_process_vm_readv, NOT_PERMITTED),
    rule("process_vm_writev", libc::SYS_process_vm_writev, NOT_PERMITTED),
    rule("ptrace", libc::SYS_ptrace, NOT_PERMITTED),
    // Keys are kept per user and session, not per namespace.
    rule("add_key", libc::SYS_add_key, NOT_PERMITTED),
    rule("keyctl", libc::SYS_keyctl, NOT_PERMITTED),
    rule("request_key", libc::SYS_request_key, NOT_PERMITTED),
    // Large parts of the kernel behind one call.
    rule("bpf", libc::SYS_bpf, NOT_PERMITTED),
    rule("fanotify_init", libc::SYS_fanotify_init, NOT_PERMITTED),
    rule("io_uring_setup", libc::SYS_io_uring_setup, NOT_PERMITTED),
    rule("io_uring_enter", libc::SYS_io_uring_enter, NOT_PERMITTED),
    rule("io_uring_register", libc::SYS_io_uring_register, NOT_PERMITTED),
    rule("lookup_dcookie", libc::SYS_lookup_dcookie, NOT_PERMITTED),
    rule("perf_event_open", libc::SYS_perf_event_open, NOT_PERMITTED),
    rule("userfaultfd", libc::SYS_userfaultfd, NOT_PERMITTED),
    // Where memory lies.
    rule("get_mempolicy", libc::SYS_get_mempolicy, NOT_PERMITTED),
    rule("mbind", libc::SYS_mbind, NOT_PERMITTED),
    rule("migrate_pages", libc::SYS_migrate_pages, NOT_PERMITTED),
    rule("move_pages", libc::SYS_move_pages, NOT_PERMITTED),
    rule("set_mempolicy", libc::SYS_set_mempolicy, NOT_PERMITTED),
    rule("set_mempolicy_home_node", libc::SYS_set_mempolicy_home_node, NOT_PERMITTED),
    // The machine: its kernel, clocks, swap, quotas, accounts and log.
    rule("acct", libc::SYS_acct, NOT_PERMITTED),
    rule("clock_adjtime", libc::SYS_clock_adjtime, NOT_PERMITTED),
    rule("clock_settime", libc::SYS_clock_settime, NOT_PERMITTED),
    rule("delete_module", libc::SYS_delete_module, NOT_PERMITTED),
    rule("finit_module", libc::SYS_finit_module, NOT_PERMITTED),
    rule("init_module", libc::SYS_init_module, NOT_PERMITTED),
    rule("kexec_file_load", libc::SYS_kexec_file_load, NOT_PERMITTED),
    rule("kexec_load", libc::SYS_kexec_load, NOT_PERMITTED),
    rule("lsm_set_self_attr", 460, NOT_PERMITTED),
    rule("nfsservctl", libc::SYS_nfsservctl, NOT_PERMITTED),
    rule("quotactl", libc::SYS_quotactl, NOT_PERMITTED),
    rule("quotactl_fd", libc::SYS_quotactl_fd, NOT_PERMITTED),
    rule("reboot", libc::SYS_reboot, NOT_PERMITTED),
    rule("settimeofday", libc::SYS_settimeofday, NOT_PERMITTED),
    rule("swapoff", libc::SYS_swapoff, NOT_PERMITTED),
    rule("swapon", libc::SYS_swapon, NOT_PERMITTED),
    rule("syslog", libc::SYS_syslog, NOT_PERMITTED),
    rule("vhangup", libc::SYS_vhangup, NOT_PERMITTED),
    // Calls that are right with some arguments.
    rule("fcntl", libc::SYS_fcntl, NO_LEASE),
    rule("ioctl", libc::SYS_ioctl, PLAIN_TERMINAL),
    rule("personality", libc::SYS_personality, PLAIN_PERSONALITY),
    rule("prctl", libc::SYS_prctl, NO_SUBREAPER),
    rule("prlimit64", libc::SYS_prlimit64, OWN_LIMITS),
    rule("socket", libc::SYS_socket, PLAIN_SOCKET),
    rule("socketpair", libc::SYS_socketpair, PLAIN_SOCKET),
    // Namespaces. `clone3` hides its flags behind a pointer; libraries fall back to `clone`.
    keyed("clone", libc::SYS_clone, NO_NAMESPACE),
    rule("clone3", libc::SYS_clone3, NOT_IMPLEMENTED),
    rule("setns", libc::SYS_setns, NOT_PERMITTED),
    rule("unshare", libc::SYS_unshare, NOT_PERMITTED),
    // The tree of mounts, by the old calls and by the new.
    rule("chroot", libc::SYS_chroot, NOT_PERMITTED),
    keyed("mount", libc::SYS_mount, NOT_PERMITTED),
    rule("pivot_root", libc::SYS_pivot_root, NOT_PERMITTED),
    rule("umount2", libc::SYS_umount2, NOT_PERMITTED),
    rule("fsconfig", libc::SYS_fsconfig, NOT_IMPLEMENTED),
    rule("fsmount", libc::SYS_fsmount, NOT_IMPLEMENTED),
    rule("fsopen", libc::SYS_fsopen, NOT_IMPLEMENTED),
    rule("fspick", libc::SYS_fspick, NOT_IMPLEMENTED),
    rule("mount_setattr", libc::SYS_mount_setattr, NOT_IMPLEMENTED),
    rule("move_mount", libc::SYS_move_mount, NOT_IMPLEMENTED),
    rule("open_tree", libc::SYS_open_tree, NOT_IMPLEMENTED),
    rule("open_tree_attr", 467, NOT_IMPLEMENTED),
    // Files by inode number, past every directory.
    rule("name_to_handle_at", libc::SYS_name_to_handle_at, NOT_PERMITTED),
    rule("open_by_handle_at", libc::SYS_open_by_handle_at, NOT_PERMITTED),
    #[cfg(target_arch = "x86_64")]
    rule("create_module", 174, NOT_PERMITTED),
    #[cfg(target_arch = "x86_64")]
    rule("ioperm", libc::SYS_ioperm, NOT_PERMITTED),
    #[cfg(target_arch = "x86_64")]
    rule("iopl", libc::SYS_iopl, NOT_PERMITTED),
    #[cfg(target_arch = "x86_64")]
    rule("modify_ldt", libc::SYS_modify_ldt, NOT_PERMITTED),
    #[cfg(target_arch = "x86_64")]
    rule("uselib", libc::SYS_uselib, NOT_PERMITTED),
];

/// The names of all calls that are refused, some of them only with certain arguments.
pub fn denied_names() -> impl Iterator<Item = &'static str> {
    POLICY.iter().map(|rule| rule.name)
}

/// A call as a filter sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The number in the register, bit 30 included.
    pub number: u32,
    /// The `AUDIT_ARCH_*` of the instruction that made the call.
    pub arch: u32,
    /// The six registers.
    pub arguments: [u64; 6],
}

/// Reads the verdict from the table, without any program.
///
/// This is the meaning of [`POLICY`], for tests and explanations; the kernel asks the program.
pub fn decide(key: Option<Key>, call: &Call) -> Verdict {
    let x32 = cfg!(target_arch = "x86_64") && (X32_FIRST..=X32_LAST).contains(&call.number);
    if call.arch != NATIVE_ARCH || x32 {
        return Verdict::KillProcess;
    }
    if call.number > HIGHEST_KNOWN {
        return Verdict::NotImplemented;
    }
    let shown = Key::new(call.arguments[usize::from(KEY_ARGUMENT)]);
    POLICY
        .iter()
        .filter(|rule| rule.number == call.number)
        .filter(|rule| !(rule.keyed && key.is_some() && key == shown))
        .flat_map(|rule| rule.cases)
        .find(|case| case.when.iter().all(|check| holds(check, call)))
        .map_or(Verdict::Allow, |case| case.verdict)
}

fn holds(check: &Check, call: &Call) -> bool {
    let value = halves(call.arguments[usize::from(check.argument)]).0 & check.mask;
    check.values.contains(&value) == check.listed
}

/// The low and the high half of an argument.
#[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
fn halves(argument: u64) -> (u32, u32) {
    (argument as u32, (argument >> 32) as u32)
}

/// Compiles the filter, ready to be installed. Without a key nothing opens the keyed rules.
///
/// With one, the program holds it: see [`wipe`].
pub fn compile(key: Option<Key>) -> Vec<sock_filter> {
    assemble(key, POLICY.iter().copied(), HIGHEST_KNOWN)
}

/// Overwrites a program that holds a key.
pub fn wipe(mut program: Vec<sock_filter>) {
    program.fill(sock_filter { code: 0, jt: 0, jf: 0, k: 0 });
    std::hint::black_box(&program);
}

fn assemble(
    key: Option<Key>,
    rules: impl Iterator<Item = Rule>,
    highest_known: u32,
) -> Vec<sock_filter> {
    // Room for all of it at once: what a growing list leaves behind is not wiped.
    let reversed = Vec::with_capacity(4096);
    let mut program = Program { reversed, key, verdicts: Vec::new(), treated: Vec::new() };
    let tree = program.tree(&ranges(rules, highest_known), highest_known + 1);
    let start = program.push(LOAD, NUMBER_OFFSET, tree);
    let foreign = program.treat(KILLED);
    let native = program.branch(JUMP_IF_EQUAL, NATIVE_ARCH, start, foreign);
    program.push(LOAD, ARCH_OFFSET, native);
    program.reversed.reverse();
    program.reversed
}

/// What happens to a call.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Treatment {
    cases: &'static [Case],
    keyed: bool,
}

const ALLOWED: Treatment = Treatment { cases: &[], keyed: false };
const UNKNOWN: Treatment = Treatment { cases: NOT_IMPLEMENTED, keyed: false };
const KILLED: Treatment = Treatment { cases: &[Case::always(Verdict::KillProcess)], keyed: false };

/// Call numbers from `first` up to the next range, which are treated alike.
#[derive(Clone, Copy)]
struct Range {
    first: u32,
    treatment: Treatment,
}

/// Cuts all numbers into ranges. Neighbours always differ.
fn ranges(rules: impl Iterator<Item = Rule>, highest_known: u32) -> Vec<Range> {
    let mut rules: Vec<Rule> = rules.collect();
    rules.sort_unstable_by_key(|rule| rule.number);
    let mut ranges: Vec<Range> = Vec::new();
    let mut begin = |first: u32, treatment: Treatment| {
        if ranges.last().is_some_and(|last| last.first == first) {
            ranges.pop();
        }
        if ranges.last().is_none_or(|last| last.treatment != treatment) {
            ranges.push(Range { first, treatment });
        }
    };
    begin(0, ALLOWED);
    for Rule { number, cases, keyed, .. } in rules {
        begin(number, Treatment { cases, keyed });
        begin(number + 1, ALLOWED);
    }
    begin(highest_known + 1, UNKNOWN);
    if cfg!(target_arch = "x86_64") {
        begin(X32_FIRST, KILLED);
        begin(X32_LAST + 1, UNKNOWN);
    }
    ranges
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const XOR: u32 = libc::BPF_ALU | libc::BPF_XOR | libc::BPF_K;
const OR_INDEX: u32 = libc::BPF_ALU | libc::BPF_OR | libc::BPF_X;
const TO_INDEX: u32 = libc::BPF_MISC | libc::BPF_TAX;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const JUMP_IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const JUMP_UNLESS_LESS: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;

// Where the fields of seccomp_data lie.
const NUMBER_OFFSET: u32 = 0;
const ARCH_OFFSET: u32 = 4;
const ARGUMENTS_OFFSET: u32 = 16;
const ARGUMENT_SIZE: u32 = 8;

/// A place in a program: the index of an instruction, counted from the end.
type Label = usize;

/// A program, written from its last instruction to its first.
///
/// A filter can only jump forwards. Written backwards, every target is known by the time something
/// jumps to it, and a jump too long for its eight bits can be led over one that has thirty-two.
struct Program {
    reversed: Vec<sock_filter>,
    key: Option<Key>,
    verdicts: Vec<(Verdict, Label)>,
    treated: Vec<(Treatment, Label)>,
}

impl Program {
    /// The furthest a conditional jump goes. It could reach 255, but its other target may need an
    /// instruction in between.
    const REACH: usize = 250;

    /// Finds the range of the number in the accumulator. Each step halves the numbers, not the
    /// ranges: every number costs the same, and most of them lie in a few wide ranges.
    fn tree(&mut self, ranges: &[Range], end: u32) -> Label {
        match ranges {
            [range] => self.treat(range.treatment),
            [around, single, rest]
                if around.treatment == rest.treatment && single.first + 1 == rest.first =>
            {
                let others = self.treat(around.treatment);
                let hit = self.treat(single.treatment);
                self.branch(JUMP_IF_EQUAL, single.first, hit, others)
            }
            _ => {
                let middle = u32::midpoint(ranges[0].first, end);
                let cut = (1..ranges.len())
                    .min_by_key(|&cut| ranges[cut].first.abs_diff(middle))
                    .unwrap_or_default();
                let (below, above) = ranges.split_at(cut);
                let first = above[0].first;
                let above = self.tree(above, end);
                let below = self.tree(below, first);
                self.branch(JUMP_UNLESS_LESS, first, above, below)
            }
        }
    }

    fn treat(&mut self, treatment: Treatment) -> Label {
        if let Some(&(_, label)) = self.treated.iter().find(|(known, _)| *known == treatment) {
            return label;
        }
        let refused = self.cases(treatment.cases);
        let label = match self.key {
            Some(key) if treatment.keyed => self.unless_shown(key, refused),
            _ => refused,
        };
        self.treated.push((treatment, label));
        label
    }

    /// Allows a call that shows the key. No jump comes before both halves were compared.
    fn unless_shown(&mut self, key: Key, refused: Label) -> Label {
        let (low, high) = halves(key.0.get());
        let offset = ARGUMENTS_OFFSET + u32::from(KEY_ARGUMENT) * ARGUMENT_SIZE;
        let allowed = self.verdict(Verdict::Allow);
        let compare = self.branch(JUMP_IF_EQUAL, 0, allowed, refused);
        let both = self.push(OR_INDEX, 0, compare);
        let high = self.push(XOR, high, both);
        let load_high = self.push(LOAD, offset + 4, high);
        let keep_low = self.push(TO_INDEX, 0, load_high);
        let low = self.push(XOR, low, keep_low);
        self.push(LOAD, offset, low)
    }

    fn cases(&mut self, cases: &'static [Case]) -> Label {
        let mut otherwise = self.verdict(Verdict::Allow);
        for case in cases.iter().rev() {
            let mut then = self.verdict(case.verdict);
            for check in case.when.iter().rev() {
                then = self.check(check, then, otherwise);
            }
            otherwise = then;
        }
        otherwise
    }

    fn check(&mut self, check: &Check, then: Label, otherwise: Label) -> Label {
        let (hit, miss) = if check.listed { (then, otherwise) } else { (otherwise, then) };
        let compare = check
            .values
            .iter()
            .rev()
            .fold(miss, |next, &value| self.branch(JUMP_IF_EQUAL, value, hit, next));
        let mask =
            if check.mask == u32::MAX { compare } else { self.push(AND, check.mask, compare) };
        let offset = ARGUMENTS_OFFSET + u32::from(check.argument) * ARGUMENT_SIZE;
        self.push(LOAD, offset, mask)
    }

    fn verdict(&mut self, verdict: Verdict) -> Label {
        if let Some(&(_, label)) = self.verdicts.iter().find(|(known, _)| *known == verdict) {
            return label;
        }
        let label = self.write(RETURN, verdict.action(), 0, 0);
        self.verdicts.push((verdict, label));
        label
    }

    /// An instruction that goes on at `next`.
    fn push(&mut self, code: u32, operand: u32, next: Label) -> Label {
        self.adjacent(next);
        self.write(code, operand, 0, 0)
    }

    /// A conditional jump.
    fn branch(&mut self, test: u32, operand: u32, then: Label, otherwise: Label) -> Label {
        let then = self.near(then);
        let otherwise = self.near(otherwise);
        let (then, otherwise) = (self.distance(then), self.distance(otherwise));
        self.write(test, operand, then, otherwise)
    }

    /// `label`, or the unconditional jump to it that stands near.
    fn near(&mut self, label: Label) -> Label {
        if self.reversed.len() - label <= Self::REACH { label } else { self.jump(label) }
    }

    /// Makes sure that the next instruction written runs on into `label`.
    fn adjacent(&mut self, label: Label) {
        if label + 1 != self.reversed.len() {
            self.jump(label);
        }
    }

    fn jump(&mut self, label: Label) -> Label {
        let over = word((self.reversed.len() - label - 1) as i128);
        self.write(JUMP, over, 0, 0)
    }

    /// How many instructions the next one written must skip to reach `label`.
    fn distance(&self, label: Label) -> u8 {
        let skipped = self.reversed.len() - label - 1;
        u8::try_from(skipped).expect("near() keeps targets within reach")
    }

    fn write(&mut self, code: u32, k: u32, jt: u8, jf: u8) -> Label {
        let code = u16::try_from(code).expect("all codes of cBPF are small");
        self.reversed.push(sock_filter { code, jt, jf, k });
        self.reversed.len() - 1
    }
}

/// What a program did with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The value it returned, a [`Verdict::action`].
    pub action: u32,
    /// How many instructions it ran.
    pub steps: usize,
}

/// Runs a program as the kernel would. A tool for tests and for explaining a filter.
///
/// Returns `None` where the kernel would have refused to load the program: a jump or a load out of
/// bounds, no return, or an instruction that [`compile`] has no use for.
pub fn evaluate(program: &[sock_filter], call: &Call) -> Option<Outcome> {
    let (mut accumulator, mut index) = (0, 0);
    let mut position = 0;
    for steps in 1..=program.len() {
        let sock_filter { code, jt, jf, k } = *program.get(position)?;
        position += 1;
        let test = match u32::from(code) {
            LOAD => {
                accumulator = load(call, k)?;
                continue;
            }
            AND => {
                accumulator &= k;
                continue;
            }
            XOR => {
                accumulator ^= k;
                continue;
            }
            TO_INDEX => {
                index = accumulator;
                continue;
            }
            OR_INDEX => {
                accumulator |= index;
                continue;
            }
            JUMP => {
                position = position.checked_add(usize::try_from(k).ok()?)?;
                continue;
            }
            RETURN => return Some(Outcome { action: k, steps }),
            JUMP_IF_EQUAL => accumulator == k,
            JUMP_UNLESS_LESS => accumulator >= k,
            _ => return None,
        };
        position += usize::from(if test { jt } else { jf });
    }
    None
}

/// One word of `seccomp_data`. The instruction pointer reads as zero.
fn load(call: &Call, offset: u32) -> Option<u32> {
    match offset {
        NUMBER_OFFSET => Some(call.number),
        ARCH_OFFSET => Some(call.arch),
        8 | 12 => Some(0),
        _ if offset % 4 == 0 => {
            let place = offset.checked_sub(ARGUMENTS_OFFSET)?;
            let index = usize::try_from(place / ARGUMENT_SIZE).ok()?;
            let (low, high) = halves(*call.arguments.get(index)?);
            Some(if place % ARGUMENT_SIZE == 0 { low } else { high })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
