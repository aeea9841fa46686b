//! The door to Python: the only file that knows it. Arguments in, one call of the core, result out.
//!
//! Errors become `OSError` with errno and subject, or `ValueError`; `sandbox_runtime/core.py`
//! gives them the names that users know. Nothing here waits on behalf of Python but `serve_forks`,
//! in a zygote, which has nothing else to do.

use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::command::{Collected, Command, Shell};
use crate::error::Failure;
use crate::nearby::{Neighbour, UnderWay};
use crate::spec::EnterPlan;
use crate::{channel, contain, plain, quote, sys, zygote};

/// The supervisor, built with this extension (see `build.rs`).
static SUPERVISOR: &[u8] = include_bytes!(env!("SANDBOX_SUPERVISOR"));
/// Bash's builtin, likewise.
static SHELL_BUILTIN: &[u8] = include_bytes!(env!("SANDBOX_SHELL_BUILTIN"));
/// Node's addon, likewise.
static NODE_ADDON: &[u8] = include_bytes!(env!("SANDBOX_NODE_ADDON"));

fn os_error(failure: &Failure) -> PyErr {
    let step = serde_name(failure);
    PyOSError::new_err((failure.errno, format!("{step}: {}", failure.subject)))
}

/// The step as Python's table of remedies spells it.
fn serde_name(failure: &Failure) -> String {
    channel::encode(&failure.step)
        .and_then(|bytes| channel::decode::<String>(&bytes))
        .unwrap_or_default()
}

/// Starts the launcher from a sealed memory file; returns its pid and the socket to it.
///
/// Its environment is empty and it holds no descriptor of this process but the socket.
#[pyfunction]
fn start_supervisor(py: Python<'_>) -> PyResult<(u32, i32)> {
    py.detach(|| {
        let program = sys::sealed_executable(c"sandbox-supervisor", SUPERVISOR)?;
        let (ours, theirs) = sys::packet_pair()?;
        let child = std::process::Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .arg0("sandbox-supervisor")
            .env_clear()
            .current_dir("/")
            .process_group(0) // ^C is the control process's, which ends what is below in order
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok((child.id(), ours.into_raw_fd()))
    })
}

/// A sealed memory file with the shared object that serves a session inside bash.
#[pyfunction]
fn shell_builtin() -> PyResult<i32> {
    Ok(sys::sealed_executable(c"sandbox-session", SHELL_BUILTIN)?.into_raw_fd())
}

/// A sealed memory file with the shared object that serves a context inside Node.
#[pyfunction]
fn node_addon() -> PyResult<i32> {
    Ok(sys::sealed_executable(c"sandbox-node", NODE_ADDON)?.into_raw_fd())
}

/// A command that was sent to a session's shell, or a run to an executor; see `command.rs`.
#[pyclass(name = "Command", module = "sandbox_runtime._core")]
struct PyCommand {
    command: Option<Command>,
    socket: i32,
    epoll: i32,
}

/// A process that is asked for something; see `nearby.rs`.
#[pyclass(name = "Neighbour", module = "sandbox_runtime._core", frozen)]
struct PyNeighbour(Option<Neighbour>);

#[pymethods]
impl PyNeighbour {
    #[new]
    fn new(pidfd: i32) -> PyResult<Self> {
        Ok(Self(Neighbour::new(borrow(pidfd)?)))
    }

    /// Narrows it to this processor, if it is to be; whether it has to be told.
    fn call_here(&self, alone: bool) -> bool {
        self.0.as_ref().is_some_and(|neighbour| neighbour.call_here(alone))
    }

    /// Likewise, and keeps it there until it is called elsewhere or not at all.
    fn keep_here(&self, alone: bool) -> bool {
        self.0.as_ref().is_some_and(|neighbour| neighbour.keep_here(alone))
    }

    /// Undoes that.
    fn send_back(&self) {
        if let Some(neighbour) = &self.0 {
            neighbour.send_back();
        }
    }
}

/// Something that was asked for and is not over; see `nearby.rs`.
#[pyclass(name = "UnderWay", module = "sandbox_runtime._core")]
struct PyUnderWay(Option<UnderWay>);

#[pymethods]
impl PyUnderWay {
    #[new]
    fn new() -> Self {
        Self(Some(UnderWay::begin()))
    }

    /// Whether it was the only one when it began.
    #[getter]
    fn alone(&self) -> bool {
        self.0.as_ref().is_some_and(|under_way| under_way.alone)
    }

    /// It is over; again does nothing.
    fn end(&mut self) {
        self.0 = None;
    }
}

