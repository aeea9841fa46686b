"""Requests and their answers, typed."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
import msgspec

from sandbox_runtime.client.arguments import encoded
from sandbox_runtime.client.errors import ApiError, UnreachableError, error_of
from sandbox_runtime.errors import InvalidArgumentError, SandboxClosedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

T = TypeVar("T")

_MODERN = ("X-Sandbox-Id", "client")  # failures come as statuses, not inside of replies
_CONNECT_S = 10.0
_DATA = "data:"
_WITHOUT_TLS = re.compile("WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE")


class AsyncTransport:
    """A connection pool to one server, and the path below which a sandbox's endpoints are."""

    def __init__(self, address: str, *, token: str | None) -> None:
        """For `http://HOST[:PORT][/PATH]` or `unix:PATH`."""
        if not isinstance(address, str) or not address.startswith(("http://", "https://", "unix:")):
            message = f"{address!r} is no address; write it as http://HOST:PORT or unix:PATH"
            raise InvalidArgumentError("address", message)
        headers = dict([_MODERN])
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self._address = address
        socket = address.removeprefix("unix:") if address.startswith("unix:") else None
        self._client = httpx2.AsyncClient(
            base_url="http://sandbox" if socket else address.rstrip("/"),
            headers=headers,
            # A command may take as long as it takes; the server has the deadlines.
            timeout=httpx2.Timeout(None, connect=_CONNECT_S),
            transport=httpx2.AsyncHTTPTransport(uds=socket) if socket else None,
            trust_env=False,
        )

    async def call(
        self,
        method: str,
        path: str,
        reply: type[T],
        *,
        body: msgspec.Struct | None = None,
        query: Mapping[str, str] | None = None,
    ) -> T:
        """A request and its answer.

        Raises:
            SandboxClosedError: The block has ended.
            ApiError: The server refused or failed.
            UnreachableError: It cannot be reached.
        """
        self._check_open()
        try:
            answer = await self._client.request(
                method, path, content=_encode(body), headers=_headers(body), params=query
            )
        except httpx2.TransportError as error:
            raise _unreachable(self._address, error) from None
        if answer.status_code >= 400:
            raise error_of(answer.status_code, answer.content, answer.headers.get("Retry-After"))
        decoded: T = _decode(answer.content, reply)
        return decoded

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        event: Any,
        *,
        body: msgspec.Struct | None = None,
        query: Mapping[str, str] | None = None,
    ) -> AsyncIterator[AsyncEvents]:
        """A request whose answer is a stream of events; leaving the block hangs up.

        Raises:
            SandboxClosedError: The block has ended.
            ApiError: The server refused or failed.
            UnreachableError: It cannot be reached, or broke off.
        """
        self._check_open()
        try:
            async with self._client.stream(
                method, path, content=_encode(body), headers=_headers(body), params=query
            ) as answer:
                if answer.status_code >= 400:
                    content = await answer.aread()
                    retry_after = answer.headers.get("Retry-After")
                    raise error_of(answer.status_code, content, retry_after)
                yield AsyncEvents(answer.aiter_lines(), event)
        except httpx2.TransportError as error:
            raise _unreachable(self._address, error) from None

    def _check_open(self) -> None:
        if self._client.is_closed:
            raise SandboxClosedError("the block of the sandbox has ended; open another")

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._client.aclose()


class AsyncEvents(msgspec.Struct):
    """The events of a stream, in order; iterate over it once."""

    lines: Any
    event: Any

    def __aiter__(self) -> AsyncEvents:
        return self

    async def __anext__(self) -> Any:
        """The next event; comments and events of unknown types are skipped."""
        while True:
            line = await self.lines.__anext__()
            if line.startswith(_DATA):
                try:
                    return _decode(line[len(_DATA) :].encode(), self.event)
                except UnknownEventError:
                    continue


class UnknownEventError(ApiError):
    """A newer server says something that this client does not know."""

    code = "unknown_event"


def _encode(body: msgspec.Struct | None) -> bytes | None:
    return None if body is None else encoded(body)


def _headers(body: msgspec.Struct | None) -> dict[str, str]:
    return {} if body is None else {"Content-Type": "application/json"}


def _decode(content: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        message = f"the answer cannot be understood: {error}"
        raise UnknownEventError(message, status=200, error_code="", context={}) from error


def _unreachable(address: str, error: Exception) -> UnreachableError:
    shown = re.sub(r"://[^/@]*@", "://***@", address)
    why = str(error) or type(error).__name__
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        remedy = (
            "Start it with `sandbox-runtime serve`, or leave the address out to have one started"
        )
        if address.startswith("https://") and _WITHOUT_TLS.search(why):
            remedy = "It seems to serve without TLS, as `sandbox-runtime serve` does: write http://"
        return UnreachableError(f"the server at {shown} cannot be reached: {why}", remedy=remedy)
    return UnreachableError(f"the connection to the server at {shown} broke off: {why}")
