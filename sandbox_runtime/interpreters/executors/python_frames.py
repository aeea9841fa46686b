"""Frames as JSON that every decoder takes, whatever the values come from, and not too large."""

from __future__ import annotations

import codecs
import json
import json.encoder
import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT_LIMIT_BYTES = 1 << 20
"""How much of a result's plain text is sent; the rest is cut off, and its size is told."""

FORMAT_LIMIT_BYTES = 16 << 20
"""The largest other format of a result: half of an image or of a page is no use, so a larger one
is left out whole, and its size is told."""

RESULT_LIMIT_BYTES = 24 << 20
"""The largest sum of a result's formats as JSON; those that come first in it are sent."""

JSON_LIMIT_BYTES = 4 << 20
"""The largest sum of a result's formats that are no text, and of its metadata."""

MOST_VALUES = 50_000
"""How many values they may have; colons, commas and opening brackets are counted."""

ERROR_LIMIT_BYTES = 64 << 10
"""How much of an error's message is sent, and of each line of its traceback."""

MOST_TRACEBACK_LINES = 2000
"""How many lines of a traceback are sent: the first and the last half of these."""

_DEEPEST_JSON = 50
_SHORT_TEXT_BYTES = ERROR_LIMIT_BYTES // 6  # as long as escapes make a character

# Bound early: user code may replace them, and frames must go on.
_dumps = json.dumps
_join = "".join


def _strict_encoder() -> Callable[[Any], str]:
    """An encoder without NaN: the native part of `JSONEncoder`, without what it asks each time."""
    usual = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    default, basestring = usual.default, json.encoder.encode_basestring

    def encode_natively(frame: Any) -> str:
        seen: dict[int, Any] = {}  # what holds itself is no data
        parts = make(seen, default, basestring, None, ": ", ", ", False, False, False)
        return _join(parts(frame, 0))

    try:
        same = encode_natively(_SAMPLE) == usual.encode(_SAMPLE)
    except TypeError:  # another Python's takes something else
        same = False
    return encode_natively if same else usual.encode


_SAMPLE = {"a": [1, -0.5, None, True, "\u00e9\n"]}
_encode_strictly = _strict_encoder()


def encode(frame: Any) -> bytes:
    """Returns a frame as strict JSON: no NaN, no lone surrogates, nothing that is no data."""
    try:
        text = _encode_strictly(frame)
    except (TypeError, ValueError, RecursionError):
        text = _dumps(_plain(frame, 0), ensure_ascii=False)
    return text.encode("utf-8", "json-surrogates")


def is_short_text(value: Any) -> bool:
    """Whether a value is text that may be sent as it is, whatever it is sent with."""
    return value.__class__ is str and len(value) <= _SHORT_TEXT_BYTES and value.isascii()


def cap_formats(
    data: dict[str, Any], metadata: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, int]]:
    """Returns what may be sent of a result, and the full sizes of what is cut or left out."""
    kept: dict[str, Any] = {}
    capped: dict[str, int] = {}
    room, json_room, values_room = RESULT_LIMIT_BYTES, JSON_LIMIT_BYTES, MOST_VALUES
    if metadata:
        json_room, values_room = _rest(json_room, values_room, encode(metadata))
        if min(json_room, values_room) < 0:
            capped["metadata"] = len(encode(metadata))
            json_room, values_room, metadata = JSON_LIMIT_BYTES, MOST_VALUES, {}
    for mime, value in data.items():
        size = _size_bytes(value)
        limit = TEXT_LIMIT_BYTES if mime == "text/plain" else FORMAT_LIMIT_BYTES
        if size > limit:
            capped[mime] = size
            if mime != "text/plain" or not isinstance(value, str):
                continue
            value = cut(value, limit)  # noqa: PLW2901
        if isinstance(value, str):
            sent = size * 6 if size * 6 <= ERROR_LIMIT_BYTES else len(encode(value))
        else:
            encoded = encode(value)
            rest = _rest(json_room, values_room, encoded)
            if min(rest) < 0:
                capped[mime] = size
                continue
            (json_room, values_room), sent = rest, len(encoded)
        if sent > room:
            capped[mime] = size
            continue
        room -= sent
        kept[mime] = value
    return kept, metadata, capped


def _rest(room_bytes: int, values: int, encoded: bytes) -> tuple[int, int]:
    """What is left beside a value that is no text; below nothing where it is too large."""
    count = 1 + sum(map(encoded.count, (b",", b":", b"[", b"{")))
    return room_bytes - len(encoded), values - count


def cap_error(value: str, lines: list[str]) -> tuple[str, list[str]]:
    """Returns what may be sent of an error."""
    if len(lines) > MOST_TRACEBACK_LINES:
        half = MOST_TRACEBACK_LINES // 2
        left_out = len(lines) - 2 * half
        lines = [*lines[:half], f"  [{left_out} lines left out]", *lines[-half:]]
    return _shortened(value), [_shortened(line) for line in lines]


def _shortened(text: str) -> str:
    if len(text) * 4 <= ERROR_LIMIT_BYTES or (size := _size_bytes(text)) <= ERROR_LIMIT_BYTES:
        return text
    return f"{cut(text, ERROR_LIMIT_BYTES)} [{size} bytes, cut]"


def cut(text: str, limit_bytes: int) -> str:
    """Returns the beginning of a text, of at most so many bytes in UTF-8, no character halved."""
    encoded = text[:limit_bytes].encode("utf-8", "surrogatepass")[:limit_bytes]
    return encoded.decode("utf-8", "ignore")


def _size_bytes(value: Any) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else len(value.encode("utf-8", "surrogatepass"))
    return len(encode(value))


def _plain(value: Any, depth: int) -> Any:  # noqa: PLR0911 - one per kind of value
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if depth < _DEEPEST_JSON:
        if isinstance(value, dict):
            return {str(key): _plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [_plain(item, depth + 1) for item in value]
        if callable(to_list := getattr(value, "tolist", None)):  # numpy, pandas
            return _plain(to_list(), depth + 1)
    return str(value)


def _escape_surrogates(error: UnicodeError) -> tuple[str, int]:
    # Two backslashes: the decoder shall see the text `\udc80`, as on stdout, and not half a
    # character.
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(f"\\\\u{ord(character):04x}" for character in lost), error.end


codecs.register_error("json-surrogates", _escape_surrogates)
