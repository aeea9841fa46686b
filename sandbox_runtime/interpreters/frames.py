"""Frames: what the control process and an executor say to each other, whatever its language.

A frame is a 4-byte big-endian length, then that much JSON.

    → {"cwd", "env", …}                                     once, and first: how to start
    ← {"type": "ready", "pid"}, or {"type": "failed", "reason", "errno", "step"}
    → {"type": "run", "id", "code", "traceback", "silent", "history"}, with two pipes as its output
    ← {"type": "result" | "display" | "update_display", "id", "data", "metadata", "capped", …}
    ← {"type": "clear_output", "id", "wait"}
    ← {"type": "error", "id", "name", "value", "traceback"}
    ← {"type": "done", "id", "status", "execution_count", "usage"}       the last of a run
    → {"type": "fork", "id", "ahead"}, with a socket for each copy, on which that says `ready`
    ← {"type": "forked", "id"}, or {"type": "refused", "id", "data"}, which names what is in the way
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from sandbox_runtime.interpreters.structure import (
    BYTES_PER_VALUE,
    MOST_VALUES,
    count_strings,
    count_values,
    is_flat,
    is_shallow,
    most_values,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST_FRAME_BYTES = 26 * 1024 * 1024

MOST_JSON_BYTES = 4 * 1024 * 1024
"""How much of a result may become values other than text."""

_SMALL_BYTES = 256 * 1024

_LENGTH = struct.Struct(">I")

MOST_FORMATS = 1000
"""How many formats a result may have."""

_LEAST_WEIGHT_BYTES = 1024
_FEW_VALUES = _LEAST_WEIGHT_BYTES // BYTES_PER_VALUE

Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]

# No float: the decoder takes some 10 us for one of those near the largest, in a field of its own.
Scalar = str | int | bool | None


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
    display_id: Scalar = None
    wait: Scalar = None
    name: Scalar = None
    value: Scalar = None
    traceback: list[str] | None = None
    status: str | None = None
    execution_count: Count | None = None
    usage: Usage | None = None
    pid: Count = 0
    reason: Scalar = None
    errno: Scalar = None
    step: Scalar = None


class _Closed(Frame, frozen=True, kw_only=True):
    """A frame whose formats have not become values."""

    data: dict[str, msgspec.Raw] | None = None
    metadata: dict[str, msgspec.Raw] | None = None


class _Outline(msgspec.Struct, frozen=True, kw_only=True):
    """A frame without anything that may be large."""

    type: str
    id: str | None = None
    display_id: Scalar = None


# Python's own reading of a float takes a tenth of the time of the decoder's for the slowest ones.
_DECODER = msgspec.json.Decoder(Frame, float_hook=float)
_VALUE_DECODER = msgspec.json.Decoder(float_hook=float)
_OUTLINE_DECODER = msgspec.json.Decoder(_Outline)
_CLOSED_DECODER = msgspec.json.Decoder(_Closed)


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as one frame."""
    try:
        body = msgspec.json.encode(message)
    except UnicodeEncodeError:  # half a character in code; Python's JSON has a way to write it
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
        frames: list[bytes] = []
        if not self._buffer:
            # Most often a few whole frames have come, which need no copy of all.
            data = self._take_whole(data, frames)
        self._buffer += data
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

    @staticmethod
    def _take_whole(data: bytes, frames: list[bytes]) -> bytes:
        """Adds the bodies of the whole frames at the beginning; returns what is left."""
        start, size = 0, len(data)
        while start + _LENGTH.size <= size:
            body = start + _LENGTH.size
            end = body + _LENGTH.unpack_from(data, start)[0]
            if end > size:
                break
            frames.append(data[body:end])
            start = end
        return data[start:]


def decode(body: bytes) -> Frame:
    """The body of a frame as a value; see `read`."""
    return read(body)[0]


def read(body: bytes) -> tuple[Frame, int]:
    """The body of a frame as a value, and how many bytes that takes, about.

    Nothing here takes longer than some tens of milliseconds, whatever the body is. Formats that are
    no text and have more than 4 MiB or 50 000 values, together, or that are nested deeper than a
    hundred levels, are left out, and `capped` has their sizes; that of all of them as `*/*` where
    even their names may be too many.

    Raises:
        ValueError: It is none.
        RecursionError: It is nested too deep to be read at all.
    """
    if len(body) <= _SMALL_BYTES and is_flat(body):
        frame = _DECODER.decode(body)
        if frame.type == "done":  # each run has one, and nothing in it is large
            return frame, len(body)
        values = most_values(body)  # of a short one that is all that has to be known
        if values > _FEW_VALUES:
            values = count_values(body)
        return frame, _weigh(len(body), values)
    if count_strings(body) > MOST_VALUES:
        outline = _OUTLINE_DECODER.decode(body)
        told = msgspec.structs.asdict(outline) | {"capped": {"*/*": len(body)}}
        return Frame(**told), _LEAST_WEIGHT_BYTES
    closed = _CLOSED_DECODER.decode(body)
    if max(len(closed.data or ()), len(closed.metadata or ())) > MOST_FORMATS:
        raise ValueError("too many formats")
    capped = dict(closed.capped or {})
    budget = _Budget()
    data, data_bytes = _open(closed.data, capped, budget)
    metadata, metadata_bytes = _open(closed.metadata, {}, budget)
    told = {"data": data, "metadata": metadata, "capped": capped}
    return Frame(**msgspec.structs.asdict(closed) | told), data_bytes + metadata_bytes


class _Budget:
    """What may yet become values of a frame."""

    def __init__(self) -> None:
        self._bytes = MOST_JSON_BYTES
        self._values = MOST_VALUES

    def take(self, size_bytes: int, values: int) -> bool:
        """Whether there is room for so much, which is taken then."""
        if size_bytes > self._bytes or values > self._values:
            return False
        self._bytes -= size_bytes
        self._values -= values
        return True


def _open(
    formats: dict[str, msgspec.Raw] | None, capped: dict[str, int], budget: _Budget
) -> tuple[dict[str, Any], int]:
    """Those that are moderate, alone and together; notes the sizes of the others."""
    opened: dict[str, Any] = {}
    size_bytes, values_in_all = 0, 0
    for name, raw in (formats or {}).items():
        text = bytes(raw)
        is_text = text.startswith(b'"')
        values = 1 if is_text or len(text) > MOST_JSON_BYTES else most_values(text)
        value = _opened(text) if is_text or budget.take(len(text), values) else _LEFT_OUT
        if value is _LEFT_OUT:
            capped[name] = len(text)
            continue
        size_bytes += len(text)
        values_in_all += values
        opened[name] = value
    return opened, _weigh(size_bytes, values_in_all)


_LEFT_OUT = object()


def _opened(text: bytes) -> Any:
    try:
        value = _VALUE_DECODER.decode(text)
    except RecursionError:
        return _LEFT_OUT
    return value if is_shallow(value) else _LEFT_OUT


def _weigh(size_bytes: int, values: int) -> int:
    return max(_LEAST_WEIGHT_BYTES, size_bytes, BYTES_PER_VALUE * values)
