"""Seeing that clients have gone while their requests are worked on.

All connections are watched through one epoll, edge-triggered: a client that stays costs nothing,
neither per request nor while it waits. trio waits for the epoll itself.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from sandbox_runtime.server.http.connection import Connection

_EVENTS_AT_ONCE = 256


class Departures:
    """Tells connections when their clients leave."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._connections: dict[int, Connection] = {}

    def add(self, fd: int, connection: Connection) -> None:
        """Begins to watch."""
        self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLET)
        self._connections[fd] = connection

    def remove(self, fd: int) -> None:
        """Ends it; before the descriptor is closed."""
        del self._connections[fd]
        self._epoll.unregister(fd)

    async def run(self) -> None:
        """Watches until it is cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for fd, events in self._epoll.poll(0, _EVENTS_AT_ONCE):
                connection = self._connections[fd]
                if events & (select.EPOLLHUP | select.EPOLLERR):
                    connection.client_gone()
                else:
                    connection.client_half_closed()

    def close(self) -> None:
        """Ends it, when no connection is left."""
        self._epoll.close()
