//! bash's internals and the kernel, behind safe functions. The only module with `unsafe`.
//!
//! bash exports the functions and variables named below to its loadable builtins; all of them are
//! the same from 4.4 to 5.3. The shell has one thread, so its globals are touched by that thread and
//! by the handler of the break, which only writes flags.

mod called;
mod jump_table;
mod plain_program;
mod spawn;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

pub(crate) use called::Called;
pub(crate) use plain_program::expect as expect_program;
use spawn::spawn;

/// The shell's own descriptors live from here up, out of the way of scripts.
const FD_BASE: c_int = 200;
/// What breaks a running command: `SIGRTMIN` (34 in glibc) + 5.
const BREAK_OFFSET: c_int = 5;
/// The line that calls the builtin again after bash discarded a command.
const RESUME_LINE: &[u8] = b"sandbox_session\n";

// Constants of bash's `bashjmp.h`, `builtins/common.h`, `variables.h` and `builtins.h`.
const DISCARD: c_int = 2;
const SEVAL_NOHIST: c_int = 0x4;
const SEVAL_NOFREE: c_int = 0x8;
const SEVAL_RESETLINE: c_int = 0x10;
const SEVAL_NOHISTEXP: c_int = 0x200;
const VC_BLTNENV: c_int = 0x8;
const BUILTIN_ENABLED: c_int = 0x1;

/// bash's `WORD_DESC`.
#[repr(C)]
struct WordDesc {
    word: *const c_char,
    flags: c_int,
}

/// bash's `WORD_LIST`.
#[repr(C)]
struct WordList {
    next: *const WordList,
    word: *const WordDesc,
}

type Cleanup = extern "C" fn(*mut c_char);

unsafe extern "C" {
    static mut interrupt_state: c_int;
    static mut last_command_exit_value: c_int;
    static mut read_but_dont_execute: c_int;
    static mut wait_intr_flag: c_int;
    static mut wait_signal_received: c_int;
    static mut parse_and_execute_level: c_int;
    static mut default_buffered_input: c_int;
    static mut indirection_level: c_int;
    static mut temporary_env: *mut c_void;
    static mut export_env: *const *const c_char;
    static mut the_current_working_directory: *const c_char;

    fn source_file(path: *const c_char, flags: c_int) -> c_int;
    fn parse_and_execute(text: *const c_char, name: *const c_char, flags: c_int) -> c_int;
    fn begin_unwind_frame(tag: *const c_char);
    fn add_unwind_protect(cleanup: Cleanup, argument: *mut c_char);
    fn discard_unwind_frame(tag: *const c_char);
    fn run_unwind_protects();
    fn jump_to_top_level(code: c_int) -> !;
    fn save_bash_input(fd: c_int, new_fd: c_int) -> c_int;
    fn assign_in_env(word: *const WordDesc, flags: c_int) -> c_int;
    fn push_scope(flags: c_int, variables: *mut c_void) -> *mut c_void;
    fn pop_scope(is_special: *mut c_char);
    fn dispose_used_env_vars();
    fn bind_variable(name: *const c_char, value: *const c_char, flags: c_int) -> *mut c_void;
    fn unbind_variable(name: *const c_char) -> c_int;
    fn get_string_value(name: *const c_char) -> *const c_char;
    fn set_working_directory(path: *const c_char);
    fn maybe_make_export_env();
    fn count_all_jobs() -> c_int;
    fn zreset();
    fn cleanup_the_pipeline();
    fn unbind_func(name: *const c_char) -> c_int;
    fn remove_alias(name: *const c_char) -> c_int;
    fn signal_is_ignored(signal: c_int) -> c_int;
    fn signal_is_trapped(signal: c_int) -> c_int;
    fn builtin_error(format: *const c_char, ...);
}

/// bash's `struct builtin`. bash writes flags and handle, so the value cannot be read-only.
#[repr(C)]
pub(crate) struct Builtin {
    name: AtomicPtr<c_char>,
    function: extern "C" fn(*const WordList) -> c_int,
    flags: AtomicI32,
    long_doc: AtomicPtr<*const c_char>,
    short_doc: AtomicPtr<c_char>,
    handle: AtomicPtr<c_char>,
}

/// A `NULL`-terminated list of lines.
struct Lines([*const c_char; 2]);

// SAFETY: the pointers are to constant strings.
unsafe impl Sync for Lines {}

static LONG_DOC: Lines = Lines([c"Serves a session over a socket.".as_ptr(), null()]);

