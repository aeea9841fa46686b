"""An answer as bytes: its head, and how its body is framed."""

from __future__ import annotations

import time
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
import trio

from sandbox_runtime.server.http.messages import Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sandbox_runtime.server.http.failures import RequestError
    from sandbox_runtime.server.http.parsing import Head

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_BODILESS = frozenset((204, 304))
_COPIED_BYTES = 16 * 1024  # beyond that, copying costs more than another part
_FEW_FIELDS = 8
_MOST_PARTS = 64  # in one call; the kernel takes 1024
_OURS = frozenset(("connection", "content-length", "keep-alive", "transfer-encoding"))


class Framing(msgspec.Struct, frozen=True, gc=False):
    """How one answer goes out.

    Attributes:
        head: Everything before the body.
        has_body: Whether a body follows.
        chunked: Whether that is in chunks.
        length: Its length, if the handler gave one for a stream.
        close: Whether the connection ends with it.
    """

    head: bytes
    has_body: bool
    chunked: bool
    length: int | None
    close: bool


def frame(request: Head, response: Response, *, close: bool) -> Framing:
    """Decides how a response is sent.

    Args:
        request: What it answers.
        response: What the handler gave.
        close: Whether the connection ends in any case.

    Raises:
        ValueError: A header field cannot be sent, or contradicts the body.
    """
    headers = response.headers
    given_length: int | None = None
    fields = _fields_of(headers)
    if fields.names_ours:
        close = close or _asks_to_close(headers)
        given_length = _given_length(headers)
        fields = _look_at([field for field in headers if field[0].lower() not in _OURS])
    bodiless = response.status in _BODILESS
    has_body = not bodiless and request.method != "HEAD"
    chunked = False
    length: str | None = None
    if response.stream is None:
        if has_body and given_length not in {None, len(response.body)}:
            raise ValueError(f"Content-Length is {given_length}, the body {len(response.body)}")
        length = str(len(response.body) if given_length is None else given_length)
        if bodiless and given_length is None:
            length = None
    elif given_length is not None:
        length = str(given_length)
    elif not bodiless:
        chunked = request.http_version == "1.1"
        close = close or not chunked
    own = "" if length is None else f"content-length: {length}\r\n"
    if chunked:
        own += "transfer-encoding: chunked\r\n"
    if close:
        own += "connection: close\r\n"
    elif request.http_version == "1.0":
        own += "connection: keep-alive\r\n"
    return Framing(_encode(response.status, fields, own), has_body, chunked, given_length, close)


def _given_length(headers: Sequence[tuple[str, str]]) -> int | None:
    lengths = {value for name, value in headers if name.lower() == "content-length"}
    if not lengths:
        return None
    if len(lengths) > 1 or not (text := lengths.pop()).isdecimal():
        raise ValueError("Content-Length of the response is not one number")
    return int(text)


def _asks_to_close(headers: Sequence[tuple[str, str]]) -> bool:
    return any(name.lower() == "connection" and "close" in value.lower() for name, value in headers)


def http_date(second: int) -> str:
    """A second since 1970 as the field `Date` has it, in whatever language this process speaks."""
    year, month, day, hour, minute, seconds, weekday, *_ = time.gmtime(second)
    return (
        f"{_WEEKDAYS[weekday]}, {day:02} {_MONTHS[month - 1]} {year:04} "
        f"{hour:02}:{minute:02}:{seconds:02} GMT"
    )


class _Date:
    """The present `Date` field, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def field(self) -> str:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._text = f"date: {http_date(second)}\r\n"
        return self._text


_date = _Date()


def encode_head(status: int, headers: Sequence[tuple[str, str]], own: str) -> bytes:
    """A whole head, up to the empty line.

    Args:
        status: The status code.
        headers: The fields that a handler gave.
        own: Fields of the server, each with its CRLF.

    Raises:
        ValueError: A field has a line break or a NUL in it, or is not latin-1.
    """
    return _encode(status, _look_at(headers), own)


class _Fields(msgspec.Struct, frozen=True, gc=False):
    """Header fields as text, whether some are the server's to say, and whether there is a date."""

    text: str
    names_ours: bool
    has_date: bool


