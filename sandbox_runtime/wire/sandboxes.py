"""Sandboxes: a server holds many, and these messages are only ours."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from sandbox_runtime.wire.shape import Message, OwnMessage, Text

_Positive = Annotated[int, msgspec.Meta(gt=0, lt=1 << 62)]
Network = Literal["loopback", "host"]


class LimitsRequest(OwnMessage, frozen=True, kw_only=True):
    """What a sandbox may use; what is left out is the server's default."""

    memory_bytes: Annotated[int, msgspec.Meta(ge=1 << 20, lt=1 << 62)] | None = None
    processes: _Positive | None = None
    cpu_percent: Annotated[int, msgspec.Meta(gt=0, le=100_000)] | None = None
    open_files: _Positive | None = None
    file_size_bytes: _Positive | None = None
    workspace_bytes: _Positive | None = None
    tmp_bytes: _Positive | None = None
    shm_bytes: _Positive | None = None


class Mount(OwnMessage, frozen=True, kw_only=True):
    """A directory of the host that the sandbox shows at the same path."""

    path: Text
    read_only: Literal[True] = True


SandboxId = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$",
        description="1 to 63 letters, digits and hyphens, no hyphen first or last, as in `build-7`",
    ),
]
"""What can be a label of a host name, so that previews can name it."""


class CreateSandbox(OwnMessage, frozen=True, kw_only=True):
    """Make a sandbox.

    Attributes:
        id: Its id; made if it is not given.
        name: For people.
        limits: What it may use.
        network: `loopback`: nothing outside can be reached; `host`: what the server can.
        mounts: Which directories of the host it shows; the operator allows them beforehand.
        idle_ms: Ended when nothing was asked of it for so long; never by default.
    """

    id: SandboxId | None = None
    name: str | None = None
    limits: LimitsRequest | None = None
    network: Network | None = None
    mounts: tuple[Mount, ...] = ()
    idle_ms: Annotated[float, msgspec.Meta(gt=0, le=2**53)] | None = None


class ProtectionInfo(Message, frozen=True, kw_only=True):
    """One protection and whether it is in force, as `SandboxReport` says it."""

    name: str
    achieved: str
    detail: str


class LimitsInfo(Message, frozen=True, kw_only=True):
    """What a sandbox may use."""

    memory_bytes: int
    processes: int
    cpu_percent: int | None
    open_files: int
    file_size_bytes: int
    workspace_bytes: int
    tmp_bytes: int
    shm_bytes: int


class SandboxInfo(Message, frozen=True, kw_only=True):
    """What a sandbox is."""

    id: str
    name: str | None
    status: Literal["running", "lost"]
    network: str
    mounts: list[str]
    limits: LimitsInfo
    idle_ms: float | None
    created_at: str
    last_used: str
    sessions: int
    processes: int
    contexts: int


class SandboxReply(Message, frozen=True, kw_only=True):
    """One sandbox."""

    success: bool = True
    sandbox: SandboxInfo
    protections: list[ProtectionInfo]
    timestamp: str


class SandboxList(Message, frozen=True, kw_only=True):
    """All sandboxes, in the order they were made."""

    success: bool = True
    sandboxes: list[SandboxInfo]
    count: int
    timestamp: str


class SandboxDeleted(Message, frozen=True, kw_only=True):
    """It and everything in it are gone."""

    success: bool = True
    id: str
    timestamp: str
