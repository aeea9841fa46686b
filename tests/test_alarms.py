"""Deadlines of short commands, on a clock that the tests set."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from sandbox_runtime.alarms import Alarms
from sandbox_runtime.nursery import open_serving_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock


@asynccontextmanager
async def open_alarms() -> AsyncIterator[Alarms]:
    alarms = Alarms()
    async with open_serving_nursery() as nursery:
        nursery.start_soon(alarms.run)
        yield alarms


async def test_each_rings_at_its_time_whichever_was_set_first(
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    began_s = trio.current_time()
    rung: list[float] = []
    async with open_alarms() as alarms:
        for after_s in (30.0, 1.0, 5.0):
            alarms.set(began_s + after_s, lambda: rung.append(trio.current_time() - began_s))
        await trio.sleep(60)
    assert rung == pytest.approx([1, 5, 30])


async def test_what_was_called_off_does_not_ring(
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    rung: list[str] = []
    async with open_alarms() as alarms:
        alarm = alarms.set(trio.current_time() + 1, lambda: rung.append("called off"))
        alarms.set(trio.current_time() + 2, lambda: rung.append("kept"))
        alarms.call_off(alarm)
        await trio.sleep(60)
        alarms.call_off(alarm)
    assert rung == ["kept"]


async def test_one_that_fails_keeps_no_other_from_ringing(
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
    caplog: pytest.LogCaptureFixture,
) -> None:
    rung: list[str] = []
    async with open_alarms() as alarms:
        alarms.set(trio.current_time() + 1, lambda: 1 // 0)
        alarms.set(trio.current_time() + 1, lambda: rung.append("at the same time"))
        alarms.set(trio.current_time() + 2, lambda: rung.append("later"))
        await trio.sleep(60)
    assert rung == ["at the same time", "later"]
    assert "a deadline could not be kept" in caplog.text


async def test_one_whose_time_is_over_rings_at_once(autojump_clock: MockClock) -> None:
    rung = trio.Event()
    async with open_alarms() as alarms:
        began_s = autojump_clock.current_time()
        alarms.set(began_s - 1, rung.set)
        await rung.wait()
        assert autojump_clock.current_time() == began_s
