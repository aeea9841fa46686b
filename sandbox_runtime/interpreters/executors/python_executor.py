"""The executor: holds one Python context and serves it over a private socket.

Theory of operation. A `run` frame brings the write ends of two pipes, which are this run's
descriptors 1 and 2 and nobody else's; after the run 1 and 2 are `/dev/null` again, so that the
pipes' EOF says that all output is in.

User code runs in this very process, so the loop assumes little: whatever a cell may leave
behind (streams, signal handlers, builtins, trace functions, a forked copy of the process) is
put right after it. That keeps honest code from tripping; it is no protection against hostile
code, which the jail contains and which can only harm its own context.

SIGINT ends a cell and nothing else. The handler does not trust a flag, which would be set a
moment too early or too late; it raises only if it finds `Executor._run_cell` among the frames
below it, whose caller is prepared for it. One gap is CPython's: a signal that comes between its
last look and a system call that waits is seen after the wait. Who must be sure sends it again.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import getpass
import io
import operator
import os
import resource
import socket
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from . import python_branching as branching
from .python_branching import expect_pages as expect_pages  # noqa: PLC0414 - for the zygote
from .python_branching import use_native as use_native  # noqa: PLC0414 - likewise
from .python_cells import raised_in_cell
from .python_displays import show_open_figures
from .python_shell import (
    Frame,
    LoopRunner,
    Shell,
    describe_error,
    text_writer,
)
from .python_shell import (
    create_shell as create_shell,  # noqa: PLC0414 - for the zygote
)
from .python_signals import (
    MUTABLE_SIGNALS,
    SET,
    SIGINT,
    UNBLOCK,
    getsignal,
    hold_signals,
    ignore_signal,
    set_signal,
    sigmask,
)
from .python_socket import FrameSocket, encode_frame, move_up
from .python_start import forget_answers as forget_answers  # noqa: PLC0414 - for the zygote
from .python_start import refresh_process
from .python_start import start_context as start_context  # noqa: PLC0414 - likewise

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

NO_INPUT = (
    "input() is not available: the code runs without a terminal; "
    "pass the data in the code or in a file"
)

_OUTPUT_FDS = (1, 2)
_LIBC = ctypes.CDLL(None)
_IONBF = 2
_LIVE_BUILTINS = vars(builtins)
_KNOWN_BUILTINS: dict[str, Any] = {}
_LOWEST_RECURSION_LIMIT = 1000

# Bound early: user code may replace attributes of `os` (pyfakefs does) while frames must go on.
_getpid, _dup2, _exit = os.getpid, os.dup2, os._exit
_getrusage, _is_same = resource.getrusage, operator.is_


def prepare_process() -> None:
    """Makes the process's standard streams unbuffered views of descriptors 0, 1 and 2.

    To be called before IPython and the libraries are imported, because some of them keep what
    they find in `sys.stdout`.
    """
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(  # type: ignore[misc]
        io.BufferedReader(io.FileIO(0, closefd=False)),
        encoding="utf-8",
        errors="backslashreplace",
    )
    sys.stdout = sys.__stdout__ = text_writer(1)  # type: ignore[assignment,misc]
    sys.stderr = sys.__stderr__ = text_writer(2)  # type: ignore[assignment,misc]
    builtins.input = _refuse_input
    getpass.getpass = _refuse_input
    # libc buffers what goes to a pipe; C output would come late and out of order.
    _LIBC.setvbuf(ctypes.c_void_p.in_dll(_LIBC, "stdout"), None, _IONBF, 0)


def _refuse_input(*_: object, **__: object) -> NoReturn:
    raise EOFError(NO_INPUT)


def serve(sock: socket.socket, shell: Shell) -> None:
    """Runs cells until the other end closes the socket.

    Args:
        sock: A connected SOCK_STREAM Unix socket. It is taken over and closed.
        shell: The context's shell, not used yet.
    """
    global _serving  # noqa: PLW0603 - a fork hook cannot be taken back, so it looks here
    _serving = Executor(sock, shell)
    try:
        _serving.serve()
    finally:
        _serving.close()
        _serving = None


class Executor:
    """One context: a shell, the socket it is driven by, and the run that is going on."""

    def __init__(self, sock: socket.socket, shell: Shell) -> None:
        self._socket = FrameSocket(sock)
        self._null_fd = -1
        self._shell = shell
        self._shell.emit = self.emit
        self._pid = _getpid()
        self._run_id: str | None = None
        self._streams = (sys.stdin, sys.stdout, sys.stderr)
        if not _KNOWN_BUILTINS:  # the first executor of a zygote makes it for all its children
            _KNOWN_BUILTINS.update(_LIVE_BUILTINS)
        self._builtins = _outline(_LIVE_BUILTINS)
        self._muted: dict[int, Callable[..., Any]] = {}
        self._handlers: list[Any] = [self] * len(MUTABLE_SIGNALS)  # when a cell was last over
        self._description: tuple[str, str, list[str]] | None = None
        self._interrupted = False
        self._style = "plain"
        self._silent = False
        self._history = True

    def serve(self) -> None:
        self._detach_output()
        _dup2(self._null_fd, 0)
        set_signal(SIGINT, self._on_sigint)
        self._socket.send({"type": "ready", "pid": _getpid()})
        while (received := self._socket.receive()) is not None:
            request, fds = received
            try:
                if request["type"] == "fork":
                    self._fork(request, fds)
                elif request["type"] == "start":
                    self._start(request)
                else:
                    self._run(request, fds)
            except BrokenPipeError:
                return  # the control process is gone
            finally:
                if _getpid() != self._pid:
                    _exit(1)  # a copy made by user code, in which something else went wrong

    def close(self) -> None:
        self._socket.close()
        os.close(self._null_fd)

    def abandon(self) -> None:
        """In a process forked by user code: lets go of the socket, which only one may hold."""
        self._socket.abandon()

    def emit(self, frame: Frame) -> None:
        """Sends a frame of the current run, after the output that came before it.

        In a process forked by user code, what can be shown as text is printed.
        """
        _flush_streams()
        if _getpid() != self._pid:
            if text := frame.get("data", {}).get("text/plain"):
                print(text)
        elif self._run_id is not None:  # else: a thread that outlived its cell
            # A cell's own result is the last thing that it does: it waits for `done` to go along.
            hold = frame["type"] == "result" and self._shell.is_last_expression
            self._socket.send({**frame, "id": self._run_id}, hold=hold)

    def _start(self, request: Frame) -> None:
        """Becomes somebody's context, after it has waited for that."""
        try:
            os.chdir(request["cwd"])
        except OSError as error:
            step, reason = "change_directory", str(error)
            self._socket.send(
                {"type": "failed", "step": step, "errno": error.errno, "reason": reason}
            )
            return
        start_context(self._shell, request)
        self._socket.send({"type": "ready", "pid": self._pid})

    # --- branches --------------------------------------------------------------------------

    def _fork(self, request: Frame, fds: list[int]) -> None:
        """Makes a copy of this process for each socket, unless something would not survive it."""
        tasks: list[str] = []
        own = {self._socket.fileno(), *fds}
        ahead = bool(request.get("ahead"))
        if isinstance(runner := self._shell.loop_runner, LoopRunner):
            tasks = runner.unfinished()
            if ahead and runner.own_descriptors():
                tasks.append("an event loop, which the context goes on using")
            if not tasks:
                runner.close()  # the next `await` makes another
            own |= runner.own_descriptors()
        found = {**branching.what_cannot_be_copied(own), "tasks": tasks}
        if any(found.values()):
            _close(fds)
            self._socket.send({"type": "refused", "id": request["id"], "data": found})
            return
        answer: Frame = {"type": "forked"}
        for fd in fds:
            try:
                if branching.fork_away():
                    self._become_branch(fd, fds, ahead=ahead)
                    return
            except OSError as error:
                answer = {"type": "failed", "reason": f"it cannot be copied: {error.strerror}"}
                break
        _close(fds)
        self._socket.send({**answer, "id": request["id"]})

    def _become_branch(self, own: int, fds: list[int], *, ahead: bool) -> None:
        """Goes on as a copy with a socket of its own; the fork has closed the old one."""
        try:
            _close([fd for fd in fds if fd != own])
            self._socket = FrameSocket(socket.socket(fileno=own))
            self._pid = _getpid()
            branching.separate_branch()
            refresh_process()
            if ahead:
                branching.own_pages()
            self._socket.send({"type": "ready", "pid": self._pid})
        except BaseException as error:  # noqa: BLE001 - it must not go on as half a branch
            with contextlib.suppress(BaseException):
                self._socket.send({"type": "failed", "reason": str(error)})
            _exit(1)

    # --- one run ---------------------------------------------------------------------------

    def _run(self, request: Frame, fds: list[int]) -> None:
        self._run_id = request["id"]
        before = _usage()
        try:
            if len(fds) != len(_OUTPUT_FDS):
                # The kernel drops descriptors when the receiver's table is full.
                raise OSError("the run's output could not be attached: too many open files?")
            for fd, target in zip(fds, _OUTPUT_FDS, strict=True):
                _dup2(fd, target)
        except OSError as error:
            failure: BaseException | None = error
        else:
            _close(fds)
            fds = []
            self._style = request.get("traceback", "plain")
            self._silent = bool(request.get("silent"))
            self._history = bool(request.get("history", True))
            failure = self._run_guarded(request["code"])
        _close(fds)
        status = "ok"
        if failure is not None:
            status = "interrupted" if isinstance(failure, KeyboardInterrupt) else "error"
            name, value, lines = self._description or describe_error(self._shell, failure)
            self.emit({"type": "error", "name": name, "value": value, "traceback": lines})
        self._detach_output()
        done = {
            "type": "done",
            "id": self._run_id,
            "status": status,
            "execution_count": self._shell.execution_count - 1,
            "usage": _usage_since(before),
        }
        self._run_id = None
        self._socket.send(done)

    def _run_guarded(self, code: str) -> BaseException | None:
        """Runs a cell, returns what it failed with; ends the process if it is a user's fork."""
        mask = self._attach_state()
        failure: BaseException | None
        try:
            try:
                failure = self._run_cell(code)
            finally:
                hold_signals()
        except BaseException as error:  # noqa: BLE001 - from between two of the user's statements
            hold_signals()
            failure = error
        if _getpid() != self._pid:
            self._leave_fork(failure)
        self._detach_state()
        sigmask(SET, mask)
        if failure is not None:
            # An interrupt within IPython's own code may come out as some other error of it.
            if self._interrupted and not raised_in_cell(failure):
                failure = KeyboardInterrupt()
            try:
                self._describe_interruptibly(failure)
            except KeyboardInterrupt as interrupt:
                self._description = None
                failure = interrupt
        return failure

    def _run_cell(self, code: str) -> BaseException | None:
        """Runs a cell; SIGINT raises KeyboardInterrupt in here, and the user's handlers run."""
        for signum, handler in self._muted.items():
            set_signal(signum, handler)
        self._muted = {}
        shell = self._shell
        run: Any = shell.run_cell
        result = run(code, store_history=self._history, silent=self._silent)
        error: BaseException | None = result.error_before_exec or result.error_in_exec
        if error is None and _getpid() == self._pid:
            show_open_figures(shell, self._socket.send_held)
        _flush_streams()
        return error

    def _describe_interruptibly(self, error: BaseException) -> None:
        """Renders an error under SIGINT as well, because its `__str__` is the user's code."""
        self._description = describe_error(self._shell, error, self._style)

    def _leave_fork(self, failure: BaseException | None) -> NoReturn:
        """Ends a process that `os.fork()` in user code made, when it falls out of the cell."""
        status = 0
        with contextlib.suppress(BaseException):
            if isinstance(failure, SystemExit):
                status = failure.code if isinstance(failure.code, int) else int(bool(failure.code))
            elif failure is not None:
                status = 1
                print("\n".join(describe_error(self._shell, failure)[2]), file=sys.stderr)
        _exit(status & 0xFF)

    # --- what a cell may have changed --------------------------------------------------------

    def _attach_state(self) -> set[int]:
        """Gives a cell what every cell starts with; returns the signal mask to come back to."""
        self._description = None
        self._interrupted = False
        self._shell.begin_cell()
        streams = []
        for fd, stream in enumerate(self._streams):
            usable = fd == 0 or not stream.closed
            streams.append(stream if usable else text_writer(fd))
        self._streams = (streams[0], streams[1], streams[2])
        sys.stdin, sys.stdout, sys.stderr = self._streams
        set_signal(SIGINT, self._on_sigint)
        mask: set[int] = sigmask(UNBLOCK, (SIGINT,))
        mask.discard(SIGINT)
        return mask

    def _detach_state(self) -> None:
        """Takes back what the loop needs. Signals are held, so that nothing interferes."""
        # Needs no builtin itself, for the cell may have deleted any. And only if their number or
        # the last one is another: looking at each would make a private copy of all their pages.
        if _outline(_LIVE_BUILTINS) != self._builtins:
            _LIVE_BUILTINS.update({**_KNOWN_BUILTINS, **_LIVE_BUILTINS})
            self._builtins = _outline(_LIVE_BUILTINS)
        if sys.getrecursionlimit() < _LOWEST_RECURSION_LIMIT:
            sys.setrecursionlimit(_LOWEST_RECURSION_LIMIT)
        sys.stdin, sys.stdout, sys.stderr = self._streams
        # A timer set by the cell must not raise in the middle of a frame.
        if not all(map(_is_same, map(getsignal, MUTABLE_SIGNALS), self._handlers)):
            self._mute_handlers()
        set_signal(SIGINT, self._on_sigint)

    def _mute_handlers(self) -> None:
        for signum in MUTABLE_SIGNALS:
            handler = getsignal(signum)
            if callable(handler) and handler is not ignore_signal:
                self._muted[signum] = handler
                set_signal(signum, ignore_signal)
        self._handlers = [*map(getsignal, MUTABLE_SIGNALS)]

    def _detach_output(self) -> None:
        """Flushes what C code has buffered and points 1 and 2 at `/dev/null`."""
        _LIBC.fflush(None)
        try:
            _dup2(self._null_fd, 1)
        except OSError:  # the first time, or closed by user code
            self._null_fd = move_up(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
            _dup2(self._null_fd, 1)
        _dup2(self._null_fd, 2)

    def _on_sigint(self, _signum: int, frame: FrameType | None) -> None:
        while frame is not None:
            if frame.f_code is Shell.start_command.__code__:
                self._shell.interrupt_deferred = True
                return
            if frame.f_code in _INTERRUPTIBLE or branching.is_hook(frame):
                self._interrupted = True
                raise KeyboardInterrupt
            frame = frame.f_back


_INTERRUPTIBLE = frozenset(
    {Executor._run_cell.__code__, Executor._describe_interruptibly.__code__}  # noqa: SLF001
)

_serving: Executor | None = None


def _abandon_in_fork() -> None:
    if _serving is not None:
        _serving.abandon()


os.register_at_fork(after_in_child=_abandon_in_fork)


def _flush_streams() -> None:
    # Without a context manager, which would be half of a short cell's frames.
    try:  # noqa: SIM105
        sys.stdout.flush()
    except Exception:  # noqa: BLE001, S110 - they are the user's; what cannot be flushed is lost
        pass
    try:  # noqa: SIM105
        sys.stderr.flush()
    except Exception:  # noqa: BLE001, S110 - likewise
        pass


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _outline(names: dict[str, Any]) -> tuple[int, str]:
    """The number of names and the last one: what was added in the place of another is the last."""
    count = names.__len__()
    return count, names.__reversed__().__next__() if count else ""


def _usage() -> tuple[float, float, int]:
    own = _getrusage(resource.RUSAGE_SELF)
    children = _getrusage(resource.RUSAGE_CHILDREN)
    # For a process that has not exec'ed this is VmHWM, without the price of reading /proc.
    peak_kib = own.ru_maxrss
    return own.ru_utime + children.ru_utime, own.ru_stime + children.ru_stime, peak_kib


def _usage_since(before: tuple[float, float, int]) -> dict[str, int]:
    user_s, system_s, peak_kib = _usage()
    return {
        "user_us": round((user_s - before[0]) * 1e6),
        "system_us": round((system_s - before[1]) * 1e6),
        "max_rss_bytes": peak_kib * 1024,
    }


# --- rehearsal -----------------------------------------------------------------------------


def rehearse(shell: Shell, cells: list[str]) -> None:
    """Runs cells as a control process would and leaves the shell as new.

    What has run once is imported, specialised and laid out in memory: pages that a forked child
    then shares instead of copying them for its first cell.

    Raises:
        RuntimeError: A cell failed that does not start with a comment saying it does.
    """
    run_cells(shell, cells)
    if isinstance(shell.loop_runner, LoopRunner):
        shell.loop_runner.close()  # an event loop must not be shared by forked children
    shell.restart()


def run_cells(shell: Shell, cells: list[str]) -> None:
    """Runs cells as a control process would.

    Raises:
        RuntimeError: As `rehearse`.
    """
    for code in cells:
        ours, theirs = socket.socketpair()
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        frame = encode_frame({"type": "run", "id": "rehearsal", "code": code})
        socket.send_fds(ours, [frame], [null, null])
        ours.shutdown(socket.SHUT_WR)
        serve(theirs, shell)
        os.close(null)
        with ours, ours.makefile("rb") as stream:
            replies = stream.read()
        if (b'"status": "ok"' in replies) == code.startswith("# fails"):
            raise RuntimeError(f"the rehearsal of {code!r} went wrong: {replies[:2000]!r}")
