"""Lines of a log that somebody waits for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from sandbox_runtime.errors import InvalidArgumentError
from sandbox_runtime.logs import StreamName

if TYPE_CHECKING:
    from sandbox_runtime.logs import LogFollower

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


class LinePattern:
    """What a line has to hold: text anywhere in it, or a match of a regular expression."""

    def __init__(self, pattern: str | bytes | re.Pattern[Any]) -> None:
        if not isinstance(pattern, (str, bytes, re.Pattern)) or pattern in {"", b""}:
            raise InvalidArgumentError("pattern", f"{pattern!r} is no text and no re.compile(…)")
        self._text = pattern.encode() if isinstance(pattern, str) else pattern

    def search(self, stream: StreamName, line: bytes, *, finished: bool) -> LogLine | None:
        """The line, if it holds what was looked for.

        A regular expression sees finished lines only: half a number matches too.
        """
        if isinstance(self._text, bytes):
            return LogLine(stream=stream, line=line) if self._text in line else None
        if not finished:
            return None
        is_for_text = isinstance(self._text.pattern, str)
        found = self._text.search(line.decode(errors="replace") if is_for_text else line)
        return found and LogLine(stream=stream, line=line, groups=found.groups())


async def find_line(follower: LogFollower, pattern: LinePattern) -> LogLine | None:
    """Reads until a line holds what is looked for; None when the log has ended without it.

    A line longer than 64 KiB is looked at in pieces.
    """
    rest: dict[StreamName, bytes] = {"stdout": b"", "stderr": b""}
    async for chunk in follower:
        lines = (rest[chunk.stream] + chunk.data).split(b"\n")
        last = lines.pop()
        for line in lines:
            if found := pattern.search(chunk.stream, line.removesuffix(b"\r"), finished=True):
                return found
        is_long = len(last) > _LINE_LIMIT_BYTES
        if found := pattern.search(chunk.stream, last, finished=is_long):
            return found
        rest[chunk.stream] = b"" if is_long else last
    for stream, line in rest.items():
        if line and (found := pattern.search(stream, line, finished=True)):
            return found
    return None
