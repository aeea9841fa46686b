"""Streams of events: what goes out when, and together with what."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import trio
import trio.testing

from sandbox_runtime.server.pulse import Pulse
from sandbox_runtime.server.streams import HEARTBEAT_S, EventStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Event(msgspec.Struct, frozen=True):
    text: str


class Written:
    """Takes the parts of a body."""

    def __init__(self) -> None:
        self.parts: list[tuple[float, bytes]] = []
        self.kept = b""
        self._began_s = trio.current_time()

    async def __call__(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.parts.append((trio.current_time() - self._began_s, data))

    def keep(self, data: bytes) -> None:
        self.kept += data


@asynccontextmanager
async def open_stream() -> AsyncIterator[tuple[EventStream, Written]]:
    pulse, written = Pulse(), Written()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pulse.run)
        stream = EventStream(written, "lines", pulse, ascii_only=False)
        yield stream, written
        stream.abandon()
        nursery.cancel_scope.cancel()


async def test_the_head_goes_out_though_there_is_no_event(
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    async with open_stream() as (_, written):
        await trio.sleep(1)
    assert [data for _, data in written.parts] == [b""]
    assert written.parts[0][0] < 0.01


async def test_an_event_that_is_posted_goes_out_soon(
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    async with open_stream() as (stream, written):
        stream.post(Event("a"))
        await trio.sleep(1)
    assert [data for _, data in written.parts] == [b'{"text":"a"}\n']
    assert written.parts[0][0] < 0.005


async def test_what_is_posted_goes_out_with_what_is_sent_after_it() -> None:
    async with open_stream() as (stream, written):
        stream.post(Event("a"))
        await stream.send(Event("b"))
    assert [data for _, data in written.parts] == [b'{"text":"a"}\n{"text":"b"}\n']


async def test_who_posts_much_waits_until_it_is_written() -> None:
    """Else a client that does not read would have the server hold all of it."""
    async with open_stream() as (stream, written):
        assert stream.post(Event("a" * 100_000)) is None
        unsent = stream.post(Event("b" * 100_000))
        assert unsent is not None
        assert written.parts == []
        await unsent
        assert sum(len(data) for _, data in written.parts) > 200_000
        assert stream.post(Event("c")) is None


async def test_what_is_posted_last_goes_out_with_the_end() -> None:
    async with open_stream() as (stream, written):
        await stream.send(Event("a"))
        stream.post(Event("b"))
        stream.end()
    assert len(written.parts) == 1
    assert written.kept == b'{"text":"b"}\n'


async def test_a_line_waits_for_its_end_but_not_for_long(
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    async with open_stream() as (stream, written):
        await stream.send_text("a", Event)
        await stream.send_text("b\n", Event)
        await stream.send_text("c", Event)
        await trio.sleep(1)
    assert [data for _, data in written.parts] == [b'{"text":"ab\\n"}\n', b'{"text":"c"}\n']
    assert written.parts[1][0] < 0.01


async def test_a_first_line_waits_for_its_end_though_the_head_has_waited_before(
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    async with open_stream() as (stream, written):
        await trio.sleep(0.004)
        await stream.send_text("a", Event)
        await trio.sleep(0.004)
        await stream.send_text("b\n", Event)
        await trio.sleep(0.001)
        await stream.send_text("c", Event)
        await trio.sleep(0.004)
        await stream.send_text("d", Event)
        await trio.sleep(0.002)
    assert [data for _, data in written.parts] == [b'{"text":"ab\\n"}\n', b'{"text":"cd"}\n']


async def test_a_silent_stream_gives_a_sign_of_life(
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    async with open_stream() as (stream, written):
        await stream.send(Event("a"))
        await trio.sleep(2.5 * HEARTBEAT_S)
    assert [data for _, data in written.parts] == [b'{"text":"a"}\n', b"\n", b"\n"]


async def test_nothing_follows_the_end_of_a_stream(
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    async with open_stream() as (stream, written):
        stream.post(Event("a"))
        stream.end()
        await trio.sleep(2 * HEARTBEAT_S)
    assert written.parts == []
