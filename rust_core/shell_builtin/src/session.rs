//! The order of things: receive, prepare, run, put back, reply.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::frame::{self, Action, End, Header, NotRun, Request};
use crate::plain;
use crate::sys::{self, Mode, Usage};

/// The command that runs. It outlives the jump of a break.
struct Pending {
    seq: u64,
    before: Usage,
    way_back: Option<sys::WayBack>,
}

/// What the loop does next. Plain values only: the loop's frame is jumped over.
#[derive(Clone, Copy)]
enum Step {
    RunText,
    Reply(End),
    Close,
}

static PENDING: Mutex<Option<Pending>> = Mutex::new(None);
static PACKET: Mutex<Vec<u8>> = Mutex::new(Vec::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first call, `sandbox_session SOCKET LIBRARY`: takes the descriptors over and serves.
///
/// Returns the builtin's status once the session is over; the script's next line is then read.
pub(crate) fn start(socket_fd: i32, library_fd: i32) -> i32 {
    if sys::mode() != Mode::Unset || !sys::is_top_level() {
        return refuse(c"already serving");
    }
    if let Err(error) = sys::take_over(socket_fd, library_fd) {
        sys::complain(&CString::new(error.to_string()).unwrap_or_default());
        return 1;
    }
    sys::run_setup_text();
    sys::set_mode(Mode::Idle);
    if !sys::send(&frame::encode_ready(sys::pid())) {
        sys::set_mode(Mode::Closed);
        return 1;
    }
    serve()
}

/// The later calls, `sandbox_session`: the line that is read when bash threw a command away.
pub(crate) fn resume() -> i32 {
    let broken = match sys::mode() {
        Mode::Closed => return 1,
        Mode::Broken if sys::is_top_level() => true,
        Mode::Discarded if sys::is_top_level() => false,
        _ => return refuse(c"cannot be used inside a command"),
    };
    let status = if broken { 130 } else { sys::last_status() };
    if sys::refill_script().is_err() || !finish(status, broken) {
        sys::set_mode(Mode::Closed);
        return 1;
    }
    serve()
}

fn refuse(why: &CStr) -> i32 {
    sys::complain(why);
    1
}

/// Serves until the other side closes the socket or breaks the format.
///
/// A break jumps out of `run_stored_text` and over this frame: it holds no value that needs a drop.
fn serve() -> i32 {
    loop {
        match next() {
            Step::RunText => {
                let status = sys::run_stored_text();
                if !finish(status, false) {
                    break;
                }
            }
            Step::Reply(end) => {
                let heard = sys::send(&end.encode());
                sys::let_signals_in();
                if !heard {
                    break;
                }
            }
            Step::Close => break,
        }
    }
    sys::set_mode(Mode::Closed);
    1
}

/// Receives one request and does all of it that is not shell text.
///
/// The reply is left to the loop: by then every descriptor of the request is closed.
fn next() -> Step {
    let mut packet = lock(&PACKET);
    packet.resize(frame::MAX_PACKET, 0);
    let Some((len, files)) = sys::receive(&mut packet) else {
        return Step::Close;
    };
    let Ok(header) = Header::decode(&packet[..len]) else {
        return Step::Close;
    };
    let called = sys::Called::new(header.called);
    let mut files = files.into_iter();
    let (Some(stdin), Some(stdout), Some(stderr)) = (files.next(), files.next(), files.next())
    else {
        return not_run(header.seq, NotRun::Descriptors, 0, 0);
    };
    let from_file;
    let body = match (header.body_in_memfd, files.next()) {
        (false, _) => &packet[frame::HEADER_LEN..len],
        (true, None) => return not_run(header.seq, NotRun::Descriptors, 0, 0),
        (true, Some(file)) => {
            let mut bytes = vec![0; header.body_len];
            if let Err(error) = File::from(file).read_exact_at(&mut bytes, 0) {
                return not_run(header.seq, NotRun::Body, error.raw_os_error().unwrap_or(0), 0);
            }
            from_file = bytes;
            &from_file[..]
        }
    };
    let Ok(request) = header.decode_body(body) else {
        return Step::Close;
    };
    if let Some(age_s) = request.session_age_s {
        sys::set_seconds(&c_string(age_s.to_string().as_bytes()));
    }
    let pipes = [stdin, stdout, stderr];
    match &request.action {
        Action::Text(text) => {
            let step = prepare_text(header.seq, &request, text, pipes);
            if matches!(step, Step::RunText) {
                called.leave_to_text();
            }
            step
        }
        Action::Argv(arguments) => run_program(header.seq, &request, arguments, pipes),
    }
}

/// Makes the shell ready for `text`; the loop runs it.
fn prepare_text(seq: u64, request: &Request, text: &[u8], pipes: [OwnedFd; 3]) -> Step {
    if let Some(index) = request.env.iter().position(|(name, _)| !frame::is_identifier(name)) {
        return not_run(seq, NotRun::EnvName, 0, index);
    }
    let before = sys::usage();
    sys::put_pipes(&pipes);
    drop(pipes);
    let way_back = match request.cwd.map(enter_directory) {
        None => None,
        Some(Ok(way_back)) => Some(way_back),
        Some(Err(error)) => {
            sys::put_null();
            return not_run(seq, NotRun::Directory, error.raw_os_error().unwrap_or(0), 0);
        }
    };
    for (index, (name, value)) in request.env.iter().enumerate() {
        let assignment = c_string(&frame::quoted_assignment(name, value));
        if !sys::assign_for_command(&assignment) {
            sys::drop_assignments();
            if let Some(way_back) = way_back {
                way_back.follow();
            }
            sys::put_null();
            return not_run(seq, NotRun::EnvReadonly, 0, index);
        }
    }
    sys::store_text(text);
    sys::expect_program(plain::words(text));
    *lock(&PENDING) = Some(Pending { seq, before, way_back });
    Step::RunText
}

/// Puts the shell back as it is between commands and replies. False if nobody listens.
fn finish(status: i32, interrupted: bool) -> bool {
    let Some(pending) = lock(&PENDING).take() else {
        return false;
    };
    sys::set_mode(Mode::Idle);
    sys::settle(status);
    if let Some(way_back) = pending.way_back {
        way_back.follow();
    }
    sys::put_null();
    let after = sys::usage();
    let before = pending.before;
    let end = End {
        seq: pending.seq,
        status,
        interrupted,
        rss_is_own: after.max_rss_bytes > before.max_rss_bytes,
        user_us: after.user_us.saturating_sub(before.user_us),
        system_us: after.system_us.saturating_sub(before.system_us),
        max_rss_bytes: after.max_rss_bytes,
        jobs: sys::job_count(),
        ..End::default()
    };
    sys::send(&end.encode())
}

/// Spawns a program and waits for it; its pipes never become the shell's.
fn run_program(seq: u64, request: &Request, arguments: &[&[u8]], pipes: [OwnedFd; 3]) -> Step {
    let arguments: Vec<CString> = arguments.iter().map(|argument| c_string(argument)).collect();
    let mut path = request
        .env
        .iter()
        .rev()
        .find(|(name, _)| *name == b"PATH")
        .map(|(_, value)| value.to_vec());
    if path.is_none() {
        path = sys::variable(c"PATH").map(CString::into_bytes);
    }
    let here = match request.cwd.map(|cwd| sys::step_into(&c_string(cwd))) {
        None => None,
        Some(Ok(here)) => Some(here),
        Some(Err(error)) => {
            return not_run(seq, NotRun::Directory, error.raw_os_error().unwrap_or(0), 0);
        }
    };
    let mut environment = Vec::new();
    if let Some(cwd) = request.cwd {
        environment.push(assignment(b"PWD", &logical_directory(cwd)));
    }
    let found = sys::find_program(&arguments[0], path.as_deref().unwrap_or_default());
    if let Ok(program) = &found {
        environment.push(assignment(b"_", program.to_bytes()));
    }
    environment.extend(request.env.iter().map(|(name, value)| assignment(name, value)));
    let outcome = match found {
        Ok(program) => sys::run_program(&program, &arguments, &environment, pipes),
        Err(error) => Err((error, pipes)),
    };
    if let Some(here) = here {
        here.step_back();
    }
    let mut end = match outcome {
        Ok(outcome) => End {
            status: if outcome.broken { 130 } else { outcome.status },
            interrupted: outcome.broken,
            rss_is_own: true,
            user_us: outcome.usage.user_us,
            system_us: outcome.usage.system_us,
            max_rss_bytes: outcome.usage.max_rss_bytes,
            ..End::default()
        },
        Err((error, [_, _, stderr])) => {
            let errno = error.raw_os_error().unwrap_or(0);
            let missing = errno == libc::ENOENT;
            sys::report(stderr, &cannot_run(&arguments[0], &error));
            End { status: if missing { 127 } else { 126 }, errno, ..End::default() }
        }
    };
    sys::set_last_status(end.status);
    end.seq = seq;
    end.jobs = sys::job_count();
    Step::Reply(end)
}

/// The line that bash would write.
fn cannot_run(program: &CStr, error: &std::io::Error) -> Vec<u8> {
    let name = program.to_bytes();
    let mut line = b"bash: ".to_vec();
    line.extend_from_slice(name);
    let why = match error.raw_os_error() {
        Some(libc::ENOENT) if !name.contains(&b'/') => "command not found".to_owned(),
        Some(errno) => sys::errno_text(errno),
        None => error.to_string(),
    };
    line.extend_from_slice(b": ");
    line.extend_from_slice(why.as_bytes());
    line.push(b'\n');
    line
}

fn enter_directory(cwd: &[u8]) -> std::io::Result<sys::WayBack> {
    let here = sys::step_into(&c_string(cwd))?;
    Ok(sys::WayBack::new(here, &c_string(&logical_directory(cwd))))
}

/// What `$PWD` says after the step into `cwd`.
fn logical_directory(cwd: &[u8]) -> Vec<u8> {
    if frame::is_plain_absolute(cwd) {
        return cwd.to_vec();
    }
    std::env::current_dir()
        .map_or_else(|_| cwd.to_vec(), |path| path.into_os_string().into_encoded_bytes())
}

fn assignment(name: &[u8], value: &[u8]) -> CString {
    c_string(&[name, b"=", value].concat())
}

/// The frame has no NUL in its texts.
fn c_string(bytes: &[u8]) -> CString {
    CString::new(bytes).unwrap_or_default()
}

fn not_run(seq: u64, not_run: NotRun, errno: i32, detail: usize) -> Step {
    let detail = u32::try_from(detail).unwrap_or(u32::MAX);
    let jobs = sys::job_count();
    Step::Reply(End {
        seq,
        status: 126,
        not_run: Some(not_run),
        errno,
        detail,
        jobs,
        ..End::default()
    })
}
