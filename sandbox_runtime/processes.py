"""Processes: programs that run in the background, each in a jail of its own."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import trio

from sandbox_runtime import jail as jails
from sandbox_runtime.capture import Capture
from sandbox_runtime.errors import SandboxClosedError, SandboxLostError
from sandbox_runtime.programs import check_argv, check_bytes, check_cwd, check_env, check_text
from sandbox_runtime.receipts import CommandResult, Ended, Receipt
from sandbox_runtime.settings import BREAK_GRACE_S, DEFAULT_ENV, OUTPUT_LIMIT_BYTES, WORKSPACE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox_runtime.capture import OutputHandler


class Process:
    """A program in a jail of its own: when it ends, whatever it started ends too.

    `Sandbox.start_process` makes it; it ends by itself, by `kill`, or with the sandbox.

    Attributes:
        pid: Its number in its jail.
        result: How it ended, or None while it runs.
    """

    def __init__(
        self,
        jail: jails.Jail,
        capture: Capture,
        started_s: float,
    ) -> None:
        self._jail = jail
        self._capture = capture
        self._started_s = started_s
        self._done = trio.Event()
        self._killed: Ended | None = None
        self._scope = trio.CancelScope()
        self._error: Exception | None = None
        self.pid = -1
        self.result: CommandResult | None = None

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
    ) -> Process:
        """Starts a program; somebody has to `run` it from here on.

        Raises:
            InvalidArgumentError: An argument cannot mean anything.
            NotStartedError: It cannot be started.
        """
        if isinstance(command, (str, bytes)):
            argv: tuple[bytes, ...] = (b"bash", b"-c", check_text("command", command))
        else:
            argv = check_argv("command", command)
        program = jails.Execute(
            argv=argv,
            env=jails.encode_env(DEFAULT_ENV | check_env(env)),
            cwd=os.fsencode(check_cwd(cwd, WORKSPACE)),
        )
        data = check_bytes("stdin", stdin)
        started_s = time.monotonic()
        capture = Capture(limit_bytes, on_stdout, on_stderr)
        try:
            with open(
                jails.memory_file("stdin", data) if data else os.devnull, "rb", buffering=0
            ) as stdin_file:
                fds = [stdin_file.fileno(), *capture.write_fds]
                jail = await keeper.create_jail(program, fds)
        except BaseException:
            capture.close()
            raise
        capture.close_write_ends()
        process = cls(jail, capture, started_s)
        try:
            process.pid = await jail.wait_started()
        except BaseException:
            capture.close()
            await jail.aclose()
            raise
        return process

    async def run(self) -> None:
        """Reads its output until it has ended; its owner's nursery runs this."""
        try:
            with self._capture:
                with self._scope:
                    try:
                        await self._capture.read_until_ended(self._jail)
                    except Exception as raised:  # noqa: BLE001 - raised again by `wait`
                        self._error = raised
                with trio.CancelScope(shield=True):
                    await self._jail.aclose()
                self._capture.mute()
                await self._capture.drain()  # what was not heard of is kept nevertheless
            self.result = self._make_result(self._jail.exited)
        finally:
            with trio.CancelScope(shield=True):
                await self._jail.aclose()
            self._done.set()

    def _make_result(self, exited: jails.Exited | None) -> CommandResult:
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
            exit_code=exited.exit if exited and not self._killed else None,
            signal=exited.signal if exited else None,
            ended=ended,
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
        if self.result is None:
            raise SandboxClosedError("the sandbox was closed while the process ran")
        return self.result

    async def kill(self) -> CommandResult:
        """Ends it and everything it started; when this returns, nothing of it is alive."""
        return await self.end("killed")

    async def end(self, why: Ended) -> CommandResult:
        """As `kill`, with another word for why."""
        if not self._done.is_set() and self._killed is None:
            self._killed = why
            # The end of the jail is also the end of the reading, with all that was written.
            with trio.CancelScope(shield=True):
                await self._usage_then_close()
                with trio.move_on_after(BREAK_GRACE_S):
                    await self._done.wait()
                self._scope.cancel()  # whoever was called back does not come back
        return await self.wait()

    async def _usage_then_close(self) -> None:
        """Ends the program first, so that init still says what it used."""
        with contextlib.suppress(SandboxLostError, SandboxClosedError):
            await self._jail.sweep(spare=(), keep=(), since_ticks=0)
            await self._jail.wait_exited()
        await self._jail.aclose()

    async def signal(self, number: int) -> None:
        """Sends a signal to the program alone."""
        if not self._done.is_set():
            # It may just have ended.
            with contextlib.suppress(SandboxLostError, SandboxClosedError):
                await self._jail.signal(self.pid, number)
