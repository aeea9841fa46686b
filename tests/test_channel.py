"""What goes over a packet socket arrives in order, and answers find who asked."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio
import trio.testing

from sandbox_runtime import core
from sandbox_runtime.channel import Channel, packet_pair
from sandbox_runtime.errors import SandboxClosedError, SandboxLostError
from sandbox_runtime.jail import Jail
from sandbox_runtime.messages import InitReply, Signal, Swept

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Init:
    """The other end of a jail's socket, played by a test."""

    def __init__(self) -> None:
        ours, self.socket = packet_pair()
        self.channel: Channel[InitReply] = Channel(ours, InitReply)
        self.jail = Jail(
            self.channel,
            lambda: 0,
            lambda error: error,
            namespaces=False,
            under_way=core.UnderWay(),
        )

    def receive(self) -> dict[str, Any]:
        """The next message."""
        message: dict[str, Any] = msgspec.msgpack.decode(self.socket.recv(1 << 17)[1:])
        return message

    def answer(self, message: msgspec.Struct) -> None:
        """Says something."""
        self.socket.send(b"\0" + msgspec.msgpack.encode(message))


@pytest.fixture
async def init() -> AsyncIterator[Init]:
    made = Init()
    with made.socket:
        yield made
        made.channel.close()


async def sweep(init: Init, found: list[int]) -> None:
    found.append(await init.jail.sweep(spare=[], keep=[], since_ticks=0))


async def test_the_answer_to_a_sweep_goes_to_whoever_asked(init: Init) -> None:
    first: list[int] = []
    second: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep, init, first)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(sweep, init, second)
        await trio.testing.wait_all_tasks_blocked()
        numbers = [init.receive()["id"] for _ in range(2)]
        init.answer(Swept(id=numbers[1], killed=22))
        init.answer(Swept(id=numbers[0], killed=11))
    assert (first, second) == ([11], [22])


async def test_nothing_is_kept_of_a_sweep_that_was_cancelled(init: Init) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep, init, [])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    found: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep, init, found)
        await trio.testing.wait_all_tasks_blocked()
        for killed in (1, 2):
            init.answer(Swept(id=init.receive()["id"], killed=killed))
    assert found == [2]
    assert not init.jail._swept


async def fill(init: Init) -> int:
    """Sends until there is no room; returns how many went out."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            packet = b"\0" + msgspec.msgpack.encode(Signal(pid=0, signal=0, group=False))
            init.channel._socket.send(packet)
            count += 1
    return count


async def test_a_message_overtakes_none_that_waits_for_room(init: Init) -> None:
    count = await fill(init)

    async def send(pid: int) -> None:
        await init.channel.send(Signal(pid=pid, signal=0, group=False))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, 1)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(count):
            init.receive()
        # There is room now, and the one that waits has not run yet.
        await send(2)
    assert [init.receive()["pid"] for _ in range(2)] == [1, 2]


async def test_whoever_waits_for_room_in_a_closed_channel_is_told(init: Init) -> None:
    await fill(init)
    told = []

    async def send() -> None:
        with pytest.raises(SandboxClosedError):
            await init.channel.send(Signal(pid=1, signal=0, group=False))
        told.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        nursery.start_soon(send)
        await trio.testing.wait_all_tasks_blocked()
        init.channel.close()
    assert len(told) == 2


async def test_a_message_lost_for_want_of_descriptors_names_the_remedy(init: Init) -> None:
    packet = b"\0" + msgspec.msgpack.encode(Swept(id=0, killed=0))
    socket.send_fds(init.socket, [packet], [0, 1, 2])
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(one.name) for one in Path("/proc/self/fd").iterdir()) + 1
    held: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, before[1]))
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        with pytest.raises(SandboxLostError, match=r"Too many open files.*ulimit -n"):
            await init.channel.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in held:
            os.close(fd)


@pytest.mark.parametrize("waits", [False, True])
async def test_last_words_are_heard_of_one_that_died_with_a_question_unread(
    init: Init, waits: bool
) -> None:
    async def say_and_die() -> None:
        if waits:
            await trio.testing.wait_all_tasks_blocked()
        init.answer(Swept(id=1, killed=7))
        init.socket.close()

    await init.channel.send(Signal(pid=1, signal=9, group=False))
    async with trio.open_nursery() as nursery:
        if waits:
            nursery.start_soon(say_and_die)
        else:
            await say_and_die()
        assert await init.channel.receive() == (Swept(id=1, killed=7), [])
    with pytest.raises(SandboxLostError):
        await init.channel.receive()