/// The answer; standard output and whether it is at its end; likewise standard error.
type Answer<'py> = (Bound<'py, PyBytes>, Bound<'py, PyBytes>, bool, Bound<'py, PyBytes>, bool);

#[pymethods]
impl PyCommand {
    #[new]
    #[pyo3(signature = (socket, epoll, packet, stdin, body, served_by=None))]
    fn new(
        socket: i32,
        epoll: i32,
        packet: &[u8],
        stdin: Option<i32>,
        body: Option<i32>,
        served_by: Option<&PyNeighbour>,
    ) -> PyResult<Self> {
        let stdin = stdin.map(borrow).transpose()?;
        let body = body.map(borrow).transpose()?;
        let served_by = served_by.and_then(|neighbour| neighbour.0.as_ref());
        let command = Command::send(shell(socket, epoll)?, packet, stdin, body, served_by)
            .map_err(|error| system_error(&error))?;
        Ok(Self { command: Some(command), socket, epoll })
    }

    /// The answer and what is in the pipes, or None before there is an answer.
    fn collect<'py>(
        &mut self,
        py: Python<'py>,
        most_bytes: usize,
    ) -> PyResult<Option<Answer<'py>>> {
        let shell = shell(self.socket, self.epoll)?;
        let command = self.command.as_mut().ok_or_else(released)?;
        let found = command.collect(shell, most_bytes).map_err(|error| system_error(&error))?;
        Ok(found.map(|Collected { answer, stdout, stderr }| {
            let bytes = |bytes: &[u8]| PyBytes::new(py, bytes);
            (
                bytes(&answer),
                bytes(&stdout.bytes),
                stdout.at_end,
                bytes(&stderr.bytes),
                stderr.at_end,
            )
        }))
    }

    /// Its pipes, which are the caller's from then on: the reading end of each, and the writing end
    /// or None.
    fn release(&mut self) -> PyResult<[(i32, Option<i32>); 2]> {
        let command = self.command.take().ok_or_else(released)?;
        let pipes = command
            .into_pipes(shell(self.socket, self.epoll)?)
            .map_err(|error| system_error(&error))?;
        Ok(pipes.map(|(reader, writer)| (reader.into_raw_fd(), writer.map(IntoRawFd::into_raw_fd))))
    }

    /// Closes its pipes; again does nothing.
    fn close(&mut self) {
        self.command = None;
    }
}

fn shell<'a>(socket: i32, epoll: i32) -> PyResult<Shell<'a>> {
    Ok(Shell { socket: borrow(socket)?, epoll: borrow(epoll)? })
}

fn released() -> PyErr {
    PyValueError::new_err("its pipes were given away or closed")
}

