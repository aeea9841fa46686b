"""One client: its requests, one after another, each answered before the next is read.

The whole connection is one task. A handler runs in it directly, so that a quick answer costs no
nursery and no thread. That the client has gone is seen from outside (`departures.py`), which then
cancels the scope of the connection.
"""

from __future__ import annotations

import enum
import logging
import math
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.budget import Claim
from sandbox_runtime.server.http.answer import (
    FAILED,
    StreamedBody,
    encode_head,
    frame,
    refusal,
)
from sandbox_runtime.server.http.body import Body
from sandbox_runtime.server.http.failures import (
    HeadTooLargeError,
    MalformedBodyError,
    RequestError,
    RequestTimeoutError,
)
from sandbox_runtime.server.http.messages import Headers, Request, Response
from sandbox_runtime.server.http.parsing import Head, check_beginning, parse_head

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandbox_runtime.budget import Budget
    from sandbox_runtime.server.http.departures import Departures
    from sandbox_runtime.server.http.limits import HttpLimits
    from sandbox_runtime.server.http.messages import Handler, Peer
    from sandbox_runtime.server.http.sockets import EagerStream

_LOG = logging.getLogger("sandbox_runtime.http")
_COPIED_BODY_BYTES = 16 * 1024  # beyond that, copying head and body together costs more
_BODY_PART_BYTES = 256 * 1024
_LINGER_S = 1.0
_TURNS_BEFORE_WAITING = 2  # to see whether the client has answered; waiting costs as much as five
_UNREADABLE = Head(
    "GET", b"*", b"*", "", "1.1", Headers(())
)  # what a request is taken for that was refused


class _Doing(enum.Enum):
    """What a connection is at; it says what the end of a deadline or of the server means."""

    IDLE = enum.auto()
    HEAD = enum.auto()
    HANDLER = enum.auto()
    OVER = enum.auto()


