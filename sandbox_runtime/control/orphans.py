"""Reaping as PID 1: processes whose parents have died become our children, and then zombies.

Which of our children are orphans is known by exclusion: all but those that this process started.
Each is waited for by its own id, so that nobody loses the status of a child of his.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import trio

from sandbox_runtime.supervisor import launchers

_TASKS = Path("/proc/self/task")


async def reap_orphans(own: set[int]) -> None:
    """Reaps orphans as they end, until it is cancelled.

    Args:
        own: Children that somebody else waits for, besides the launchers of sandboxes.
    """
    with trio.open_signal_receiver(signal.SIGCHLD) as signals:
        reap_ended_orphans(own)  # those from before
        async for _ in signals:
            reap_ended_orphans(own)


def reap_ended_orphans(own: set[int]) -> None:
    """Reaps those that have ended by now."""
    for pid in _children() - own - launchers:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _children() -> set[int]:
    """Of all our threads: an orphan is given to any of them."""
    found: set[int] = set()
    for task in _TASKS.iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended
            found.update(map(int, (task / "children").read_text().split()))
    return found
