"""Sessions: create, list, delete."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from sandbox_runtime.wire.shape import Env, Message, Milliseconds, Text


class CreateSession(Message, frozen=True, kw_only=True):
    """Make a session, or use the one with that id.

    Attributes:
        id: Chosen by the client.
        name: For people; shown in the list.
        env: Its variables.
        cwd: Where it starts, absolute.
        isolation: False shares the processes of the sandbox's other sessions without isolation.
        command_timeout_ms: The time limit of its commands that state none.
    """

    id: Text | int
    name: str | None = None
    env: Env | None = None
    cwd: str | None = None
    isolation: bool = True
    command_timeout_ms: Milliseconds | None = None


class SessionInfo(Message, frozen=True, kw_only=True):
    """What a session is."""

    id: str
    name: str | None
    cwd: str
    isolation: bool
    created_at: str
    last_used: str


class SessionCreated(Message, frozen=True, kw_only=True):
    """It is there. `reused` says that it was before, `data` is how 0.12 reads it."""

    success: bool = True
    id: str
    session_id: str
    message: str
    reused: bool
    data: SessionInfo
    timestamp: str


class SessionList(Message, frozen=True, kw_only=True):
    """All sessions, in the order they were made."""

    success: bool = True
    count: int
    sessions: list[str]
    data: list[SessionInfo]
    timestamp: str


class DeleteSession(Message, frozen=True, kw_only=True):
    """End a session with everything in it."""

    session_id: Text | UnsetType = UNSET
    id: Text | UnsetType = UNSET


class SessionDeleted(Message, frozen=True, kw_only=True):
    """It and its processes are gone."""

    success: bool = True
    session_id: str
    timestamp: str


class BackgroundOutput(Message, frozen=True, kw_only=True):
    """What jobs of a command wrote after it had returned.

    Attributes:
        command_number: The command, as its answer had it.
        stdout: As UTF-8; what is not is U+FFFD.
        stderr: Likewise.
        stdout_bytes: How much came in all.
        stderr_bytes: Likewise.
        truncated: Whether more came than is kept.
        ended: Whether no more will come.
    """

    command_number: int
    stdout: str
    stderr: str
    stdout_bytes: int
    stderr_bytes: int
    truncated: bool
    ended: bool


class SessionBackground(Message, frozen=True, kw_only=True):
    """Of the last 64 commands whose jobs outlived them, in their order."""

    success: bool = True
    session_id: str
    commands: list[BackgroundOutput]
    timestamp: str
