"""Many users who arrive at once at a server that has just started and has what it keeps ready.

A server's own word that it is ready may come before its interpreters are: who arrives here waits
until no process of the server works any more, which gives each its whole pool. Every round has a
server of its own, so that nobody is handed what an earlier user has used.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.bench.alive import settled
from sandbox_runtime.bench.rounds import Candidate
from sandbox_runtime.bench.spawned import PeerFailedError, opened
from sandbox_runtime.bench.wire import WireClient

if TYPE_CHECKING:
    from sandbox_runtime.bench.rounds import Stopwatch
    from sandbox_runtime.bench.starting import Startable

_READY = {"ready", "healthy"}


def contexts_of_arrivals(server: Startable, count: int) -> Candidate:
    """So many users, each with a Python context of its own: the time of each to its first result.

    Args:
        server: Started anew for each round.
        count: How many users; they do not wait for each other.
    """

    async def once(stopwatch: Stopwatch) -> None:
        async with server.serving() as url:
            _check_ready(url)
            await settled()
            took_s: list[float] = []
            begun_s = time.perf_counter()
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(_arrive, url, begun_s, took_s)
        for one in took_s:
            stopwatch.record(one)
        stopwatch.wall_s = max(took_s)

    return Candidate(
        name=server.name,
        open=opened(once),
        protections=server.protections,
        ours=not server.command,
        values=count,
    )


def _check_ready(url: str) -> None:
    client = WireClient(url)
    answer = client.call("GET", "/api/ping")
    client.finish()
    if answer.get("status", "ready") not in _READY:
        raise PeerFailedError(f"it listens, and is {answer['status']!r}")


async def _arrive(url: str, begun_s: float, took_s: list[float]) -> None:
    took_s.append(await trio.to_thread.run_sync(_first_result, url) - begun_s)


def _first_result(url: str) -> float:
    """Makes a context and runs a cell in it; returns when its result was read."""
    client = WireClient(url)
    context = client.call("POST", "/api/contexts", {"language": "python"})["id"]
    body = {"context_id": context, "code": "1 + 1"}
    client.first_event("/api/execute/code", body, rb'"text": ?"2"')
    seen_s = time.perf_counter()
    client.finish()
    return seen_s
