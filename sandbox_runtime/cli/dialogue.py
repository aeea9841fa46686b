"""A dialogue with a context on a terminal: cells are typed, what they give is shown.

The terminal stays as it is: the kernel edits the line, and no thread waits for one. Ctrl-C is a
signal, which interrupts the cell that runs, or drops the one that is being typed. A line with a
colon in front is for us: branches are made and changed with it.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.cli.branches import Branches
from sandbox_runtime.cli.failures import say
from sandbox_runtime.cli.outcomes import Outcome, outcome_of_execution
from sandbox_runtime.cli.showing import Show, show_error
from sandbox_runtime.interpreters.cells import is_whole

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox_runtime.cli.options import Options
    from sandbox_runtime.cli.printing import Streams
    from sandbox_runtime.interpreters.execution import Execution
    from sandbox_runtime.sandbox import Sandbox

_LINE_BYTES = 64 * 1024
_PROMPTS = {"python": b">>> ", "javascript": b"js> ", "typescript": b"ts> "}
_MORE = b"... "


class Dialogue:
    """One context, one terminal.

    Args:
        language: What the context speaks.
        options: Those of the command; the time limit is that of each cell.
        figures: A directory for the figures that are shown.
        ready_branches: How many copies of the state to keep ready.
    """

    def __init__(
        self, language: str, options: Options, figures: Path | None, *, ready_branches: int = 0
    ) -> None:
        self._language = language
        self._options = options
        self._figures = figures
        self._ready_branches = ready_branches
        self._branches: Branches | None = None
        self._reading: trio.CancelScope | None = None

    def interrupt(self) -> bool:
        """Ctrl-C: ends the cell that runs, or drops what was typed. False before it has begun."""
        if self._branches is None:
            return False
        if self._reading is not None:
            self._reading.cancel()
        else:
            self._branches.context.interrupt()
        return True

    async def hold(self, sandbox: Sandbox, streams: Streams) -> Outcome:
        """Runs cell after cell until the input ends or the interpreter exits."""
        options = self._options
        context = await sandbox.create_code_context(
            self._language,
            cwd=options.cwd,
            env=options.env,
            ready_branches=self._ready_branches,
        )
        self._branches = branches = Branches(context)
        keys = "Ctrl-C interrupts, Ctrl-D ends"
        if self._language == "python":
            keys += ", :branch tries something on a copy"
        files = "of your files only the Python environment, read-only"
        say(f"{self._language} in a sandbox: no network, {files}. {keys}.")
        show = Show(streams, self._figures)
        while (cell := await self._read_cell(streams)) is not None:
            if not cell.strip():
                continue
            if cell.startswith(":"):
                await branches.obey(cell)
                continue
            context = branches.context
            execution = await context.run(
                cell, deadline_s=options.deadline_s, on_result=show, **streams.handlers()
            )
            if _exits(execution):
                await show_error(execution, streams)
                return outcome_of_execution(execution, None)
            await _tell_end(execution, streams)
            if context.lost:
                await context.restart()
        await streams.stdout.write(b"\n")
        return Outcome(0, {})

    async def _read_cell(self, streams: Streams) -> str | None:
        """The lines up to the end of a cell; None at the end of the input."""
        lines: list[str] = []
        while True:
            assert self._branches is not None
            prompt = self._branches.prefix + _PROMPTS[self._language]
            await streams.stdout.write(_MORE if lines else prompt)
            line = None
            with trio.CancelScope() as self._reading:
                line = await _read_line()
            if self._reading.cancelled_caught:
                self._reading = None
                lines.clear()
                await streams.stdout.write(b"\n")
                continue
            self._reading = None
            if not line:
                return None
            lines.append(line.decode(errors="replace"))
            if is_whole(self._language, "".join(lines)):
                return "".join(lines)


async def _read_line() -> bytes:
    """What the terminal hands over when Enter is pressed; nothing at Ctrl-D."""
    await trio.lowlevel.wait_readable(0)
    try:
        return os.read(0, _LINE_BYTES)
    except OSError as error:
        if error.errno == errno.EIO:  # the terminal was closed
            return b""
        raise


def _exits(execution: Execution) -> bool:
    """Whether the code asked for the end: `exit()`, `process.exit()`."""
    if execution.error is not None and execution.error.name == "SystemExit":
        return True
    return execution.death is not None and execution.death.cause == "exit"


async def _tell_end(execution: Execution, streams: Streams) -> None:
    """Says what is out of the ordinary."""
    await show_error(execution, streams)
    match execution.ended:
        case "ok" | "error":
            return
        case "deadline":
            why = "the deadline ended the cell (--timeout)"
        case "interrupted":
            why = "interrupted"
        case _:
            why = outcome_of_execution(execution, None).note or "the interpreter is gone"
    kept = "the variables are kept" if execution.state_survived else "the variables are lost"
    say(f"{why}; {kept}")
