"""Chunked bodies: bytes in, the content out, and an exact end."""

from __future__ import annotations

import re

from sandbox_runtime.server.http.failures import MalformedBodyError

_LINE_LIMIT_BYTES = 16 * 1024
_OVERHEAD_BYTES_PER_CHUNK = 64
_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})(?:[ \t]*;[\t !-~\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t !-~\x80-\xff]*")


class ChunkedBody:
    """Decodes one chunked body. Extensions and trailers are checked, and dropped.

    Attributes:
        ended: Whether the last chunk and its trailers were seen.
    """

    __slots__ = ("_in_trailers", "_left", "_line", "_spare_bytes", "ended")

    def __init__(self) -> None:
        self.ended = False
        self._line = b""  # the beginning of a line whose end is not there yet
        self._left = 0  # of the present chunk, with the CRLF behind it
        self._in_trailers = False
        self._spare_bytes = _LINE_LIMIT_BYTES  # for extensions and trailers of the whole body

    def feed(self, data: bytes) -> tuple[bytes, bytes]:
        """Takes what has come.

        Returns:
            The content in it, and what lies behind the end of the body.

        Raises:
            MalformedBodyError: It breaks the rules.
        """
        content: list[bytes] = []
        at = 0
        while not self.ended and at < len(data):
            if self._left:
                at = self._take_content(data, at, content)
                continue
            end = data.find(b"\n", at)
            part = data[at:] if end < 0 else data[at : end + 1]
            if len(self._line) + len(part) > _LINE_LIMIT_BYTES:
                raise MalformedBodyError("a line between chunks is too long")
            self._line += part
            at += len(part)
            if end >= 0:
                self._take_line()
        return content[0] if len(content) == 1 else b"".join(content), data[at:]

    def _take_content(self, data: bytes, at: int, content: list[bytes]) -> int:
        if self._left > 2:
            part = data[at : at + self._left - 2]
            content.append(part)
            self._left -= len(part)
            return at + len(part)
        if data[at] != b"\r\n"[2 - self._left]:
            raise MalformedBodyError("a chunk is longer than its size")
        self._left -= 1
        return at + 1

    def _take_line(self) -> None:
        line, self._line = self._line, b""
        if not line.endswith(b"\r\n"):
            raise MalformedBodyError("a line between chunks does not end with CRLF")
        text = line[:-2]
        if self._in_trailers:
            if not text:
                self.ended = True
            elif _TRAILER.fullmatch(text) is None:
                raise MalformedBodyError("a trailer is no header field")
            self._spare_bytes -= len(text)
        else:
            match = _SIZE.fullmatch(text)
            if match is None:
                raise MalformedBodyError("the size of a chunk is not a hexadecimal number")
            size = int(match[1], 16)
            if size:
                self._left = size + 2
            else:
                self._in_trailers = True
            self._spare_bytes -= max(0, len(text) - _OVERHEAD_BYTES_PER_CHUNK)
        if self._spare_bytes < 0:
            raise MalformedBodyError("extensions and trailers of the body are too long")
