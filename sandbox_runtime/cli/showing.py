"""Shows what a run of code gave: values as text, figures as files, an error as a traceback."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.cli.failures import say
from sandbox_runtime.cli.outcomes import exit_number

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox_runtime.cli.printing import Streams
    from sandbox_runtime.interpreters.execution import Execution, Result

_IMAGES = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}


class Show:
    """Shows results: saves or names the images, prints the others as text."""

    def __init__(self, streams: Streams, figures: Path | None) -> None:
        self._streams = streams
        self._figures = figures
        self._images = 0

    async def __call__(self, result: Result) -> None:
        for mime, ending in _IMAGES.items():
            if image := _image(result, mime):
                self._images += 1
                note = f"a figure is open ({len(image)} bytes of {mime}); --figures DIR keeps it"
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


async def show_error(execution: Execution, streams: Streams) -> None:
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
