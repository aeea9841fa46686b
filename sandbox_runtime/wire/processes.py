"""Background processes and their logs."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, UnsetType

from sandbox_runtime.wire.shape import Env, Message, Milliseconds, Text

Status = Literal["starting", "running", "completed", "failed", "killed", "error"]


class ProcessOptions(Message, frozen=True, kw_only=True):
    """What a process may be told. See `StartProcess`."""

    process_id: Text | None = None
    timeout: Milliseconds | None = None
    timeout_ms: Milliseconds | None = None
    env: Env | None = None
    cwd: str | None = None
    encoding: str | None = None
    auto_cleanup: bool | None = None


class StartProcess(Message, frozen=True, kw_only=True):
    """Start a program in the background.

    0.3 sends `options`, 0.12 the same fields flat; what is flat wins.

    Attributes:
        command: Shell text of any form, in a shell of its own.
        session_id: Whose variables and directory it starts with.
        options: As 0.3 sends them.
        process_id: Its id; made if it is not given.
        timeout_ms: When it is ended with everything it started.
        env: Its variables, besides the session's.
        cwd: Where it starts; the session's directory by default.
        encoding: How its output becomes text in replies.
        auto_cleanup: Whether its record goes once it has ended and was read, or expired.
    """

    command: Text
    session_id: Text | None = None
    options: ProcessOptions | None = None
    process_id: Text | None = None
    timeout_ms: Milliseconds | None = None
    env: Env | None = None
    cwd: str | None = None
    encoding: str | None = None
    auto_cleanup: bool | None = None


class ProcessInfo(Message, frozen=True, kw_only=True):
    """What is known of a process.

    Attributes:
        pid: Its number in its jail.
        out_of_memory: True if the kernel ended it because the sandbox had no memory left.
    """

    id: str
    pid: int | UnsetType = UNSET
    command: str
    status: Status
    start_time: str
    end_time: str | None
    exit_code: int | None
    session_id: str
    out_of_memory: bool | UnsetType = UNSET


class ProcessStarted(Message, frozen=True, kw_only=True):
    """It runs."""

    success: bool = True
    process: ProcessInfo
    process_id: str
    pid: int | UnsetType = UNSET
    command: str
    session_id: str
    timestamp: str


class ProcessList(Message, frozen=True, kw_only=True):
    """Processes, in the order they were started."""

    success: bool = True
    processes: list[ProcessInfo]
    count: int
    timestamp: str


class ProcessFound(Message, frozen=True, kw_only=True):
    """One process."""

    success: bool = True
    process: ProcessInfo
    timestamp: str


class ProcessKilled(Message, frozen=True, kw_only=True):
    """It and everything it started are gone."""

    success: bool = True
    process_id: str
    session_id: str
    message: str
    timestamp: str


class AllProcessesKilled(Message, frozen=True, kw_only=True):
    """Those that ran are gone; `cleanedCount` is how 0.12 reads it."""

    success: bool = True
    killed_count: int
    cleaned_count: int
    message: str
    timestamp: str


class ProcessLogs(Message, frozen=True, kw_only=True):
    """What it wrote so far.

    `truncated` says whether older output is gone; `position` is where this ends, for `since`.
    """

    success: bool = True
    stdout: str
    stderr: str
    process_id: str
    session_id: str
    truncated: bool
    stdout_lost_bytes: int
    stderr_lost_bytes: int
    position: int
    timestamp: str


class LogInfo(Message, frozen=True, kw_only=True, tag_field="type", tag="process_info"):
    """Which process it is. The first event, for 0.12 clients."""

    process_id: str
    command: str
    status: Status
    timestamp: str


class LogStdout(Message, frozen=True, kw_only=True, tag_field="type", tag="stdout"):
    """It wrote to its standard output."""

    data: str
    process_id: str
    session_id: str
    lost_bytes: int | UnsetType = UNSET
    timestamp: str


class LogStderr(Message, frozen=True, kw_only=True, tag_field="type", tag="stderr"):
    """It wrote to its standard error."""

    data: str
    process_id: str
    session_id: str
    lost_bytes: int | UnsetType = UNSET
    timestamp: str


class LogComplete(Message, frozen=True, kw_only=True, tag_field="type", tag="complete"):
    """It ended. The last event for 0.3 clients."""

    status: Status
    exit_code: int | UnsetType = UNSET
    process_id: str
    session_id: str
    timestamp: str


class LogExit(Message, frozen=True, kw_only=True, tag_field="type", tag="exit"):
    """It ended. The last event for 0.12 clients."""

    exit_code: int | None
    data: str
    process_id: str
    session_id: str
    timestamp: str


class LogError(Message, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """Its log cannot be read on, or not for longer. The last event.

    Attributes:
        reason: `deadline` if the time was up.
    """

    error: str
    data: str
    reason: Literal["deadline"] | UnsetType = UNSET
    process_id: str
    session_id: str
    timestamp: str


LogEvent = LogInfo | LogStdout | LogStderr | LogComplete | LogExit | LogError
