"""Sessions: a bash that stays; commands run in it one after another."""

from __future__ import annotations

import contextlib
import os
import signal as signals
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec
import trio

from sandbox_runtime.budget import Budget, Claim
from sandbox_runtime.capture import Capture
from sandbox_runtime.errors import (
    CommandFailedError,
    SandboxClosedError,
    SandboxLostError,
)
from sandbox_runtime.programs import (
    check_argv,
    check_bytes,
    check_cwd,
    check_env,
    check_id,
    check_seconds,
    check_text,
    make_id,
)
from sandbox_runtime.receipts import CommandResult, Ended, Receipt
from sandbox_runtime.settings import (
    BACKGROUND_LIMIT_BYTES,
    BACKGROUND_PAUSE_S,
    BACKGROUND_TOTAL_BYTES,
    BREAK_GRACE_S,
    DEFAULT_ENV,
    OUTPUT_LIMIT_BYTES,
    WORKSPACE,
)
from sandbox_runtime.shell_protocol import NOT_RUN_DESCRIPTORS, why_not_run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from sandbox_runtime.alarms import Alarms
    from sandbox_runtime.core import Command
    from sandbox_runtime.keeper import Keeper
    from sandbox_runtime.messages import Exited
    from sandbox_runtime.output_stream import OutputHandler
    from sandbox_runtime.shell import Shell
    from sandbox_runtime.standby import Work

_RESEND_BREAK_S = 0.05
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_BACKGROUND_STREAMS = 64


class BackgroundOutput(msgspec.Struct, frozen=True, kw_only=True):
    """What jobs of a command wrote after it had returned.

    Attributes:
        command: How many commands the session had run when that one began.
        stdout: What came, up to `BACKGROUND_LIMIT_BYTES`, and less where the jobs of the sandbox
            have written `BACKGROUND_TOTAL_BYTES` together.
        stderr: Likewise.
        stdout_bytes: How much came in all.
        stderr_bytes: Likewise.
        ended: Whether every job has let go of the command's pipes, so that no more will come.
    """

    command: int
    stdout: bytes
    stderr: bytes
    stdout_bytes: int
    stderr_bytes: int
    ended: bool


class _Background:
    """Pipes that a job still holds after its command has returned."""

    def __init__(self, number: int, capture: Capture, memory: Claim) -> None:
        for stream in capture.streams:
            stream.start_over(BACKGROUND_LIMIT_BYTES, memory)
        self.number = number
        self.capture = capture
        self._memory = memory
        self._scope = trio.CancelScope()

    async def read(self) -> None:
        """Reads until the job lets go; the sandbox's nursery owns this task."""
        try:
            with self.capture, self._scope:
                await self.capture.read_until(None, pause_s=BACKGROUND_PAUSE_S)
        finally:
            if self._scope.cancel_called:
                self._memory.give_back()

    def forget(self) -> None:
        """Lets go of the pipes, and of what was kept."""
        self._scope.cancel()
        self._memory.give_back()


