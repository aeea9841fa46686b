"""How much JSON is, before it becomes values: `[{},{},…]` takes 30 times its bytes then.

What is counted is done so by a few passes over the bytes, in time that grows with their number
alone, whatever they are.
"""

from __future__ import annotations

import re
from typing import Any

MOST_VALUES = 50_000
"""How many values JSON may hold, keys and containers included: a float takes up to 2 us to read."""

DEEPEST = 100
"""How deep it may be nested: what handles it later is recursive."""

BYTES_PER_VALUE = 64
"""What a value takes besides its text, about."""

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_ONE_KIND = bytes.maketrans(b"{}", b"[]")


def count_strings(body: bytes) -> int:
    """How many strings it holds, unless it mocks this: then twice as many at most."""
    # A quote that begins a string follows no backslash.
    return (body.count(b'"') - body.count(b'\\"')) // 2


def count_values(body: bytes) -> int:
    """How many values it holds, keys and containers included; of more than too many, some."""
    if (strings := count_strings(body)) > MOST_VALUES:
        return strings
    bare = _STRING.sub(b"", body)
    return 1 + sum(map(bare.count, (b",", b":", b"[", b"{")))


def most_values(body: bytes) -> int:
    """How many values it holds at most: what looks like structure in its strings counts as well."""
    return 1 + sum(map(body.count, (b",", b":", b"[", b"{")))


def is_flat(body: bytes) -> bool:
    """Whether it is nested no deeper than it may be."""
    return body.count(b"[") + body.count(b"{") <= DEEPEST or _is_flat(body)


def is_shallow(value: Any) -> bool:
    """Whether a value is nested no deeper than it may be."""
    level = [value]
    for _ in range(DEEPEST + 1):
        containers = [one for one in level if isinstance(one, (dict, list))]
        if not containers:
            return True
        level = [
            inner
            for one in containers
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return False


def _is_flat(body: bytes) -> bool:
    rest = _STRING.sub(b"", body).translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(DEEPEST):
        if not rest:
            break
        rest = rest.replace(b"[]", b"")  # each pass takes the innermost level away
    return not rest
