"""What is made ahead: taken once, made again when nobody works, replaced when it has died.

The things here are stand-ins that only count; those of `test_ready_sandboxes.py` are real.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from sandbox_runtime.errors import SandboxLostError
from sandbox_runtime.standby import Standby, Work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock


class Standin:
    """A thing that does nothing."""

    def __init__(self) -> None:
        self.alive = True
        self.closed = False

    async def aclose(self) -> None:
        self.alive, self.closed = False, True


class Maker:
    """Makes stand-ins, or fails."""

    def __init__(self) -> None:
        self.made: list[Standin] = []
        self.failing = False
        self.takes_s = 0.0

    async def __call__(self) -> Standin:
        await trio.sleep(self.takes_s)
        if self.failing:
            raise SandboxLostError("it has died")
        self.made.append(Standin())
        return self.made[-1]


@pytest.fixture
def maker() -> Maker:
    return Maker()


@pytest.fixture
async def nursery() -> AsyncIterator[trio.Nursery]:
    """One whose tasks end with the test."""
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


def make_standby(
    maker: Maker, nursery: trio.Nursery, count: int = 1, work: Work | None = None
) -> Standby[Standin]:
    return Standby(maker, count=count, nursery=nursery, work=work or Work())


async def fill(standby: Standby[Standin]) -> None:
    """Asks for what is missing and waits for it."""
    standby.refill()
    await standby.wait_full()


async def test_nothing_is_made_before_somebody_wants_it(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    standby = make_standby(maker, nursery)
    assert await standby.take() is None
    await trio.sleep(10)
    assert maker.made == []


async def test_each_is_handed_out_once(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    standby = make_standby(maker, nursery, count=3)
    taken = set()
    for _ in range(20):
        await fill(standby)
        thing = await standby.take()
        assert thing is not None
        taken.add(thing)
    assert len(taken) == 20


async def test_no_more_are_kept_than_were_asked_for(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    standby = make_standby(maker, nursery, count=2)
    for _ in range(5):
        await fill(standby)
    assert standby.ready == 2
    assert len(maker.made) == 2


async def test_none_is_kept_where_none_is_wanted(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    standby = make_standby(maker, nursery, count=0)
    await fill(standby)
    await trio.sleep(10)
    assert maker.made == []


async def test_one_that_has_died_is_ended_and_replaced(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    standby = make_standby(maker, nursery, count=2)
    await fill(standby)
    dead, living = maker.made
    dead.alive = False
    assert await standby.take() is living
    await fill(standby)
    assert dead.closed
    assert standby.ready == 2
    assert dead not in {await standby.take(), await standby.take()}


async def test_who_finds_none_waits_for_the_one_that_is_being_made(
    maker: Maker, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    begun_s = autojump_clock.current_time()
    maker.takes_s = 5.0
    standby = make_standby(maker, nursery)
    standby.refill()
    await trio.sleep(2)
    assert await standby.take() is maker.made[0]
    assert trio.current_time() - begun_s < 6


async def test_only_one_waits_for_it(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    maker.takes_s = 5.0
    standby = make_standby(maker, nursery)
    standby.refill()
    await trio.sleep(2)
    found: list[Standin | None] = []

    async def take() -> None:
        found.append(await standby.take())

    async with trio.open_nursery() as takers:
        for _ in range(3):
            takers.start_soon(take)
    assert found == [None, None, maker.made[0]]


async def test_who_gives_up_waiting_leaves_it_to_the_next(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    maker.takes_s = 5.0
    standby = make_standby(maker, nursery)
    standby.refill()
    await trio.sleep(2)
    with trio.move_on_after(1):
        await standby.take()
    assert await standby.take() is maker.made[0]


async def test_none_is_made_while_a_command_runs(
    maker: Maker, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    begun_s = autojump_clock.current_time()
    work = Work()
    standby = make_standby(maker, nursery, work=work)
    with work:
        standby.refill()
        await trio.sleep(0.5)
        assert maker.made == []
    await fill(standby)
    assert len(maker.made) == 1
    assert trio.current_time() - begun_s < 0.6


async def test_a_command_without_end_delays_it_for_a_second_only(
    maker: Maker, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    begun_s = autojump_clock.current_time()
    work = Work()
    standby = make_standby(maker, nursery, work=work)
    with work:
        await fill(standby)
    assert len(maker.made) == 1
    assert 0.9 < trio.current_time() - begun_s < 1.1


async def test_none_is_made_while_one_after_another_is_taken(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    standby = make_standby(maker, nursery, count=8)
    await fill(standby)
    for _ in range(8):
        assert await standby.take() is not None
        standby.refill()
        await trio.sleep(0.01)
    assert len(maker.made) == 8
    await fill(standby)
    assert len(maker.made) == 16


async def test_if_making_fails_it_is_tried_again_when_somebody_asks(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    maker.failing = True
    standby = make_standby(maker, nursery)
    await fill(standby)
    assert await standby.take() is None
    maker.failing = False
    await trio.sleep(100)
    assert maker.made == []
    await fill(standby)
    assert await standby.take() is maker.made[0]


async def test_its_end_ends_what_waits_and_what_is_being_made(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    maker.takes_s = 5.0
    standby = make_standby(maker, nursery, count=2)
    standby.refill()
    await trio.sleep(7)
    await standby.aclose()
    await trio.sleep(100)
    assert len(maker.made) == 2
    assert all(thing.closed for thing in maker.made)
    assert await standby.take() is None


async def test_whoever_waits_for_all_is_let_go_when_it_ends(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    maker.takes_s = 5.0
    standby = make_standby(maker, nursery, count=2)
    standby.refill()
    async with trio.open_nursery() as waiters:
        waiters.start_soon(standby.wait_full)
        await trio.sleep(2)
        await standby.aclose()
    standby.refill()
    await standby.wait_full()


async def test_after_the_end_of_its_nursery_it_makes_none_and_harms_nobody(
    maker: Maker,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    async with trio.open_nursery() as nursery:
        never_asked = make_standby(maker, nursery)
        filled = make_standby(maker, nursery)
        filling = make_standby(maker, nursery, count=2)
        await fill(filled)
        filling.refill()
        nursery.cancel_scope.cancel()
    maker.made[0].alive = False
    for standby in (never_asked, filled, filling):
        assert await standby.take() is None
        await fill(standby)
        await standby.aclose()
    assert len(maker.made) == 1
    assert maker.made[0].closed


async def test_one_that_died_unseen_is_ended_with_it_if_its_nursery_has_ended(
    maker: Maker,
) -> None:
    async with trio.open_nursery() as nursery:
        standby = make_standby(maker, nursery, count=0)
    standby.add(dead := Standin())
    dead.alive = False
    assert await standby.take() is None
    assert not dead.closed
    await standby.aclose()
    assert dead.closed


async def test_one_of_somebody_elses_making_is_handed_out_too(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    other = Maker()
    other.takes_s = 1.0
    standby = make_standby(maker, nursery, count=0)
    standby.begin(other)
    assert await standby.take() is other.made[0]
    standby.add(given := Standin())
    assert await standby.take() is given
    assert await standby.take() is None


async def test_it_is_quiet_when_the_last_piece_of_work_is_over() -> None:
    work = Work()
    with work, trio.move_on_after(0) as waited:
        with work:
            pass
        await work.wait_quiet()
    assert waited.cancelled_caught
    await work.wait_quiet()
