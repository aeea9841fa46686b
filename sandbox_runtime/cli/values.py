"""What the values of options mean: variables, times and sizes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from sandbox_runtime.choices import MINIMUM_MEMORY_BYTES

if TYPE_CHECKING:
    from pathlib import Path

_DOMAIN = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9-]+)*"
_ORIGIN = r"[a-z][a-z0-9+.-]*://[^/?#@\s]+|null|\*"
_MODE = r"0?[0-7]{3}"
_SIZE = r"(\d+(?:\.\d+)?) ?([KMGT]?)(?:i?B)?"


class Whole(click.IntRange):
    """A whole number; what is none, or out of range, is told in words."""

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            range_ = (
                f", {self.min} or more" if self.max is None else f" from {self.min} to {self.max}"
            )
            self.fail(f"{value!r} must be a whole number{range_}", param, ctx)


class SecondsRange(click.FloatRange):
    """A number of seconds; what is none, or out of range, is told in words."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            return float(super().convert(value, param, ctx))
        except click.BadParameter:
            what = f"{value!r} must be a number of seconds from {self.min} to {self.max}"
            self.fail(what, param, ctx)


class Seconds(click.types.FloatParamType):
    """A number of seconds; what is none is told in words."""

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is not a number of seconds; write it as 30 or 0.5", param, ctx)


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
    if value is not None and (re.fullmatch(_DOMAIN, value) is None or len(value) > 180):
        raise click.BadParameter(f"{value!r} is no domain; write it as preview.example.com")
    return value


def parse_mode(_context: object, _option: object, value: str) -> int:
    """Permissions of a file."""
    if re.fullmatch(_MODE, value) is None:
        raise click.BadParameter(f"{value!r} is no mode; write it as 600 or 0660")
    return int(value, 8)


def _size(value: str) -> int:
    match = re.fullmatch(_SIZE, value.strip(), re.IGNORECASE)
    if match is None:
        return 0
    return int(float(match[1]) * 1024 ** "_KMGT".index(match[2].upper() or "_"))


def parse_addresses(_context: object, _option: object, values: tuple[str, ...]) -> tuple[str, ...]:
    """`--listenable`: addresses in figures."""
    import ipaddress

    for value in values:
        try:
            ipaddress.ip_address(value)
        except ValueError:
            message = f"{value!r} is no address; write it as 0.0.0.0 or 127.0.0.1"
            raise click.BadParameter(message) from None
    return values


def parse_origins(_context: object, _option: object, values: tuple[str, ...]) -> tuple[str, ...]:
    """`--allow-origin`: as browsers write it, without a path."""
    for value in values:
        if not re.fullmatch(_ORIGIN, value):
            raise click.BadParameter(f"{value!r} is not like https://app.example.com")
    return values
