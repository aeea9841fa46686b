"""What a caller may ask to run, checked before anything of it is done."""

from __future__ import annotations

import math
import os
import posixpath
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from sandbox_runtime.arguments import check_mapping
from sandbox_runtime.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def _checked(field: str, value: object) -> bytes:
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise InvalidArgumentError(field, f"must be text or bytes, not {type(value).__name__}")
    try:
        encoded = os.fsencode(value)
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(field, f"is no valid text ({error.reason})") from None
    position = encoded.find(0)
    if position >= 0:
        raise InvalidArgumentError(
            field, f"has a NUL at byte {position}; pass binary data on stdin or in a file"
        )
    return encoded


def make_id(prefix: str) -> str:
    """An id that nothing else has: the time in milliseconds, and chance."""
    return f"{prefix}_{time.time_ns() // 1_000_000}_{os.urandom(6).hex()}"


def check_id(field: str, value: str) -> str:
    """A name that a caller chose: any text of 1 to 1024 characters without NUL."""
    if not isinstance(value, str):
        raise InvalidArgumentError(field, f"must be text, not {type(value).__name__}")
    _checked(field, value)
    if not 0 < len(value) <= 1024:
        raise InvalidArgumentError(field, "must have 1 to 1024 characters")
    return value


def check_text(field: str, value: str | bytes) -> bytes:
    """Shell text as bytes; empty or blank text is refused."""
    encoded = _checked(field, value)
    if not encoded.strip():
        raise InvalidArgumentError(field, "is empty; give a command, e.g. 'true'")
    return encoded


def check_argv(field: str, argv: Sequence[str | bytes]) -> tuple[bytes, ...]:
    """A program and its arguments as bytes."""
    if not isinstance(argv, (list, tuple, Iterable)):  # the cheap ones first
        raise InvalidArgumentError(field, f"must be text or a list, not {type(argv).__name__}")
    encoded = tuple(_checked(f"{field}[{index}]", value) for index, value in enumerate(argv))
    if not encoded or not encoded[0]:
        raise InvalidArgumentError(field, "is empty; it has to begin with the name of a program")
    return encoded


def check_env(env: Mapping[str, str] | None) -> dict[str, str]:
    """Variables: names without `=`, nothing with NUL."""
    if env is not None:
        check_mapping("env", env, '{"NAME": "value"}')
    for name, value in (env or {}).items():
        if not isinstance(name, str) or not _checked("env", name) or "=" in name:
            raise InvalidArgumentError("env", f"{name!r} is no name of a variable")
        _checked(f"env[{name}]", value)
    return dict(env or {})


def check_cwd(cwd: str | None, default: str) -> str:
    """An absolute directory, normalised; a relative one starts at `default`."""
    if cwd is None:
        return default
    if not (directory := os.fsdecode(_checked("cwd", cwd))):
        raise InvalidArgumentError("cwd", "is empty; leave it out to stay where the session is")
    return posixpath.normpath(posixpath.join(default, directory))


def check_path(path: str | os.PathLike[str], start: str) -> bytes:
    """A path as it is, so that the kernel resolves it; a relative one starts at `start`."""
    encoded = _checked("path", path)
    if not encoded:
        raise InvalidArgumentError("path", "is empty")
    return posixpath.join(os.fsencode(start), encoded)


def _described(value: object) -> str:
    """What was given instead of bytes."""
    found = type(value).__name__
    return f"{found}; text.encode() makes them" if isinstance(value, str) else found


def check_bytes(field: str, value: bytes) -> memoryview:
    """Content: anything with the bytes of an object, but no text; counted and cut in bytes."""
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise InvalidArgumentError(field, f"must be bytes, not {_described(value)}")
    view = memoryview(value)
    if view.nbytes and view.c_contiguous:
        return view.cast("B")
    return memoryview(view.tobytes())


def check_seconds(field: str, seconds: float | None) -> float:
    """A time from now; None is for ever."""
    if seconds is None:
        return math.inf
    if not isinstance(seconds, (int, float)) or not seconds > 0:
        raise InvalidArgumentError(field, f"must be a number, more than 0 seconds, not {seconds!r}")
    return float(seconds)
