"""Contexts: a live interpreter each, in a jail of its own, never given to anybody else."""

from __future__ import annotations

import inspect
import json
import signal
import socket
import struct
import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import trio

from sandbox_runtime.capture import Capture
from sandbox_runtime.errors import (
    InterpreterUnavailableError,
    InvalidArgumentError,
    SandboxClosedError,
    SandboxLostError,
)
from sandbox_runtime.interpreters.execution import Execution, ExecutionError, Result, RunEnded
from sandbox_runtime.interpreters.zygote import Zygote, send_with_descriptors
from sandbox_runtime.programs import check_cwd, check_env, check_seconds
from sandbox_runtime.receipts import Receipt
from sandbox_runtime.settings import (
    DEFAULT_ENV,
    INTERRUPT_GRACE_S,
    OUTPUT_LIMIT_BYTES,
    WORKSPACE,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from sandbox_runtime import jail as jails
    from sandbox_runtime.capture import OutputHandler

    ResultHandler = Callable[[Result], Awaitable[None] | None]

LANGUAGES = ("python",)
"""The languages that contexts speak."""

_LENGTH = struct.Struct(">I")
_RECEIVE_BYTES = 256 * 1024
_RESEND_INTERRUPT_S = 0.3
_LARGEST_FRAME_BYTES = 64 * 1024 * 1024

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class _Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a run used."""

    user_us: _Count
    system_us: _Count
    max_rss_bytes: _Count


class _Frame(msgspec.Struct, frozen=True, kw_only=True):
    """What a context says. Its code can write to its socket, so nothing is taken on trust."""

    type: str
    id: str | None = None
    data: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    display_id: Any = None
    name: Any = None
    value: Any = None
    traceback: list[Any] | None = None
    status: str | None = None
    execution_count: _Count | None = None
    usage: _Usage | None = None
    pid: _Count = 0
    reason: Any = None


_FRAMES = msgspec.json.Decoder(_Frame)


class FrameReader:
    """Splits a stream of frames: a 4-byte big-endian length, then that much JSON."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Takes bytes, returns the bodies of the frames that they complete.

        Raises:
            ValueError: They are no frames.
        """
        self._buffer += data
        frames: list[bytes] = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > _LARGEST_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            frames.append(bytes(memoryview(self._buffer)[_LENGTH.size : end]))
            del self._buffer[:end]
        return frames


class _Run:
    """What one run has said so far."""

    def __init__(self, on_result: ResultHandler | None, limit_bytes: int) -> None:
        self._on_result = on_result
        self._room_bytes = self._limit_bytes = limit_bytes
        self.results: list[Result] = []
        self.dropped = 0
        self.error: ExecutionError | None = None
        self.done: _Frame | None = None

    def mute(self) -> None:
        """Calls nobody back from here on."""
        self._on_result = None

    async def note(self, frame: _Frame, size_bytes: int) -> None:
        match frame.type:
            case "display" | "update_display" | "result" as kind:
                result = Result(
                    data=frame.data or {},
                    metadata=frame.metadata or {},
                    is_main_result=kind == "result",
                    display_id=None if frame.display_id is None else str(frame.display_id),
                    is_update=kind == "update_display",
                )
                self._room_bytes -= size_bytes
                if self._room_bytes >= 0:
                    self.results.append(result)
                else:
                    self.dropped += 1
                if self._on_result is not None:
                    handled = self._on_result(result)
                    if inspect.isawaitable(handled):
                        await handled
            case "clear_output":
                self.results.clear()
                self._room_bytes, self.dropped = self._limit_bytes, 0
            case "error":
                self.error = ExecutionError(
                    name=str(frame.name),
                    value=str(frame.value),
                    traceback="\n".join(map(str, frame.traceback or ())),
                )
            case "done":
                self.done = frame


class Context:
    """The state of one interpreter. `Sandbox.create_code_context` makes it.

    Runs are one after another, in the order of the calls.

    Attributes:
        language: What it speaks.
        lost: Whether its process has ended; it cannot be used again then.
    """

    def __init__(self, jail: jails.Jail, sock: socket.socket, language: str) -> None:
        self._jail = jail
        self._socket = sock
        self._reader = FrameReader()
        self._frames: list[tuple[_Frame, int]] = []
        self._run: _Run | None = None
        self._turn = trio.Lock()
        self._running: trio.CancelScope | None = None
        self._killed = False
        self._pid = -1
        self._number = 0
        self.language = language
        self.lost = False

    @classmethod
    async def open(
        cls,
        keeper: jails.Keeper,
        zygote: Zygote,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        prime: bool = False,
    ) -> Context:
        """Forks a context into a fresh jail; returns when it is ready for its first run.

        Raises:
            InterpreterUnavailableError: It did not come up.
        """
        directory = check_cwd(cwd, WORKSPACE)
        variables = DEFAULT_ENV | check_env(env)
        jail = await keeper.create_jail(namespaces=True)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        context = cls(jail, ours, "python")
        try:
            with theirs:
                await jail.wait_ready()
                await zygote.fork(keeper, jail, theirs)
            start = json.dumps({"cwd": directory, "env": variables, "prime": prime}).encode()
            await context._send(_LENGTH.pack(len(start)) + start, ())
            await context._wait_ready()
        except BaseException:
            await context.aclose()
            raise
        return context

    async def _wait_ready(self) -> None:
        self._receive()
        while not self._frames and not self.lost:
            await trio.lowlevel.wait_readable(self._socket)
            self._receive()
        if not self._frames:
            raise InterpreterUnavailableError("the context died while it was made")
        frame, _ = self._frames.pop(0)
        if frame.type != "ready":
            raise InterpreterUnavailableError(str(frame.reason))
        self._pid = frame.pid

    def fileno(self) -> int:
        """Its socket; readable when it has something to say."""
        return self._socket.fileno()

    def look(self) -> bool:
        """Whether its process lives, as far as can be seen without waiting."""
        self._receive()
        return not self.lost

    def _receive(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
            self.lost = self.lost or not data
            for body in self._reader.feed(data):
                self._frames.append((_FRAMES.decode(body), len(body)))
        except BlockingIOError:
            pass
        except (OSError, ValueError, RecursionError):
            self.lost = True  # it has died, or user code has written to our socket

    async def take(self) -> bool:
        """Notes what the interpreter says; True when the run is over, or the interpreter is."""
        self._receive()
        run = self._run
        while self._frames:
            frame, size_bytes = self._frames.pop(0)
            if run is not None and frame.id == str(self._number):
                await run.note(frame, size_bytes)
        return self.lost or (run is not None and run.done is not None)

    async def run(
        self,
        code: str,
        *,
        deadline_s: float | None = None,
        on_stdout: OutputHandler | None = None,
        on_stderr: OutputHandler | None = None,
        on_result: ResultHandler | None = None,
        limit_bytes: int = OUTPUT_LIMIT_BYTES,
    ) -> Execution:
        """Runs code; what it defines is there in the next run.

        Args:
            code: A cell, as in a notebook.
            deadline_s: Seconds until it is interrupted, and ended if it does not give way.
                Every process that the context has started ends too.
            on_stdout: Called, and awaited if it returns an awaitable, with each piece as it comes.
            on_stderr: Likewise.
            on_result: Likewise, with each result as it is shown.
            limit_bytes: How much of each output stream is kept, and of all results together.

        Returns:
            How it ended. An error of the code is data in it.

        Raises:
            InvalidArgumentError: The code is no text, or the deadline no time.
            SandboxClosedError: The context has ended before.

        Cancellation: as the deadline; the context may be used again if its state survived.
        """
        if not isinstance(code, str):
            raise InvalidArgumentError("code", f"must be text, not {type(code).__name__}")
        timeout_s = check_seconds("deadline_s", deadline_s)
        async with self._turn:
            if self.lost:
                raise SandboxClosedError("the context has ended; create a new one")
            with Capture(limit_bytes, on_stdout, on_stderr) as capture:
                return await self._execute(code, capture, _Run(on_result, limit_bytes), timeout_s)

    async def _execute(self, code: str, capture: Capture, run: _Run, timeout_s: float) -> Execution:
        started_s = time.monotonic()
        self._number += 1
        self._run = run
        self._killed = False
        body = json.dumps({"type": "run", "id": str(self._number), "code": code}).encode()
        over = False
        try:
            with trio.CancelScope(deadline=trio.current_time() + timeout_s) as scope:
                self._running = scope
                await self._send(_LENGTH.pack(len(body)) + body, capture.write_fds)
                capture.close_write_ends()
                if not self.lost:
                    await capture.read_until(self)
                over = True
            if not over:
                await self._interrupt(capture)
        except BaseException:
            capture.mute()  # the caller hears of this run no more
            run.mute()
            with trio.CancelScope(shield=True):
                await self._interrupt(capture)
            raise
        finally:
            self._running = None
        if self.lost:
            await self._end()
            capture.mute()
            await capture.drain()
        self._run = None
        return self._execution(run, capture, over=over, wall_s=time.monotonic() - started_s)

    async def _send(self, data: bytes, fds: Sequence[int]) -> None:
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[send_with_descriptors(self._socket, bytes(view), fds) :]
                    fds = ()
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._socket)
        except OSError:
            self.lost = True
        except trio.Cancelled:
            self.lost = len(view) < len(data)  # what follows half a frame cannot be understood
            raise

    async def _interrupt(self, capture: Capture) -> None:
        """Interrupts the run, and ends the context if it does not give way in time."""
        run = self._run
        assert run is not None
        try:
            with trio.move_on_after(0 if self.lost else INTERRUPT_GRACE_S):
                while run.done is None and not self.lost:
                    # One is lost if it comes between Python's last look and a long system call.
                    await self._jail.signal(self._pid, signal.SIGINT, group=True)
                    with trio.move_on_after(_RESEND_INTERRUPT_S):
                        await capture.read_until(self)
            if run.done is None:
                self.lost = True
            else:
                await self._jail.sweep(spare=[self._pid], keep=(), since_ticks=0)
        except (SandboxLostError, SandboxClosedError):
            self.lost = True
        if self.lost:
            await self._end()
        capture.mute()  # a callback that hangs or raises must not keep the end from being told
        await capture.drain()

    async def _end(self) -> None:
        self.lost = True
        await self._jail.aclose()

    def _execution(self, run: _Run, capture: Capture, *, over: bool, wall_s: float) -> Execution:
        done = run.done
        usage = done.usage if done is not None else None
        ended: RunEnded
        if not over:
            ended = "killed" if self._killed else "deadline"
        elif done is None:
            ended = "context lost"
        else:
            ended = "ok" if done.status == "ok" else "error"
        source = "getrusage(2) of the context and its children" if usage else "not measured"
        return Execution(
            results=run.results,
            stdout=capture.stdout.kept,
            stderr=capture.stderr.kept,
            stdout_bytes=capture.stdout.total_bytes,
            stderr_bytes=capture.stderr.total_bytes,
            error=run.error,
            ended=ended,
            state_survived=not self.lost,
            execution_count=done.execution_count if done is not None else None,
            receipt=Receipt(
                wall_s=wall_s,
                user_s=usage.user_us / 1e6 if usage else None,
                system_s=usage.system_us / 1e6 if usage else None,
                peak_memory_bytes=usage.max_rss_bytes if usage else None,
                sources={
                    "wall_s": "CLOCK_MONOTONIC of the control process",
                    "user_s": source,
                    "system_s": source,
                    "peak_memory_bytes": "VmHWM of proc(5), shared pages included"
                    if usage
                    else source,
                },
            ),
            results_dropped=run.dropped,
        )

    def kill(self) -> None:
        """Interrupts the run of this moment; its result says `killed`."""
        if self._running is not None:
            self._killed = True
            self._running.cancel()

    async def aclose(self) -> None:
        """Ends the context; its processes and memory are gone when this returns."""
        self._killed = True
        if self._running is not None:
            self._running.cancel()
        with trio.CancelScope(shield=True):
            await self._end()
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
