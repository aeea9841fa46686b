"""A kept HTTP/1.1 connection of the harness: no more than an answer's length has to be known by.

It is the same for every server, and what it costs is in every figure. So it costs little: a request
is one packet, as most clients send it, an answer's head is looked at for two fields, and the
kernel keeps the deadline. Python's own client adds 0.2 ms to a request, half of a short one.
"""

from __future__ import annotations

import re
import socket
import struct
import urllib.parse
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_RECEIVE_BYTES = 64 * 1024
_JOINED_BYTES = 64 * 1024  # beyond that, copying head and body together costs more
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_KIND = re.compile(rb"\r\ncontent-type:[ \t]*([^\r]*)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)


class Answered(NamedTuple):
    """The head of an answer.

    Attributes:
        status: The status code.
        kind: The content type.
        length: How long the body is; None if it is in chunks, or ends with the connection.
        chunked: Whether it is in chunks.
        closes: Whether the server ends the connection with it.
    """

    status: int
    kind: str
    length: int | None
    chunked: bool
    closes: bool


class Connection:
    """One connection to a server, made when it is needed; blocking.

    Args:
        url: The server's address; a path in it comes before each request's.
        timeout_s: How long the server may say nothing.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urllib.parse.urlsplit(url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._prefix = parts.path.rstrip("/")
        self._timeout_s = timeout_s
        self._fields = f"Host: {parts.netloc}\r\nAccept: text/event-stream\r\n"
        self._sock: socket.socket | None = None
        self._received = b""

    def ask(self, method: str, path: str, body: bytes | None) -> None:
        """Sends a request.

        Raises:
            OSError: The server cannot be reached.
        """
        sock = self._sock = self._sock or self._connect()
        fields = self._fields
        if body is not None:
            fields += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        elif method != "GET":
            fields += "Content-Length: 0\r\n"
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{fields}\r\n".encode()
        if body is None or len(body) <= _JOINED_BYTES:
            sock.sendall(head + (body or b""))
        else:
            sock.sendall(head)
            sock.sendall(body)

    def answer(self) -> tuple[Answered, bytes]:
        """The whole answer.

        Raises:
            OSError: The server has hung up, or says nothing.
            ValueError: It does not speak HTTP.
        """
        head = self.head()
        return head, b"".join(self.pieces(head))

    def head(self) -> Answered:
        """The head of the answer; its `pieces` are to be read next."""
        while (end := self._received.find(b"\r\n\r\n")) < 0:
            self._receive()
        head, self._received = self._received[:end], self._received[end + 4 :]
        if not head.startswith(b"HTTP/1.1 "):
            raise ValueError(f"no answer of HTTP/1.1: {head[:80]!r}")
        length, kind = _LENGTH.search(head), _KIND.search(head)
        return Answered(
            status=int(head[9:12]),
            kind=kind[1].decode("latin-1") if kind else "",
            length=int(length[1]) if length else None,
            chunked=_CHUNKED.search(head) is not None,
            closes=_CLOSES.search(head) is not None,
        )

    def pieces(self, head: Answered) -> Iterator[bytes]:
        """The body as it comes; whoever does not read it to its end has to close."""
        if head.chunked:
            while size := int(self._line().split(b";")[0], 16):
                yield self._exactly(size)
                self._exactly(2)
            while self._line():
                pass
        elif head.length is not None:
            yield self._exactly(head.length)
        elif head.status not in {204, 304}:
            yield from self._rest()
        if head.closes:
            self.close()

    def close(self) -> None:
        """Hangs up; the next request connects anew."""
        if self._sock is not None:
            self._sock.close()
        self._sock, self._received = None, b""

    def _connect(self) -> socket.socket:
        sock = socket.create_connection(self._address, timeout=self._timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Kept by the kernel: with a timeout of its own, Python asks before each call if it can.
        whole_s, rest_s = divmod(self._timeout_s, 1)
        limit = struct.pack("ll", int(whole_s), int(rest_s * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        sock.setblocking(True)
        return sock

    def _receive(self, most_bytes: int = _RECEIVE_BYTES) -> None:
        if self._sock is None:
            raise ConnectionError("nothing was asked")
        try:
            piece = self._sock.recv(most_bytes)
        except BlockingIOError:
            raise TimeoutError(f"the server said nothing for {self._timeout_s:g} s") from None
        if not piece:
            raise ConnectionError("the server has hung up")
        self._received += piece

    def _line(self) -> bytes:
        while (end := self._received.find(b"\r\n")) < 0:
            self._receive()
        line, self._received = self._received[:end], self._received[end + 2 :]
        return line

    def _exactly(self, size_bytes: int) -> bytes:
        if len(self._received) >= size_bytes:
            found, self._received = self._received[:size_bytes], self._received[size_bytes:]
            return found
        pieces, missing = [self._received], size_bytes - len(self._received)
        while missing:
            self._received = b""
            self._receive(min(missing, _RECEIVE_BYTES))
            pieces.append(self._received)
            missing -= len(self._received)
        self._received = b""
        return b"".join(pieces)

    def _rest(self) -> Iterator[bytes]:
        while True:
            if self._received:
                piece, self._received = self._received, b""
                yield piece
            try:
                self._receive()
            except ConnectionError:
                self.close()
                return