/// What `enable -f` looks for.
#[unsafe(no_mangle)]
pub(crate) static sandbox_session_struct: Builtin = Builtin {
    name: AtomicPtr::new(c"sandbox_session".as_ptr().cast_mut()),
    function: sandbox_session,
    flags: AtomicI32::new(BUILTIN_ENABLED),
    long_doc: AtomicPtr::new((&raw const LONG_DOC.0).cast_mut().cast()),
    short_doc: AtomicPtr::new(c"sandbox_session [socket library]".as_ptr().cast_mut()),
    handle: AtomicPtr::new(null_mut()),
};

/// The builtin. A jump passes over this frame, so it holds no value that needs a drop.
extern "C" fn sandbox_session(words: *const WordList) -> c_int {
    match arguments(words) {
        [None, _] => crate::session::resume(),
        [Some(socket_fd), Some(library_fd)] => crate::session::start(socket_fd, library_fd),
        _ => {
            complain(c"usage: sandbox_session [socket library]");
            2
        }
    }
}

/// The first two words, as numbers; -1 for what is none.
fn arguments(words: *const WordList) -> [Option<c_int>; 2] {
    let mut numbers = [None; 2];
    let mut next = words;
    for number in &mut numbers {
        // SAFETY: bash passes a list that ends with NULL.
        let Some(list) = (unsafe { next.as_ref() }) else {
            break;
        };
        // SAFETY: every element has a word.
        let word = unsafe { &*list.word };
        let text = copy_text(word.word).unwrap_or_default();
        *number = Some(text.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(-1));
        next = list.next;
    }
    numbers
}

/// Copies a string that bash owns; `None` for NULL.
fn copy_text(text: *const c_char) -> Option<CString> {
    if text.is_null() {
        return None;
    }
    // SAFETY: private function, called with NULL or strings of bash, which end with NUL.
    Some(unsafe { CStr::from_ptr(text) }.to_owned())
}

fn get_int(place: *const c_int) -> c_int {
    // SAFETY: private function, called with addresses of bash's variables only.
    unsafe { place.read_volatile() }
}

fn set_int(place: *mut c_int, value: c_int) {
    // SAFETY: private function, called with addresses of bash's variables only.
    unsafe { place.write_volatile(value) }
}

/// Writes `bash: line N: sandbox_session: why` to standard error.
pub(crate) fn complain(why: &CStr) {
    // SAFETY: the format takes one string.
    unsafe { builtin_error(c"%s".as_ptr(), why.as_ptr()) }
}

// ---------------------------------------------------------------------------------- the state

/// What the shell does, as the break handler must know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `sandbox_session SOCKET LIBRARY` did not come yet.
    Unset = 0,
    /// Waits for a request. A break does nothing.
    Idle = 1,
    /// Runs shell text.
    Text = 2,
    /// Waits for a program that was spawned.
    Program = 3,
    /// Left the text by a break, and is about to resume. A break does nothing more.
    Broken = 4,
    /// Left the text since bash discarded all of it, and is about to resume.
    Discarded = 5,
    /// The session is over.
    Closed = 6,
}

static MODE: AtomicI32 = AtomicI32::new(Mode::Unset as i32);
static BREAK: AtomicBool = AtomicBool::new(false);
static SCOPE_IS_PUSHED: AtomicBool = AtomicBool::new(false);
static OWNER: AtomicI32 = AtomicI32::new(0);
static PROGRAM: AtomicI32 = AtomicI32::new(0);
static SOCKET: AtomicI32 = AtomicI32::new(-1);
static NULL: AtomicI32 = AtomicI32::new(-1);
/// The text that runs, with its NUL. bash reads it while it runs, and nothing writes it then.
static TEXT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
/// The shell's own signal mask, while a program's has more in it.
static HELD: Mutex<Option<libc::sigset_t>> = Mutex::new(None);

pub(crate) fn mode() -> Mode {
    match MODE.load(Relaxed) {
        0 => Mode::Unset,
        1 => Mode::Idle,
        2 => Mode::Text,
        3 => Mode::Program,
        4 => Mode::Broken,
        5 => Mode::Discarded,
        _ => Mode::Closed,
    }
}

pub(crate) fn set_mode(mode: Mode) {
    MODE.store(mode as i32, Relaxed);
}

pub(crate) fn pid() -> i32 {
    // SAFETY: no preconditions.
    unsafe { libc::getpid() }
}

fn is_owner() -> bool {
    pid() == OWNER.load(Relaxed)
}

/// Whether this is the session's own process (no subshell) and bash reads its script.
pub(crate) fn is_top_level() -> bool {
    let is_owner = OWNER.load(Relaxed) == 0 || is_owner();
    is_owner && get_int(&raw const parse_and_execute_level) == 0
}

// ---------------------------------------------------------------------------------- the break

