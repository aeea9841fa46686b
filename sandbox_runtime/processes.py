"""Processes: programs that run in a jail of their own, in the foreground or the background."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import signal as signals
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import trio

from sandbox_runtime import jail as jails
from sandbox_runtime.capture import Capture
from sandbox_runtime.channel import memory_file
from sandbox_runtime.errors import (
    InvalidArgumentError,
    NotStartedError,
    ProcessEndedError,
    SandboxClosedError,
    SandboxLostError,
)
from sandbox_runtime.logs import LinePattern, find_line
from sandbox_runtime.messages import Execute, Exited, encode_env
from sandbox_runtime.plain_commands import plain_words, shell_variables
from sandbox_runtime.programs import (
    check_argv,
    check_bytes,
    check_cwd,
    check_env,
    check_seconds,
    check_text,
    make_id,
)
from sandbox_runtime.receipts import CommandResult, Ended, Receipt
from sandbox_runtime.settings import (
    BREAK_GRACE_S,
    DEFAULT_ENV,
    KILL_GRACE_S,
    OUTPUT_LIMIT_BYTES,
    WORKSPACE,
)

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping, Sequence

    from sandbox_runtime.capture import OutputHandler
    from sandbox_runtime.logs import Log, LogLine

Status = Literal["running", "completed", "failed", "killed", "error"]
"""A process has one from the moment it runs. `completed`: it exited with 0; `failed`:
with another code, or a signal of its own ended it; `killed`: `kill` or its deadline did; `error`: a
callback raised, or the sandbox has died."""


class _End:
    """The end of a jail's program, with all that it has started."""

    def __init__(self, jail: jails.Jail, capture: Capture) -> None:
        self._jail = jail
        self._capture = capture

    def fileno(self) -> int:
        return self._jail.fileno()

    async def take(self) -> bool:
        if not self._jail.take_end():
            return False
        if not self._jail.is_empty:
            await self._jail.aclose()
        self._capture.close_write_ends()
        for stream in self._capture.streams:
            await stream.read_some()  # the end, of one that nothing is in
        return True


def _shown(command: str | bytes | Sequence[str | bytes]) -> str:
    if isinstance(command, (str, bytes)):
        return command if isinstance(command, str) else os.fsdecode(command)
    return shlex.join(os.fsdecode(argument) for argument in command)


