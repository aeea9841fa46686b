"""Runs a Python script in a code context, so that it feels like `python FILE` and shows more."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.cli.failures import OWN_FAILURE, say
from sandbox_runtime.cli.outcomes import Outcome, exit_number, outcome_of_execution

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sandbox_runtime.cli.options import Options
    from sandbox_runtime.cli.printing import Streams
    from sandbox_runtime.interpreters.execution import Execution, Result
    from sandbox_runtime.sandbox import Sandbox

_STDIN_FILE = "/tmp/.standard-input"
_IMAGES = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}

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
        return Outcome(OWN_FAILURE, {}, f"the interpreter could not be prepared: {why}")
    show = _Show(streams, figures)
    started_s = trio.current_time()
    execution = await context.run(
        source,
        deadline_s=options.deadline_s,
        on_result=show if figures is not None or not options.as_json else None,
        **streams.handlers(),
    )
    rest: Execution | None = None
    if execution.ended in {"ok", "error"} and execution.state_survived:
        await _show_error(execution, streams)
        left_s = None
        if options.deadline_s is not None:
            left_s = max(0.01, options.deadline_s - (trio.current_time() - started_s))
        rest = await context.run(_EPILOGUE, deadline_s=left_s, **streams.handlers())
    return outcome_of_execution(execution, rest)


class _Show:
    """Shows results: saves or names the images, prints the others as text."""

    def __init__(self, streams: Streams, figures: Path | None) -> None:
        self._streams = streams
        self._figures = figures
        self._images = 0

    async def __call__(self, result: Result) -> None:
        for mime, ending in _IMAGES.items():
            if image := _image(result, mime):
                self._images += 1
                note = f"a figure was shown ({len(image)} bytes of {mime}); --figures DIR keeps it"
                if self._figures is not None:
                    path = trio.Path(self._figures) / f"figure-{self._images}.{ending}"
                    await path.write_bytes(image)
                    note = f"{path} ({len(image)} bytes)"
                say(note)
                return
        if isinstance(text := result.data.get("text/plain"), str):
            await self._streams.stdout.write(_line(text))


def _image(result: Result, mime: str) -> bytes:
    """The image, if it is one: what a context says is as untrusted as the rest of it."""
    data = result.data.get(mime)
    if not isinstance(data, str):
        return b""
    if mime.endswith("xml"):
        return data.encode(errors="backslashreplace")
    try:
        return base64.b64decode(data)
    except ValueError:
        return b""


async def _show_error(execution: Execution, streams: Streams) -> None:
    """As the interpreter would: a traceback, or the text that sys.exit was given."""
    error = execution.error
    if error is None or streams.as_json:
        return
    text = error.traceback
    if error.name == "SystemExit":
        if exit_number(error.value) is not None:
            return
        text = error.value
    await streams.stderr.write(_line(text))


def _line(text: str) -> bytes:
    return f"{text}\n".encode(errors="backslashreplace")
