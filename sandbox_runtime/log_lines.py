"""Lines of a log that somebody waits for."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

from sandbox_runtime.errors import InvalidArgumentError

StreamName = Literal["stdout", "stderr"]

_LINE_LIMIT_BYTES = 64 * 1024


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line that somebody waited for.

    Attributes:
        stream: Which stream wrote it.
        line: The line without its end.
        groups: What the groups of the regular expression matched.
    """

    stream: StreamName
    line: bytes
    groups: tuple[str | bytes | None, ...] = ()


class LineSearch:
    """Looks for a line in what a program writes, as it comes.

    Args:
        pattern: Text that the line holds, or a compiled regular expression, which is tried on
            finished lines only: half a number matches too.
    """

    def __init__(self, pattern: str | bytes | re.Pattern[Any]) -> None:
        if not isinstance(pattern, (str, bytes, re.Pattern)) or pattern in {"", b""}:
            raise InvalidArgumentError("pattern", f"{pattern!r} is no text and no re.compile(…)")
        self._looked_for = pattern.encode() if isinstance(pattern, str) else pattern
        self._rest: dict[StreamName, bytes] = {"stdout": b"", "stderr": b""}

    def take(self, stream: StreamName, data: bytes) -> LogLine | None:
        """The first line that holds it; a line longer than 64 KiB is looked at in pieces."""
        lines = (self._rest[stream] + data).split(b"\n")
        last = lines.pop()
        for line in lines:
            if found := self._look(stream, line.removesuffix(b"\r"), finished=True):
                return found
        is_long = len(last) > _LINE_LIMIT_BYTES
        self._rest[stream] = b"" if is_long else last
        return self._look(stream, last, finished=is_long)

    def end(self) -> LogLine | None:
        """The last line of either stream, if it holds it and has no end of its own."""
        for stream, line in self._rest.items():
            if line and (found := self._look(stream, line, finished=True)):
                return found
        return None

    def _look(self, stream: StreamName, line: bytes, *, finished: bool) -> LogLine | None:
        if isinstance(self._looked_for, bytes):
            return LogLine(stream=stream, line=line) if self._looked_for in line else None
        if not finished:
            return None
        is_for_text = isinstance(self._looked_for.pattern, str)
        found = self._looked_for.search(line.decode(errors="replace") if is_for_text else line)
        return found and LogLine(stream=stream, line=line, groups=found.groups())
