"""Which directories of the host a caller may show in sandboxes, checked before anything is made.

The native side follows the same paths and refuses the same ones; here the error can say what to do.
"""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from sandbox_runtime.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

_TREES = ("/dev", "/proc", "/sys")
"""What lies here is made for each sandbox, all of it."""

_DIRECTORIES = ("/etc", "/tmp", "/var/empty", "/workspace")
"""These are each sandbox's own; directories of the host may be shown below them."""


def check_read_only(paths: Sequence[str]) -> tuple[str, ...]:
    """Directories that exist and that hide nothing of the sandbox's own.

    Raises:
        InvalidArgumentError: It names the path, what is wrong with it, and what to give instead.
    """
    if isinstance(paths, str | bytes) or not isinstance(paths, Collection):
        raise InvalidArgumentError("read_only", f"must be a list of paths, not {paths!r}")
    return tuple(_checked(path) for path in paths)


def _checked(path: str | os.PathLike[str]) -> str:
    given = os.fspath(path) if isinstance(path, str | os.PathLike) else path
    if not isinstance(given, str) or "\0" in given:
        raise InvalidArgumentError("read_only", f"{given!r} is no path; give text without NUL")
    try:
        given.encode()
    except UnicodeEncodeError:
        wrong = f"{given!r} is no UTF-8; rename it, or give a directory above it"
        raise InvalidArgumentError("read_only", wrong) from None
    if not given.startswith("/"):
        raise InvalidArgumentError("read_only", f"{given!r} is no absolute path")
    try:
        real = os.path.realpath(given, strict=True)
    except OSError as error:
        why = os.strerror(error.errno or errno.ENOENT)
        wrong = f"{given!r}: {why}; give a directory that exists and may be read"
        raise InvalidArgumentError("read_only", wrong) from error
    if not Path(real).is_dir():
        wrong = f"{given!r} is no directory; give the one that it lies in"
        raise InvalidArgumentError("read_only", wrong)
    for place in (posixpath.normpath(given), real):
        if (own := _hidden_by(place)) is not None:
            leads = "" if place == given else f" (it leads to {place!r})"
            wrong = f"{given!r}{leads} would hide {own!r}, which is the sandbox's own; "
            raise InvalidArgumentError("read_only", wrong + "give directories beside or below it")
    return given


def _hidden_by(path: str) -> str | None:
    """What of a sandbox's own a directory shown at this path would hide."""
    for own in (*_TREES, *_DIRECTORIES):
        if _is_below(own, path) or (own in _TREES and _is_below(path, own)):
            return own
    return None


def _is_below(path: str, above: str) -> bool:
    return posixpath.commonpath((path, above)) == above
