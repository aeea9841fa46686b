"""The end of processes, by their pidfds (pidfd_open(2))."""

from __future__ import annotations

import errno as errno_names
import os
import select
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterable
    from io import FileIO


async def wait_process_end(pidfd: int) -> None:
    """Waits until the process behind a pidfd has ended, with all that its end ends."""
    if has_ended(pidfd):
        return
    try:
        await trio.lowlevel.wait_readable(pidfd)
    except OSError as error:
        if error.errno != errno_names.ENOSPC:
            raise
        # This user has as many epoll watches as it may (epoll(7)); what ends may well free them.
        await _wait_in_thread(pidfd)


async def _wait_in_thread(pidfd: int) -> None:
    """Waits with poll(2), which has no limit for each user; cancelled as any other wait."""
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb", buffering=0) as waker:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_wake_when_cancelled, waker)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_poll, (pidfd, reader), None)
            nursery.cancel_scope.cancel()


async def _wake_when_cancelled(waker: FileIO) -> None:
    try:
        await trio.sleep_forever()
    finally:
        waker.write(b"\0")


def has_ended(pidfd: int) -> bool:
    """Whether the process has ended, looked at now."""
    return _poll((pidfd,), 0)


def _poll(fds: Iterable[int], most_ms: int | None) -> bool:
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return bool(poll.poll(most_ms))
