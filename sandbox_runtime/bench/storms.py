"""Storms: many sandboxes asked for, as ComputeSDK's benchmark does it.

What is measured of each is its time to interactive: from asking for a sandbox to its first
command's end. Sequential: the next is asked for when the last is gone. Staggered: one each so many
milliseconds, whatever became of those before. Burst: all at once, or as many as may be.
"""

from __future__ import annotations

import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal

import trio

from sandbox_runtime.bench.rounds import Candidate
from sandbox_runtime.bench.spawned import PeerFailedError, finish, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sandbox_runtime.bench.peers import Peer
    from sandbox_runtime.bench.plan import Sizes
    from sandbox_runtime.bench.rounds import Once, Stopwatch

Mode = Literal["sequential", "staggered", "burst"]
MODES: tuple[Mode, ...] = ("sequential", "staggered", "burst")
ECHO = ("/bin/echo", "benchmark")
SAID = b"benchmark\n"


async def _storm(
    mode: Mode, sizes: Sizes, one: Callable[[], Awaitable[float]], stopwatch: Stopwatch
) -> None:
    """Asks for all of them; a value for each, None for one that failed."""
    failures: list[Exception] = []
    ready_s = started_s = time.perf_counter()

    async def ask(room: trio.CapacityLimiter) -> None:
        nonlocal ready_s
        # The wait for a place counts: that is what a caller feels.
        asked_s = time.perf_counter()
        async with room:
            waited_s = time.perf_counter() - asked_s
            try:
                stopwatch.record(waited_s + await one())
            except (PeerFailedError, OSError) as error:
                failures.append(error)
                stopwatch.record(None)
            ready_s = time.perf_counter()

    at_once = 1 if mode == "sequential" else sizes.storm_concurrency
    room = trio.CapacityLimiter(at_once)
    async with trio.open_nursery() as nursery:
        for _ in range(sizes.storm_count):
            if mode == "sequential":
                await ask(room)
                continue
            nursery.start_soon(ask, room)
            if mode == "staggered":
                await trio.sleep(sizes.storm_delay_ms / 1000)
    stopwatch.wall_s = ready_s - started_s
    if len(failures) == sizes.storm_count:
        raise failures[0]


def of_ours(
    mode: Mode, sizes: Sizes, one: Callable[[], Awaitable[float]], name: str, protections: str
) -> Candidate:
    """A storm of what somebody measures one of."""

    @asynccontextmanager
    async def open_it() -> AsyncIterator[Once]:
        async def once(stopwatch: Stopwatch) -> None:
            await _storm(mode, sizes, one, stopwatch)

        yield once

    return Candidate(
        name=name, open=open_it, protections=protections, ours=True, values=sizes.storm_count
    )


def of_peer(mode: Mode, sizes: Sizes, peer: Peer) -> Candidate:
    """A storm of a peer's sandboxes."""

    @asynccontextmanager
    async def open_it() -> AsyncIterator[Once]:
        async with peer.prepare(ECHO) as words:

            async def once(stopwatch: Stopwatch) -> None:
                await _storm(mode, sizes, lambda: _one(words()), stopwatch)

            yield once

    return Candidate(
        name=peer.name,
        open=open_it,
        version=peer.version,
        protections=peer.protections,
        values=sizes.storm_count,
    )


async def _one(argv: list[str]) -> float:
    """Starts a program, waits as a program with others to look after does, and for its end."""
    started_s = time.perf_counter()
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        pid = start(argv, writer)
    finally:
        os.close(writer)
    try:
        seen = b""
        took_s = None
        while True:
            await trio.lowlevel.wait_readable(reader)
            piece = os.read(reader, 4096)
            seen += piece
            if took_s is None and seen.endswith(SAID):
                took_s = time.perf_counter() - started_s
            if not piece:
                break
        with trio.CancelScope(shield=True):
            pidfd = os.pidfd_open(pid)
            try:
                await trio.lowlevel.wait_readable(pidfd)
            finally:
                os.close(pidfd)
        finish(argv, pid)
    finally:
        os.close(reader)
    if took_s is None:
        raise PeerFailedError(f"{argv[0]} printed {seen!r}")
    return took_s
