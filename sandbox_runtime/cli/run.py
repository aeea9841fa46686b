"""One run: from its sandbox, with signals obeyed meanwhile, to our exit status."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.choices import PYTHON_MEMORY_BYTES, PYTHON_MEMORY_REMEDY
from sandbox_runtime.cli.failures import (
    OWN_FAILURE,
    SIGNAL,
    failure_record,
    failure_status,
    say,
)
from sandbox_runtime.cli.outcomes import outcome_of_command, report_record
from sandbox_runtime.cli.printing import Streams
from sandbox_runtime.cli.transfer import copy_in, copy_out
from sandbox_runtime.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from sandbox_runtime.cli.options import Options
    from sandbox_runtime.cli.outcomes import Outcome
    from sandbox_runtime.sandbox import Sandbox

    Start = Callable[[Sandbox, Streams], Awaitable[Outcome]]
    """Runs something in a sandbox that is there."""


class _Stop:
    """Ends the run before its time, with an exit status."""

    def __init__(self, *, as_json: bool, interrupt: Callable[[], bool] | None) -> None:
        self._interrupt = interrupt
        self.status: int | None = None
        self.scope = trio.CancelScope()
        self.streams = Streams(self, as_json=as_json)

    def __call__(self, status: int) -> None:
        if self.status is None:
            self.status = status
        self.streams.give_up()
        self.scope.cancel()

    async def obey(self, signals: AsyncIterator[int]) -> None:
        """Stops at the first signal that is no interrupt for somebody else."""
        async for number in signals:
            if number == signal.SIGINT and self._interrupt is not None and self._interrupt():
                continue
            self(SIGNAL + number)
            return


def supervise(
    options: Options, start: Start, *, interrupt: Callable[[], bool] | None = None
) -> int:
    """Runs something in a fresh sandbox and gives our exit status; signals end it.

    Args:
        options: Those of the command.
        start: Runs it.
        interrupt: Asked first when SIGINT comes; if it answers that it took it, the run goes on.
    """
    # Who was started with a signal ignored, as by nohup, goes on ignoring it.
    endings = [
        number
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN
    ]

    async def supervised() -> int:
        stop = _Stop(as_json=options.as_json, interrupt=interrupt)
        status = OWN_FAILURE
        with trio.open_signal_receiver(*endings) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop.obey, signals)
                with stop.scope:
                    status = await _run_in_sandbox(options, start, stop.streams)
                nursery.cancel_scope.cancel()
        return status if stop.status is None else stop.status

    return trio.run(supervised)


async def _run_in_sandbox(options: Options, start: Start, streams: Streams) -> int:
    # They take a while to load; here a signal that comes meanwhile is answered like any other.
    from sandbox_runtime.sandbox import open_sandbox
    from sandbox_runtime.settings import Limits

    limits = Limits()
    if options.memory_bytes is not None:
        limits = Limits(memory_bytes=options.memory_bytes)
    try:
        async with open_sandbox(limits=limits, require=options.require, python_pool=0) as sandbox:
            for item in options.copy_in:
                await copy_in(sandbox, item)
            outcome = await start(sandbox, streams)
            copied = [await copy_out(sandbox, item) for item in options.copy_out]
            outcome.record["report"] = report_record(sandbox.report)
    except (SandboxError, OSError) as error:
        say(str(error))
        await streams.print_json(failure_record(error))
        return failure_status(error)
    outcome.record["outputs"] = copied
    if note := _with_memory(outcome, limits.memory_bytes):
        say(note)
    for output in copied:
        for note in (output["error"], *output["skipped"]):
            if note:
                say(f"--out {output['path']}: {note}")
    if outcome.status == 0 and any(output["error"] for output in copied):
        outcome.status = OWN_FAILURE
    await streams.print_json(outcome.record)
    return outcome.status


def _with_memory(outcome: Outcome, limit_bytes: int) -> str:
    """What is to be said, with a word on memory if there is so little that it may be the reason."""
    if limit_bytes >= PYTHON_MEMORY_BYTES or PYTHON_MEMORY_REMEDY in outcome.note:
        return outcome.note
    if outcome.status < OWN_FAILURE:  # the program's own, or the deadline's
        return outcome.note
    note = outcome.note or f"the program ended with status {outcome.status}"
    if "want of memory" not in note:
        note += ", perhaps for want of memory"
    return f"{note}. {PYTHON_MEMORY_REMEDY}"


async def run_process(
    sandbox: Sandbox,
    argv: Sequence[str],
    options: Options,
    stdin: bytes,
    streams: Streams,
) -> Outcome:
    """Runs a program: what `exec` does, and `run` with a script that needs no context."""
    result = await sandbox.run_process(
        argv,
        cwd=options.cwd,
        env=options.env,
        stdin=stdin,
        deadline_s=options.deadline_s,
        **streams.handlers(),
    )
    return outcome_of_command(result)
