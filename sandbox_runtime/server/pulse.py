"""The pulse of a server's streams: what they hold back for a moment goes out in time.

One task serves all streams, so that a stream, which most often is over before anything is due,
costs no task of its own. The task sleeps until the first of them is due; whoever is due sooner
moves its deadline, which wakes nobody.
"""

from __future__ import annotations

import logging
import math
from typing import Protocol

import trio

_LOG = logging.getLogger("sandbox_runtime.server")


class Beating(Protocol):
    """What has something to send at a time of its own."""

    @property
    def due_s(self) -> float:
        """When that is, on trio's clock; infinity for never."""

    async def beat(self) -> None:
        """Sends it."""


class Pulse:
    """Sees to it that streams send what is due. `run` is its task."""

    def __init__(self) -> None:
        self._streams: set[Beating] = set()
        self._sleep = trio.CancelScope()
        self._wakes_s = math.inf

    def add(self, stream: Beating) -> None:
        """Looks after a stream from here on."""
        self._streams.add(stream)
        self.expect(stream.due_s)

    def remove(self, stream: Beating) -> None:
        """Looks after it no more."""
        self._streams.discard(stream)
        if not self._streams:
            self._wake_at(math.inf)  # else it would wake for nothing

    def expect(self, due_s: float) -> None:
        """Looks again at that time, if not before."""
        if due_s < self._wakes_s:
            self._wake_at(due_s)

    def _wake_at(self, at_s: float) -> None:
        if at_s != self._wakes_s:  # to tell trio the same again would cost as much
            self._wakes_s = self._sleep.deadline = at_s

    async def run(self) -> None:
        """Works until it is cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                with self._sleep:
                    await trio.sleep_forever()
                self._sleep, self._wakes_s = trio.CancelScope(), math.inf
                now_s, next_s = trio.current_time(), math.inf
                for stream in self._streams:
                    if (due_s := stream.due_s) <= now_s:
                        nursery.start_soon(_beat, stream)
                    else:
                        next_s = min(next_s, due_s)
                self.expect(next_s)


async def _beat(stream: Beating) -> None:
    try:
        await stream.beat()
    except Exception:  # noqa: BLE001 - one stream that breaks is not the end of the others
        _LOG.exception("a stream broke off")
