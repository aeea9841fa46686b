"""A zygote, and the control process's end of its socket."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
import trio.testing

from sandbox_runtime.channel import packet_pair
from sandbox_runtime.errors import InterpreterUnavailableError, SandboxLostError
from sandbox_runtime.interpreters.zygote import Zygote
from sandbox_runtime.messages import Fork

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_runtime import Runtime, Sandbox


def fill(sock: socket.socket) -> int:
    """Sends until the other end has no room; returns how many packets."""
    sock.setblocking(False)
    count = 0
    try:
        while sock.send(b"{}"):
            count += 1
    except BlockingIOError:
        return count
    raise AssertionError


async def test_many_ask_at_once_while_it_has_no_time() -> None:
    """Each request arrives, and whole."""
    ours, theirs = packet_pair()
    waiting = fill(ours)
    zygote = Zygote(ours)
    with theirs:
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(zygote._ask, Fork(id=number, plan=b""))
            await trio.testing.wait_all_tasks_blocked()
            packets = [await trio.to_thread.run_sync(theirs.recv, 100) for _ in range(waiting + 5)]
        sent = [msgspec.msgpack.decode(packet[1:], type=Fork) for packet in packets[waiting:]]
        assert {fork.id for fork in sent} == set(range(5))
        zygote.close()


async def test_who_asks_when_it_is_gone_is_told() -> None:
    """Whether its process has ended or its owner has closed it, also while somebody waits."""
    ours, theirs = packet_pair()
    fill(ours)
    zygote = Zygote(ours)
    with theirs:
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                with pytest.raises(SandboxLostError, match="zygote"):
                    await zygote._ask(Fork(id=1, plan=b""))

            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            zygote.close()
    with pytest.raises(SandboxLostError, match="zygote"):
        await zygote._ask(Fork(id=2, plan=b""))


async def test_a_namespace_that_cannot_be_joined_fails_one_fork(
    runtime: Runtime, sandbox: Sandbox
) -> None:
    """Whoever asked is told, and the next one is served."""
    zygote = await runtime.python_zygote()
    ours, theirs = socket.socketpair()

    class NoKeeper:
        @contextlib.contextmanager
        def enter(self, *_: object, **__: object) -> Iterator[tuple[bytes, list[int]]]:
            with open("/dev/null") as no_namespace:
                yield b"", [no_namespace.fileno()]

    with ours, theirs, pytest.raises(InterpreterUnavailableError, match="enter_namespace"):
        await zygote.fork(NoKeeper(), None, theirs)  # type: ignore[arg-type]
    context = await sandbox.create_code_context()
    assert (await context.run("1 + 1")).text == "2"
    assert not zygote.lost


def page_faults(pid: int) -> int:
    """How many pages it has touched that were not its own yet."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[7])


def zygote_of(runtime: Runtime) -> int:
    """Its pid: the one child of the supervisor's that is no part of a sandbox."""
    (supervisor,) = children(runtime.supervisor._launcher_pid)
    (pid,) = (
        child
        for child in children(supervisor)
        if not Path(f"/proc/{child}/comm").read_text().startswith("sbx-")
    )
    return pid


def children(pid: int) -> list[int]:
    """The pids of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_a_zygote_that_forks_leaves_its_memory_alone(
    runtime: Runtime, sandbox: Sandbox
) -> None:
    """What it wrote to would be copied for each context, and its huge pages would fall apart."""
    forks = 10
    await (await sandbox.create_code_context(cwd="/tmp")).aclose()
    pid = zygote_of(runtime)
    before = page_faults(pid)
    for _ in range(forks):
        await (await sandbox.create_code_context(cwd="/tmp")).aclose()
    faults = (page_faults(pid) - before) / forks
    assert faults < 60
