"""Processes: programs that run in a jail of their own, in the background."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import signal as signals
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import trio

from sandbox_runtime.capture import Capture
from sandbox_runtime.errors import (
    DeadlineError,
    InvalidArgumentError,
    NotStartedError,
    ProcessEndedError,
    SandboxClosedError,
    SandboxLostError,
)
from sandbox_runtime.jail import EVERY_PROCESS
from sandbox_runtime.jailed import JailedProgram, asked_for, without_shell
from sandbox_runtime.log_lines import LineSearch
from sandbox_runtime.programs import check_bytes, check_seconds, make_id
from sandbox_runtime.settings import BREAK_GRACE_S, KILL_GRACE_S, OUTPUT_LIMIT_BYTES, WORKSPACE

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping, Sequence

    from sandbox_runtime.keeper import Keeper
    from sandbox_runtime.log_lines import LogLine
    from sandbox_runtime.logs import Log
    from sandbox_runtime.messages import Execute
    from sandbox_runtime.output_stream import OutputHandler
    from sandbox_runtime.receipts import CommandResult, Ended

Status = Literal["running", "completed", "failed", "killed", "error"]
"""A process has one from the moment it runs. `completed`: it exited with 0; `failed`:
with another code, or a signal of its own ended it; `killed`: `kill`, its deadline or the end of the
sandbox's block did; `error`: a callback raised, or the sandbox has died."""


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
        keeper: The native process below its sandbox.
        started_at: When it was started (UTC).
        ended_at: When it had ended with all it had started, or None.
    """

    def __init__(
        self,
        program: JailedProgram,
        log: Log | None,
        *,
        keeper: Keeper,
        command: str,
        process_id: str,
        session_id: str | None,
    ) -> None:
        self._program = program
        self._log = log
        self._done = trio.Event()
        self._scope = trio.CancelScope()
        self._error: Exception | None = None
        self._outcome: CommandResult | None = None
        self.keeper = keeper
        self.id = process_id
        self.command = command
        self.session_id = session_id
        self.pid = -1
        self.started_at = datetime.now(UTC)
        self.ended_at: datetime | None = None

    @classmethod
    async def open(
        cls,
        keeper: Keeper,
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
        start_cwd_is_real: bool = True,
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
            start_cwd_is_real: Whether it is known to have no symlinks in it.

        Raises:
            InvalidArgumentError: An argument cannot mean anything.
            NotStartedError: It cannot be started.
        """
        asked = asked_for(command, cwd=cwd, env=env, start_cwd=start_cwd)
        # A directory that somebody names may have symlinks in it, which a shell would look up.
        is_real = cwd is None and start_cwd_is_real
        plain = without_shell(command, env, start_cwd) if is_real else None
        data = check_bytes("stdin", stdin)
        timeout_s = check_seconds("deadline_s", deadline_s)

        async def start(asked: Execute) -> Process:
            capture = Capture(limit_bytes, on_stdout, on_stderr, log=log)
            process = cls(
                await JailedProgram.open(keeper, asked, capture, stdin=data, deadline_s=timeout_s),
                log,
                keeper=keeper,
                command=_shown(command),
                process_id=process_id or make_id("proc"),
                session_id=session_id,
            )
            process.pid = await process._program.wait_started()
            return process

        if plain is not None:
            try:
                return await start(plain)
            except NotStartedError as error:
                if error.step != "execute":
                    raise
        # The shell says in its own words, and by its exit code, that there is no such program.
        return await start(asked)

    async def run(self) -> None:
        """Reads its output until it has ended; its owner's nursery runs this."""
        try:
            with self._program.capture:
                if self._program.deadline_s == math.inf:
                    await self._read_output()
                else:
                    await self._read_output_until_deadline()
                with trio.CancelScope(shield=True):
                    await self._program.jail.aclose()
                self._program.capture.mute()
                await self._program.capture.drain()  # what was not heard of is kept nevertheless
            if self._program.jail.exited is None and self.keeper.closed:
                self._program.why_ended = self._program.why_ended or "killed"
            self._outcome = self._program.outcome()
        finally:
            with trio.CancelScope(shield=True):
                await self._program.jail.aclose()
            if self._outcome is None:  # only the end of the sandbox's block cancels this task
                self._program.why_ended = self._program.why_ended or "killed"
                self._outcome = self._program.outcome()
            self.ended_at = datetime.now(UTC)
            if self._log is not None:
                self._log.end()
            self._done.set()

    async def _read_output(self) -> None:
        with self._scope:
            try:
                await self._program.capture.read_until_ended(self._program.jail)
            except Exception as raised:  # noqa: BLE001 - raised again by `wait`
                self._error = raised

    async def _read_output_until_deadline(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_at_deadline)
            await self._read_output()
            nursery.cancel_scope.cancel()

    async def _end_at_deadline(self) -> None:
        """Without waiting for the end, which is `run` itself."""
        await trio.sleep(self._program.left_s)
        if self._program.why_ended is None:
            self._program.why_ended = "deadline"
            with trio.CancelScope(shield=True):
                await self._program.end()
        await trio.sleep(BREAK_GRACE_S)  # the output is read meanwhile, which ends this task
        self._scope.cancel()  # whoever was called back does not come back

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

    async def wait_for_log(
        self, pattern: str | bytes | re.Pattern[Any], *, deadline_s: float | None = None
    ) -> LogLine:
        """Waits for a line of its output; what is there already counts.

        Args:
            pattern: Text that the line holds, or a compiled regular expression, which is tried on
                finished lines only. It runs in this process: take it from nobody you do not trust.
            deadline_s: Seconds until it is given up; the process goes on. Never by default.

        Raises:
            DeadlineError: No such line came in time.
            ProcessEndedError: It ended without such a line.

        Cancellation: stops waiting; the process goes on.
        """
        search = LineSearch(pattern)
        with trio.move_on_after(check_seconds("deadline_s", deadline_s)):
            async for chunk in self.logs.follow():
                if found := search.take(chunk.stream, chunk.data):
                    return found
            if found := search.end():
                return found
            await self._done.wait()
            raise ProcessEndedError(self.id, self.exit_code, f"a line with {pattern!r} came")
        what = f"process {self.id!r} wrote no line with {pattern!r} in {deadline_s:g} s"
        remedy = "Give it more with deadline_s; `logs` has what it wrote"
        raise DeadlineError(what, remedy=remedy)

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
        if not self._done.is_set() and self._program.why_ended is None:
            self._program.why_ended = why
        if not self._done.is_set() and signal != signals.SIGKILL:
            await self.signal(signal, tree=True)
            with trio.move_on_after(grace_s):
                await self._done.wait()
        if not self._done.is_set():
            # The end of the jail is also the end of the reading, with all that was written.
            with trio.CancelScope(shield=True):
                await self._program.end()
                with trio.move_on_after(BREAK_GRACE_S):
                    await self._done.wait()
                self._scope.cancel()  # whoever was called back does not come back
        await self._done.wait()

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
                self._program.sent_signals.add(number)
            # It may just have ended.
            with contextlib.suppress(SandboxLostError, SandboxClosedError):
                await self._program.jail.signal(EVERY_PROCESS if tree else self.pid, number)


def check_signal(number: int) -> None:
    """A number that a process can be sent."""
    if not isinstance(number, int) or not 1 <= number <= 64:
        raise InvalidArgumentError("signal", f"{number!r} is no signal; they go from 1 to 64")
