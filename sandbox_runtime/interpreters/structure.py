"""How much JSON is, before it becomes values: `[{},{},…]` takes 30 times its bytes then.

Most frames are so small that nothing needs to be counted. What is counted is done so by a few
passes over the bytes, in time that grows with their number alone, whatever they are.
"""

from __future__ import annotations

import re

MOST_VALUES = 1_000_000
"""How many values JSON may hold, keys and containers included: they take some 100 MB."""

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


def is_moderate(body: bytes) -> bool:
    """Whether it may become values."""
    if len(body) > MOST_VALUES and count_values(body) > MOST_VALUES:
        return False
    return body.count(b"[") + body.count(b"{") <= DEEPEST or _is_flat(body)


def _is_flat(body: bytes) -> bool:
    rest = _STRING.sub(b"", body).translate(_ONE_KIND, _NO_BRACKETS)
    for _ in range(DEEPEST):
        if not rest:
            break
        rest = rest.replace(b"[]", b"")  # each pass takes the innermost level away
    return not rest
