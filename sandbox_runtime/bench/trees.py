"""Ending a tree of processes: a peer's sandbox is killed by its first process."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.bench.rounds import Candidate
from sandbox_runtime.bench.spawned import PeerFailedError, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox_runtime.bench.peers import Peer
    from sandbox_runtime.bench.rounds import Once, Stopwatch


def tree_of(count: int) -> str:
    """A shell text that starts so many processes, says so, and waits."""
    return f"for i in $(seq {count}); do sleep 1000 & done; echo up; wait"


def killed(peer: Peer, count: int) -> Candidate:
    """A tree in a peer's sandbox, from SIGKILL until nothing holds its output any more."""

    @asynccontextmanager
    async def open_it() -> AsyncIterator[Once]:
        async with peer.prepare(["/bin/bash", "-c", tree_of(count)]) as words:

            async def once(stopwatch: Stopwatch) -> None:
                await trio.lowlevel.checkpoint()
                reader, writer = os.pipe2(os.O_CLOEXEC)
                pid = start(words(), writer)
                os.close(writer)
                try:
                    if os.read(reader, 100) != b"up\n":
                        raise PeerFailedError("the tree did not come up")
                    with stopwatch:
                        os.kill(pid, signal.SIGKILL)
                        if os.read(reader, 100):
                            raise PeerFailedError("the tree goes on printing")
                        os.waitpid(pid, 0)  # noqa: ASYNC222
                        pid = 0
                finally:
                    os.close(reader)
                    if pid:
                        os.kill(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)  # noqa: ASYNC222

            yield once

    return Candidate(
        name=peer.name, open=open_it, version=peer.version, protections=peer.protections
    )
