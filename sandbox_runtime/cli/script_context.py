"""Runs a Python script in a code context, so that it feels like `python FILE` and shows more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from sandbox_runtime.choices import PYTHON_MEMORY_BYTES, PYTHON_MEMORY_REMEDY
from sandbox_runtime.cli.failures import OWN_FAILURE
from sandbox_runtime.cli.outcomes import Outcome, outcome_of_execution
from sandbox_runtime.cli.showing import Show, show_error

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sandbox_runtime.cli.options import Options
    from sandbox_runtime.cli.printing import Streams
    from sandbox_runtime.interpreters.execution import Execution
    from sandbox_runtime.sandbox import Sandbox

_STDIN_FILE = "/tmp/.standard-input"

_PROLOGUE = """
def _begin(path, argv, stdin):
    import builtins, os, sys
    sys.argv[:] = argv
    sys.path[0] = os.path.dirname(path)
    get_ipython().user_ns["__file__"] = path
    get_ipython().compile.format_code_name = lambda name: ("File", '"' + path + '"')
    if stdin:
        fd = os.open(stdin, os.O_RDONLY)
        os.unlink(stdin)
        os.dup2(fd, 0)
        os.close(fd)
        def input(prompt="", /):
            print(prompt, end="", flush=True)
            if not (line := sys.stdin.readline()):
                raise EOFError("EOF when reading a line")
            return line.removesuffix("\\n")
        builtins.input = input
_begin(*{arguments})
del _begin
"""
"""Makes a context what a script expects."""

_EPILOGUE = """
def _finish():
    import atexit, threading
    while waited := [
        thread
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and not thread.daemon
    ]:
        for thread in waited:
            thread.join()
    atexit._run_exitfuncs()
_finish()
"""
"""What an interpreter does when its script is over."""


async def run_in_context(
    sandbox: Sandbox,
    source: str,
    argv: Sequence[str],
    options: Options,
    stdin: bytes,
    streams: Streams,
    figures: Path | None,
) -> Outcome:
    """Runs a script, of which `argv` has the path inside and the arguments."""
    context = await sandbox.create_code_context(cwd=options.cwd, env=options.env)
    if stdin:
        await sandbox.files.write(_STDIN_FILE, stdin)
    arguments = (argv[0], list(argv), _STDIN_FILE if stdin else "")
    prologue = await context.run(_PROLOGUE.replace("{arguments}", ascii(arguments)))
    if prologue.ended != "ok":
        why = prologue.error.traceback if prologue.error else prologue.ended
        limit_bytes = options.memory_bytes
        if prologue.death and limit_bytes is not None and limit_bytes < PYTHON_MEMORY_BYTES:
            why += f", probably for want of memory. {PYTHON_MEMORY_REMEDY}"
        return Outcome(OWN_FAILURE, {}, f"the interpreter could not be prepared: {why}")
    show = Show(streams, figures)
    started_s = trio.current_time()
    execution = await context.run(
        source,
        deadline_s=options.deadline_s,
        on_result=show if figures is not None or not options.as_json else None,
        **streams.handlers(),
    )
    rest: Execution | None = None
    if execution.ended in {"ok", "error"} and execution.state_survived:
        await show_error(execution, streams)
        left_s = None
        if options.deadline_s is not None:
            left_s = max(0.01, options.deadline_s - (trio.current_time() - started_s))
        rest = await context.run(_EPILOGUE, deadline_s=left_s, **streams.handlers())
    return outcome_of_execution(execution, rest)
