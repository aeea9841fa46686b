"""Programs in the foreground: run in a fresh jail, and waited for to their end."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.capture import Capture
from sandbox_runtime.errors import SandboxClosedError
from sandbox_runtime.jailed import JailedProgram, asked_for
from sandbox_runtime.processes import Process
from sandbox_runtime.programs import check_bytes, check_seconds
from sandbox_runtime.settings import OUTPUT_LIMIT_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sandbox_runtime.jail import Jail
    from sandbox_runtime.keeper import Keeper
    from sandbox_runtime.output_stream import OutputHandler
    from sandbox_runtime.receipts import CommandResult


async def run_process(
    keeper: Keeper,
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
    if on_stdout is None and on_stderr is None:
        asked = asked_for(command, cwd=cwd, env=env, until_end=True)
        data = check_bytes("stdin", stdin)
        timeout_s = check_seconds("deadline_s", deadline_s)
        program = await JailedProgram.open(
            keeper, asked, Capture(limit_bytes), stdin=data, deadline_s=timeout_s
        )
        result = await _run_to_end(program)
        await _leave(program.jail, keeper, nursery)
        if result.ended == "sandbox lost" and keeper.closed:
            raise SandboxClosedError("the sandbox was closed while the process ran")
        return result
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
    )
    nursery.start_soon(process.run)
    try:
        result = await process.wait()
    except BaseException:
        with trio.CancelScope(shield=True):
            await process.end("killed")
        raise
    if result.ended == "killed":  # nobody else has it, to kill it
        raise SandboxClosedError("the sandbox was closed while the process ran")
    return result


async def _run_to_end(program: JailedProgram) -> CommandResult:
    """Waits for a program's end, or brings it about at its deadline, and says how it ended.

    It reads what the program writes meanwhile, in the task of the only one who waits for it: there
    are no callbacks. The result is there when nothing is left of the jail but its init; `_leave`
    ends that too.

    Raises:
        NotStartedError: It cannot be started.
        SandboxLostError: The jail could not be made.

    Cancellation: ends it and everything it started.
    """
    try:
        with program.capture:
            await _read_to_end(program)
    except BaseException:
        with trio.CancelScope(shield=True):
            await program.end()
        raise
    if not program.jail.is_empty:
        await program.jail.aclose()
    if program.why_ended is None:
        program.jail.check_started()
    return program.outcome()


async def _leave(jail: Jail, keeper: Keeper, nursery: trio.Nursery) -> None:
    """After `_run_to_end`: has init end too, for which no result has to wait."""
    if jail.is_empty and not jail.closed:
        try:
            nursery.start_soon(keeper.follow, jail)
        except RuntimeError:  # the sandbox is being closed
            await jail.aclose()
        else:
            keeper.note_empty(jail)


async def _read_to_end(program: JailedProgram) -> None:
    end = _End(program.jail, program.capture)
    if program.deadline_s == math.inf:  # a cancel scope costs 50 µs here
        await program.capture.read_until(end)
        return
    with trio.move_on_after(program.left_s) as scope:
        await program.capture.read_until(end)
    if scope.cancelled_caught:
        program.why_ended = "deadline"
        with trio.CancelScope(shield=True):
            await program.end()
        program.capture.close_write_ends()
        await program.capture.drain()


class _End:
    """The end of a jail's program, with all that it has started."""

    def __init__(self, jail: Jail, capture: Capture) -> None:
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