/// The signal that breaks a running command.
fn break_signal() -> c_int {
    libc::SIGRTMIN() + BREAK_OFFSET
}

/// The handler: flags, and at most one `kill`.
extern "C" fn on_break(_signal: c_int) {
    match mode() {
        Mode::Text => {
            BREAK.store(true, Relaxed);
            set_int(&raw mut interrupt_state, 1);
            if get_int(&raw const wait_intr_flag) != 0 {
                set_int(&raw mut wait_signal_received, libc::SIGINT);
            }
        }
        Mode::Program => {
            BREAK.store(true, Relaxed);
            kill_program();
        }
        _ => {}
    }
}

fn kill_program() {
    let program = PROGRAM.load(Relaxed);
    if program > 0 && is_owner() {
        // SAFETY: no preconditions; the child is not reaped yet, so the number is its own.
        unsafe { libc::kill(program, libc::SIGKILL) };
    }
}

/// Installs the handler, again before every command since scripts can trap any signal.
fn catch_break() {
    // SAFETY: all zero is a valid `sigaction`: no flags, so calls are not restarted, and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_break as extern "C" fn(c_int) as usize;
    // SAFETY: the handler only writes flags and calls `getpid` and `kill`.
    unsafe { libc::sigaction(break_signal(), &raw const action, null_mut()) };
}

/// On bash's unwind list while text runs: called when bash throws the whole text away.
///
/// That is a break, or an error after which bash goes on with the next line of a script. Either way
/// the next line is [`RESUME_LINE`]; make sure that it calls the builtin.
extern "C" fn on_unwind(_argument: *mut c_char) {
    if mode() != Mode::Text || !is_owner() {
        return;
    }
    set_mode(Mode::Discarded);
    SCOPE_IS_PUSHED.store(false, Relaxed); // the list held its `pop_scope`, which has run
    // SAFETY: a constant name; bash returns an error if there is no such function.
    unsafe { unbind_func(c"sandbox_session".as_ptr()) };
    // SAFETY: a constant name; bash returns an error if there is no such alias.
    unsafe { remove_alias(c"sandbox_session".as_ptr()) };
    set_int(&raw mut read_but_dont_execute, 0);
    if !BREAK.load(Relaxed) {
        return;
    }
    set_mode(Mode::Broken);
    put_null();
    flush();
    set_int(&raw mut interrupt_state, 0);
    set_int(&raw mut last_command_exit_value, 130);
    // What is outside of the text on the list is the call of the builtin.
    // SAFETY: bash took this entry off the list before it called.
    unsafe { run_unwind_protects() };
    clear_execution_state();
    // SAFETY: no frame between here and `reader_loop` holds a value that needs a drop: they are
    // bash's, this one, `run_stored_text`, `serve`, `resume` or `start`, and `sandbox_session`.
    unsafe { jump_to_top_level(DISCARD) }
}

/// Does what bash's `throw_to_top_level` would do between its unwinding and its jump.
fn clear_execution_state() {
    const VARIABLES: [&CStr; 14] = [
        c"already_making_children", // else the next command waits for this one's last child
        c"loop_level",
        c"continuing",
        c"breaking",
        c"funcnest",
        c"executing_list",
        c"comsub_ignore_return",
        c"return_catch_flag",
        c"wait_intr_flag",
        c"interrupt_execution", // this and the next three: 5.3
        c"retain_fifos",
        c"executing_funsub",
        c"parsing_command",
        c"executing",
    ];
    for variable in VARIABLES {
        // SAFETY: a constant name; NULL if this bash has none.
        let place: *mut c_void = unsafe { libc::dlsym(libc::RTLD_DEFAULT, variable.as_ptr()) };
        if !place.is_null() {
            set_int(place.cast(), 0);
        }
    }
    // SAFETY: no preconditions; a child that was not waited for is in no job yet.
    unsafe { cleanup_the_pipeline() };
}

// ---------------------------------------------------------------------------------- the start

/// Makes a copy of `fd` up where scripts do not look, closed on exec.
fn move_up(fd: c_int) -> io::Result<OwnedFd> {
    // SAFETY: no preconditions; an error is returned for a number that is not open.
    let copy = check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, FD_BASE) })?;
    // SAFETY: the kernel just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Gives a descriptor to the rest of the process's life.
fn keep(fd: OwnedFd) -> RawFd {
    std::os::fd::IntoRawFd::into_raw_fd(fd)
}

fn close(fd: c_int) {
    // SAFETY: called for numbers that setup was told to take over.
    unsafe { libc::close(fd) };
}

