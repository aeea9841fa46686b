"""Runs one cell in a context of a fresh sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_runtime.cli.outcomes import outcome_of_execution
from sandbox_runtime.cli.showing import Show, show_error

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox_runtime.cli.options import Options
    from sandbox_runtime.cli.outcomes import Outcome
    from sandbox_runtime.cli.printing import Streams
    from sandbox_runtime.sandbox import Sandbox


async def run_cell(
    sandbox: Sandbox,
    source: str,
    language: str,
    options: Options,
    streams: Streams,
    figures: Path | None,
) -> Outcome:
    """Runs a cell and shows what it gives."""
    context = await sandbox.create_code_context(language, cwd=options.cwd, env=options.env)
    execution = await context.run(
        source,
        deadline_s=options.deadline_s,
        on_result=Show(streams, figures) if figures is not None or not options.as_json else None,
        **streams.handlers(),
    )
    await show_error(execution, streams)
    return outcome_of_execution(execution, None)
