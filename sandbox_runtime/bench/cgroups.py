"""Joining a control group: as the supervisor does it, and as is usual."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.bench.results import Missing
from sandbox_runtime.bench.rounds import Candidate
from sandbox_runtime.bench.spawned import finish, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from sandbox_runtime.bench.rounds import Once, Stopwatch

_HIERARCHY = Path("/sys/fs/cgroup/pids")


def joins() -> list[Candidate | Missing]:
    """`0` written to `tasks` by who joins, and a process's number written to `cgroup.procs`."""
    names = ("ours: `0` to tasks, by itself", "a pid to cgroup.procs")
    if not os.access(_HIERARCHY / "tasks", os.W_OK):
        remedy = "control groups v1 and root; version 2 joins by clone3 itself"
        return [Missing(candidate=name, remedy=remedy) for name in names]
    return [
        Candidate(name=names[0], open=_opened(_by_itself), ours=True),
        Candidate(name=names[1], open=_opened(_by_another)),
    ]


@contextlib.contextmanager
def _group() -> Iterator[Path]:
    own = next(
        line.split(":")[2].strip().lstrip("/")
        for line in Path("/proc/self/cgroup").read_text().splitlines()
        if "pids" in line.split(":")[1].split(",")
    )
    group = _HIERARCHY / own / f"sandbox-runtime-bench-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    group.mkdir()
    try:
        yield group
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    """Removes a group when who was in it has gone, of which the kernel tells nobody."""
    for _ in range(200):
        try:
            group.rmdir()
        except OSError:
            time.sleep(0.005)
        else:
            return
    group.rmdir()


def _opened(
    join: Callable[[Path, Stopwatch], None],
) -> Callable[[], contextlib.AbstractAsyncContextManager[Once]]:
    @asynccontextmanager
    async def open_it() -> AsyncIterator[Once]:
        with _group() as group:

            async def once(stopwatch: Stopwatch) -> None:
                await trio.lowlevel.checkpoint()
                join(group, stopwatch)

            yield once

    return open_it


def _by_itself(group: Path, stopwatch: Stopwatch) -> None:
    """A thread joins, which is what a process of one thread does; its end is its leaving."""

    def join() -> None:
        with open(group / "tasks", "wb", buffering=0) as tasks, stopwatch:
            tasks.write(b"0")

    thread = threading.Thread(target=join)
    thread.start()
    thread.join()


def _by_another(group: Path, stopwatch: Stopwatch) -> None:
    argv = ["/bin/sleep", "0.02"]
    pid = start(argv)
    try:
        with open(group / "cgroup.procs", "wb", buffering=0) as procs, stopwatch:
            procs.write(b"%d" % pid)
    finally:
        finish(argv, pid)