fn replace(from: c_int, to: c_int, flags: c_int) -> io::Result<()> {
    // SAFETY: no preconditions; what was open as `to` is meant to be replaced.
    check(unsafe { libc::dup3(from, to, flags) }).map(drop)
}

/// Takes over the socket, the library's descriptor and the script's place on descriptor 0.
pub(crate) fn take_over(socket_fd: c_int, library_fd: c_int) -> io::Result<()> {
    let socket = move_up(socket_fd)?;
    let null = move_up(File::options().read(true).write(true).open("/dev/null")?.as_raw_fd())?;
    let script = move_up(script_pipe()?.as_raw_fd())?;
    let script = keep(script);
    // SAFETY: `script` is open; bash takes it over in place of 0, and closes 0.
    check(unsafe { save_bash_input(0, script) })?;
    close(socket_fd);
    close(library_fd);
    replace(null.as_raw_fd(), 0, 0)?;
    SOCKET.store(keep(socket), Relaxed);
    NULL.store(keep(null), Relaxed);
    OWNER.store(pid(), Relaxed);
    catch_break();
    Ok(())
}

/// A pipe that holds [`RESUME_LINE`] and then ends: a shell that gets lost exits.
fn script_pipe() -> io::Result<OwnedFd> {
    let mut ends = [-1; 2];
    // SAFETY: there is room for two numbers.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: the kernel just made it for us.
    let [reader, writer] = ends.map(|end| unsafe { OwnedFd::from_raw_fd(end) });
    File::from(writer).write_all(RESUME_LINE)?;
    Ok(reader)
}

/// Puts the line that was read back for the next time.
pub(crate) fn refill_script() -> io::Result<()> {
    let script = get_int(&raw const default_buffered_input);
    if script < 0 {
        return Err(io::ErrorKind::NotFound.into());
    }
    replace(script_pipe()?.as_raw_fd(), script, libc::O_CLOEXEC)
}

/// Sets the options that an interactive user would have.
pub(crate) fn run_setup_text() {
    let flags = SEVAL_NOHIST | SEVAL_NOFREE;
    // SAFETY: constant text, which bash does not free.
    unsafe { parse_and_execute(c"shopt -s expand_aliases".as_ptr(), c"bash".as_ptr(), flags) };
}

// ---------------------------------------------------------------------------------- the socket

/// Descriptors of one message: three pipes and a memory file.
const MAX_FDS: usize = 4;

