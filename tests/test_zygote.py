"""The control process's end of a zygote's socket, without a zygote."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from sandbox_runtime.channel import packet_pair
from sandbox_runtime.errors import SandboxLostError
from sandbox_runtime.interpreters.zygote import Zygote

if TYPE_CHECKING:
    import socket


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
                nursery.start_soon(zygote._send, {"id": number})
            await trio.testing.wait_all_tasks_blocked()
            packets = [await trio.to_thread.run_sync(theirs.recv, 100) for _ in range(waiting + 5)]
        assert {json.loads(packet)["id"] for packet in packets[waiting:]} == set(range(5))
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
                    await zygote._send({"id": 1})

            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            zygote.close()
    with pytest.raises(SandboxLostError, match="zygote"):
        await zygote._send({"id": 2})