/// What the kernel's `children` files say: numbers, each with a blank behind it.
#[pyfunction]
fn read_children(py: Python<'_>, fds: Vec<i32>) -> PyResult<Bound<'_, PyBytes>> {
    let mut text = Vec::new();
    for fd in fds {
        // A process that is gone has no children.
        let _ = sys::read_whole(borrow(fd)?, &mut text);
    }
    Ok(PyBytes::new(py, &text))
}

/// Serves as a zygote, see `zygote.rs`: returns `None` when nobody is there any more, and in each
/// child what that has to know and to hold. The caller calls what Python has to do before and after.
#[pyfunction]
fn serve_forks(
    py: Python<'_>,
    socket: i32,
    own_pid_namespace: i32,
) -> PyResult<Option<(Bound<'_, PyBytes>, Vec<i32>)>> {
    match zygote::serve(borrow(socket)?, borrow(own_pid_namespace)?) {
        Ok(None) => Ok(None),
        Ok(Some(born)) => {
            let fds = born.fds.into_iter().map(IntoRawFd::into_raw_fd).collect();
            Ok(Some((PyBytes::new(py, &born.plan), fds)))
        }
        Err(failure) if zygote::is_abandoned(&failure) => Ok(None),
        Err(failure) => Err(os_error(&failure)),
    }
}

/// Two functions in C that take Python's arenas from one place, and give them back.
#[pyfunction]
fn reserve_arenas() -> PyResult<(usize, usize)> {
    let (allocate, free) = sys::reserve_arenas()?;
    Ok((allocate as usize, free as usize))
}

/// From here on new arenas come from anywhere.
#[pyfunction]
fn seal_arenas() {
    sys::seal_arenas();
}

/// The pages that this process, a fork, has for itself, for `own_pages`.
#[pyfunction]
fn written_pages(py: Python<'_>) -> PyResult<Bound<'_, PyBytes>> {
    let pages = sys::written_pages()?;
    let words = pages.iter().flat_map(|(start, bytes)| [*start, *bytes]);
    Ok(PyBytes::new(py, &words.flat_map(usize::to_ne_bytes).collect::<Vec<_>>()))
}

/// Takes pages for this process, a fork that waits.
#[pyfunction]
fn own_pages(pages: &[u8]) {
    const WORD_BYTES: usize = size_of::<usize>();
    let word = |bytes: &[u8]| bytes.try_into().map_or(0, usize::from_ne_bytes);
    let pairs = pages.chunks_exact(2 * WORD_BYTES).map(|pair| pair.split_at(WORD_BYTES));
    let pages: Vec<_> = pairs.map(|(start, bytes)| (word(start), word(bytes))).collect();
    sys::own_pages(&pages);
}

/// Confines this process, a zygote's fresh fork, as a context: see `contain::enter`.
#[pyfunction]
fn enter_jail(plan: &[u8], fds: Vec<i32>, kept: i32) -> PyResult<()> {
    let plan: EnterPlan =
        channel::decode(plan).map_err(|e| PyValueError::new_err(e.to_string()))?;
    let fds = fds
        .into_iter()
        .map(|fd| borrow(fd).and_then(|fd| Ok(fd.try_clone_to_owned()?)))
        .collect::<PyResult<Vec<OwnedFd>>>()?;
    let entered = contain::enter(&plan, &fds, kept);
    std::mem::forget(fds); // closed by `enter`, or about to be by the end of this process
    entered.map_err(|failure| os_error(&failure))
}

/// Copies this process, a context, into a child of its jail's init: see `sys::fork_away`. True in
/// the copy. The caller calls what Python has to do before and after.
#[pyfunction]
fn fork_away() -> PyResult<bool> {
    Ok(sys::fork_away()?)
}

/// Separates this process, a branch of a context, from the others in its jail: see
/// `contain::branch`.
#[pyfunction]
fn separate_branch() -> PyResult<()> {
    contain::branch().map_err(|failure| os_error(&failure))
}

/// Escapes one word for a POSIX shell; `ValueError` for a NUL.
#[pyfunction]
fn quote_word<'py>(py: Python<'py>, word: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let quoted = quote::quote(word).map_err(|e| PyValueError::new_err(e.to_string()))?;
    Ok(PyBytes::new(py, &quoted))
}

/// The program and its arguments that shell text consists of; `None` if it is anything else.
#[pyfunction]
fn plain_words<'py>(py: Python<'py>, text: &[u8]) -> Option<Vec<Bound<'py, PyBytes>>> {
    let words = plain::words(text)?;
    Some(words.iter().map(|word| PyBytes::new(py, &word.bytes)).collect())
}

fn borrow<'a>(fd: i32) -> PyResult<BorrowedFd<'a>> {
    sys::borrow(fd).ok_or_else(|| PyValueError::new_err(format!("{fd} is no open descriptor")))
}

/// With its number, from which Python chooses the class (`BrokenPipeError`, `BlockingIOError`, …).
fn system_error(error: &std::io::Error) -> PyErr {
    PyOSError::new_err((error.raw_os_error().unwrap_or_default(), error.to_string()))
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(start_supervisor, module)?)?;
    module.add_function(wrap_pyfunction!(shell_builtin, module)?)?;
    module.add_function(wrap_pyfunction!(node_addon, module)?)?;
    module.add_class::<PyCommand>()?;
    module.add_class::<PyNeighbour>()?;
    module.add_class::<PyUnderWay>()?;
    module.add_function(wrap_pyfunction!(read_children, module)?)?;
    module.add_function(wrap_pyfunction!(serve_forks, module)?)?;
    module.add_function(wrap_pyfunction!(reserve_arenas, module)?)?;
    module.add_function(wrap_pyfunction!(seal_arenas, module)?)?;
    module.add_function(wrap_pyfunction!(written_pages, module)?)?;
    module.add_function(wrap_pyfunction!(own_pages, module)?)?;
    module.add_function(wrap_pyfunction!(enter_jail, module)?)?;
    module.add_function(wrap_pyfunction!(fork_away, module)?)?;
    module.add_function(wrap_pyfunction!(separate_branch, module)?)?;
    module.add_function(wrap_pyfunction!(quote_word, module)?)?;
    module.add_function(wrap_pyfunction!(plain_words, module)?)?;
    module.add("version", env!("CARGO_PKG_VERSION"))
}