/// Receives one message into `packet`; `None` if the session is over.
pub(crate) fn receive(packet: &mut [u8]) -> Option<(usize, Vec<OwnedFd>)> {
    let mut control = [0_u64; 8]; // room for a header and four numbers, aligned
    let mut buffer = libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() };
    loop {
        // SAFETY: all zero is a valid `msghdr`.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut buffer;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        let socket = SOCKET.load(Relaxed);
        // SAFETY: the message points to buffers of the lengths it tells.
        let len = unsafe { libc::recvmsg(socket, &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        if len < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted {
            continue;
        }
        let files = received_files(&message);
        return match usize::try_from(len) {
            Ok(len) if len > 0 && message.msg_flags & libc::MSG_TRUNC == 0 => Some((len, files)),
            _ => None,
        };
    }
}

fn received_files(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut files = Vec::with_capacity(MAX_FDS);
    // SAFETY: the kernel filled the message's control part.
    let header = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: NULL, or a header inside of the control buffer.
    let Some(first) = (unsafe { header.as_ref() }) else {
        return files;
    };
    if first.cmsg_level != libc::SOL_SOCKET || first.cmsg_type != libc::SCM_RIGHTS {
        return files;
    }
    // SAFETY: plain arithmetic.
    let empty = unsafe { libc::CMSG_LEN(0) } as usize;
    let count = first.cmsg_len.saturating_sub(empty) / size_of::<c_int>();
    // SAFETY: the data follows the header.
    let numbers: *const c_int = unsafe { libc::CMSG_DATA(header) }.cast();
    for index in 0..count {
        // SAFETY: `count` numbers are there.
        let place = unsafe { numbers.add(index) };
        // SAFETY: the same; the data need not be aligned.
        let number = unsafe { place.read_unaligned() };
        // SAFETY: the kernel made it for us.
        files.push(unsafe { OwnedFd::from_raw_fd(number) });
    }
    files
}

/// Sends one frame; false if the other side is gone.
pub(crate) fn send(frame: &[u8]) -> bool {
    let socket = SOCKET.load(Relaxed);
    loop {
        // SAFETY: the pointer and the length are of one slice.
        let sent =
            unsafe { libc::send(socket, frame.as_ptr().cast(), frame.len(), libc::MSG_NOSIGNAL) };
        if sent >= 0 {
            return true;
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return false;
        }
    }
}

// ---------------------------------------------------------------------------------- shell text

/// Puts a command's pipes on 0, 1 and 2.
pub(crate) fn put_pipes(pipes: &[OwnedFd; 3]) {
    for (target, pipe) in (0..).zip(pipes) {
        let _ = replace(pipe.as_raw_fd(), target, 0); // fails only for numbers that are not open
    }
}

/// Puts `/dev/null` on 0, 1 and 2; closes them if a script closed even that.
pub(crate) fn put_null() {
    let null = NULL.load(Relaxed);
    for target in 0..3 {
        if replace(null, target, 0).is_err() {
            close(target);
        }
    }
}

/// Writes out what bash's streams hold; false if that failed.
fn flush() -> bool {
    // SAFETY: NULL stands for all streams.
    unsafe { libc::fflush(null_mut()) == 0 }
}

/// Adds `assignment` (`NAME='value'`) to the environment of the next text, as `NAME=value eval` does.
///
/// False, with a line on standard error, if the variable is readonly.
pub(crate) fn assign_for_command(assignment: &CStr) -> bool {
    let word = WordDesc { word: assignment.as_ptr(), flags: 0 };
    // SAFETY: bash copies the word.
    unsafe { assign_in_env(&raw const word, 1) != 0 }
}

/// Forgets the assignments made so far.
pub(crate) fn drop_assignments() {
    // SAFETY: bash frees and clears its own table, if there is one.
    unsafe { dispose_used_env_vars() }
}

/// Keeps `text` for [`run_stored_text`].
pub(crate) fn store_text(text: &[u8]) {
    const KEPT: usize = 64 << 10;
    let mut stored = TEXT.lock().unwrap_or_else(PoisonError::into_inner);
    stored.clear();
    stored.shrink_to(KEPT);
    stored.reserve_exact(text.len() + 1);
    stored.extend_from_slice(text);
    stored.push(0);
}

fn stored_text() -> *const c_char {
    TEXT.lock().unwrap_or_else(PoisonError::into_inner).as_ptr().cast()
}

/// Runs the stored text in this shell and returns its status.
///
/// A break jumps over this frame: it holds no value that needs a drop. `exit` does not come back.
pub(crate) fn run_stored_text() -> c_int {
    const TAG: &CStr = c"sandbox_session text";
    const FLAGS: c_int = SEVAL_NOHIST | SEVAL_NOFREE | SEVAL_RESETLINE | SEVAL_NOHISTEXP;
    let text = stored_text();
    catch_break();
    set_int(&raw mut read_but_dont_execute, 0); // `set -n` could never be undone
    // SAFETY: drops what `read` holds of an earlier command's input.
    unsafe { zreset() };
    // SAFETY: the tag is constant.
    unsafe { begin_unwind_frame(TAG.as_ptr()) };
    // SAFETY: the callback has the type that bash calls.
    unsafe { add_unwind_protect(on_unwind, null_mut()) };
    push_assignments();
    if !plain_program::arm() {
        called::spread_now();
    }
    let level = get_int(&raw const indirection_level);
    set_int(&raw mut indirection_level, 0); // `set -x` shows one `+`, as for `bash -c`
    BREAK.store(false, Relaxed);
    set_mode(Mode::Text);
    let file = file_of_text();
    let status = if file.is_null() {
        // SAFETY: the text ends with NUL, stays as it is until the command is over, and is not freed.
        unsafe { parse_and_execute(text, c"bash".as_ptr(), FLAGS) }
    } else {
        // SAFETY: the path ends with NUL and stays as it is; bash reads the file before it runs it.
        unsafe { source_file(file, 0) }
    };
    set_mode(Mode::Idle);
    set_int(&raw mut indirection_level, level);
    // SAFETY: the frame began above.
    unsafe { discard_unwind_frame(TAG.as_ptr()) };
    status
}

/// The path of a file with the stored text, if `return` may stand in it: bash lets that end a text
/// with a status only where it reads it from a file. Null if it need not be one, or cannot.
///
/// The file is in memory, and one for all commands, as a break jumps over whoever would close it.
fn file_of_text() -> *const c_char {
    static FILE: Mutex<Option<(File, CString)>> = Mutex::new(None);
    let stored = TEXT.lock().unwrap_or_else(PoisonError::into_inner);
    let text = stored.strip_suffix(b"\0").unwrap_or(&stored);
    if !text.windows(6).any(|word| word == b"return") {
        return null();
    }
    let mut kept = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.is_none() {
        *kept = make_text_file().ok();
    }
    let Some((file, path)) = kept.as_ref() else {
        return null();
    };
    if file.set_len(0).and_then(|()| file.write_all_at(text, 0)).is_err() {
        return null();
    }
    path.as_ptr()
}

fn make_text_file() -> io::Result<(File, CString)> {
    // SAFETY: a constant name.
    let fd = check(unsafe { libc::memfd_create(c"command".as_ptr(), libc::MFD_CLOEXEC) })?;
    // SAFETY: the kernel just made it for us.
    let low = unsafe { OwnedFd::from_raw_fd(fd) };
    let file = File::from(move_up(low.as_raw_fd())?);
    let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok((file, path))
}

/// Makes the assignments a scope of their own, as bash does for `NAME=value eval text`.
fn push_assignments() {
    // SAFETY: one thread.
    let variables = unsafe { temporary_env };
    if variables.is_null() {
        return;
    }
    // SAFETY: the scope owns the table from here.
    unsafe { push_scope(VC_BLTNENV, variables) };
    // SAFETY: so nothing else may.
    unsafe { temporary_env = null_mut() };
    // SAFETY: pops the scope pushed above, unless the list is discarded.
    unsafe { add_unwind_protect(pop_scope_on_unwind, null_mut()) };
    SCOPE_IS_PUSHED.store(true, Relaxed);
}

extern "C" fn pop_scope_on_unwind(argument: *mut c_char) {
    // SAFETY: on the list since the scope was pushed, and everything above it has been unwound.
    unsafe { pop_scope(argument) }
}

/// After text: its status is `$?`, its scope is gone, its output is written.
pub(crate) fn settle(status: c_int) {
    BREAK.store(false, Relaxed);
    plain_program::disarm();
    called::spread_now();
    set_int(&raw mut interrupt_state, 0);
    set_last_status(status);
    if SCOPE_IS_PUSHED.swap(false, Relaxed) {
        pop_scope_on_unwind(null_mut());
    }
    if !flush() {
        put_null();
        flush();
    }
}

pub(crate) fn last_status() -> c_int {
    get_int(&raw const last_command_exit_value)
}

pub(crate) fn set_last_status(status: c_int) {
    set_int(&raw mut last_command_exit_value, status);
}

/// Background jobs that live.
pub(crate) fn job_count() -> u32 {
    // SAFETY: no preconditions.
    u32::try_from(unsafe { count_all_jobs() }).unwrap_or(0)
}

/// The value of a shell variable.
pub(crate) fn variable(name: &CStr) -> Option<CString> {
    // SAFETY: bash returns NULL or a string of its own, which is copied at once.
    copy_text(unsafe { get_string_value(name.as_ptr()) })
}

// ---------------------------------------------------------------------------------- directories

/// The directory a command was started from, open.
pub(crate) struct Here(Option<OwnedFd>);

/// Goes to `cwd`; the shell's variables do not change.
pub(crate) fn step_into(cwd: &CStr) -> io::Result<Here> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: a constant path.
    let here = check(unsafe { libc::open(c".".as_ptr(), flags) });
    // SAFETY: the kernel just made it for us.
    let here = here.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).ok();
    // SAFETY: the path ends with NUL.
    check(unsafe { libc::chdir(cwd.as_ptr()) })?;
    Ok(Here(here))
}

