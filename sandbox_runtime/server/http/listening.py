"""Accepting clients, and ending them all."""

from __future__ import annotations

import errno
import logging
import math
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.budget import Budget
from sandbox_runtime.server.http.connection import Connection
from sandbox_runtime.server.http.departures import Departures
from sandbox_runtime.server.http.limits import HttpLimits
from sandbox_runtime.server.http.messages import Peer
from sandbox_runtime.server.http.sockets import EagerStream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox_runtime.server.http.messages import Handler

_LOG = logging.getLogger("sandbox_runtime.http")
_BACKLOG = 1024
_ACCEPTS_BETWEEN_CHECKPOINTS = 16
_OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_OUT_OF_RESOURCES_PAUSE_S = 0.1
_RESERVED_PARTS = 8  # of the memory of all requests, one is for those that hold little
_REFUSALS_SILENT_S = 10.0
_DEFAULT_LIMITS = HttpLimits()
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n"
    b"connection: close\r\n\r\n"
)


class _Refusals:
    """Says in the log that connections are refused, and does not fill it for whoever tries on."""

    def __init__(self) -> None:
        self._silent_until_s = -math.inf
        self._untold = 0

    def tell(self, why: str) -> None:
        """Logs one at once, and then how many there were, once in a while."""
        now_s = trio.current_time()
        if now_s < self._silent_until_s:
            self._untold += 1
            return
        more = f" ({self._untold} more since the last line)" if self._untold else ""
        _LOG.warning("a connection was refused: %s%s", why, more)
        self._silent_until_s, self._untold = now_s + _REFUSALS_SILENT_S, 0


