"""What the values of options mean: paths, variables, times and sizes."""

from __future__ import annotations

import errno
import os
import posixpath
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import click

from sandbox_runtime.choices import MINIMUM_MEMORY_BYTES

_DOMAIN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)*")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+|null|\*")
_MODE = re.compile(r"0?[0-7]{3}")
_SIZE = re.compile(r"(\d+(?:\.\d+)?) ?([KMGT]?)(?:i?B)?", re.IGNORECASE)


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


def make_figures(_context: object, _option: object, value: Path | None) -> Path | None:
    """`--figures`: the directory is there, or can be made."""
    if value is not None:
        try:
            value.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.BadParameter(f"{value} cannot be made: {error.strerror}") from error
    return value


def parse_env(_context: object, _option: object, values: tuple[str, ...]) -> dict[str, str]:
    """`--env`: names and what they are set to."""
    env = {}
    for value in values:
        name, equals, content = value.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
        env[name] = content
    return env


def parse_timeout(_context: object, _option: object, value: float | None) -> float | None:
    """`--timeout`: seconds."""
    if value is not None and not value > 0:
        raise click.BadParameter(f"{value} is no time; give seconds, more than 0")
    return value


def parse_memory(_context: object, _option: object, value: str | None) -> int | None:
    """`--memory`: bytes."""
    if value is None:
        return None
    size = _size(value)
    if size < MINIMUM_MEMORY_BYTES:
        raise click.BadParameter(f"{value!r} is no size; write it as 512M or 2G, at least 1M")
    return size


def parse_size(_context: object, _option: object, value: str) -> int:
    """A number of bytes."""
    size = _size(value)
    if size < 1:
        raise click.BadParameter(f"{value!r} is no size; write it as 64K, 512M or 2G")
    return size


def parse_domain(_context: object, _option: object, value: str | None) -> str | None:
    """The name of a domain, or an address that stands for `localhost`."""
    if value is not None and (_DOMAIN.fullmatch(value) is None or len(value) > 180):
        raise click.BadParameter(f"{value!r} is no domain; write it as preview.example.com")
    return value


def parse_mode(_context: object, _option: object, value: str) -> int:
    """Permissions of a file."""
    if _MODE.fullmatch(value) is None:
        raise click.BadParameter(f"{value!r} is no mode; write it as 600 or 0660")
    return int(value, 8)


def _size(value: str) -> int:
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        return 0
    return int(float(match[1]) * 1024 ** "_KMGT".index(match[2].upper() or "_"))


def parse_origins(_context: object, _option: object, values: tuple[str, ...]) -> tuple[str, ...]:
    """`--allow-origin`: as browsers write it, without a path."""
    for value in values:
        if not _ORIGIN.fullmatch(value):
            raise click.BadParameter(f"{value!r} is not like https://app.example.com")
    return values