impl Here {
    /// Goes back; false if that cannot be.
    pub(crate) fn step_back(&self) -> bool {
        // SAFETY: no preconditions.
        self.0.as_ref().is_some_and(|here| unsafe { libc::fchdir(here.as_raw_fd()) } == 0)
    }
}

/// Where the shell was, for it and for its variables.
pub(crate) struct WayBack {
    here: Here,
    internal: Option<CString>,
    pwd: Option<CString>,
}

impl WayBack {
    /// After a step from `here`: tells bash that the directory is `path`.
    pub(crate) fn new(here: Here, path: &CStr) -> Self {
        let up = here.0.as_ref().and_then(|here| move_up(here.as_raw_fd()).ok());
        // SAFETY: one thread.
        let internal = unsafe { the_current_working_directory };
        let internal = copy_text(internal);
        let way_back = Self { here: Here(up.or(here.0)), internal, pwd: variable(c"PWD") };
        tell_directory(path, Some(path));
        way_back
    }

    /// Goes back where the shell was; stays if that directory cannot be entered any more.
    pub(crate) fn follow(self) {
        let by_name = |path: &CString| {
            // SAFETY: the path ends with NUL.
            unsafe { libc::chdir(path.as_ptr()) == 0 }
        };
        if self.here.step_back() || self.internal.as_ref().is_some_and(by_name) {
            tell_directory(self.internal.as_deref().unwrap_or(c""), self.pwd.as_deref());
        }
    }
}

