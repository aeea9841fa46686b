"""What one cell prints and shows, on its way to the front ends.

Theory of operation. What is printed is held for a few milliseconds, so that a program that prints
byte by byte makes hundreds of messages a second and not a hundred thousand; servers of notebooks
throw away what is more than a thousand. The first line goes at once; the beginning of a line waits
a little for its end, which a program may write apart. What is shown is held likewise and goes at
once, after what was printed before it. Nothing leaves what is held before it was published: who is
cancelled on the way, as by an interrupt, leaves it to `finish`.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from sandbox_runtime.interpreters.execution import Result
    from sandbox_runtime.jupyter.messages import Content, Messages, Request

_PAUSE_S = 0.01
_LINE_S = 0.05
_HELD_CHARACTERS = 1 << 18

_FOR_PROGRAMS = frozenset(
    {"application/vnd.dataresource+json", "application/vnd.sandbox.chart+json"}
)
"""Formats that no notebook shows and that would make its file many times as large."""


class Outputs:
    """Publishes what a cell gives; `run` is to be served meanwhile.

    Args:
        messages: Where it goes.
        cause: The request that the cell came with.
        count: The number of the cell.
    """

    def __init__(self, messages: Messages, cause: Request, count: int) -> None:
        self._messages = messages
        self._cause = cause
        self._count = count
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {name: decoder("replace") for name in ("stdout", "stderr")}
        self._held: list[tuple[str, Content]] = []
        self._held_characters = 0
        self._any_held = trio.Event()
        self._line_ended = trio.Event()
        self._sending = trio.Lock()

    async def run(self) -> None:
        """Sends what is held when its time has come."""
        while True:
            await self._any_held.wait()
            with trio.move_on_after(_LINE_S):
                await self._line_ended.wait()
            await self.flush()
            await trio.sleep(_PAUSE_S)

    async def stdout(self, data: bytes) -> None:
        """Takes what was written to standard output."""
        await self._print("stdout", data)

    async def stderr(self, data: bytes) -> None:
        """Takes what was written to standard error."""
        await self._print("stderr", data)

    async def say(self, text: str) -> None:
        """Tells the user something that is not the program's."""
        self._hold_notice(text)
        await self.flush()

    def _hold_notice(self, text: str) -> None:
        self._hold("stderr", f"sandbox-runtime: {text}\n")

    async def _print(self, name: str, data: bytes) -> None:
        if text := self._decoders[name].decode(data):
            self._hold(name, text)
        if self._held_characters > _HELD_CHARACTERS:
            await self.flush()

    def _hold(self, name: str, text: str) -> None:
        self._held.append(("stream", {"name": name, "text": text}))
        self._held_characters += len(text)
        self._any_held.set()
        if text.endswith("\n"):
            self._line_ended.set()

    async def flush(self) -> None:
        """Sends what is held."""
        async with self._sending:
            self._any_held, self._line_ended = trio.Event(), trio.Event()
            held = len(self._held)
            try:
                while held:
                    count, kind, content = self._next_message(held)
                    await self._messages.publish(kind, content, self._cause)
                    del self._held[:count]
                    held -= count
                    if kind == "stream":
                        self._held_characters -= len(content["text"])
            finally:
                if self._held:
                    self._any_held.set()

    def _next_message(self, most: int) -> tuple[int, str, Content]:
        """How many of what is held go into the next message, its type and what it says."""
        kind, content = self._held[0]
        if kind != "stream":
            return 1, kind, content
        name, texts = content["name"], []
        for other, held in self._held[:most]:
            if other != "stream" or held["name"] != name:
                break
            texts.append(held["text"])
        return len(texts), kind, {"name": name, "text": "".join(texts)}

    async def show(self, result: Result) -> None:
        """Takes what was shown: a value, a display, or the update of one."""
        content: Content = {
            "data": _without_program_formats(result.data),
            "metadata": _without_program_formats(result.metadata),
            "transient": {},
        }
        if result.display_id is not None:
            content["transient"] = {"display_id": result.display_id}
        if result.is_update:
            kind = "update_display_data"
        elif result.is_main_result:
            kind = "execute_result"
            content["execution_count"] = self._count
        else:
            kind = "display_data"
        self._held.append((kind, content))
        for mime, size_bytes in result.capped.items():
            left = "cut off" if mime == "text/plain" else "left out"
            self._hold_notice(f"{mime} was {left}: it has {size_bytes} bytes")
        await self.flush()

    async def clear(self, wait: bool) -> None:  # noqa: FBT001 - called back with it
        """Takes that the cell clears what it has shown."""
        self._held.append(("clear_output", {"wait": wait}))
        await self.flush()

    async def finish(self) -> None:
        """Sends the rest."""
        for name, decoder in self._decoders.items():
            if text := decoder.decode(b"", final=True):
                self._hold(name, text)
        await self.flush()


def _without_program_formats(bundle: Content) -> Content:
    return {mime: value for mime, value in bundle.items() if mime not in _FOR_PROGRAMS}
