"""What the kernel counts for the whole user, as sandboxes of an ordinary user share it.

To use such a count up would stop the machine's other programs of this user, so the kernel's refusal
is put in its place.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from sandbox_runtime.jail import wait_process_end

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_runtime import Sandbox

wait_readable = trio.lowlevel.wait_readable


async def refuse_pidfds(waited_for: object) -> None:
    """As `wait_readable` once the user has as many epoll watches as it may, for pidfds."""
    if isinstance(waited_for, int) and "pidfd" in str(
        Path(f"/proc/self/fd/{waited_for}").readlink()
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    await wait_readable(waited_for)  # type: ignore[arg-type]


@pytest.fixture
def _no_epoll_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio.lowlevel, "wait_readable", refuse_pidfds)


@pytest.fixture
def sleeper() -> Iterator[tuple[int, int]]:
    """A child that sleeps, and its pidfd."""
    with subprocess.Popen(["sleep", "1000"]) as child:
        fd = os.pidfd_open(child.pid)
        try:
            yield child.pid, fd
        finally:
            os.close(fd)
            child.kill()


@pytest.mark.usefixtures("_no_epoll_watches")
async def test_a_context_is_deleted_where_its_end_cannot_be_watched(sandbox: Sandbox) -> None:
    """Which frees what it may have used up."""
    context = await sandbox.contexts.create("python")
    init = os.dup(context._interpreter._jail._fds[0])
    try:
        await sandbox.contexts.delete(context.id)
        with pytest.raises(ProcessLookupError):
            signal.pidfd_send_signal(init, 0)
    finally:
        os.close(init)


@pytest.mark.usefixtures("_no_epoll_watches")
async def test_the_end_of_a_process_is_waited_for_without_epoll(sleeper: tuple[int, int]) -> None:
    pid, pidfd = sleeper
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_process_end, pidfd)
        await trio.testing.wait_all_tasks_blocked()
        os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("_no_epoll_watches")
async def test_a_wait_without_epoll_can_be_cancelled(sleeper: tuple[int, int]) -> None:
    """And the process goes on."""
    _, pidfd = sleeper
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_process_end, pidfd)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert not select.select([pidfd], [], [], 0)[0], "a process that has ended is readable"
