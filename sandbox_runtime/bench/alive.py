"""Memory of what idles: many of a kind alive at once, and what each of them weighs.

The figure is the proportional set size (smaps_rollup: what processes share is divided among them)
of every process that came with them, by their number. What the kernel itself keeps for a process,
as page tables, is in no process's set and not counted, for nobody.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.bench.fingerprint import descendants, proportional_set_bytes
from sandbox_runtime.bench.interpreters import open_kernel
from sandbox_runtime.bench.rounds import Candidate
from sandbox_runtime.bench.spawned import CLEAN_ENV, PeerFailedError, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from sandbox_runtime.bench.peers import Peer
    from sandbox_runtime.bench.rounds import Stopwatch

KERNELS = 3
"""How many of ipykernel's live at once: each is a hundred megabytes of its own."""


def weighing(
    name: str,
    count: int,
    all_alive: Callable[[int], AbstractAsyncContextManager[Callable[[], Awaitable[None]]]],
    *,
    protections: str,
    version: str = "",
    ours: bool = False,
) -> Candidate:
    """A candidate whose figure is the memory of each of `count`.

    Args:
        name: What it is called.
        count: How many are to live.
        all_alive: Makes that many; yields what raises unless they still answer.
        protections: What confines them.
        version: Of the program behind it.
        ours: Whether ratios are of this one.
    """

    async def once(stopwatch: Stopwatch) -> None:
        before = set(descendants(os.getpid()))
        async with all_alive(count) as check:
            new = [pid for pid in descendants(os.getpid()) if pid not in before]
            if len(new) < count:
                raise PeerFailedError(f"{len(new)} processes came with {count}")
            stopwatch.record(proportional_set_bytes(new) / count)
            await check()

    return Candidate(
        name=name, open=opened(once), version=version, protections=protections, ours=ours
    )


@asynccontextmanager
async def _started(
    commands: Sequence[Sequence[str]],
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Programs that are to go on until the block ends; yields what raises if one has ended."""
    started: list[subprocess.Popen[bytes]] = []

    async def check() -> None:
        await trio.lowlevel.checkpoint()
        ended = [one.args for one in started if one.poll() is not None]
        if ended:
            raise PeerFailedError(f"{len(ended)} ended, as {ended[0]!r}")

    try:
        started.extend(map(_popen, commands))  # also those before one that fails
        await settled()
        yield check
    finally:
        for one in started:
            one.kill()
            one.communicate()


def programs(name: str, argv: Sequence[str], count: int, *, protections: str = "none") -> Candidate:
    """Plain programs, each idle at the end of a pipe that stays open."""

    @asynccontextmanager
    async def all_alive(count: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        async with _started([argv] * count) as check:
            yield check

    return weighing(name, count, all_alive, protections=protections)


def in_front(peer: Peer, command: Sequence[str], count: int) -> Candidate:
    """Programs in sandboxes of a peer's."""

    @asynccontextmanager
    async def all_alive(count: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        async with AsyncExitStack() as stack:
            words = await stack.enter_async_context(peer.prepare(command))
            yield await stack.enter_async_context(_started([words() for _ in range(count)]))

    return weighing(peer.name, count, all_alive, protections=peer.protections, version=peer.version)


def kernels(code: str, count: int) -> Candidate:
    """Notebook kernels that have run some code."""

    @asynccontextmanager
    async def all_alive(count: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        async with AsyncExitStack() as stack:
            runs = [await stack.enter_async_context(open_kernel()) for _ in range(count)]

            async def check() -> None:
                for run in runs:
                    await run(code)

            await check()
            yield check

    return weighing(f"ipykernel, of {count}", count, all_alive, protections="none")


def node(path: str, count: int) -> Candidate:
    """Nodes that wait for what to run."""
    return programs(f"node, of {count}", [path, "-i"], count)


def python(count: int, code: str) -> Candidate:
    """Plain Pythons that have run some code and wait."""
    waits = f"{code}\nimport sys\nsys.stdin.read()"
    return programs(f"python, of {count}", [sys.executable, "-c", waits], count)


def _popen(argv: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=CLEAN_ENV,
    )


async def settled() -> None:
    """Waits until what was started has used no processor time for a while: it is up, and idles."""
    used = -1
    with trio.fail_after(60):
        while True:
            now = sum(_ticks(pid) for pid in descendants(os.getpid()))
            if now == used:
                return
            used = now
            await trio.sleep(0.3)


def _ticks(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])
