"""What calls of the client return: plain values."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from sandbox_runtime.choices import DeathCause, RunEnded


class CommandResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended.

    Attributes:
        stdout: What it wrote, as UTF-8; bytes that are not are U+FFFD.
        stderr: Likewise.
        exit_code: Its exit status.
        duration_s: How long it took in the server.
        truncated: Whether it wrote more than the server keeps.
        peak_memory_bytes: Of its largest process, or None.
        cpu_s: User and system time, or None.
    """

    stdout: str
    stderr: str
    exit_code: int
    duration_s: float
    truncated: bool = False
    peak_memory_bytes: int | None = None
    cpu_s: float | None = None

    @property
    def ok(self) -> bool:
        """Whether it ended with exit status 0."""
        return self.exit_code == 0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Something that code showed, in every format that it has.

    Attributes:
        text: As plain text; None if there is none, as for all others.
        html: As HTML.
        png: As a PNG, base64.
        jpeg: As a JPEG, base64.
        svg: As SVG.
        latex: As LaTeX.
        markdown: As Markdown.
        javascript: As JavaScript.
        json: As data.
        chart: A chart as data, see the documentation of interpreters.
        data: A table as data.
        metadata: What the program said about it.
        is_main_result: Whether it is the value of the last expression.
    """

    text: str | None = None
    html: str | None = None
    png: str | None = None
    jpeg: str | None = None
    svg: str | None = None
    latex: str | None = None
    markdown: str | None = None
    javascript: str | None = None
    json: Any = None
    chart: Any = None
    data: Any = None
    metadata: dict[str, Any] = {}
    is_main_result: bool = False

    def formats(self) -> tuple[str, ...]:
        """Which formats it has."""
        names = (
            name for name in self.__struct_fields__ if name not in {"metadata", "is_main_result"}
        )
        return tuple(name for name in names if getattr(self, name) is not None)


class ExecutionError(msgspec.Struct, frozen=True, kw_only=True):
    """What the code raised.

    Attributes:
        name: The class.
        value: The message.
        traceback: Where, as text.
    """

    name: str
    value: str
    traceback: str


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """How an interpreter came to its end.

    Attributes:
        cause: It exited (`os._exit`); a signal ended it (a crash, `kill`); the kernel did because
            the sandbox had no memory left; or the server did, as user code had spoken in its name.
        exit_code: 0 to 255, if it exited.
        signal: The number of the signal, if one ended it.
    """

    cause: DeathCause
    exit_code: int | None = None
    signal: int | None = None


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """How a run of code ended.

    Attributes:
        results: What it showed, in order.
        stdout: What it wrote.
        stderr: Likewise.
        error: What it raised, or why it was ended; None if it ended well.
        ended: Why it is over.
        state_survived: Whether the next run finds the variables of this one.
        death: How the interpreter ended, if it did and that is known.
        execution_count: The number of the cell, if the interpreter counts.
    """

    results: tuple[Result, ...]
    stdout: str
    stderr: str
    error: ExecutionError | None
    ended: RunEnded
    state_survived: bool
    execution_count: int | None
    death: Death | None = None

    @property
    def text(self) -> str | None:
        """The value of the last expression, as text."""
        return next((one.text for one in reversed(self.results) if one.is_main_result), None)


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a directory.

    Attributes:
        path: Absolute.
        relative_path: Below the directory that was listed.
        kind: What it is; a symlink is not followed.
        size_bytes: Its size.
        mode: As `ls -l` shows it.
        modified: ISO 8601, UTC.
    """

    path: str
    relative_path: str
    kind: Literal["file", "directory", "symlink", "other"]
    size_bytes: int
    mode: str
    modified: str


class ExposedPort(msgspec.Struct, frozen=True, kw_only=True):
    """A port that can be reached through the server.

    Attributes:
        port: Its number in the sandbox.
        name: What it was named.
        url: Where it can be reached.
    """

    port: int
    name: str | None
    url: str


class Clone(msgspec.Struct, frozen=True, kw_only=True):
    """A repository that was checked out.

    Attributes:
        directory: Where.
        branch: Which branch.
        commit: Which commit, if the server says.
    """

    directory: str
    branch: str
    commit: str | None
