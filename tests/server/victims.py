"""The native processes below a server, found and ended by their numbers."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server.conftest import Server


def children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def descendants(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from descendants(child)


def is_program_of_jail(pid: int) -> bool:
    """Whether it is the program of a jail: its init's child, or the zygote's."""
    try:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])
    except OSError:
        return False
    return not name_of(pid).startswith("sbx-") and name_of(parent) != "sbx-supervisor"


def launcher(server: Server) -> int:
    runtime = server.app.host._runtime
    assert runtime is not None
    return runtime.supervisor._launcher_pid


def find(server: Server, wanted: str) -> int:
    """The process of that name; a zygote is the supervisor's child that has none of ours."""
    if wanted == "launcher":
        return launcher(server)
    if wanted == "zygote":
        supervisor = find(server, "sbx-supervisor")
        return next(pid for pid in children(supervisor) if not name_of(pid).startswith("sbx-"))
    return next(pid for pid in descendants(launcher(server)) if name_of(pid) == wanted)


def kill(server: Server, pid: int) -> None:
    """Ends a process, and waits until it is gone and the server has heard of it."""
    fd = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)

    async def wait() -> None:
        await trio.lowlevel.wait_readable(fd)
        await trio.testing.wait_all_tasks_blocked(0.02)

    server.inside(wait)
    os.close(fd)
