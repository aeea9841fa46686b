"""A zygote, and the control process's end of its socket."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
import trio.testing

from sandbox_runtime import open_runtime, open_sandbox
from sandbox_runtime.channel import packet_pair
from sandbox_runtime.errors import InterpreterUnavailableError, SandboxLostError
from sandbox_runtime.interpreters.zygote import Zygote, _Child
from sandbox_runtime.messages import Failure, Fork, NotForked

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


async def test_a_fork_that_is_given_up_and_then_fails_leaves_nothing() -> None:
    """Whoever asked has gone by the time the zygote says that there is no child."""
    ours, theirs = packet_pair()
    zygote = Zygote(ours)

    class AnyKeeper:
        @contextlib.contextmanager
        def enter(self, *_: object, **__: object) -> Iterator[tuple[bytes, list[int]]]:
            yield b"", []

    with theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(zygote.run)
            with trio.move_on_after(0):
                await zygote.fork(AnyKeeper(), None, theirs)  # type: ignore[arg-type]
            assert set(zygote._children) == {1}
            failure = Failure(step="clone_process", errno=errno.EAGAIN, subject="")
            theirs.send(b"\0" + msgspec.msgpack.encode(NotForked(id=1, failure=failure)))
            await trio.testing.wait_all_tasks_blocked()
            assert not zygote._children
            zygote.close()


async def test_why_a_warm_zygote_ends_is_told(
    runtime: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    """A new one serves whoever comes next."""
    zygote = await runtime.python_zygote()
    child = zygote._children[0] = _Child()  # ends with the zygote
    with caplog.at_level(logging.ERROR, "sandbox_runtime"):
        zygote._socket.send(b"\0no message")
        with trio.fail_after(30):
            await child.ended.wait()
    assert "cannot go on: receive_message" in caplog.text
    assert zygote.lost
    assert await runtime.python_zygote() is not zygote


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


async def test_a_zygote_that_forks_leaves_its_memory_alone() -> None:
    """What it wrote to would be copied for each context, and its huge pages would fall apart."""
    forks = 10
    async with open_runtime() as runtime, open_sandbox(runtime=runtime) as sandbox:
        await (await sandbox.create_code_context(cwd="/tmp")).aclose()
        pid = zygote_of(runtime)
        before = page_faults(pid)
        for _ in range(forks):
            await (await sandbox.create_code_context(cwd="/tmp")).aclose()
        faults = (page_faults(pid) - before) / forks
    assert faults < 60
