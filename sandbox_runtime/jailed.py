"""A program in a jail of its own: what was asked for, its start, and how it ended."""

from __future__ import annotations

import contextlib
import math
import os
import signal as signals
import time
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.channel import memory_file
from sandbox_runtime.errors import SandboxClosedError, SandboxLostError
from sandbox_runtime.jail import EVERY_PROCESS, Jail
from sandbox_runtime.messages import Execute, encode_env
from sandbox_runtime.plain_commands import shell_variables, words_without_shell
from sandbox_runtime.programs import check_argv, check_cwd, check_env, check_text
from sandbox_runtime.receipts import CommandResult, Ended, Receipt
from sandbox_runtime.settings import BREAK_GRACE_S, DEFAULT_ENV, WORKSPACE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox_runtime.capture import Capture
    from sandbox_runtime.keeper import Keeper
    from sandbox_runtime.messages import Exited


def asked_for(
    command: str | bytes | Sequence[str | bytes],
    *,
    cwd: str | None,
    env: Mapping[str, str] | None,
    start_cwd: str = WORKSPACE,
    until_end: bool = False,
) -> Execute:
    """What is to be executed: text by a shell of its own.

    Args:
        command: A program with arguments, or text for a shell.
        cwd: Where it runs.
        env: Variables besides the usual ones.
        start_cwd: What a relative `cwd` is relative to, and the directory without one.
        until_end: Whether nobody waits for its start.

    Raises:
        InvalidArgumentError: An argument cannot mean anything.
    """
    if isinstance(command, (str, bytes)):
        argv: tuple[bytes, ...] = (b"bash", b"-c", check_text("command", command))
    else:
        argv = check_argv("command", command)
    return Execute(
        argv=argv,
        env=encode_env(DEFAULT_ENV | check_env(env)),
        cwd=os.fsencode(check_cwd(cwd, start_cwd)),
        until_end=until_end,
    )


def without_shell(
    command: str | bytes | Sequence[str | bytes], env: Mapping[str, str] | None, cwd: str
) -> Execute | None:
    """The program that a shell would only become, if that is all that text asks for.

    Args:
        command: As it was asked for.
        env: Variables besides the usual ones.
        cwd: Where it runs, without symlinks.
    """
    if not isinstance(command, (str, bytes)):
        return None
    variables = DEFAULT_ENV | check_env(env)
    words = words_without_shell(check_text("command", command), variables)
    if words is None:
        return None
    variables |= shell_variables(cwd)
    return Execute(argv=words, env=encode_env(variables), cwd=os.fsencode(cwd))


class JailedProgram:
    """A program that was asked for in a jail of its own, and what it writes.

    Attributes:
        jail: Where it runs.
        capture: What reads its output.
        deadline_s: Seconds from its start until it is to be ended.
        why_ended: `killed` or `deadline`, once it is one of these.
        sent_signals: What all its processes were sent; if it ends by one, it was killed.
    """

    def __init__(self, jail: Jail, capture: Capture, started_s: float, deadline_s: float) -> None:
        self.jail = jail
        self.capture = capture
        self.deadline_s = deadline_s
        self.why_ended: Ended | None = None
        self.sent_signals: set[int] = set()
        self._started_s = started_s
        self._memory_kills = jail.count_memory_kills()

    @classmethod
    async def open(
        cls,
        keeper: Keeper,
        program: Execute,
        capture: Capture,
        *,
        stdin: memoryview,
        deadline_s: float,
    ) -> JailedProgram:
        """Asks for it; returns before it runs, see `wait_started`.

        Args:
            keeper: In this sandbox.
            program: What to execute.
            capture: What reads its output; closed if the jail cannot be asked for.
            stdin: What it reads.
            deadline_s: Seconds until it is to be ended.
        """
        started_s = time.monotonic()
        try:
            read_only = os.O_RDONLY | os.O_CLOEXEC
            stdin_fd = memory_file("stdin", stdin) if stdin else os.open(os.devnull, read_only)
            try:
                jail = await keeper.create_jail(program, [stdin_fd, *capture.write_fds])
            finally:
                os.close(stdin_fd)
        except BaseException:
            capture.close()
            raise
        if not program.until_end:
            capture.close_write_ends()
        return cls(jail, capture, started_s, deadline_s)

    @property
    def left_s(self) -> float:
        """How long it has until its deadline."""
        if self.deadline_s == math.inf:
            return math.inf
        return max(self.deadline_s - (time.monotonic() - self._started_s), 0)

    async def wait_started(self) -> int:
        """Waits until it runs; returns its number in its jail.

        Raises:
            NotStartedError: It cannot be started; nothing of it is left then.
        """
        try:
            return await self.jail.wait_started()
        except BaseException:
            self.capture.close()
            await self.jail.aclose()
            raise

    async def end(self) -> None:
        """Ends it with all that it has started; init says before what the program used."""
        with contextlib.suppress(SandboxLostError, SandboxClosedError):
            await self.jail.signal(EVERY_PROCESS, signals.SIGKILL)
            with trio.move_on_after(BREAK_GRACE_S):
                await self.jail.wait_exited()
        await self.jail.aclose()

    def outcome(self) -> CommandResult:
        """How it ended, and what it has written."""
        exited = self.jail.exited
        if exited is not None and exited.signal in self.sent_signals:
            self.why_ended = self.why_ended or "killed"
        ended: Ended = "sandbox lost"
        if self.why_ended:
            ended = self.why_ended
        elif exited is not None:
            ended = "exit" if exited.exit is not None else "signal"
        stdout, stderr = self.capture.streams
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
        if self.why_ended or exited is None:
            return False
        told = exited.signal == signals.SIGKILL or exited.exit == 128 + signals.SIGKILL
        return told and self.jail.count_memory_kills() > self._memory_kills
