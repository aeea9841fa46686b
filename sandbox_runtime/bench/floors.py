"""What the machine itself takes for the steps that everything is made of.

A target that is missed names the step that stands in its way; these say how long that takes here.
"""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.bench.results import Missing
from sandbox_runtime.bench.rounds import Candidate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox_runtime.bench.rounds import Once, Stopwatch

_PAGES = 512
_ANSWERS = """
import os, socket, sys
os.sched_setaffinity(0, [int(sys.argv[1])])
asked = socket.socket(fileno=0)
while asked.recv(1):
    asked.send(b"x")
"""


def wake_up() -> Candidate | Missing:
    """One way of a message to a process that sleeps on another processor: half a round trip."""
    name = "wake-up of another processor"
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        return Missing(candidate=name, remedy="two processors")

    @asynccontextmanager
    async def open_it() -> AsyncIterator[Once]:
        ours, theirs = socket.socketpair()
        argv = [sys.executable, "-I", "-S", "-c", _ANSWERS, str(processors[1])]
        answering = subprocess.Popen(argv, stdin=theirs.fileno())  # noqa: ASYNC220
        theirs.close()

        async def once(stopwatch: Stopwatch) -> None:
            await trio.lowlevel.checkpoint()
            os.sched_setaffinity(0, processors[:1])
            try:
                time.sleep(0.002)  # noqa: ASYNC251 - both processors are to fall asleep
                start_s = time.perf_counter()
                ours.send(b"x")
                ours.recv(1)
                stopwatch.record((time.perf_counter() - start_s) / 2)
            finally:
                os.sched_setaffinity(0, processors)

        try:
            yield once
        finally:
            ours.close()
            answering.wait()

    return Candidate(name=name, open=open_it)


def python_start() -> Candidate:
    """A Python that has imported the libraries a server stands on, from its start to its end."""
    argv = [sys.executable, "-I", "-c", "import trio, msgspec, click"]

    @asynccontextmanager
    async def open_it() -> AsyncIterator[Once]:
        async def once(stopwatch: Stopwatch) -> None:
            with stopwatch:
                await trio.run_process(argv)

        yield once

    return Candidate(name="python -c 'import trio, msgspec, click'", open=open_it)


def page_fault() -> Candidate:
    """The first touch of a page of memory: the mean of many."""

    @asynccontextmanager
    async def open_it() -> AsyncIterator[Once]:
        async def once(stopwatch: Stopwatch) -> None:
            await trio.lowlevel.checkpoint()
            with mmap.mmap(-1, _PAGES * mmap.PAGESIZE) as memory:
                if hasattr(mmap, "MADV_NOHUGEPAGE"):
                    memory.madvise(mmap.MADV_NOHUGEPAGE)
                offsets = range(0, len(memory), mmap.PAGESIZE)
                start_s = time.perf_counter()
                for offset in offsets:
                    memory[offset] = 1
                stopwatch.record((time.perf_counter() - start_s) / _PAGES)

        yield once

    return Candidate(name="first touch of a page", open=open_it)