class Session:
    """A shell that keeps its directory, variables, functions, options and jobs between commands.

    `Sandbox.create_session` makes it; it ends with the sandbox or by `aclose`. Commands run one
    after another, in the order of the calls.

    Attributes:
        id: Its name in `Sandbox.sessions`.
    """

    def __init__(
        self,
        keeper: Keeper,
        nursery: trio.Nursery,
        start_shell: Callable[[str, Mapping[str, str]], Awaitable[Shell]],
        work: Work,
        alarms: Alarms,
        *,
        session_id: str | None = None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        memory: Budget | None = None,
        on_closed: Callable[[Session], None] = lambda _: None,
    ) -> None:
        self._keeper = keeper
        self._nursery = nursery
        self._start_shell = start_shell
        self._work = work
        self._alarms = alarms
        self._on_closed = on_closed
        self._memory = Budget(BACKGROUND_TOTAL_BYTES) if memory is None else memory
        self._cwd = check_cwd(cwd, WORKSPACE)
        self._env = DEFAULT_ENV | check_env(env)
        self.id = make_id("session") if session_id is None else check_id("session_id", session_id)
        self._turn = trio.Semaphore(1)  # a lock would also note whose it is, at each turn
        self._shell: Shell | None = None
        self._stop: Callable[[], None] | None = None
        self._killed = False
        self._closed = False
        self._count = 0
        self._memory_kills = 0
        self._background: deque[_Background] = deque()

    @property
    def env(self) -> dict[str, str]:
        """The variables that its shell starts with; what commands exported since is not here."""
        return dict(self._env)

    @property
    def keeper(self) -> Keeper:
        """The native process below."""
        return self._keeper

    @property
    def closed(self) -> bool:
        """Whether `aclose` was called."""
        return self._closed

    def cwd(self) -> str:
        """The shell's present directory, also while a command runs.

        Bytes that are no UTF-8 come surrogate-escaped. Without a shell, and in a directory that was
        removed, it is the one in which the session started.
        """
        return self.seen_cwd() or self._cwd

    def seen_cwd(self) -> str | None:
        """The same by its name without symlinks; None without a shell, or if it was removed."""
        if self._shell is None or self._shell.lost:
            return None
        return self._shell.jail.program_cwd()

    async def start(self) -> None:
        """Starts the shell now, instead of with the first command.

        Raises:
            NotStartedError: There is no bash in the sandbox.
        """
        async with self._turn:
            await self._open_shell()

    async def _open_shell(self) -> Shell:
        if self._closed:
            raise SandboxClosedError("the session is closed")
        if self._shell is None or self._shell.lost:
            await self._drop_shell()
            self._memory_kills = self._keeper.count_memory_kills()
            shell = self._shell = await self._start_shell(self._cwd, self._env)
            if self.closed:  # meanwhile; whoever closes it waits for its turn
                with trio.CancelScope(shield=True):
                    await self._drop_shell()
                raise SandboxClosedError("the session is closed")
            return shell
        return self._shell

    async def _drop_shell(self) -> None:
        shell, self._shell = self._shell, None
        if shell is not None:
            await shell.aclose()

    async def exec(
        self,
        command: str | bytes | Sequence[str | bytes],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        deadline_s: float | None = None,
        on_stdout: OutputHandler | None = None,
        on_stderr: OutputHandler | None = None,
        limit_bytes: int = OUTPUT_LIMIT_BYTES,
        memory: Claim | None = None,
        check: bool = False,
    ) -> CommandResult:
        """Runs a command and waits for its end.

        Text runs in the shell itself, so what it sets stays. A sequence is a program with its
        arguments: a child of the shell with its directory and exported variables, no parsing.

        Args:
            command: Shell text, or a program with arguments.
            cwd: Where this command runs; the session's own directory is the same afterwards.
                Relative to where the session started.
            env: Variables for this command only.
            stdin: What it reads; nothing by default.
            deadline_s: Seconds until its whole process tree is ended; None is never.
            on_stdout: Called, and awaited if it returns an awaitable, with each piece as it comes.
                While it has not returned, nothing more is read, and the writer waits.
            on_stderr: Likewise.
            limit_bytes: How much of each stream the result keeps.
            memory: What the result keeps is taken from it as well; the caller gives it back.
            check: Raise unless the exit code is 0.

        Returns:
            How it ended, also when a deadline, a signal or `kill` ended it.

        Raises:
            InvalidArgumentError: An argument cannot mean anything.
            NotStartedError: There is no such directory, or no bash; nothing ran.
            CommandFailedError: With `check`.
            SandboxLostError: The sandbox has died.

        Cancellation: ends the command's whole process tree; the session stays.
        """
        checked: bytes | tuple[bytes, ...]
        if isinstance(command, (str, bytes)):
            checked = check_text("command", command)
        else:
            checked = check_argv("command", command)
        env = check_env(env) if env else {}
        cwd = None if cwd is None else check_cwd(cwd, self._cwd)
        data = check_bytes("stdin", stdin)
        timeout_s = check_seconds("deadline_s", deadline_s)
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._turn.acquire_nowait()  # a turn of the event loop less than `acquire`
        except trio.WouldBlock:
            await self._turn.acquire()
        try:
            shell = self._shell
            if shell is None or shell.lost or self._closed:
                shell = await self._open_shell()
            capture = Capture(limit_bytes, on_stdout, on_stderr, memory=memory, make_pipes=False)
            try:
                with self._work:
                    result = await self._run(shell, capture, checked, cwd, env, data, timeout_s)
            except BaseException:
                capture.close()
                raise
        finally:
            self._turn.release()
        if check and not result.ok:
            how = f"exit code {result.exit_code}"
            if result.ended == "deadline":
                how = "the deadline passed, and everything it started was ended"
            elif result.ended != "exit":
                how = f"{how}, {result.ended}" if result.exit_code is not None else result.ended
            if result.out_of_memory:
                how += (
                    ", for the sandbox had no memory left and the kernel ended a process of it:"
                    " give it more with limits.memory_bytes"
                )
            raise CommandFailedError(result, how, result.stderr.decode(errors="replace"))
        return result

    async def _run(
        self,
        shell: Shell,
        capture: Capture,
        command: bytes | tuple[bytes, ...],
        cwd: str | None,
        env: Mapping[str, str],
        stdin: memoryview,
        timeout_s: float,
    ) -> CommandResult:
        started_s = time.monotonic()
        header, body = shell.encode(command, cwd, env)
        self._count += 1
        self._killed = False
        mark, since = shell.mark(), int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS_PER_S)
        over = False
        ended: Ended = "exit"
        try:
            try:
                deadline_s = trio.current_time() + timeout_s
                request = (header, body, stdin, deadline_s)
                if capture.calls_back:
                    with trio.CancelScope(deadline=deadline_s) as scope:
                        self._stop = scope.cancel
                        over = await self._attempt(shell, capture, *request)
                else:
                    self._stop = capture.give_up  # a cancel scope costs 50 µs in a short command
                    alarm = self._alarms.set(deadline_s, self._end_attempt)
                    try:
                        over = await self._attempt(shell, capture, *request)
                    finally:
                        self._alarms.call_off(alarm)
            finally:
                self._stop = None
            if not over:
                ended = "killed" if self._killed else "deadline"
                await self._end_command(shell, capture, mark, since)
        except BaseException:
            capture.mute()  # the caller hears of this command no more
            with trio.CancelScope(shield=True):
                await self._end_command(shell, capture, mark, since)
            raise
        if shell.end is not None and shell.end.error:
            capture.close()
            shell.lost = shell.lost or shell.end.error == NOT_RUN_DESCRIPTORS
            raise why_not_run(shell.end, cwd, env)
        return await self._result(shell, capture, ended, time.monotonic() - started_s)

    def _end_attempt(self) -> None:
        if self._stop is not None:
            self._stop()

    async def _attempt(
        self,
        shell: Shell,
        capture: Capture,
        header: bytes,
        body: bytes,
        stdin: memoryview,
        deadline_s: float,
    ) -> bool:
        """Has the shell run a command. False: it was stopped before the command was over."""
        try:
            command = await self._send(shell, header, body, stdin, deadline_s)
        except SandboxLostError:
            shell.lost = True  # it died between two commands; this one has not run
            return True
        if command is None:
            return False
        await capture.read_command(command, shell)
        if not shell.hung_up:
            return shell.lost or shell.end is not None
        if capture.given_up:  # in the very moment; what is waited for below would not know of it
            return False
        # The shell ends, or a program does that it was replaced by (`exec`).
        with trio.CancelScope() as scope:
            self._stop = scope.cancel
            await capture.read_until_ended(shell.jail)
        return not scope.cancelled_caught

    async def _send(
        self, shell: Shell, header: bytes, body: bytes, stdin: memoryview, deadline_s: float
    ) -> Command | None:
        """Asks the shell to run a command; None: it was stopped before there was room for that."""
        stop = self._stop
        while True:
            try:
                return shell.send(header, body, stdin)
            except BlockingIOError:
                with trio.CancelScope(deadline=deadline_s) as scope:
                    self._stop = scope.cancel
                    await shell.wait_room()
                if scope.cancel_called:
                    return None
                self._stop = stop

    async def _end_command(
        self, shell: Shell, capture: Capture, mark: bytes, since_ticks: int
    ) -> None:
        """Ends a command's processes and makes the shell give it up, or ends the shell too."""
        capture.go_on()
        keep = shell.marked(mark)

        async def sweep(*, break_shell: bool) -> None:
            await shell.jail.sweep(
                spare=[shell.pid], keep=keep, since_ticks=since_ticks, break_shell=break_shell
            )

        try:
            with trio.move_on_after(BREAK_GRACE_S):
                while shell.end is None and not shell.lost:
                    await sweep(break_shell=True)
                    with trio.move_on_after(_RESEND_BREAK_S):
                        await capture.read_until(shell, shell.epoll)
            if shell.end is None:
                shell.lost = True
            else:
                await sweep(break_shell=False)  # what the shell began before it gave up
        except (SandboxLostError, SandboxClosedError):
            shell.lost = True
        if shell.lost:
            await shell.jail.aclose()
        with trio.move_on_after(BREAK_GRACE_S):
            await capture.drain()
            return
        capture.mute()  # whoever was called back does not come back
        await capture.drain()

    async def _result(
        self, shell: Shell, capture: Capture, ended: Ended, wall_s: float
    ) -> CommandResult:
        end = shell.end
        exit_code: int | None = None
        signal: int | None = None
        user_us: int | None = None
        system_us: int | None = None
        peak: int | None = None
        usage_source = peak_source = "not measured"
        if end is None:
            exited = await self._bury(shell)
            if ended == "exit":
                ended = "session lost"
            if exited is not None:
                exit_code, signal = exited.exit, exited.signal
                user_us, system_us, peak = (
                    exited.user_us,
                    exited.system_us,
                    exited.max_rss_bytes,
                )
                usage_source = peak_source = "wait4(2), the whole session"
            capture.close()
        else:
            user_us, system_us, peak = end.user_us, end.system_us, end.max_rss_bytes or None
            usage_source = "getrusage(2) of the shell and its children, difference"
            peak_source = (
                "wait4(2), the command's largest process"
                if end.peak_is_own
                else "getrusage(2), the session's largest process so far"
                if peak is not None
                else "not measured: the shell itself did it all, without a process"
            )
            if ended == "exit":
                exit_code = end.status
        out_of_memory = False
        if exit_code:
            # Looked at only after a failure, so that the usual command does not pay for it.
            before, self._memory_kills = self._memory_kills, self._keeper.count_memory_kills()
            out_of_memory = exit_code == 128 + signals.SIGKILL and before < self._memory_kills
        elif signal == signals.SIGKILL and ended == "session lost":
            out_of_memory = self._keeper.count_memory_kills() > self._memory_kills
        stdout, stderr = capture.streams
        result = CommandResult(
            stdout=stdout.kept,
            stderr=stderr.kept,
            exit_code=exit_code,
            signal=signal,
            ended=ended,
            out_of_memory=out_of_memory,
            stdout_bytes=stdout.total_bytes,
            stderr_bytes=stderr.total_bytes,
            number=self._count,
            receipt=Receipt(
                wall_s=wall_s,
                user_s=None if user_us is None else user_us / 1e6,
                system_s=None if system_us is None else system_us / 1e6,
                peak_memory_bytes=peak,
                sources={
                    "wall_s": "CLOCK_MONOTONIC of the control process",
                    "user_s": usage_source,
                    "system_s": usage_source,
                    "peak_memory_bytes": peak_source,
                },
            ),
        )
        if not capture.at_end:
            self._keep_background(capture)
        return result

    async def _bury(self, shell: Shell) -> Exited | None:
        """How a shell ended that is lost; its jail is gone afterwards, the next one is fresh."""
        exited = shell.jail.exited
        if exited is None:
            with (
                trio.move_on_after(BREAK_GRACE_S),
                contextlib.suppress(SandboxLostError, SandboxClosedError),
            ):
                exited = await shell.jail.wait_exited()
        self._shell = None
        await shell.aclose()
        return exited

    def _keep_background(self, capture: Capture) -> None:
        """A job holds the command's pipes: keep reading, or it would stand still."""
        capture.go_on()  # the command may have ended in the very moment in which it was stopped
        job = _Background(self._count, capture, Claim(self._memory))
        self._background.append(job)
        while len(self._background) > _BACKGROUND_STREAMS:
            self._background.popleft().forget()
        self._nursery.start_soon(job.read)

    @property
    def background(self) -> list[BackgroundOutput]:
        """What jobs wrote after their commands had returned, of the last 64 such commands."""
        return [
            BackgroundOutput(
                command=job.number,
                stdout=job.capture.stdout.kept,
                stderr=job.capture.stderr.kept,
                stdout_bytes=job.capture.stdout.total_bytes,
                stderr_bytes=job.capture.stderr.total_bytes,
                ended=job.capture.at_end,
            )
            for job in self._background
        ]

    def kill(self) -> None:
        """Ends the command that runs now with its whole process tree; its result says `killed`."""
        if self._stop is not None:
            self._killed = True
            self._end_attempt()

    async def aclose(self) -> None:
        """Ends the shell and everything it started; returns when that is gone."""
        self._closed = True
        self.kill()
        with trio.CancelScope(shield=True):
            async with self._turn:
                await self._drop_shell()
        for job in self._background:
            job.forget()
        self._background.clear()
        self._on_closed(self)