/// Sets bash's own idea of its directory, and `$PWD`.
fn tell_directory(internal: &CStr, pwd: Option<&CStr>) {
    if !internal.is_empty() {
        // SAFETY: bash copies the string.
        unsafe { set_working_directory(internal.as_ptr()) };
    }
    match pwd {
        // SAFETY: bash copies both strings.
        Some(pwd) => drop(unsafe { bind_variable(c"PWD".as_ptr(), pwd.as_ptr(), 0) }),
        // SAFETY: a constant name.
        None => drop(unsafe { unbind_variable(c"PWD".as_ptr()) }),
    }
}

/// Has `$SECONDS` count from `age_s`: a shell that was kept ready is older than its session.
pub(crate) fn set_seconds(age_s: &CStr) {
    // SAFETY: bash copies both strings.
    unsafe { bind_variable(c"SECONDS".as_ptr(), age_s.as_ptr(), 0) };
}

// ---------------------------------------------------------------------------------- programs

/// What processes used.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) user_us: u64,
    pub(crate) system_us: u64,
    pub(crate) max_rss_bytes: u64,
}

impl Usage {
    fn new(usage: &libc::rusage) -> Self {
        let micros = |time: libc::timeval| {
            u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000
                + u64::try_from(time.tv_usec).unwrap_or(0)
        };
        Self {
            user_us: micros(usage.ru_utime),
            system_us: micros(usage.ru_stime),
            max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        }
    }
}

/// Processor time of the shell and its children so far, and the largest child's memory.
pub(crate) fn usage() -> Usage {
    let of = |who| {
        // SAFETY: all zero is a valid `rusage`.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the place is ours.
        unsafe { libc::getrusage(who, &raw mut usage) };
        Usage::new(&usage)
    };
    let shell = of(libc::RUSAGE_SELF);
    let children = of(libc::RUSAGE_CHILDREN);
    Usage {
        user_us: shell.user_us + children.user_us,
        system_us: shell.system_us + children.system_us,
        max_rss_bytes: children.max_rss_bytes,
    }
}

/// How a program ended.
pub(crate) struct Outcome {
    pub(crate) status: i32,
    pub(crate) broken: bool,
    pub(crate) usage: Usage,
}

/// Finds `name` as the shell would: a path as it is, else the first executable file in `path`.
pub(crate) fn find_program(name: &CStr, path: &[u8]) -> io::Result<CString> {
    if name.to_bytes().contains(&b'/') {
        return Ok(name.to_owned());
    }
    let mut error = io::Error::from_raw_os_error(libc::ENOENT);
    if name.is_empty() {
        return Err(error);
    }
    for directory in path.split(|&byte| byte == b':') {
        let directory = if directory.is_empty() { &b"."[..] } else { directory };
        let Ok(candidate) = CString::new([directory, b"/", name.to_bytes()].concat()) else {
            continue;
        };
        match is_program(&candidate) {
            Some(true) => return Ok(candidate),
            Some(false) => error = io::Error::from_raw_os_error(libc::EACCES),
            None => {}
        }
    }
    Err(error)
}

/// Whether `path` may be executed; `None` if it is no file.
fn is_program(path: &CStr) -> Option<bool> {
    // SAFETY: all zero is a valid `stat`.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with NUL, the place is ours.
    let found = unsafe { libc::stat(path.as_ptr(), &raw mut stat) };
    if found < 0 || stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return None;
    }
    // SAFETY: the path ends with NUL.
    Some(
        unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) }
            == 0,
    )
}

/// The shell's exported variables, with `overrides` (`NAME=value`; the last of a name counts).
fn environment(overrides: &[CString]) -> Vec<*const c_char> {
    // SAFETY: no preconditions.
    unsafe { maybe_make_export_env() };
    let is_overridden = |entry: &CStr, by: &[CString]| {
        let name = |text: &[u8]| text.iter().position(|&byte| byte == b'=');
        let entry = entry.to_bytes();
        name(entry)
            .is_some_and(|end| by.iter().any(|other| other.to_bytes().starts_with(&entry[..=end])))
    };
    let mut list = Vec::with_capacity(64);
    // SAFETY: one thread.
    let mut next = unsafe { export_env };
    while !next.is_null() {
        // SAFETY: the list ends with NULL, where this loop stops.
        let entry = unsafe { *next };
        if entry.is_null() {
            break;
        }
        // SAFETY: not NULL, so a string.
        if !is_overridden(unsafe { CStr::from_ptr(entry) }, overrides) {
            list.push(entry);
        }
        // SAFETY: this was not the end.
        next = unsafe { next.add(1) };
    }
    for (index, entry) in overrides.iter().enumerate() {
        if !is_overridden(entry, &overrides[index + 1..]) {
            list.push(entry.as_ptr());
        }
    }
    list.push(null());
    list
}

