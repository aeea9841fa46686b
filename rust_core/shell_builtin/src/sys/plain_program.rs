//! A program that text asks for, without a copy of bash.
//!
//! bash runs a program by copying itself, and the copy executes it: its page tables, and then a page
//! fault in both for each page that either writes. Where the text is one program and its words
//! (`plain`), the copy has nothing to do but that, so it need not be one. Everything else is left to
//! bash as it is: it reads the text, looks the program up, keeps its tables of jobs and of places,
//! waits, and says how the program ended. Only its call of `fork` comes here first, and gets the
//! child that [`spawn`] made.
//!
//! It gets a copy after all wherever the copy might do anything else: a name that means something to
//! the shell, a trap, `set -x`, `set -k`, `set -m`, a program that is not found, one that the kernel
//! does not execute. Then bash says why, or does it, in its own way.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::ptr::null;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, PoisonError};

use super::spawn::spawn;
use super::{
    all_signals, called, change_mask, copy_text, export_env, get_int, is_owner, jump_table,
    maybe_make_export_env, signal_is_trapped,
};
use crate::plain::Word;

/// bash's traps that no signal calls: `EXIT_TRAP` below the signals, and above them `DEBUG_TRAP`,
/// `ERROR_TRAP` and `RETURN_TRAP`.
fn other_traps() -> [c_int; 4] {
    let last = libc::SIGRTMAX();
    [0, last + 1, last + 2, last + 3]
}

/// What the next call of `fork` is expected to be for.
struct Expected {
    arguments: Vec<CString>,
    /// As bash shows it, in `$BASH_COMMAND` and where it tells of a signal.
    shown: CString,
}

static EXPECTED: Mutex<Option<Expected>> = Mutex::new(None);
static ARMED: AtomicBool = AtomicBool::new(false);

/// What of bash is needed for this alone. A bash without some of it does everything itself.
struct Bash {
    find_alias: Find,
    find_function: Find,
    find_shell_builtin: Find,
    find_reserved_word: extern "C" fn(*const c_char) -> c_int,
    any_signals_trapped: extern "C" fn() -> c_int,
    put_command_name_into_env: extern "C" fn(*const c_char),
    job_control: *const c_int,
    echo_command_at_execute: *const c_int,
    place_keywords_in_env: *const c_int,
    the_printed_command_except_trap: *const *const c_char,
    top_level_mask: *const libc::sigset_t,
}

type Find = extern "C" fn(*const c_char) -> *const c_void;

// SAFETY: the pointers are to bash's variables, which this module's one thread reads.
unsafe impl Send for Bash {}
// SAFETY: likewise.
unsafe impl Sync for Bash {}

static BASH: LazyLock<Option<Bash>> = LazyLock::new(|| {
    let bash = Bash::find()?;
    jump_table::redirect(c"fork", fork_or_spawn as *const c_void).then_some(bash)
});

impl Bash {
    fn find() -> Option<Self> {
        Some(Self {
            find_alias: symbol(c"find_alias")?,
            find_function: symbol(c"find_function")?,
            find_shell_builtin: symbol(c"find_shell_builtin")?,
            find_reserved_word: symbol(c"find_reserved_word")?,
            any_signals_trapped: symbol(c"any_signals_trapped")?,
            put_command_name_into_env: symbol(c"put_command_name_into_env")?,
            job_control: symbol(c"job_control")?,
            echo_command_at_execute: symbol(c"echo_command_at_execute")?,
            place_keywords_in_env: symbol(c"place_keywords_in_env")?,
            the_printed_command_except_trap: symbol(c"the_printed_command_except_trap")?,
            top_level_mask: symbol(c"top_level_mask")?,
        })
    }

    /// Whether nothing forks, and nothing changes the words, before the program does.
    fn only_executes(&self, name: &CStr) -> bool {
        let name = name.as_ptr();
        let found = |find: Find| !find(name).is_null();
        let is_set = |option: *const c_int| get_int(option) != 0;
        // SAFETY: bash has room for these numbers.
        let is_trapped = |trap| unsafe { signal_is_trapped(trap) } != 0;
        !found(self.find_alias)
            && !found(self.find_function)
            && !found(self.find_shell_builtin)
            && (self.find_reserved_word)(name) < 0
            && (self.any_signals_trapped)() < 0
            && !other_traps().into_iter().any(is_trapped)
            && !is_set(self.job_control)
            && !is_set(self.echo_command_at_execute)
            && !is_set(self.place_keywords_in_env)
    }

