"""Streams of events: how each client wants them framed, and a sign of life in between."""

from __future__ import annotations

import codecs
import json
from typing import TYPE_CHECKING, Literal

import msgspec
import trio

from sandbox_runtime.nursery import open_serving_nursery
from sandbox_runtime.server.http import Response
from sandbox_runtime.server.replies import CORS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandbox_runtime.server.http import Write

HEARTBEAT_S = 15.0
"""How long a stream may be silent. Proxies cut connections that are for some minutes."""

_HOLD_S = 0.005
_MOST_HELD = 4096

_HEADERS = (
    *CORS,
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-cache"),
    ("X-Accel-Buffering", "no"),
)

Framing = Literal["sse", "lines"]


class EventStream:
    """One stream of events. Any task may send; events stay whole."""

    def __init__(self, write: Write, framing: Framing, *, ascii_only: bool) -> None:
        self._write = write
        self._framing = framing
        self._ascii_only = ascii_only
        self._turn = trio.Lock()
        self._sent_at_s = trio.current_time()
        self._held = ""
        self._held_kind: Callable[[str], msgspec.Struct] | None = None
        self._holds = trio.Event()

    async def send(self, event: msgspec.Struct) -> None:
        """Sends one event, after all text that is held; waits while the client does not read."""
        await self._release()
        await self._send_event(event)

    async def send_text(self, text: str, kind: Callable[[str], msgspec.Struct]) -> None:
        """Sends text; what does not end a line waits a moment for the rest of it.

        A `print` of Python writes its text and the end of the line apart; it shall be one event.

        Args:
            text: What to send.
            kind: Makes the event of it; text of one kind is joined.
        """
        if self._held_kind is not kind:
            await self._release()
        self._held_kind = kind
        self._held += text
        if self._held.endswith("\n") or len(self._held) >= _MOST_HELD:
            await self._release()
        else:
            self._holds.set()

    async def _release(self) -> None:
        held, kind = self._held, self._held_kind
        if held and kind is not None:
            self._held = ""  # and nothing runs in between before this has its turn
            await self._send_event(kind(held))

    async def release_in_time(self) -> None:
        """Sends text that was held for a moment, for as long as the stream lasts."""
        while True:
            await self._holds.wait()
            await trio.sleep(_HOLD_S)
            self._holds = trio.Event()
            await self._release()

    async def _send_event(self, event: msgspec.Struct) -> None:
        body = msgspec.json.encode(event)
        if self._ascii_only and not body.isascii():
            body = json.dumps(json.loads(body)).encode()
        await self._send(b"data: " + body + b"\n\n" if self._framing == "sse" else body + b"\n")

    async def _send(self, data: bytes) -> None:
        async with self._turn:
            await self._write(data)
            self._sent_at_s = trio.current_time()

    async def beat(self) -> None:
        """Sends what clients skip, whenever nothing else was sent for a while."""
        comment = b": ping\n\n" if self._framing == "sse" else b"\n"
        while True:
            await trio.sleep_until(self._sent_at_s + HEARTBEAT_S)
            if trio.current_time() >= self._sent_at_s + HEARTBEAT_S:
                await self._send(comment)


def stream_events(
    produce: Callable[[EventStream], Awaitable[None]],
    *,
    framing: Framing = "sse",
    ascii_only: bool = False,
) -> Response:
    """An answer whose body is what `produce` sends.

    Args:
        produce: Sends the events; cancelled when the client is gone.
        framing: `sse`: `data: ` and a blank line; `lines`: one JSON text a line.
        ascii_only: Escape all else, for clients that decode each piece for itself and so would
            break a character that two pieces share.
    """

    async def run(write: Write) -> None:
        events = EventStream(write, framing, ascii_only=ascii_only)
        async with open_serving_nursery() as nursery:
            nursery.start_soon(events.beat)
            nursery.start_soon(events.release_in_time)
            await produce(events)

    return Response(headers=_HEADERS, stream=run)


class TextPieces:
    """Bytes as text, piece by piece, no character cut; what is no UTF-8 becomes U+FFFD."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")

    def feed(self, data: bytes) -> str:
        """The text that these bytes complete."""
        return self._decoder.decode(data)

    def finish(self) -> str:
        """What was left incomplete."""
        return self._decoder.decode(b"", final=True)
