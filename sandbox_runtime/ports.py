"""Ports of a sandbox: which may be reached from outside, and which answer.

Nothing is reachable because it listens: a port is reached by `Sandbox.connect`, by whoever holds
the sandbox, and by clients of a server once it was exposed. Every exposure has a token of its own,
which ends with it.

The kernel tells nobody when a socket begins to listen. So `wait_until_open` reads the table of
sockets of the sandbox's network again and again: after 1 ms first, at most every 50 ms later.
No connection is made for it, so the program does not notice.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
import time
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec
import trio

from sandbox_runtime.arguments import check_kind, check_owner
from sandbox_runtime.errors import (
    InvalidArgumentError,
    ListenError,
    NotFoundError,
    SandboxClosedError,
    SandboxError,
)
from sandbox_runtime.networks import Listening, check_port, connect, read_listening
from sandbox_runtime.nursery import open_serving_nursery
from sandbox_runtime.programs import check_seconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandbox_runtime.keeper import Keeper

_LOG = logging.getLogger("sandbox_runtime.ports")

_FIRST_LOOK_S = 0.001
_LONGEST_PAUSE_S = 0.05
_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_TOKEN_LENGTH = 16
_PIECE_BYTES = 64 * 1024


class ExposedPort(msgspec.Struct, frozen=True, kw_only=True):
    """One port that clients of a server may reach.

    Attributes:
        port: Its number in the sandbox.
        name: What people call it.
        token: Whoever knows it may see a preview; a new one with each exposure.
        exposed_s: Since when, in seconds since 1970.
        listen: The address on which this process forwards connections to it, if any.
    """

    port: int
    name: str | None
    token: str
    exposed_s: float
    listen: str | None = None


@runtime_checkable
class EndingProcess(Protocol):
    """Something that ends, and says so."""

    async def wait_ended(self) -> None:
        """Waits for the end, whatever it is."""


class Ports:
    """The ports of one sandbox, `Sandbox.ports`.

    Args:
        keeper: Of the sandbox.
        nursery: Runs the forwarding.
    """

    def __init__(self, keeper: Keeper, nursery: trio.Nursery) -> None:
        self._keeper = keeper
        self._nursery = nursery
        self._exposed: dict[int, ExposedPort] = {}
        self._forwards: dict[int, tuple[trio.CancelScope, trio.socket.SocketType]] = {}
        self._reserved: set[int] = set()
        self._closed = False

    def reserve(self, port: int) -> None:
        """Keeps a port of this process from being reached where a sandbox shares its network.

        In a network of the sandbox's own the same number is another port, and nothing changes.
        """
        self._reserved.add(check_port("port", port))
        if self._is_reserved(port) and port in self._exposed:
            self.unexpose(port)

    def _is_reserved(self, port: int) -> bool:
        return self._keeper.has_host_network and port in self._reserved

    def _check(self, port: object) -> int:
        number = check_port("port", port)
        if self._is_reserved(number):
            raise InvalidArgumentError("port", f"{number} is the control server's own")
        return number

    async def connect(self, port: int) -> trio.SocketStream:
        """See `Sandbox.connect`."""
        return await connect(self._keeper, self._check(port))

    def expose(
        self, port: int, *, name: str | None = None, listen: str | None = None
    ) -> ExposedPort:
        """Lets clients of a server reach a port; again replaces its name and its token.

        Args:
            port: Its number in the sandbox. Nothing needs to listen there yet.
            name: What people call it.
            listen: An address of this machine, such as `0.0.0.0`: connections to the same port
                there are forwarded into the sandbox. Where the sandbox shares the network of
                this process nothing is forwarded, as the port is there already.

        Raises:
            InvalidArgumentError: It is no port, or the control server's own.
            ListenError: This process cannot listen there.
        """
        number = self._check(port)
        if name is not None and not (isinstance(name, str) and len(name) <= 256):
            raise InvalidArgumentError("name", "must be a text of at most 256 characters")
        if self._closed:
            raise SandboxClosedError("the sandbox is closed")
        if listen is not None:
            _check_address(listen)
        self._stop_forwarding(number)
        if listen is not None and not self._keeper.has_host_network:
            self._forward(number, listen)
        exposed = self._exposed[number] = ExposedPort(
            port=number,
            name=name,
            token="".join(secrets.choice(_ALPHABET) for _ in range(_TOKEN_LENGTH)),
            exposed_s=time.time(),
            listen=listen,
        )
        return exposed

    def unexpose(self, port: int) -> None:
        """Takes the exposure back: its token is worth nothing, forwarded connections end.

        Raises:
            NotFoundError: It is not exposed.
        """
        number = check_port("port", port)
        if self._exposed.pop(number, None) is None:
            raise NotFoundError("exposed port", str(number))
        self._stop_forwarding(number)

    def get(self, port: int) -> ExposedPort | None:
        """The exposure of a port, if there is one."""
        return self._exposed.get(check_port("port", port))

    def list(self) -> list[ExposedPort]:
        """All that are exposed, in the order of their exposure."""
        return sorted(self._exposed.values(), key=lambda exposed: exposed.exposed_s)

    def listening(self) -> tuple[Listening, ...]:
        """Where programs of the sandbox listen for TCP connections.

        In the network of this process only sockets with the sandbox's user are listed; for an
        ordinary user these are also the caller's own.
        """
        return read_listening(self._keeper)

    def is_open(self, port: int) -> bool:
        """Whether somebody listens on that port of the loopback device."""
        return any(each.port == port and each.on_loopback for each in self.listening())

    async def wait_until_open(
        self, port: int, *, process: EndingProcess | None = None, interval_s: float | None = None
    ) -> bool:
        """Waits until somebody listens on a port; no connection is made.

        Args:
            port: Its number in the sandbox.
            process: Whose end ends the waiting; one of this sandbox.
            interval_s: The longest time between two looks; 50 ms by default.

        Returns:
            Whether it is open; False when the process ended before.
        """
        number = check_port("port", port)
        if process is not None:
            what = "a Process, as `start_process` gives one"
            check_kind("process", process, EndingProcess, what)
            check_owner("process", getattr(process, "keeper", self._keeper), self._keeper)
        longest_s = _LONGEST_PAUSE_S
        if interval_s is not None:
            longest_s = max(_FIRST_LOOK_S, check_seconds("interval_s", interval_s))
        return await until(lambda: self._look(number), process, longest_s)

    async def _look(self, port: int) -> bool:
        return self.is_open(port)

    def _forward(self, port: int, address: str) -> None:
        family = trio.socket.AF_INET6 if ":" in address else trio.socket.AF_INET
        sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
        try:
            sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
            sock._sock.bind((address, port))  # type: ignore[attr-defined]  # noqa: SLF001
            sock.listen(128)
        except OSError as error:
            sock.close()
            raise ListenError("listen", error.errno or 0, address, port) from error
        except BaseException:
            sock.close()
            raise
        scope = trio.CancelScope()
        self._forwards[port] = scope, sock
        self._nursery.start_soon(self._serve_forward, port, trio.SocketListener(sock), scope)

    def _stop_forwarding(self, port: int) -> None:
        scope, sock = self._forwards.pop(port, (None, None))
        if scope is not None and sock is not None:
            scope.cancel()
            sock.close()  # now, so that the same port can be listened on again

    async def _serve_forward(
        self, port: int, listener: trio.SocketListener, scope: trio.CancelScope
    ) -> None:
        async def serve(outside: trio.SocketStream) -> None:
            try:
                inside = await self.connect(port)
            except (SandboxError, OSError) as error:  # one connection's, not the sandbox's
                _LOG.warning("a connection to port %d was not passed on: %s", port, error)
                return
            async with inside:
                await exchange(outside, inside)

        with scope:
            async with listener:
                await trio.serve_listeners(serve, [listener])

    def close(self) -> None:
        """Takes all exposures back; there are none from here on."""
        self._closed = True
        for port in tuple(self._exposed):
            self.unexpose(port)


def _check_address(address: object) -> None:
    try:
        ipaddress.ip_address(address if isinstance(address, str) else "")
    except ValueError:
        what = f"{address!r} is no address of this machine; give one like '127.0.0.1'"
        raise InvalidArgumentError("listen", what) from None


async def exchange(one: trio.abc.HalfCloseableStream, other: trio.abc.HalfCloseableStream) -> None:
    """Passes bytes both ways until both sides have ended, or one has broken."""

    async def pass_on(source: trio.abc.ReceiveStream, sink: trio.abc.HalfCloseableStream) -> None:
        try:
            while data := await source.receive_some(_PIECE_BYTES):
                await sink.send_all(data)
            await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_on, one, other)
        nursery.start_soon(pass_on, other, one)


async def until(
    look: Callable[[], Awaitable[bool]],
    process: EndingProcess | None = None,
    longest_pause_s: float = _LONGEST_PAUSE_S,
) -> bool:
    """Looks, first often and then less often, until it is so; False if the process ends before."""
    ended = trio.Event()

    async def watch(process: EndingProcess) -> None:
        await process.wait_ended()
        ended.set()

    async with open_serving_nursery() as nursery:
        if process is not None:
            nursery.start_soon(watch, process)
        pause_s = _FIRST_LOOK_S
        while not (found := await look()) and not ended.is_set():
            with trio.move_on_after(pause_s):
                await ended.wait()
            pause_s = min(2 * pause_s, longest_pause_s)
        nursery.cancel_scope.cancel()
    return found