    fn printed_command(&self) -> Option<CString> {
        // SAFETY: a variable of bash's.
        copy_text(unsafe { self.the_printed_command_except_trap.read_volatile() })
    }

    fn mask(&self) -> libc::sigset_t {
        // SAFETY: a variable of bash's.
        unsafe { self.top_level_mask.read_volatile() }
    }
}

/// A function or a variable of bash's, if it has one of this name.
fn symbol<T: Copy>(name: &CStr) -> Option<T> {
    const { assert!(size_of::<T>() == size_of::<*const c_void>()) };
    // SAFETY: the name ends with NUL.
    let place: *mut c_void = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: private function, called with the types that bash gives these names.
    (!place.is_null()).then(|| unsafe { std::mem::transmute_copy(&place) })
}

/// Notes what the next text consists of, if that is a program and its words.
pub(crate) fn expect(words: Option<Vec<Word<'_>>>) {
    let expected = words.and_then(|words| {
        let typed: Vec<&[u8]> = words.iter().map(|word| word.typed).collect();
        let shown = CString::new(typed.join(&b' ')).ok()?;
        let bytes = words.into_iter().map(|word| CString::new(word.bytes).ok());
        Some(Expected { arguments: bytes.collect::<Option<_>>()?, shown })
    });
    *EXPECTED.lock().unwrap_or_else(PoisonError::into_inner) = expected;
}

/// Just before the text: from here on the first `fork` is the program's, if it is a plain one.
pub(super) fn arm() -> bool {
    let expected = EXPECTED.lock().unwrap_or_else(PoisonError::into_inner);
    let (Some(expected), Some(bash)) = (&*expected, &*BASH) else {
        return false;
    };
    let is_plain = bash.only_executes(&expected.arguments[0]);
    if is_plain {
        // bash writes there where it has found the program, if it has.
        // SAFETY: no preconditions.
        unsafe { maybe_make_export_env() };
        (bash.put_command_name_into_env)(c"".as_ptr());
        ARMED.store(true, Relaxed);
    }
    is_plain
}

/// After the text.
pub(super) fn disarm() {
    ARMED.store(false, Relaxed);
}

/// What bash calls as `fork`.
extern "C" fn fork_or_spawn() -> libc::pid_t {
    if ARMED.swap(false, Relaxed) && is_owner() {
        if let Some(child) = spawn_expected() {
            return child;
        }
    }
    called::spread_now();
    // SAFETY: bash's own call, and this process has one thread.
    unsafe { libc::fork() }
}

/// Spawns the program that is expected, if this is the moment; `None` if a copy has to see to it.
fn spawn_expected() -> Option<libc::pid_t> {
    let expected = EXPECTED.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    let bash = BASH.as_ref()?;
    if bash.printed_command()? != expected.shown {
        return None;
    }
    let program = found_program()?;
    let mut arguments: Vec<*const c_char> =
        expected.arguments.iter().map(|argument| argument.as_ptr()).collect();
    arguments.push(null());
    // SAFETY: one thread.
    let environment = unsafe { export_env };
    // All of them: a handler of bash's must not run in the child, which shares its memory.
    let mask = change_mask(libc::SIG_SETMASK, &all_signals());
    let spawned: io::Result<c_int> = spawn(&program, &arguments, environment, None, &bash.mask());
    change_mask(libc::SIG_SETMASK, &mask);
    spawned.ok()
}

/// Where bash has found the program: `_` in the environment that it is about to pass on.
fn found_program() -> Option<CString> {
    // SAFETY: one thread.
    let mut next = unsafe { export_env };
    loop {
        // SAFETY: NULL, or a place in a list that ends with NULL, where this loop stops.
        let entry = copy_text(*unsafe { next.as_ref() }?)?;
        if let Some(path) = entry.to_bytes().strip_prefix(b"_=") {
            return if path.is_empty() { None } else { CString::new(path).ok() };
        }
        // SAFETY: this was not the end.
        next = unsafe { next.add(1) };
    }
}
