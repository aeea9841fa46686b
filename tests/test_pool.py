"""The pool: what it decides, who waits for whom, and what it says when nothing can be made.

The interpreters here are stand-ins that only count; those of `test_contexts.py` are real.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from sandbox_runtime.errors import InterpreterUnavailableError as UnavailableError
from sandbox_runtime.errors import InvalidArgumentError, PoolFullError
from sandbox_runtime.interpreters.pool import Pool, PoolState, plan
from sandbox_runtime.interpreters.pool_sizes import PoolSize, pool_sizes_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

    from sandbox_runtime.interpreters.interpreter import Interpreter


class Standin:
    """An interpreter that does nothing."""

    def __init__(self, primed: bool) -> None:
        self.closed = False
        self.primed = primed

    def look(self) -> bool:
        return not self.closed

    async def aclose(self) -> None:
        self.closed = True


class Maker:
    """Makes stand-ins, or fails."""

    def __init__(self) -> None:
        self.made: list[Standin] = []
        self.failure: str | None = None
        self.tries = 0
        self.primed: bool | None = None
        self.lasts_s = 0.0

    async def __call__(self, prime: bool = True) -> Interpreter:  # noqa: FBT002
        self.primed = prime
        self.tries += 1
        await trio.sleep(self.lasts_s)
        if self.failure is not None:
            raise UnavailableError(self.failure)
        self.made.append(Standin(prime))
        return cast("Interpreter", self.made[-1])


@pytest.fixture
def maker() -> Maker:
    return Maker()


def make_pool(maker: Maker, nursery: trio.Nursery, size: PoolSize, **options: Any) -> Pool:
    opener = cast("Callable[[bool], Awaitable[Interpreter]]", maker)
    return Pool(opener, {"python": size}, nursery, **options)


numbers = st.integers(0, 30)


@given(
    state=st.builds(
        PoolState,
        size=st.builds(PoolSize, min=numbers, max=st.none() | st.integers(1, 30)),
        ready=numbers,
        coming=numbers,
        lent=numbers,
        wished=numbers,
        quiet_s=st.floats(0, 1000),
        failing=st.booleans(),
    )
)
def test_a_plan_never_exceeds_the_limit_nor_begins_what_it_ends(state: PoolState) -> None:
    """Whatever the numbers are."""
    begin, end = plan(state)
    assert begin == 0 or end == 0
    assert 0 <= end <= state.ready
    held = state.ready + state.coming + begin - end
    if state.size.max is not None and begin:
        assert held + state.lent <= state.size.max
    if begin:
        assert not state.failing
        assert held <= max(state.size.min, state.wished)


async def test_a_claim_takes_the_oldest_and_another_is_made(
    maker: Maker, nursery: trio.Nursery
) -> None:
    """Nothing is handed out twice."""
    pool = make_pool(maker, nursery, PoolSize(min=2))
    await pool.wait_full()
    first, second = maker.made
    assert pool.claim() is cast("object", first)
    assert pool.claim() is cast("object", second)
    await pool.wait_full()
    assert len(maker.made) == 4
    assert pool.ready == 2


async def test_a_pool_with_a_limit_grows_with_the_claims_and_shrinks_again(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    """One more is ready after a claim found none; after a quiet while it is ended."""
    pool = make_pool(maker, nursery, PoolSize(min=1, max=10, idle_s=60))
    assert pool.claim() is None
    await pool.wait_full()
    assert pool.ready == 2
    await trio.sleep(61)
    await trio.testing.wait_all_tasks_blocked()
    assert pool.ready == 1
    assert [one.closed for one in maker.made].count(True) == 1


async def test_those_who_wait_for_a_place_get_it_in_their_order(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    """And who waits too long is told when to come again."""
    pool = make_pool(maker, nursery, PoolSize(min=0, max=1, wait_s=10))
    await pool.take_place("first", "python")
    served = []

    async def take(name: str) -> None:
        await pool.take_place(name, "python")
        served.append(name)

    for name in ("second", "third"):
        nursery.start_soon(take, name)
        await trio.testing.wait_all_tasks_blocked()
    assert pool.waiting == 2
    pool.leave("first", "python")
    pool.leave("first", "python")  # again does nothing
    await trio.testing.wait_all_tasks_blocked()
    assert served == ["second"]
    pool.leave("second", "python")
    await trio.testing.wait_all_tasks_blocked()
    assert served == ["second", "third"]
    with pytest.raises(PoolFullError, match="all 1 interpreters are in use") as refused:
        await pool.take_place("fourth", "python")
    assert refused.value.retry_after_s == 10
    assert refused.value.retryable


async def test_what_is_ready_makes_room_for_who_needs_another_kind(
    maker: Maker, nursery: trio.Nursery
) -> None:
    """Ready ones count towards the limit, but never keep anybody waiting."""
    pool = make_pool(maker, nursery, PoolSize(min=2, max=2))
    await pool.wait_full()
    await pool.take_place("one", "python")
    await pool.take_place("two", "python")
    await trio.testing.wait_all_tasks_blocked()
    assert (pool.ready, pool.lent) == (0, 2)


async def test_a_place_is_left_to_the_one_that_its_owner_claims(
    maker: Maker, nursery: trio.Nursery
) -> None:
    """It is handed over, not ended and made anew."""
    pool = make_pool(maker, nursery, PoolSize(min=1, max=1))
    await pool.wait_full()
    await pool.take_place("one", "python", claims=True)
    assert pool.claim() is cast("object", maker.made[0])
    await pool.wait_full()
    assert (pool.ready, pool.lent, len(maker.made)) == (0, 1, 1)


async def test_an_owner_of_several_places_claims_one_that_is_left_to_it(
    maker: Maker, nursery: trio.Nursery
) -> None:
    """However many places it takes besides."""
    pool = make_pool(maker, nursery, PoolSize(min=1, max=3))
    await pool.wait_full()
    await pool.take_places(["one", "two", "three"], "python", claims=True)
    assert pool.claim() is cast("object", maker.made[0])
    await pool.wait_full()
    assert (pool.ready, pool.lent, len(maker.made)) == (0, 3, 1)


async def test_who_needs_several_places_gets_all_or_none(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    """Two that come at once do not hold what the other waits for; there is one wait for all."""
    pool = make_pool(maker, nursery, PoolSize(min=0, max=4, wait_s=10))
    await pool.take_place("first", "python")
    served = []

    async def take(name: str) -> None:
        await pool.take_places([f"{name} {number}" for number in range(3)], "python")
        served.append(name)
        for number in range(3):
            pool.leave(f"{name} {number}", "python")

    async with trio.open_nursery() as both:
        both.start_soon(take, "second")
        both.start_soon(take, "third")
    assert sorted(served) == ["second", "third"]
    await pool.take_place("another", "python")
    started_s = trio.current_time()
    with pytest.raises(PoolFullError):
        await pool.take_places(["a", "b", "c"], "python")
    assert trio.current_time() - started_s == pytest.approx(10)
    assert (pool.lent, pool.waiting) == (2, 0)


async def test_what_comes_after_its_place_was_taken_is_not_kept(
    maker: Maker, nursery: trio.Nursery
) -> None:
    """Neither when its making has begun, nor before."""
    quiet = trio.Event()
    for wait_quiet in (None, quiet.wait):
        pool = make_pool(maker, nursery, PoolSize(min=1, max=1), wait_quiet=wait_quiet)
        pool.refill()
        await pool.take_place("one", "python")
        quiet.set()
        await pool.wait_full()
        await trio.testing.wait_all_tasks_blocked()
        assert (pool.ready, pool.lent) == (0, 1)
    assert all(one.closed for one in maker.made)


@pytest.mark.parametrize("most", [None, 20])
async def test_many_claims_at_once_let_a_pool_grow_by_two(
    maker: Maker, nursery: trio.Nursery, most: int | None
) -> None:
    """Whether it has a limit or not; each gets one of its own."""
    pool = make_pool(maker, nursery, PoolSize(min=1, max=most))
    taken: list[object] = []

    async def take(number: int) -> None:
        await pool.take_place(number, "python", claims=True)
        taken.append(await pool.take())

    async with trio.open_nursery() as claims:
        for number in range(8):
            claims.start_soon(take, number)
    await pool.wait_full()
    assert pool.ready == 3
    assert len({id(one) for one in taken if one is not None}) == 8
    assert len(maker.made) == 11


async def test_nothing_is_made_ahead_while_code_runs(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    """But for longer than a second it does not wait."""
    quiet = trio.Event()
    pool = make_pool(maker, nursery, PoolSize(min=1), wait_quiet=quiet.wait)
    pool.refill()
    await trio.testing.wait_all_tasks_blocked()
    assert maker.tries == 0
    quiet.set()
    await trio.testing.wait_all_tasks_blocked()
    assert maker.tries == 1
    busy = make_pool(maker, nursery, PoolSize(min=1), wait_quiet=trio.sleep_forever)
    started_s = trio.current_time()
    await busy.wait_full()
    assert trio.current_time() - started_s == 1


async def test_nothing_is_made_ahead_right_after_code_has_run(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    """Whoever runs one short cell after another is seldom busy, and is not disturbed either."""
    rested_s = began_s = trio.current_time()
    quiet = trio.Event()
    quiet.set()
    pool = make_pool(
        maker, nursery, PoolSize(min=1), wait_quiet=quiet.wait, rested_s=lambda: rested_s
    )
    pool.refill()
    for _ in range(20):
        await trio.sleep(0.02)
        rested_s = trio.current_time()
    assert maker.tries == 0
    await pool.wait_full()
    assert pool.ready == 1
    assert 0.02 < trio.current_time() - rested_s < trio.current_time() - began_s < 1


async def test_what_comes_next_need_not_wait_where_nobody_can_be_disturbed(
    maker: Maker, nursery: trio.Nursery
) -> None:
    """One, and the others wait as ever."""

    async def quiet() -> None:
        await trio.lowlevel.checkpoint()

    pool = make_pool(maker, nursery, PoolSize(min=2), wait_quiet=quiet, rested_s=trio.current_time)
    pool.refill()
    await trio.testing.wait_all_tasks_blocked()
    assert maker.tries == 0
    pool.hurry()
    await trio.testing.wait_all_tasks_blocked()
    assert (pool.ready, maker.tries) == (1, 1)


async def test_what_is_claimed_at_once_again_and_again_is_not_warmed_up(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    """Until a claim finds one that has waited."""

    async def quiet() -> None:
        await trio.lowlevel.checkpoint()

    async def next_one(after_s: float) -> bool:
        """Hurries one, claims it after a while; whether it was warmed up."""
        pool.hurry()
        await trio.sleep(after_s)
        return cast("Standin", await pool.take()).primed

    maker.lasts_s = 0.005
    pool = make_pool(maker, nursery, PoolSize(min=1), wait_quiet=quiet)
    await pool.wait_full()
    await pool.take()
    assert await next_one(0.001) is True
    assert await next_one(0.001) is False
    assert await next_one(0.006) is False
    assert await next_one(0.5) is False  # it has waited
    assert await next_one(0.001) is True


async def test_who_asks_where_nothing_can_be_made_is_told_why_at_once(
    maker: Maker,
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001 - it makes the time pass
) -> None:
    """After five failures in a row it is tried again in half a minute, and then once."""
    pool = make_pool(maker, nursery, PoolSize(min=1))
    maker.failure = "no IPython"
    for _ in range(5):
        with pytest.raises(UnavailableError, match="no IPython"):
            await pool.make(maker, counts=True)
    with pytest.raises(UnavailableError, match=r"no IPython. It is tried again in 30 s"):
        await pool.make(maker, counts=True)
    pool.refill()
    await trio.testing.wait_all_tasks_blocked()
    assert maker.tries == 5
    await trio.sleep(30)
    maker.failure = None
    await pool.make(maker, counts=True)
    await pool.wait_full()
    assert pool.ready == 1


async def test_a_failure_of_a_special_one_says_nothing_about_the_others(
    maker: Maker, nursery: trio.Nursery
) -> None:
    """It may be due to what that one was asked to be."""
    pool = make_pool(maker, nursery, PoolSize(min=0))
    maker.failure = "its own fault"
    for _ in range(10):
        with pytest.raises(UnavailableError):
            await pool.make(maker, counts=False)
    maker.failure = None
    await pool.make(maker, counts=True)


def test_the_sizes_are_read_from_the_variables_of_the_original() -> None:
    """What is not said stays as it is."""
    sizes = pool_sizes_of(
        {
            "PYTHON_POOL_MIN_SIZE": "3",
            "PYTHON_POOL_MAX_SIZE": " 15 ",
            "JAVASCRIPT_POOL_MAX_SIZE": "4",
            "TYPESCRIPT_POOL_MIN_SIZE": "",
        }
    )
    assert sizes == {"python": PoolSize(min=3, max=15), "javascript": PoolSize(min=1, max=4)}


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"PYTHON_POOL_MIN_SIZE": "abc"}, "PYTHON_POOL_MIN_SIZE"),
        ({"PYTHON_POOL_MIN_SIZE": "-1"}, "PYTHON_POOL_MIN_SIZE"),
        ({"PYTHON_POOL_MAX_SIZE": "0"}, "PYTHON_POOL_MAX_SIZE"),
        ({"PYTHON_POOL_MAX_SIZE": "3.5"}, "PYTHON_POOL_MAX_SIZE"),
        ({"PYTHON_POOL_MAX_SIZE": "٣"}, "PYTHON_POOL_MAX_SIZE"),
        ({"PYTHON_POOL_MIN_SIZE": "3", "PYTHON_POOL_MAX_SIZE": "2"}, "PYTHON_POOL_MIN_SIZE"),
    ],
)
def test_a_variable_that_is_no_size_is_named(variables: dict[str, str], named: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(InvalidArgumentError, match=named):
        pool_sizes_of(variables)


@pytest.mark.parametrize(
    ("size", "field"),
    [
        (PoolSize(min=-1), "min"),
        (PoolSize(min=3, max=2), "min"),
        (PoolSize(max=0), "max"),
        (PoolSize(idle_s=float("nan")), "idle_s"),
        (PoolSize(wait_s=-1), "wait_s"),
    ],
)
def test_a_size_that_cannot_be_is_refused(size: PoolSize, field: str) -> None:
    """The message names what is wrong."""
    with pytest.raises(InvalidArgumentError, match=rf"pools\[python\]\.{field}"):
        size.check("pools[python]")


async def test_who_finds_none_ready_gets_the_one_that_is_coming(
    maker: Maker, nursery: trio.Nursery
) -> None:
    """It waits for quiet no more, and does not warm up; another takes its turn."""
    pool = make_pool(maker, nursery, PoolSize(min=1), wait_quiet=trio.sleep_forever)
    pool.refill()
    await trio.testing.wait_all_tasks_blocked()
    assert maker.tries == 0
    taken = await pool.take()
    assert [taken] == cast("list[object]", maker.made)
    assert maker.primed is False
    assert pool.ready == 0


async def test_who_stops_waiting_for_the_one_that_is_coming_leaves_it_to_the_next(
    maker: Maker, nursery: trio.Nursery
) -> None:
    """Nothing is lost."""
    pool = make_pool(maker, nursery, PoolSize(min=1))
    with trio.CancelScope() as scope:
        scope.cancel()
        await pool.take()
    await pool.wait_full()
    assert pool.claim() is cast("object", maker.made[0])


async def test_who_waits_for_one_that_does_not_come_is_told_why(
    maker: Maker, nursery: trio.Nursery
) -> None:
    """And it is not tried twice for that."""
    maker.failure = "no memory"
    pool = make_pool(maker, nursery, PoolSize(min=1))
    with pytest.raises(UnavailableError, match="no memory"):
        await pool.take()
    assert maker.tries == 1


async def test_languages_share_what_is_ready_but_have_places_of_their_own(
    maker: Maker, nursery: trio.Nursery
) -> None:
    """One that has no place left does not stop the other."""
    opener = cast("Callable[[bool], Awaitable[Interpreter]]", maker)
    sizes = {
        "javascript": PoolSize(min=1, max=1, wait_s=0.01),
        "typescript": PoolSize(min=0, max=2),
    }
    pool = Pool(opener, sizes, nursery)
    assert pool.size == PoolSize(min=1, max=3)
    await pool.take_place("one", "javascript")
    with pytest.raises(PoolFullError):
        await pool.take_place("two", "javascript")
    await pool.take_place("two", "typescript")
    assert pool.lent == 2
    await pool.wait_full()
    assert pool.claim() is not None
