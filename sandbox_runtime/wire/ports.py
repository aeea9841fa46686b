"""Ports of a sandbox."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, UnsetType

from sandbox_runtime.wire.shape import Message, Milliseconds, Text

PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class ExposePort(Message, frozen=True, kw_only=True):
    """Let a port be reached from outside.

    Attributes:
        port: Its number in the sandbox.
        name: What people call it.
        listen: An address of the server's machine, whose port of that number leads into the
            sandbox too.
    """

    port: int
    name: str | None = None
    listen: str | None = None


class UnexposePort(Message, frozen=True, kw_only=True):
    """Let it be reached no more."""

    port: int


class PortInfo(Message, frozen=True, kw_only=True):
    """One exposed port."""

    port: int
    name: str | UnsetType = UNSET
    exposed_at: str
    url: str | UnsetType = UNSET


class PortExposed(Message, frozen=True, kw_only=True):
    """It can be reached; whoever has `token`, or `url` with it, may see its preview."""

    success: bool = True
    port: int
    name: str | UnsetType = UNSET
    exposed_at: str
    url: str | UnsetType = UNSET
    token: str
    timestamp: str


class PortUnexposed(Message, frozen=True, kw_only=True):
    """It cannot be reached any more."""

    success: bool = True
    port: int
    timestamp: str


class PortList(Message, frozen=True, kw_only=True):
    """All exposed ports."""

    success: bool = True
    ports: list[PortInfo]
    count: int
    timestamp: str


class WatchPort(Message, frozen=True, kw_only=True):
    """Tell when a port answers.

    Attributes:
        port: Which.
        mode: `tcp`: it can be connected to; `http`: it answers with a status of the range.
        path: What to ask for by http.
        status_min: The least status that counts.
        status_max: The greatest.
        process_id: Whose end ends the watching.
        interval: Milliseconds between attempts.
        timeout_ms: When to give up; never by default.
    """

    port: PortNumber
    mode: Literal["tcp", "http"] = "tcp"
    path: Text = "/"
    status_min: Annotated[int, msgspec.Meta(ge=100, le=599)] = 200
    status_max: Annotated[int, msgspec.Meta(ge=100, le=599)] = 399
    process_id: Text | None = None
    interval: Milliseconds | None = None
    timeout_ms: Milliseconds | None = None


class PortWatching(Message, frozen=True, kw_only=True, tag_field="type", tag="watching"):
    """The watching has begun. The first event."""

    port: int


class PortReady(Message, frozen=True, kw_only=True, tag_field="type", tag="ready"):
    """It answers. The last event."""

    port: int
    status_code: int | UnsetType = UNSET


class PortProcessExited(Message, frozen=True, kw_only=True, tag_field="type", tag="process_exited"):
    """The process ended before. The last event."""

    port: int
    exit_code: int | None


class PortError(Message, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """The watching failed. The last event.

    Attributes:
        reason: `deadline` if the time was up.
    """

    port: int
    error: str
    reason: Literal["deadline"] | UnsetType = UNSET


PortEvent = PortWatching | PortReady | PortProcessExited | PortError
