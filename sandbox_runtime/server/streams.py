"""Streams of events: how each client wants them framed, and a sign of life in between."""

from __future__ import annotations

import codecs
import math
from typing import TYPE_CHECKING, Literal

import msgspec
import trio

from sandbox_runtime.server.http import Response
from sandbox_runtime.server.replies import CORS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandbox_runtime.server.http import Write
    from sandbox_runtime.server.pulse import Pulse

HEARTBEAT_S = 15.0
"""How long a stream may be silent. Proxies cut connections that are for some minutes."""

_HOLD_S = 0.005
_HOLD_EVENT_S = 0.001
_LATE_S = 0.0035  # what is due so soon for another reason is not hurried: that costs as well
_MOST_HELD = 4096
_MOST_POSTED_BYTES = 128 * 1024

_HEADERS = (
    *CORS,
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-cache"),
    ("X-Accel-Buffering", "no"),
)

Framing = Literal["sse", "lines"]


class EventStream:
    """One stream of events. Any task may send; events stay whole and in order.

    What is worth waiting for goes out together: each packet wakes the client, which costs more
    than all else that is done for it.
    """

    def __init__(self, write: Write, framing: Framing, pulse: Pulse, *, ascii_only: bool) -> None:
        self._write = write
        self._framing = framing
        self._pulse = pulse
        self._ascii_only = ascii_only
        self._sent_at_s = trio.current_time()
        self._out: list[bytes] = []
        self._posted_bytes = 0
        self._held = ""
        self._held_kind: Callable[[str], msgspec.Struct] | None = None
        self._held_until_s = self._sent_at_s + _HOLD_S  # what is held at first is the head
        self._beating = self._over = False
        pulse.add(self)

    async def send(self, event: msgspec.Struct) -> None:
        """Sends one event, after all that is held; waits while the client does not read."""
        self._frame_text()
        self._out.append(self._frame(event))
        await self._flush()

    def post(self, event: msgspec.Struct) -> Awaitable[None] | None:
        """Sends one event together with what follows at once, or within milliseconds.

        Returns:
            What is to be awaited before the next one, if so much is held: it waits while the client
            does not read.
        """
        self._frame_text()
        frame = self._frame(event)
        self._out.append(frame)
        self._posted_bytes += len(frame)
        if self._posted_bytes > _MOST_POSTED_BYTES:
            return self._flush()
        self._hold(_HOLD_EVENT_S)
        return None

    async def send_text(self, text: str, kind: Callable[[str], msgspec.Struct]) -> None:
        """Sends text; what does not end a line waits a moment for the rest of it.

        A `print` of Python writes its text and the end of the line apart; it shall be one event.

        Args:
            text: What to send.
            kind: Makes the event of it; text of one kind is joined.
        """
        if self._held_kind is not kind:
            self._frame_text()
        if not self._held and not self._out and self._held_until_s < math.inf:
            # Only the head waits: it does so a little longer, so that a first line is not cut.
            self._held_until_s = trio.current_time() + _HOLD_S
        self._held_kind = kind
        self._held += text
        if self._held.endswith("\n") or len(self._held) >= _MOST_HELD:
            self._frame_text()
            await self._flush()
        else:
            self._hold(_HOLD_S)

    def end(self) -> None:
        """Leaves what is held to the end of the answer, which follows."""
        self._frame_text()
        self._write.keep(b"".join(self._out))
        self.abandon()

    def abandon(self) -> None:
        """Sends nothing any more."""
        if not self._over:
            self._over = True
            self._pulse.remove(self)

    def _hold(self, for_s: float) -> None:
        until_s = trio.current_time() + for_s
        if self._held_until_s - until_s > _LATE_S:
            self._held_until_s = until_s
            self._pulse.expect(until_s)

    def _frame_text(self) -> None:
        if self._held and self._held_kind is not None:
            text, self._held = self._held, ""
            self._out.append(self._frame(self._held_kind(text)))

    def _frame(self, event: msgspec.Struct) -> bytes:
        body = msgspec.json.encode(event)
        if self._ascii_only and not body.isascii():
            import json  # which hardly any stream needs

            body = json.dumps(json.loads(body)).encode()
        return b"data: " + body + b"\n\n" if self._framing == "sse" else body + b"\n"

    async def _flush(self) -> None:
        out, self._out = self._out, []
        self._posted_bytes = 0
        self._held_until_s = math.inf
        self._sent_at_s = trio.current_time()
        await self._write(out[0] if len(out) == 1 else b"".join(out))

    @property
    def due_s(self) -> float:
        """When `beat` has something to send."""
        if self._beating or self._over:
            return math.inf
        return min(self._held_until_s, self._sent_at_s + HEARTBEAT_S)

    async def beat(self) -> None:
        """Sends what is held; if there is nothing, what clients skip."""
        if self.due_s > trio.current_time():
            return  # it was sent meanwhile
        self._beating = True
        try:
            if self._held_until_s == math.inf:
                self._out.append(b": ping\n\n" if self._framing == "sse" else b"\n")
            self._frame_text()
            await self._flush()
        finally:
            self._beating = False
            self._pulse.expect(self.due_s)


def stream_events(
    produce: Callable[[EventStream], Awaitable[None]],
    pulse: Pulse,
    *,
    framing: Framing = "sse",
    ascii_only: bool = False,
) -> Response:
    """An answer whose body is what `produce` sends.

    Args:
        produce: Sends the events; cancelled when the client is gone.
        pulse: Sends what is due while `produce` does not.
        framing: `sse`: `data: ` and a blank line; `lines`: one JSON text a line.
        ascii_only: Escape all else, for clients that decode each piece for itself and so would
            break a character that two pieces share.
    """

    async def run(write: Write) -> None:
        events = EventStream(write, framing, pulse, ascii_only=ascii_only)
        try:
            await produce(events)
            events.end()
        finally:
            events.abandon()

    return Response(headers=_HEADERS, stream=run, head_waits=True)


class TextPieces:
    """Bytes as text, piece by piece, no character cut; what is no UTF-8 becomes U+FFFD."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self._encoding = encoding
        self._decoder: codecs.IncrementalDecoder | None = None  # most often nothing comes

    def feed(self, data: bytes) -> str:
        """The text that these bytes complete."""
        if self._decoder is None:
            self._decoder = codecs.getincrementaldecoder(self._encoding)("replace")
        return self._decoder.decode(data)

    def finish(self) -> str:
        """What was left incomplete."""
        return "" if self._decoder is None else self._decoder.decode(b"", final=True)