class _Server:
    """The connections of one `serve`.

    Attributes:
        ready: Set when connections can be served.
        stop: To be set when they are to end.
    """

    def __init__(
        self,
        handler: Handler,
        limits: HttpLimits,
        refuse: Callable[[socket.socket], str | None] | None,
    ) -> None:
        self._handler = handler
        self._limits = limits
        self._refuse = refuse
        self._refusals = _Refusals()
        reserve_bytes = limits.memory_bytes // _RESERVED_PARTS
        self._memory = Budget(limits.memory_bytes, reserve_bytes=reserve_bytes)
        self._nursery: trio.Nursery
        self._departures = Departures()
        self._connections: set[Connection] = set()
        self._some = trio.Event()
        self._none_left = trio.Event()
        self.ready = trio.Event()
        self.stop = trio.Event()

    async def host(self, grace_s: float) -> None:
        """Owns the tasks of the connections, which outlive a cancellation by `grace_s`."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.cancel_scope.shield = True
                self._nursery = nursery
                nursery.start_soon(self._departures.run)
                nursery.start_soon(self._end_idle)
                self.ready.set()
                await self.stop.wait()
                for connection in self._connections:
                    connection.finish()
                if self._connections:
                    self._none_left = trio.Event()
                    with trio.move_on_after(grace_s):
                        await self._none_left.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._departures.close()

    async def _end_idle(self) -> None:
        """Ends what was idle for too long.

        It sleeps until the first connection that is idle now may be due, and then looks again, so
        that no request has to set a clock and reset it.
        """
        while True:
            await self._some.wait()
            due = trio.current_time() - self._limits.idle_s
            since = [connection.idle_since for connection in self._connections if connection.idle]
            if since and min(since) <= due:
                for connection in self._connections:
                    if connection.idle and connection.idle_since <= due:
                        connection.finish()
            await trio.sleep_until(
                min((at for at in since if at > due), default=trio.current_time())
                + self._limits.idle_s
            )

    async def accept_all(self, listener: trio.SocketListener) -> None:
        """Accepts until it is cancelled."""
        sock = _borrow(listener)
        accepted = 0
        with sock:
            while True:
                try:
                    client, address = sock.accept()
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(sock)
                    continue
                except OSError as error:
                    if error.errno in _OUT_OF_RESOURCES:
                        self._refusals.tell(f"cannot accept it: {error.strerror}")
                        await trio.sleep(_OUT_OF_RESOURCES_PAUSE_S)
                    continue  # else it was the client's: it went before it was accepted
                self._begin(client, address)
                accepted += 1
                if accepted % _ACCEPTS_BETWEEN_CHECKPOINTS == 0:
                    await trio.lowlevel.checkpoint()

    def _begin(self, client: socket.socket, address: object) -> None:
        try:
            self._admit(client, address)
        except OSError:  # it has gone already, and whoever serves the others goes on
            client.close()

    def _admit(self, client: socket.socket, address: object) -> None:
        client.setblocking(False)
        if self._refuse is not None and (why := self._refuse(client)) is not None:
            self._refusals.tell(why)
            client.close()
            return
        if len(self._connections) >= self._limits.connections:
            with client:
                client.send(_FULL)
            return
        stream = EagerStream(client)
        connection = Connection(
            stream,
            _peer(client, address),
            self._handler,
            self._limits,
            self._departures,
            self._memory,
        )
        self._connections.add(connection)
        self._some.set()
        self._nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: Connection) -> None:
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            if not self._connections:
                self._none_left.set()
                self._some = trio.Event()


def _borrow(listener: trio.SocketListener) -> socket.socket:
    """The listening socket, with options that accepted ones inherit."""
    sock = socket.socket(fileno=os.dup(listener.socket.fileno()))
    sock.setblocking(False)
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    return sock


def _peer(client: socket.socket, address: object) -> Peer:
    if client.family == socket.AF_UNIX:
        size = struct.calcsize("3i")
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid, uid, gid = struct.unpack("3i", credentials)
        return Peer(pid=pid, uid=uid, gid=gid)
    assert isinstance(address, tuple)
    return Peer(address=(address[0], address[1]))


async def serve(
    handler: Handler,
    listeners: Sequence[trio.SocketListener],
    *,
    limits: HttpLimits = _DEFAULT_LIMITS,
    grace_s: float,
    refuse: Callable[[socket.socket], str | None] | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves HTTP until it is cancelled. It owns the listeners.

    Cancellation: stops accepting and ends idle connections at once; requests that run have
    `grace_s` to finish and are cancelled then.

    Args:
        handler: Answers each request.
        listeners: From `open_tcp_listeners` and `open_unix_listener`.
        limits: What a client may use.
        grace_s: How long requests may go on after the end.
        refuse: Says why a connection is closed before it is heard, or None.
        task_status: Told when clients can connect.
    """
    server = _Server(handler, limits, refuse)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.host, grace_s)
        try:
            await server.ready.wait()
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(server.accept_all, listener)
                task_status.started()
        finally:
            server.stop.set()
            for listener in listeners:
                with trio.CancelScope(shield=True):
                    await listener.aclose()


async def open_tcp_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listens on an address, or on all that a name has.

    Raises:
        OSError: It cannot be had; `EADDRINUSE` if somebody else listens there.
    """
    return await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)


async def open_unix_listener(path: str, *, mode: int = 0o600) -> trio.SocketListener:
    """Listens on a Unix socket; one that nobody listens on any more is replaced.

    Args:
        path: Where.
        mode: Who may connect, as permissions of the file.

    Raises:
        OSError: It cannot be had; `EADDRINUSE` if somebody listens there.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_dead(path)
        sock.setblocking(False)
        os.fchmod(sock.fileno(), mode)  # the file is made with it: no moment is open to others
        sock.bind(path)
        os.chmod(path, mode)  # noqa: PTH101 - what the umask took away; it never waits
        sock.listen(_BACKLOG)
        await trio.lowlevel.checkpoint()
        return trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    except BaseException:
        sock.close()
        raise


def _remove_dead(path: str) -> None:
    try:
        if not Path(path).is_socket():
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except ConnectionRefusedError:
        Path(path).unlink()
    except (FileNotFoundError, BlockingIOError):
        pass
