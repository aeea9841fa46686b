"""Commands in sessions, at once and streamed."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from sandbox_runtime.wire.shape import Env, Message, Milliseconds, Text


class Execute(Message, frozen=True, kw_only=True):
    """Run a command in a session.

    Attributes:
        id: The session, as 0.3 names it.
        session_id: The session, as 0.12 names it; it is made if it is not there.
        command: Shell text.
        timeout_ms: Its own time limit.
        env: Variables for this command alone.
        cwd: Its directory; the session's own stays.
    """

    id: Text | int | UnsetType = UNSET
    session_id: Text | UnsetType = UNSET
    command: Text
    timeout_ms: Milliseconds | None = None
    env: Env | None = None
    cwd: str | None = None


class Executed(Message, frozen=True, kw_only=True):
    """How a command ended.

    Attributes:
        stdout: As UTF-8; what is not is U+FFFD.
        stderr: Likewise.
        exit_code: Of the command.
        success: Whether that is 0.
        command: As it was sent.
        duration: Milliseconds.
        timestamp: When it ended.
        session_id: Where it ran.
        truncated: Whether more was written than is kept.
        stdout_bytes: How much it wrote in all.
        stderr_bytes: Likewise.
        peak_memory_bytes: Of its largest process, or null if nothing measured it.
        cpu_ms: What it took in user and kernel mode, or null.
        command_number: Of the commands of its session, from 1; see `/api/session/background`.
        out_of_memory: True if the kernel ended it because the sandbox had no memory left.
    """

    stdout: str
    stderr: str
    exit_code: int
    success: bool
    command: str
    duration: float
    timestamp: str
    session_id: str
    truncated: bool
    stdout_bytes: int
    stderr_bytes: int
    peak_memory_bytes: int | None
    cpu_ms: float | None
    command_number: int
    out_of_memory: bool | UnsetType = UNSET


class CommandStart(Message, frozen=True, kw_only=True, tag_field="type", tag="start"):
    """The command is about to run."""

    timestamp: str
    command: str
    session_id: str


class CommandStdout(Message, frozen=True, kw_only=True, tag_field="type", tag="stdout"):
    """It wrote to its standard output."""

    timestamp: str
    data: str
    command: str


class CommandStderr(Message, frozen=True, kw_only=True, tag_field="type", tag="stderr"):
    """It wrote to its standard error."""

    timestamp: str
    data: str
    command: str


class StreamedResult(Message, frozen=True, kw_only=True):
    """The whole output once more, for 0.3 clients."""

    stdout: str
    stderr: str
    exit_code: int
    success: bool
    truncated: bool


class CommandComplete(Message, frozen=True, kw_only=True, tag_field="type", tag="complete"):
    """It ended. The last event."""

    timestamp: str
    command: str
    exit_code: int
    duration: float
    command_number: int
    out_of_memory: bool | UnsetType = UNSET
    result: StreamedResult | UnsetType = UNSET


class CommandError(Message, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """It did not end by itself, or could not run. The last event."""

    timestamp: str
    command: str
    error: str
    code: str
    session_id: str
    message: str
    exit_code: int | None = None


CommandEvent = CommandStart | CommandStdout | CommandStderr | CommandComplete | CommandError