/// Spawns `program` as a foreground child and waits for it; gives the pipes back if it cannot.
///
/// `SIGCHLD` is held back meanwhile, so that bash's handler cannot take the status, and stays so
/// until [`let_signals_in`]: the handler has nothing to find, and whoever waits is told first.
pub(crate) fn run_program(
    program: &CStr,
    arguments: &[CString],
    overrides: &[CString],
    pipes: [OwnedFd; 3],
) -> Result<Outcome, (io::Error, [OwnedFd; 3])> {
    let environment = environment(overrides);
    let mut pointers: Vec<*const c_char> =
        arguments.iter().map(|argument| argument.as_ptr()).collect();
    pointers.push(null());
    catch_break();
    BREAK.store(false, Relaxed);
    PROGRAM.store(0, Relaxed);
    // All of them: a handler of bash's must not run in the child, which shares its memory.
    let mask = change_mask(libc::SIG_SETMASK, &all_signals());
    set_mode(Mode::Program);
    let mut spawned = spawn(program, &pointers, environment.as_ptr(), Some(&pipes), &mask);
    if spawned.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ENOEXEC)) {
        let mut script = vec![c"bash".as_ptr(), program.as_ptr()];
        script.extend_from_slice(&pointers[1..]);
        spawned = spawn(c"/proc/self/exe", &script, environment.as_ptr(), Some(&pipes), &mask);
    }
    let mut held = mask;
    // SAFETY: the set is ours.
    unsafe { libc::sigaddset(&raw mut held, libc::SIGCHLD) };
    change_mask(libc::SIG_SETMASK, &held);
    *HELD.lock().unwrap_or_else(PoisonError::into_inner) = Some(mask);
    let outcome = match spawned {
        Ok(child) => {
            drop(pipes); // its own from here on
            Ok(wait(child))
        }
        Err(error) => Err((error, pipes)),
    };
    set_mode(Mode::Idle);
    outcome
}

/// After the answer: what [`run_program`] held back comes in.
pub(crate) fn let_signals_in() {
    if let Some(mask) = HELD.lock().unwrap_or_else(PoisonError::into_inner).take() {
        change_mask(libc::SIG_SETMASK, &mask);
    }
}

fn all_signals() -> libc::sigset_t {
    let mut set = signal_set(&[]);
    // SAFETY: the set is ours.
    unsafe { libc::sigfillset(&raw mut set) };
    set
}

fn signal_set(signals: &[c_int]) -> libc::sigset_t {
    // SAFETY: all zero is a valid `sigset_t`.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    for &signal in signals {
        // SAFETY: the set is ours.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

/// Changes the signal mask and returns what it was.
fn change_mask(how: c_int, set: &libc::sigset_t) -> libc::sigset_t {
    let mut old = signal_set(&[]);
    // SAFETY: both sets are valid.
    unsafe { libc::sigprocmask(how, set, &raw mut old) };
    old
}

/// Waits for `child`; a break kills it.
fn wait(child: c_int) -> Outcome {
    PROGRAM.store(child, Relaxed);
    if BREAK.load(Relaxed) {
        kill_program(); // the break came before the number was known
    }
    let id = libc::id_t::try_from(child).unwrap_or(0);
    loop {
        // SAFETY: all zero is a valid `siginfo_t`.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::WEXITED | libc::WNOWAIT;
        // SAFETY: the place is ours.
        let waited = unsafe { libc::waitid(libc::P_PID, id, &raw mut info, flags) };
        if waited == 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            break;
        }
    }
    PROGRAM.store(0, Relaxed); // before the number can be another's
    let mut status = 0;
    // SAFETY: all zero is a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the places are ours.
    unsafe { libc::wait4(child, &raw mut status, 0, &raw mut usage) };
    let status = if libc::WIFSIGNALED(status) {
        128 + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    };
    Outcome { status, broken: BREAK.swap(false, Relaxed), usage: Usage::new(&usage) }
}

/// Writes a line to a command's standard error.
pub(crate) fn report(stderr: OwnedFd, line: &[u8]) {
    let _ = File::from(stderr).write_all(line); // nobody may be reading, and that is no fault of ours
}

/// What the C library calls this error.
pub(crate) fn errno_text(errno: i32) -> String {
    // SAFETY: returns a string that lives until the next call, and there is one thread.
    let text = copy_text(unsafe { libc::strerror(errno) });
    text.unwrap_or_default().to_string_lossy().into_owned()
}