class Process:
    """A program in a jail of its own: when it ends, whatever it started ends too.

    `Sandbox.start_process` makes it; it ends by itself, by `kill`, or with the sandbox.

    Attributes:
        id: Its name in `Sandbox.processes`.
        command: What was started; a sequence is shown as a shell would read it.
        session_id: The session it was started from, or None.
        pid: Its number in its jail.
        started_at: When it was started (UTC).
        ended_at: When it had ended with all it had started, or None.
    """

    def __init__(
        self,
        jail: jails.Jail,
        capture: Capture,
        log: Log | None,
        *,
        command: str,
        process_id: str,
        session_id: str | None,
        started_s: float,
        deadline_s: float,
    ) -> None:
        self._jail = jail
        self._capture = capture
        self._log = log
        self._memory_kills = jail.count_memory_kills()
        self._started_s = started_s
        self._deadline_s = deadline_s
        self._done = trio.Event()
        self._killed: Ended | None = None
        self._sent_signals: set[int] = set()
        self._scope = trio.CancelScope()
        self._error: Exception | None = None
        self._outcome: CommandResult | None = None
        self.id = process_id
        self.command = command
        self.session_id = session_id
        self.pid = -1
        self.started_at = datetime.now(UTC)
        self.ended_at: datetime | None = None

    @classmethod
    async def open(
        cls,
        keeper: jails.Keeper,
        command: str | bytes | Sequence[str | bytes],
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        on_stdout: OutputHandler | None = None,
        on_stderr: OutputHandler | None = None,
        limit_bytes: int = OUTPUT_LIMIT_BYTES,
        deadline_s: float | None = None,
        log: Log | None = None,
        process_id: str | None = None,
        session_id: str | None = None,
        start_cwd: str = WORKSPACE,
        until_end: bool = False,
        by_shell: bool = False,
    ) -> Process:
        """Starts a program; somebody has to `run` it from here on.

        Args:
            keeper: In this sandbox.
            command: A program with arguments, or text for a shell of its own.
            cwd: Where it runs.
            env: Variables besides the usual ones.
            stdin: What it reads.
            on_stdout: Called with each piece as it comes.
            on_stderr: Likewise.
            limit_bytes: How much of each stream the result keeps; of no effect with a log.
            deadline_s: Seconds until it is ended with all it started.
            log: What keeps its output instead.
            process_id: Its id, made if not given.
            session_id: The session it is started from.
            start_cwd: What a relative `cwd` is relative to, and the directory without one.
            until_end: Whether nobody waits for its start: `run_to_end` has to follow.
            by_shell: Whether text is the shell's even where that would only become one program.

        Raises:
            InvalidArgumentError: An argument cannot mean anything.
            NotStartedError: It cannot be started.
        """
        variables = DEFAULT_ENV | check_env(env)
        plain = None
        if isinstance(command, (str, bytes)):
            text = check_text("command", command)
            argv: tuple[bytes, ...] = (b"bash", b"-c", text)
            # Whoever waits for its start also hears that there is no such program, and a directory
            # that the caller names may have symlinks in it, which a shell would look up.
            if not (by_shell or until_end or cwd is not None):
                plain = plain_words(text, variables)
            if plain is not None:
                argv = plain
                variables |= shell_variables(start_cwd)
        else:
            argv = check_argv("command", command)
        program = Execute(
            argv=argv,
            env=encode_env(variables),
            cwd=os.fsencode(check_cwd(cwd, start_cwd)),
            until_end=until_end,
        )
        data = check_bytes("stdin", stdin)
        timeout_s = check_seconds("deadline_s", deadline_s)
        started_s = time.monotonic()
        capture = Capture(limit_bytes, on_stdout, on_stderr, log=log)
        try:
            read_only = os.O_RDONLY | os.O_CLOEXEC
            stdin_fd = memory_file("stdin", data) if data else os.open(os.devnull, read_only)
            try:
                jail = await keeper.create_jail(program, [stdin_fd, *capture.write_fds])
            finally:
                os.close(stdin_fd)
        except BaseException:
            capture.close()
            raise
        if not until_end:
            capture.close_write_ends()
        process = cls(
            jail,
            capture,
            log,
            command=_shown(command),
            process_id=process_id or ("" if until_end else make_id("proc")),
            session_id=session_id,
            started_s=started_s,
            deadline_s=timeout_s,
        )
        if until_end:
            return process
        try:
            await process._start()
        except NotStartedError as error:
            if plain is None or error.step != "execute":
                raise
        else:
            return process
        # The shell says in its own words, and by its exit code, why there is no such program.
        return await cls.open(
            keeper,
            command,
            env=env,
            stdin=stdin,
            on_stdout=on_stdout,
            on_stderr=on_stderr,
            limit_bytes=limit_bytes,
            deadline_s=deadline_s,
            log=log,
            process_id=process_id,
            session_id=session_id,
            start_cwd=start_cwd,
            by_shell=True,
        )

    async def _start(self) -> None:
        """Waits until it runs; what is left is undone if it does not."""
        try:
            self.pid = await self._jail.wait_started()
        except BaseException:
            self._capture.close()
            await self._jail.aclose()
            raise

    async def run(self) -> None:
        """Reads its output until it has ended; its owner's nursery runs this."""
        try:
            with self._capture:
                if self._deadline_s == math.inf:
                    await self._read_output()
                else:
                    await self._read_output_until_deadline()
                with trio.CancelScope(shield=True):
                    await self._jail.aclose()
                self._capture.mute()
                await self._capture.drain()  # what was not heard of is kept nevertheless
            self._outcome = self._make_outcome(self._jail.exited)
        finally:
            with trio.CancelScope(shield=True):
                await self._jail.aclose()
            self.ended_at = datetime.now(UTC)
            if self._log is not None:
                self._log.end()
            self._done.set()

    async def run_to_end(self) -> CommandResult:
        """As `run`, in the task of the only one who waits for it, and without callbacks.

        The result is there when nothing is left of the jail but its init; `leave` ends that too.

        Raises:
            NotStartedError: It cannot be started.
            SandboxLostError: The jail could not be made.

        Cancellation: ends it and everything it started.
        """
        try:
            with self._capture:
                await self._read_to_end()
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._end_jail()
            raise
        if not self._jail.is_empty:
            await self._jail.aclose()
        if self._killed is None:
            self._jail.check_started()
        return self._make_outcome(self._jail.exited)

    async def leave(self, keeper: jails.Keeper, nursery: trio.Nursery) -> None:
        """After `run_to_end`: has init end too, for which no result has to wait."""
        if self._jail.is_empty and not self._jail.closed:
            try:
                nursery.start_soon(keeper.follow, self._jail)
            except RuntimeError:  # the sandbox is being closed
                await self._jail.aclose()
            else:
                keeper.note_empty(self._jail)

    async def _read_to_end(self) -> None:
        end = _End(self._jail, self._capture)
        left_s = self._deadline_s - (time.monotonic() - self._started_s)
        if left_s == math.inf:  # a cancel scope costs 50 µs here
            await self._capture.read_until(end)
            return
        with trio.move_on_after(max(left_s, 0)) as scope:
            await self._capture.read_until(end)
        if scope.cancelled_caught:
            self._killed = "deadline"
            with trio.CancelScope(shield=True):
                await self._end_jail()
            self._capture.close_write_ends()
            await self._capture.drain()

    async def _read_output(self) -> None:
        with self._scope:
            try:
                await self._capture.read_until_ended(self._jail)
            except Exception as raised:  # noqa: BLE001 - raised again by `wait`
                self._error = raised

    async def _read_output_until_deadline(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_at_deadline)
            await self._read_output()
            nursery.cancel_scope.cancel()

    async def _end_at_deadline(self) -> None:
        """Without waiting for the end, which is `run` itself."""
        await trio.sleep(max(self._deadline_s - (time.monotonic() - self._started_s), 0))
        if self._killed is None:
            self._killed = "deadline"
            with trio.CancelScope(shield=True):
                await self._end_jail()
        await trio.sleep(BREAK_GRACE_S)  # the output is read meanwhile, which ends this task
        self._scope.cancel()  # whoever was called back does not come back

    def _make_outcome(self, exited: Exited | None) -> CommandResult:
        if exited is not None and exited.signal in self._sent_signals:
            self._killed = self._killed or "killed"
        ended: Ended = "sandbox lost"
        if self._killed:
            ended = self._killed
        elif exited is not None:
            ended = "exit" if exited.exit is not None else "signal"
        stdout, stderr = self._capture.streams
        source = "wait4(2)" if exited else "not measured"
        return CommandResult(
            stdout=stdout.kept,
            stderr=stderr.kept,
            exit_code=exited.exit if exited else None,
            signal=exited.signal if exited else None,
            ended=ended,
            out_of_memory=self._ran_out_of_memory(exited),
            stdout_bytes=stdout.total_bytes,
            stderr_bytes=stderr.total_bytes,
            receipt=Receipt(
                wall_s=time.monotonic() - self._started_s,
                user_s=exited.user_us / 1e6 if exited else None,
                system_s=exited.system_us / 1e6 if exited else None,
                peak_memory_bytes=exited.max_rss_bytes if exited else None,
                sources={
                    "wall_s": "CLOCK_MONOTONIC of the control process",
                    "user_s": source,
                    "system_s": source,
                    "peak_memory_bytes": f"{source}, its largest process" if exited else source,
                },
            ),
        )

    def _ran_out_of_memory(self, exited: Exited | None) -> bool:
        if self._killed or exited is None:
            return False
        told = exited.signal == signals.SIGKILL or exited.exit == 128 + signals.SIGKILL
        return told and self._jail.count_memory_kills() > self._memory_kills

    @property
    def status(self) -> Status:
        """How it is, see `Status`."""
        if not self._done.is_set():
            return "running"
        if self._error is not None or self._outcome is None:
            return "error"
        match self._outcome.ended:
            case "killed" | "deadline":
                return "killed"
            case "session lost" | "sandbox lost":
                return "error"
            case _:
                return "completed" if self._outcome.exit_code == 0 else "failed"

    @property
    def exit_code(self) -> int | None:
        """What it exited with, or 128 and the number of the signal that ended it, as in a shell.

        None while it runs, when it was lost, and when it was killed, unless it then exited itself.
        """
        outcome = self._outcome
        if outcome is not None and outcome.ended == "signal" and outcome.signal is not None:
            return 128 + outcome.signal
        return None if outcome is None else outcome.exit_code

    @property
    def out_of_memory(self) -> bool:
        """Whether the kernel ended it because the sandbox had no memory left."""
        return self._outcome is not None and self._outcome.out_of_memory

    @property
    def logs(self) -> Log:
        """What it wrote and writes: `read()`, `follow()`.

        Raises:
            InvalidArgumentError: It was started by `run_process`, whose result has its output.
        """
        if self._log is None:
            raise InvalidArgumentError("logs", "a program in the foreground has none")
        return self._log

    @property
    def result(self) -> CommandResult | None:
        """How it ended, with what its log keeps of its output; None while it runs."""
        if self._outcome is None or self._log is None:
            return self._outcome
        text = self._log.read_now()
        return msgspec.structs.replace(self._outcome, stdout=text.stdout, stderr=text.stderr)

    async def wait(self) -> CommandResult:
        """Waits for its end.

        Raises:
            Exception: What a callback raised; the process was ended then.
            SandboxClosedError: The sandbox was closed meanwhile.

        Cancellation: stops waiting; the process goes on.
        """
        await self._done.wait()
        if self._error is not None:
            raise self._error
        if (result := self.result) is None:
            raise SandboxClosedError("the sandbox was closed while the process ran")
        return result

    async def wait_ended(self) -> None:
        """As `wait`, without a result and whatever became of it."""
        await self._done.wait()

    async def wait_for_log(self, pattern: str | bytes | re.Pattern[Any]) -> LogLine:
        """Waits for a line of its output; what is there already counts.

        Args:
            pattern: Text that the line holds, or a compiled regular expression, which is tried on
                finished lines only. It runs in this process: take it from nobody you do not trust.

        Raises:
            ProcessEndedError: It ended without such a line.

        Cancellation: stops waiting; the process goes on.
        """
        looked_for = LinePattern(pattern)
        found = await find_line(self.logs.follow(), looked_for)
        if found is None:
            await self._done.wait()
            raise ProcessEndedError(self.id, self.exit_code, f"a line with {pattern!r} came")
        return found

    async def kill(
        self, signal: int = signals.SIGKILL, *, grace_s: float = KILL_GRACE_S
    ) -> CommandResult:
        """Ends it and everything it started; when this returns, nothing of it is alive.

        Args:
            signal: What all its processes get first. They may handle it, unless it is SIGKILL.
            grace_s: How long they have then.

        Returns:
            How it ended; as it was, if it had ended before.
        """
        await self.end("killed", signal, grace_s)
        return await self.wait()

    async def end(
        self, why: Ended, signal: int = signals.SIGKILL, grace_s: float = KILL_GRACE_S
    ) -> None:
        """As `kill`, with another word for why and no result."""
        check_signal(signal)
        check_seconds("grace_s", grace_s)
        if not self._done.is_set() and self._killed is None:
            self._killed = why
        if not self._done.is_set() and signal != signals.SIGKILL:
            await self.signal(signal, tree=True)
            with trio.move_on_after(grace_s):
                await self._done.wait()
        if not self._done.is_set():
            # The end of the jail is also the end of the reading, with all that was written.
            with trio.CancelScope(shield=True):
                await self._end_jail()
                with trio.move_on_after(BREAK_GRACE_S):
                    await self._done.wait()
                self._scope.cancel()  # whoever was called back does not come back
        await self._done.wait()

    async def _end_jail(self) -> None:
        """Ends the program first, so that init still says what it used."""
        with contextlib.suppress(SandboxLostError, SandboxClosedError):
            await self._jail.signal(jails.EVERY_PROCESS, signals.SIGKILL)
            with trio.move_on_after(BREAK_GRACE_S):
                await self._jail.wait_exited()
        await self._jail.aclose()

    async def signal(self, number: int, *, tree: bool = False) -> None:
        """Sends a signal, and does not wait for what comes of it.

        Args:
            number: Which.
            tree: To all its processes instead of the program alone; if the program ends by it, its
                status is `killed`.
        """
        check_signal(number)
        if not self._done.is_set():
            if tree:
                self._sent_signals.add(number)
            # It may just have ended.
            with contextlib.suppress(SandboxLostError, SandboxClosedError):
                await self._jail.signal(jails.EVERY_PROCESS if tree else self.pid, number)