class Connection:
    """Serves one client until it goes, breaks the rules, or the server ends.

    Attributes:
        idle_since: When it began to wait, if it is idle.
    """

    def __init__(
        self,
        stream: EagerStream,
        peer: Peer,
        handler: Handler,
        limits: HttpLimits,
        departures: Departures,
        memory: Budget,
    ) -> None:
        self._stream = stream
        self._peer = peer
        self._handler = handler
        self._limits = limits
        self._departures = departures
        self._memory = memory
        self._claim = Claim(memory)
        self._scope = trio.CancelScope()
        self._doing = _Doing.IDLE
        self._closing = False  # no further request is read
        self._half_closed = False
        self._watched = False
        self._last_raw = b""
        self._last_head = _UNREADABLE
        self.idle_since = trio.current_time()
        self._answered = False  # bytes of an answer to the present request may be out

    async def run(self) -> None:
        """Serves until the end, and closes the connection."""
        self._departures.add(self._stream.fd, self)
        self._watched = True
        try:
            with self._scope:
                await self._serve_all()
            if self._scope.cancelled_caught and self._doing is _Doing.HEAD:
                await self._refuse(RequestTimeoutError("the head of the request came too slowly"))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has gone
        except BaseExceptionGroup as group:  # of a stream with tasks of its own
            failures, rest = group.split(Exception)
            if failures is not None:
                _LOG.error("an answer broke off: its handler failed", exc_info=failures)
            if rest is not None:
                raise rest from None
        except Exception:  # noqa: BLE001 - a broken handler ends its connection, not the server
            _LOG.exception("an answer broke off: its handler failed")
        finally:
            self._end_watch()
            self._stream.close()

    def _end_watch(self) -> None:
        if self._watched:  # else the descriptor may be another connection's by now
            self._watched = False
            self._departures.remove(self._stream.fd)

    def client_gone(self) -> None:
        """Nobody reads an answer any more: cancels what runs for this client."""
        self._doing = _Doing.OVER
        self._scope.cancel()

    def client_half_closed(self) -> None:
        """The client sends no more, and may have gone: what runs has a moment left."""
        self._half_closed = True
        if self._doing is _Doing.HANDLER:
            self._scope.deadline = trio.current_time() + self._limits.half_close_s

    @property
    def idle(self) -> bool:
        """Whether it waits for a request."""
        return self._doing is _Doing.IDLE

    def finish(self) -> None:
        """Ends the connection: at once if nothing runs on it, else after the present answer."""
        self._closing = True
        if self._doing in {_Doing.IDLE, _Doing.HEAD}:
            self.client_gone()

    # -- requests

    async def _serve_all(self) -> None:
        try:
            while not self._closing:
                self._answered = False
                raw = await self._receive_head()
                if raw is None:
                    return
                if raw != self._last_raw:  # many a client asks the same again
                    self._last_head = parse_head(raw, self._limits.header_fields)
                    self._last_raw = raw
                await self._serve_one(self._last_head)
        except RequestError as error:
            if not self._answered:
                await self._refuse(error)

    async def _receive_head(self) -> bytes | None:
        """The bytes of the next head, or None if the client sends none any more."""
        stream, limits = self._stream, self._limits
        self._doing = _Doing.IDLE
        self.idle_since = trio.current_time()
        data = stream.receive_nowait()
        for _ in range(_TURNS_BEFORE_WAITING):
            if data is not None:
                break
            await trio.lowlevel.checkpoint()
            data = stream.receive_nowait()
        if data is None:
            data = await stream.receive_some()
        timed = False
        while True:
            while data.startswith(b"\r\n"):  # careless clients leave it behind a body
                data = data[2:]
            end = data.find(b"\r\n\r\n") + 4
            if end > 3 and end <= limits.head_bytes:
                break
            if data and data != b"\r":
                check_beginning(data)
                if len(data) > limits.head_bytes:
                    raise HeadTooLargeError(
                        f"the head of the request is larger than {limits.head_bytes} bytes"
                    )
                if self._doing is _Doing.IDLE:
                    self._doing = _Doing.HEAD
                    self._scope.deadline = trio.current_time() + limits.head_s
                    timed = True
            more = await stream.receive_some()
            if not more:
                return None
            data += more
        if timed:
            self._scope.deadline = math.inf
        stream.unread = data[end:]
        return data[:end]

    async def _serve_one(self, head: Head) -> None:
        memory = self._claim = Claim(self._memory)
        try:
            await self._serve_with(head, memory)
        finally:
            memory.give_back()

    async def _serve_with(self, head: Head, memory: Claim) -> None:
        body = Body(head, self._stream, self._receive_body, self._limits, memory)
        request = Request(head, self._peer, body, memory)
        self._closing = self._closing or not head.keep_alive
        self._doing = _Doing.HANDLER
        if self._half_closed:
            self.client_half_closed()
        try:
            response = await self._handler(request)
        except RequestError:
            raise
        except ExceptionGroup as group:
            response = _of_group(group)
        except Exception:  # noqa: BLE001 - a broken handler ends its connection, not the server
            _LOG.exception("the handler of %s %r failed", head.method, head.target)
            response = FAILED
        if response.upgrade is not None:
            await self._upgrade(response, response.upgrade, body)
        else:
            await self._answer(head, response, body)

    async def _receive_body(self) -> bytes:
        try:
            data = self._stream.receive_nowait(_BODY_PART_BYTES)
            if data is None:  # many a client sends it in a packet of its own, right behind the head
                await trio.lowlevel.checkpoint()
                data = self._stream.receive_nowait(_BODY_PART_BYTES)
            if data is None:
                with trio.move_on_after(self._limits.body_s):
                    data = await self._stream.receive_some(_BODY_PART_BYTES)
                if data is None:
                    self._closing = True
                    raise RequestTimeoutError(
                        f"nothing of the body of the request came for {self._limits.body_s:g} s"
                    )
            else:
                await self._stream.take_turn()
        except trio.BrokenResourceError:  # a reset is an early end too, and no failure of ours
            data = b""
        if not data:
            self.client_gone()
            await trio.lowlevel.checkpoint()
            raise MalformedBodyError("the body of the request ended early")
        return data

    # -- answers

    async def _answer(self, head: Head, response: Response, body: Body) -> None:
        close = self._closing or (not body.ended and not body.is_worth_skipping())
        try:
            framing = frame(head, response, close=close)
        except ValueError:  # also what is not latin-1
            _LOG.exception("the answer to %s %r cannot be sent", head.method, head.target)
            response = FAILED
            framing = frame(head, response, close=True)
        self._closing = framing.close
        if body.awaited and response.stream is not None:
            await body.invite()  # it may read while it writes; later it would be too late to say
        self._answered = True
        if response.stream is not None:
            waits = response.head_waits and framing.has_body
            if not waits:
                await self._send(framing.head)
            if framing.has_body:
                before = framing.head if waits else b""
                writer = StreamedBody(self._send_out, framing, self.client_gone, before)
                await response.stream(writer)
                await writer.end()
        elif not framing.has_body or not response.body:
            await self._send(framing.head)
        elif len(response.body) <= _COPIED_BODY_BYTES:
            await self._send(framing.head + response.body)
        else:
            await self._send(framing.head, response.body)
        if not self._closing:
            if not body.ended:
                self._claim.give_back()  # the answer is out: nothing is held for what is skipped
            while not body.ended:
                await body.receive_some()
        elif not body.ended or self._stream.unread:
            await self._linger()

    async def _send(self, *parts: bytes) -> None:
        """Sends all of it, or raises `trio.BrokenResourceError` if the client takes nothing."""
        await self._send_out(list(parts))

    async def _send_out(self, parts: list[bytes | memoryview]) -> None:
        """Sends all of it likewise, and takes out of the list what has been sent.

        Cancellation: what is in the list then has not been sent, and nothing else is lost.
        """
        stream = self._stream
        _take_out(parts, stream.send_nowait(*parts))
        if not parts:
            await stream.take_turn()
        while parts:
            with trio.move_on_after(self._limits.write_s) as waiting:
                await stream.wait_send_all_might_not_block()
            if waiting.cancelled_caught:
                raise trio.BrokenResourceError("the client takes nothing any more")
            _take_out(parts, stream.send_nowait(*parts))

    async def _upgrade(
        self,
        response: Response,
        speak: Callable[[trio.abc.Stream], Awaitable[None]],
        body: Body,
    ) -> None:
        self._closing = self._answered = True
        if not body.ended:
            raise ValueError("a request with a body that was not read cannot be upgraded")
        headers = [field for field in response.headers if field[0].lower() != "connection"]
        await self._send(encode_head(response.status, headers, "connection: Upgrade\r\n"))
        self._end_watch()  # what speaks now sees for itself
        self._scope.deadline = math.inf
        await speak(self._stream)

    async def _refuse(self, error: RequestError) -> None:
        self._doing = _Doing.OVER
        self._closing = self._answered = True
        framing = frame(_UNREADABLE, response := refusal(error), close=True)
        await self._send(framing.head + response.body)
        await self._linger()

    async def _linger(self) -> None:
        """Lets the client read the answer: closing with unread bytes would reset it away."""
        self._doing = _Doing.OVER
        self._claim.give_back()
        with trio.move_on_after(_LINGER_S):
            self._stream.end_sending()
            self._stream.unread = b""
            while await self._stream.receive_some():
                pass


def _take_out(parts: list[bytes | memoryview], sent_bytes: int) -> None:
    """Leaves of the parts what comes behind so many bytes."""
    while parts and sent_bytes >= len(parts[0]):
        sent_bytes -= len(parts.pop(0))
    if sent_bytes:
        parts[0] = memoryview(parts[0])[sent_bytes:]


def _of_group(group: ExceptionGroup[Exception]) -> Response:
    """What a handler with tasks of its own failed with."""
    failure: BaseException = group
    while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    if isinstance(failure, RequestError):
        raise failure
    _LOG.error("a handler failed", exc_info=group)
    return FAILED
