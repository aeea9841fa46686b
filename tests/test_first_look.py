"""The first look at a command that was sent: most are over then, some before anybody has waited."""

from __future__ import annotations

import os
import select
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, cast

import trio

from sandbox_runtime.capture import Capture, Found

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

LOOKS = 40


@contextmanager
def readable_pipe() -> Iterator[int]:
    """A pipe in which something lies."""
    reader, writer = os.pipe()
    os.write(writer, b"x")
    yield reader
    os.close(reader)
    os.close(writer)


class Answered:
    """A command that has answered already, with pipes that are at their end."""

    def collect(self, _most_bytes: int) -> tuple[bytes, bytes, bool, bytes, bool]:
        return b"done", b"text", True, b"", True

    def close(self) -> None:
        pass


async def look(epoll: select.epoll) -> Found | None:
    with Capture(100, make_pipes=False) as capture:
        return await capture.first_look(cast("Any", Answered()), epoll, 64)


async def test_a_command_that_is_over_already_is_seldom_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits: list[object] = []

    async def note(_capture: Capture, epoll: object) -> None:
        waits.append(epoll)
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(Capture, "_wait_for", note)
    with closing(select.epoll()) as epoll:
        found = [await look(epoll) for _ in range(LOOKS)]
    assert found == [Found(b"done", b"text", b"")] * LOOKS
    assert len(waits) < LOOKS / 4


async def test_whoever_runs_such_commands_alone_still_lets_other_tasks_run() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    with readable_pipe() as readable, closing(select.epoll()) as epoll:
        epoll.register(readable, select.EPOLLIN)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            for _ in range(10 * LOOKS):
                await look(epoll)
            nursery.cancel_scope.cancel()
    assert turns > 0