def check_signal(number: int) -> None:
    """A number that a process can be sent."""
    if not isinstance(number, int) or not 1 <= number <= 64:
        raise InvalidArgumentError("signal", f"{number!r} is no signal; they go from 1 to 64")


async def run_process(
    keeper: jails.Keeper,
    nursery: trio.Nursery,
    command: str | bytes | Sequence[str | bytes],
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    deadline_s: float | None = None,
    on_stdout: OutputHandler | None = None,
    on_stderr: OutputHandler | None = None,
    limit_bytes: int = OUTPUT_LIMIT_BYTES,
) -> CommandResult:
    """Runs a program in a fresh jail and waits for its end.

    Args:
        keeper: In this sandbox.
        nursery: What owns the reading of its output.
        command: A program with arguments, or text for a shell of its own.
        cwd: Where it runs; `/workspace` by default.
        env: Variables besides the usual ones.
        stdin: What it reads; nothing by default.
        deadline_s: Seconds until it is ended with all it started; None is never.
        on_stdout: Called, and awaited if it returns an awaitable, with each piece as it comes.
        on_stderr: Likewise.
        limit_bytes: How much of each stream its result keeps.

    Raises:
        InvalidArgumentError: An argument cannot mean anything.
        NotStartedError: It cannot be started.

    Cancellation: ends it and everything it started.
    """
    until_end = on_stdout is None and on_stderr is None
    process = await Process.open(
        keeper,
        command,
        cwd=cwd,
        env=env,
        stdin=stdin,
        on_stdout=on_stdout,
        on_stderr=on_stderr,
        limit_bytes=limit_bytes,
        deadline_s=deadline_s,
        until_end=until_end,
    )
    if until_end:
        result = await process.run_to_end()
        await process.leave(keeper, nursery)
        if result.ended == "sandbox lost" and keeper.closed:
            raise SandboxClosedError("the sandbox was closed while the process ran")
        return result
    nursery.start_soon(process.run)
    try:
        return await process.wait()
    except BaseException:
        with trio.CancelScope(shield=True):
            await process.end("killed")
        raise
