"""The head of a request: bytes in, a value or an error out.

A head ends at the first empty line. It is cut out of the stream here and given to llhttp whole,
with a fresh parser each, so that no state of one request reaches another. The parser is strict;
what it takes beyond that (versions, protocols and methods of others) is refused here. How the body
is framed is read from the header fields that the parser let through.
"""

from __future__ import annotations

import re

import httptools
import msgspec

from sandbox_runtime.server.http.failures import (
    ExpectationError,
    HeadTooLargeError,
    RequestError,
    UnsupportedError,
    UnsupportedVersionError,
)
from sandbox_runtime.server.http.messages import Headers

_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]")
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+) ([!-~]+) HTTP/([0-9])\.([0-9])\r\n")
_METHOD_BYTES = frozenset(bytes([byte]) for byte in range(256) if _METHOD.match(bytes([byte])))
_NO_REQUEST_LINE = "the request does not begin with a line `METHOD target HTTP/1.1`"
_BARE_LF = "a line of the head does not end with CRLF"
_FRAMING = frozenset((b"connection", b"content-length", b"expect", b"host", b"transfer-encoding"))


class Head(msgspec.Struct, gc=False):
    """What the head of a request says.

    Attributes:
        method: The method.
        target: The request target as it was sent.
        raw_path: Its path.
        query: What stands behind `?` in it.
        http_version: `1.1` or `1.0`.
        headers: The header fields.
        content_length: The length of the body; 0 without one.
        chunked: Whether the body is chunked instead.
        expects_continue: Whether the client waits to be told before it sends the body.
        keep_alive: Whether another request may follow.
    """

    method: str
    target: bytes
    raw_path: bytes
    query: str
    http_version: str
    headers: Headers
    content_length: int = 0
    chunked: bool = False
    expects_continue: bool = False
    keep_alive: bool = True


class _Fields:
    """Collects what llhttp finds."""

    __slots__ = ("items", "on_header")

    def __init__(self) -> None:
        self.items: list[tuple[bytes, bytes]] = []
        self.on_header = self._add

    def _add(self, name: bytes, value: bytes) -> None:
        self.items.append((name, value))


def check_beginning(data: bytes) -> None:
    """Finds out early that what has come can never become a head.

    Raises:
        RequestError: So it is; the same that `parse_head` would say.
    """
    line, newline, rest = data.partition(b"\n")
    if newline:
        _parse_line(line + newline)
        if rest.count(b"\n") != rest.count(b"\r\n"):
            raise RequestError(_BARE_LF)
    elif line[:1] not in _METHOD_BYTES:
        raise RequestError(_NO_REQUEST_LINE)


def _parse_line(data: bytes) -> tuple[bytes, bytes, str]:
    line = _REQUEST_LINE.match(data)
    if line is None:
        raise RequestError(_NO_REQUEST_LINE)
    method, target, major, minor = line.groups()
    if major != b"1" or minor not in b"01":
        raise UnsupportedVersionError("the server speaks HTTP/1.1 and HTTP/1.0")
    return method, target, "1.1" if minor == b"1" else "1.0"


def parse_head(raw: bytes, most_fields: int) -> Head:
    """Reads one head, from its first byte to the empty line at its end.

    Raises:
        RequestError: It is no head of HTTP/1.1 or 1.0; the message says why.
    """
    method, target, http_version = _parse_line(raw)
    if raw.count(b"\n") != raw.count(b"\r\n"):
        raise RequestError(_BARE_LF)
    if method == b"CONNECT":
        raise UnsupportedError("the server is no proxy for CONNECT")
    fields = _Fields()
    parser = httptools.HttpRequestParser(fields)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # whether it is done is the handler's decision; nothing follows the head here
    except httptools.HttpParserInvalidMethodError:
        raise UnsupportedError(f"no handler knows the method {method.decode()}") from None
    except httptools.HttpParserError as error:
        raise RequestError(f"the head of the request is malformed: {error}") from None
    if len(fields.items) > most_fields:
        raise HeadTooLargeError(f"the request has more than {most_fields} header fields")
    path, query = _split_target(target)
    head = Head(method.decode(), target, path, query.decode(), http_version, Headers(fields.items))
    _read_framing(head, fields.items)
    return head


def _split_target(target: bytes) -> tuple[bytes, bytes]:
    if target[:1] != b"/" and b"://" in target:  # as it is sent to a proxy
        rest = target.partition(b"://")[2]
        slash, question = rest.find(b"/"), rest.find(b"?")
        if question >= 0 and not 0 <= slash < question:
            rest, slash = rest[:question] + b"/" + rest[question:], question
        target = rest[slash:] if slash >= 0 else b"/"
    path, _, query = target.partition(b"?")
    return path, query


def _read_framing(head: Head, items: list[tuple[bytes, bytes]]) -> None:
    hosts = 0
    connection = b""
    for name, value in items:
        key = name.lower()
        if key not in _FRAMING:
            continue
        if key == b"host":
            hosts += 1
        elif key == b"content-length":  # llhttp has seen to it that this is a number, and the only
            head.content_length = int(value)
        elif key == b"transfer-encoding":
            _check_only(value, b"chunked", UnsupportedError)
            head.chunked = True
        elif key == b"connection":
            connection += b"," + value.lower()
        else:
            _check_only(value, b"100-continue", ExpectationError)
            head.expects_continue = head.http_version == "1.1"
    if head.http_version == "1.1":
        if hosts != 1:
            raise RequestError("a request of HTTP/1.1 has exactly one Host field")
        head.keep_alive = not _has_token(connection, b"close")
        return
    if head.chunked or hosts > 1:
        raise RequestError("HTTP/1.0 has no Transfer-Encoding, and at most one Host field")
    head.keep_alive = _has_token(connection, b"keep-alive")


def _check_only(value: bytes, known: bytes, error: type[RequestError]) -> None:
    if value.strip().lower() != known:
        raise error(f"this server knows only `{known.decode()}` there, not {value!r}")


def _has_token(value: bytes, token: bytes) -> bool:
    return token in value and any(part.strip() == token for part in value.split(b","))
