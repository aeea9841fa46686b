"""Whether the server is there, and which."""

from __future__ import annotations

from sandbox_runtime.wire.shape import Message


class Ping(Message, frozen=True, kw_only=True):
    """It is there."""

    success: bool = True
    message: str = "pong"
    status: str = "ready"
    system: str
    progress: int = 100
    timestamp: str


class Version(Message, frozen=True, kw_only=True):
    """Which version it is."""

    success: bool = True
    version: str
    timestamp: str
