"""Runs one cell in a context of a fresh sandbox, and others in branches of what it has made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from sandbox_runtime.cli.failures import say
from sandbox_runtime.cli.outcomes import outcome_of_execution
from sandbox_runtime.cli.showing import Show, show_error
from sandbox_runtime.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sandbox_runtime.cli.options import Options
    from sandbox_runtime.cli.outcomes import Outcome
    from sandbox_runtime.cli.printing import Streams
    from sandbox_runtime.interpreters.contexts import Context
    from sandbox_runtime.interpreters.execution import Execution
    from sandbox_runtime.sandbox import Sandbox

_BRANCH_OUTPUT_BYTES = 8 * 1024 * 1024
"""How much is kept of what a branch prints until it is its turn to be shown."""


async def run_cell(
    sandbox: Sandbox,
    source: str,
    language: str,
    options: Options,
    streams: Streams,
    figures: Path | None,
    *,
    branches: Sequence[str] = (),
) -> Outcome:
    """Runs a cell and shows what it gives; if it ends well, runs the branches and shows theirs."""
    context = await sandbox.create_code_context(language, cwd=options.cwd, env=options.env)
    show = Show(streams, figures)
    shown = figures is not None or not options.as_json
    execution = await context.run(
        source,
        deadline_s=options.deadline_s,
        on_result=show if shown else None,
        **streams.handlers(),
    )
    await show_error(execution, streams)
    outcome = outcome_of_execution(execution, None)
    if not branches or outcome.status != 0:
        return outcome
    outcome.record["branches"] = []
    copies = await context.fork(len(branches))
    failure: SandboxError | OSError | None = None
    async with trio.open_nursery() as nursery:
        runs = [_BranchRun(copy, text) for copy, text in zip(copies, branches, strict=True)]
        for run in runs:
            nursery.start_soon(run.run, options.deadline_s)
        try:
            for number, run in enumerate(runs, 1):
                await run.over.wait()
                if run.failure is not None:
                    raise run.failure
                assert run.execution is not None
                branch = outcome_of_execution(run.execution, None)
                if not options.as_json:
                    say(f"branch {number} of {len(runs)}: {run.text}")
                await _show(run.execution, streams, show if shown else None)
                if branch.note:
                    say(branch.note)
                outcome.record["branches"].append({"code": run.text} | branch.record)
                outcome.status = outcome.status or branch.status
        except (SandboxError, OSError) as error:
            failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure  # plain, not in a group
    return outcome


class _BranchRun:
    """A cell in a branch, on its way.

    Attributes:
        text: The cell.
        execution: How it ended, once it is over.
        failure: Why it could not run to its end, instead.
        over: Set then.
    """

    def __init__(self, context: Context, text: str) -> None:
        self._context = context
        self.text = text
        self.execution: Execution | None = None
        self.failure: SandboxError | OSError | None = None
        self.over = trio.Event()

    async def run(self, deadline_s: float | None) -> None:
        try:
            self.execution = await self._context.run(
                self.text, deadline_s=deadline_s, limit_bytes=_BRANCH_OUTPUT_BYTES
            )
        except (SandboxError, OSError) as error:
            self.failure = error
        self.over.set()


async def _show(execution: Execution, streams: Streams, show: Show | None) -> None:
    """Shows what a branch gave, as if it had run just now."""
    if not streams.as_json:
        await streams.stdout.write(execution.stdout)
        await streams.stderr.write(execution.stderr)
        if execution.truncated:
            say(f"it printed or showed more than the {_BRANCH_OUTPUT_BYTES} bytes that are kept")
    if show is not None:
        for result in execution.results:
            await show(result)
    await show_error(execution, streams)
