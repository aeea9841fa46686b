"""Frames as JSON that every decoder takes, whatever the values come from."""

from __future__ import annotations

import codecs
import json
import math
from typing import Any

_DEEPEST_JSON = 50

# Bound early: user code may replace them, and frames must go on.
_dumps = json.dumps


def encode(frame: dict[str, Any]) -> bytes:
    """Returns a frame as strict JSON: no NaN, no lone surrogates, nothing that is no data."""
    try:
        text = _dumps(frame, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        text = _dumps(_plain(frame, 0), ensure_ascii=False)
    return text.encode("utf-8", "json-surrogates")


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
