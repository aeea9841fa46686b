"""What `--in` and `--out` ask to be copied."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from dataclasses import dataclass
from pathlib import Path

import click


@dataclass(frozen=True, slots=True)
class CopyIn:
    """What `--in` asks for: a file or a directory of the host, and its path inside."""

    host: Path
    sandbox: str


@dataclass(frozen=True, slots=True)
class CopyOut:
    """What `--out` asks for."""

    sandbox: str
    host: Path


def inside(path: str) -> str:
    """The absolute path inside of one that starts at the workspace."""
    from sandbox_runtime.settings import WORKSPACE

    return posixpath.normpath(posixpath.join(WORKSPACE, path))


def parse_in(_context: object, _option: object, values: tuple[str, ...]) -> tuple[CopyIn, ...]:
    """`--in`: each must be there, and a path that exists may have colons in it."""
    parsed = []
    for value in values:
        host, target = value, ""
        if not os.path.lexists(value):
            host, colon, target = value.rpartition(":")
            if not colon:
                host, target = value, ""
            elif not target or not host:
                raise click.BadParameter(f"{value!r} is not HOSTPATH[:SANDBOXPATH]")
        path = Path(host)
        try:
            mode = path.stat().st_mode
        except OSError as error:
            raise click.BadParameter(f"{host!r}: {error.strerror}") from None
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise click.BadParameter(f"{host!r} is neither a file nor a directory")
        if not os.access(path, os.R_OK):
            raise click.BadParameter(f"{host!r}: {os.strerror(errno.EACCES)}")
        name = path.name if path.name not in {"", ".."} else path.resolve().name
        if not target:
            target = name
        elif target.endswith("/") and stat.S_ISREG(mode):
            target += name
        parsed.append(CopyIn(path, inside(target)))
    return tuple(parsed)


def parse_out(_context: object, _option: object, values: tuple[str, ...]) -> tuple[CopyOut, ...]:
    """`--out`: the directory that it goes to must be there."""
    parsed = []
    for value in values:
        source, colon, host = value.partition(":")
        if not source or (colon and not host):
            raise click.BadParameter(f"{value!r} is not SANDBOXPATH[:HOSTPATH]")
        name = inside(source).rpartition("/")[2] or "sandbox"
        path = Path(host or name)
        if host.endswith("/") or (host and path.is_dir()):
            path /= name
        if not path.parent.is_dir():
            raise click.BadParameter(f"the directory {str(path.parent)!r} does not exist; make it")
        parsed.append(CopyOut(inside(source), path))
    return tuple(parsed)