def _look_at(headers: Sequence[tuple[str, str]]) -> _Fields:
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    text = "".join(lines)
    if text.count("\n") != len(lines) or text.count("\r") != len(lines) or "\0" in text:
        raise ValueError("a header field of the response has a line break or a NUL in it")
    names = [name.lower() for name, _ in headers]
    return _Fields(text, not _OURS.isdisjoint(names), "date" in names)


_look_at_known = lru_cache(maxsize=32)(_look_at)


def _fields_of(headers: Sequence[tuple[str, str]]) -> _Fields:
    if type(headers) is tuple and len(headers) <= _FEW_FIELDS:  # nearly all answers have the same
        return _look_at_known(headers)
    return _look_at(headers)


def _encode(status: int, fields: _Fields, own: str) -> bytes:
    phrase = _PHRASES.get(status, "")
    date = "" if fields.has_date else _date.field()
    return f"HTTP/1.1 {status} {phrase}\r\n{fields.text}{date}{own}\r\n".encode("latin-1")


def refusal(error: RequestError) -> Response:
    """The answer to a request that no handler sees."""
    return Response(
        status=error.status,
        headers=(("content-type", "application/json"), ("connection", "close")),
        body=msgspec.json.encode(
            {
                "error": str(error),
                "message": str(error),
                "code": error.code.upper(),
                "httpStatus": error.status,
            }
        ),
    )


FAILED = Response(
    status=500,
    headers=(("content-type", "text/plain;charset=utf-8"), ("connection", "close")),
    body=b"Internal Server Error",
)
"""The answer when a handler did not turn its own failure into one."""


class StreamedBody:
    """Sends a body that comes in parts, several tasks at a time if need be; a `Write`.

    A part has its place from the moment that it is given. Whoever sends, sends all that is there;
    what a cancelled sender leaves is the beginning of what the next one sends.

    Args:
        send: Sends bytes, and takes what it has sent out of their list.
        framing: How the body is framed; its head is sent by somebody else.
        on_broken: Called when nobody takes what is sent.
        before: What goes out with the first part.
    """

    def __init__(
        self,
        send: Callable[[list[bytes | memoryview]], Awaitable[None]],
        framing: Framing,
        on_broken: Callable[[], None],
        before: bytes = b"",
    ) -> None:
        self._send = send
        self._chunked = framing.chunked
        self._left = framing.length
        self._on_broken = on_broken
        self._unsent: list[bytes | memoryview] = [before] if before else []  # framed already
        self._over = False
        self._is_sending = False
        self._others: trio.lowlevel.ParkingLot | None = None  # there are hardly ever any

    async def __call__(self, data: bytes) -> None:
        """Sends a part; does nothing once the body is over.

        Raises:
            ValueError: There is more than the given length.

        Cancellation: the part goes out with the next one, or with the end.
        """
        self.keep(data)
        if self._unsent:
            await self._send_unsent()
        else:
            await trio.lowlevel.checkpoint()

    def keep(self, data: bytes) -> None:
        """Sends a part together with the next one, or with the end."""
        if data and not self._over:
            self._unsent += self._framed(data)

    async def _send_unsent(self) -> None:
        while self._is_sending:
            if self._others is None:
                self._others = trio.lowlevel.ParkingLot()
            await self._others.park()
        self._is_sending = True
        parts, self._unsent = self._unsent, []
        if len(parts) > _MOST_PARTS or sum(map(len, parts)) <= _COPIED_BYTES:
            parts = [b"".join(parts)]
        try:
            await self._send(parts)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._over = True
            parts, self._unsent = [], []
            self._on_broken()
            await trio.lowlevel.checkpoint()
        finally:
            self._unsent[:0] = parts
            self._is_sending = False
            if self._others is not None:
                self._others.unpark()

    def _framed(self, data: bytes) -> tuple[bytes, ...]:
        if self._chunked:
            if len(data) <= _COPIED_BYTES:
                return (b"%x\r\n%b\r\n" % (len(data), data),)
            return (b"%x\r\n" % len(data), data, b"\r\n")
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise ValueError("a stream wrote more than its Content-Length")
        return (data,)

    async def end(self) -> None:
        """Sends what says that nothing follows.

        Raises:
            ValueError: There was less than the given length.
        """
        if not self._chunked and self._left:
            raise ValueError("a stream wrote less than its Content-Length")
        if self._chunked and not self._over:
            self._unsent.append(b"0\r\n\r\n")
        self._over = True
        if self._unsent or self._is_sending:
            await self._send_unsent()
