"""Frames: what the control process and an executor say to each other, whatever its language.

A frame is a 4-byte big-endian length, then that much JSON.

    → {"cwd", "env", …}                                     once, and first: how to start
    ← {"type": "ready", "pid"}, or {"type": "failed", "reason", "errno", "step"}
    → {"type": "run", "id", "code", "traceback", "silent", "history"}, with two pipes as its output
    ← {"type": "result" | "display" | "update_display", "id", "data", "metadata", "capped", …}
    ← {"type": "clear_output", "id", "wait"}
    ← {"type": "error", "id", "name", "value", "traceback"}
    ← {"type": "done", "id", "status", "execution_count", "usage"}       the last of a run
    → {"type": "fork", "id"}, with a socket for each copy, on which that says `ready`
    ← {"type": "forked", "id"}, or {"type": "refused", "id", "data"}, which names what is in the way
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST_FRAME_BYTES = 64 * 1024 * 1024

_LENGTH = struct.Struct(">I")

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a run used."""

    user_us: Count
    system_us: Count
    max_rss_bytes: Count


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """What an executor says. User code can write to its socket, so nothing is taken on trust."""

    type: str
    id: str | None = None
    data: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    capped: dict[str, Count] | None = None
    display_id: Any = None
    wait: Any = None
    name: Any = None
    value: Any = None
    traceback: list[Any] | None = None
    status: str | None = None
    execution_count: Count | None = None
    usage: Usage | None = None
    pid: Count = 0
    reason: Any = None
    errno: Any = None
    step: Any = None


_DECODER = msgspec.json.Decoder(Frame)


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as one frame."""
    body = json.dumps(message).encode()
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Splits a stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Takes bytes, returns the bodies of the frames that they complete.

        Raises:
            ValueError: They are no frames.
        """
        self._buffer += data
        frames: list[bytes] = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > LARGEST_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            frames.append(bytes(memoryview(self._buffer)[_LENGTH.size : end]))
            del self._buffer[:end]
        return frames


def decode(body: bytes) -> Frame:
    """The body of a frame as a value.

    Raises:
        ValueError: It is none.
        RecursionError: It is nested too deep.
    """
    return _DECODER.decode(body)
