"""Measuring: interleaved rounds of all candidates of a scenario."""

from __future__ import annotations

import contextlib
import gc
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import trio

from sandbox_runtime.bench.fingerprint import LoadMeter
from sandbox_runtime.bench.results import Measured, Missing, ScenarioResult
from sandbox_runtime.bench.samples import ratio, summarize

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager

ATTEMPT_LIMIT_S = 60.0
"""How long one measurement may take before it counts as failed."""


class Stopwatch:
    """Times what a candidate says is to be timed: `with stopwatch: …`, once a measurement."""

    def __init__(self) -> None:
        self.took_s: float | None = None
        self._started_s = 0.0

    def __enter__(self) -> None:
        self._started_s = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        took_s = time.perf_counter() - self._started_s
        if kind is None:
            self.took_s = took_s


Once: TypeAlias = "Callable[[Stopwatch], Awaitable[None]]"
"""One measurement: prepares, does the timed thing under the stopwatch, checks, cleans up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to do what a scenario asks for.

    Attributes:
        name: Unique in its scenario.
        open: Makes it ready; what it yields is called once a round.
        version: Of the program behind it.
        protections: What confines the code, in words.
        ours: Whether ratios are of this one.
        memory: Proportional set size of it as it is, if that can be told.
    """

    name: str
    open: Callable[[], AbstractAsyncContextManager[Once]]
    version: str = ""
    protections: str = "none"
    ours: bool = False
    memory: Callable[[], int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One thing that somebody waits for.

    Attributes:
        name: What is typed.
        title: What is shown.
        candidates: What is installed.
        missing: What is not.
        rounds: How many make a full run.
        quick_rounds: How many make a quick one.
    """

    name: str
    title: str
    candidates: tuple[Candidate, ...]
    missing: tuple[Missing, ...] = ()
    rounds: int = 100
    quick_rounds: int = 20


class _Series:
    """What was measured of one candidate."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.once: Once | None = None
        self.values: list[float | None] = []
        self.failure = ""
        self.memory_bytes: int | None = None

    async def attempt(self) -> float | None:
        if self.once is None:
            return None
        stopwatch = Stopwatch()
        try:
            with trio.fail_after(ATTEMPT_LIMIT_S):
                await self.once(stopwatch)
        except Exception as error:  # noqa: BLE001 - a peer may fail in any way; the row says how
            self.failure = self.failure or f"{type(error).__name__}: {error}"[:300]
            return None
        return stopwatch.took_s


async def run_scenario(
    scenario: Scenario,
    *,
    rounds: int,
    warm_up: int = 2,
    on_round: Callable[[int, int], None] | None = None,
) -> ScenarioResult:
    """Measures all candidates, one after another in each round, and never two at a time.

    Args:
        scenario: What to measure.
        rounds: How often.
        warm_up: Rounds beforehand that do not count.
        on_round: Told how many rounds of how many are done.
    """
    series = [_Series(candidate) for candidate in scenario.candidates]
    meter = LoadMeter()
    async with AsyncExitStack() as stack:
        for one in series:
            try:
                one.once = await stack.enter_async_context(one.candidate.open())
            except Exception as error:  # noqa: BLE001 - as above
                one.failure = f"{type(error).__name__}: {error}"[:300]
        for _ in range(warm_up):
            for one in series:
                await one.attempt()
        meter = LoadMeter()
        for number in range(rounds):
            with _no_collection():
                for one in series:
                    one.values.append(await one.attempt())
            if on_round is not None:
                on_round(number + 1, rounds)
        load = meter.read()
        for one in series:
            if one.candidate.memory is not None and one.once is not None:
                one.memory_bytes = one.candidate.memory()
    ours = next((one for one in series if one.candidate.ours), None)
    return ScenarioResult(
        scenario=scenario.name,
        title=scenario.title,
        rounds=rounds,
        measured=tuple(_measured(one, ours) for one in series),
        missing=scenario.missing,
        load=load,
    )


def _measured(one: _Series, ours: _Series | None) -> Measured:
    compared = None if ours is None or one is ours else ratio(ours.values, one.values)
    return Measured(
        candidate=one.candidate.name,
        version=one.candidate.version,
        protections=one.candidate.protections,
        summary=summarize(one.values),
        ratio=compared,
        failure=one.failure,
        series_s=tuple(one.values),
        memory_bytes=one.memory_bytes,
    )


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps Python's cyclic collector out of a round; it runs between rounds."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def overhead_s(rounds: int = 200) -> float:
    """What the harness adds to each measurement: the median of an empty one."""

    async def nothing(stopwatch: Stopwatch) -> None:
        with stopwatch:
            await trio.lowlevel.checkpoint()

    empty = Scenario(
        name="overhead",
        title="",
        candidates=(Candidate(name="nothing", open=lambda: contextlib.nullcontext(nothing)),),
    )
    measured = (await run_scenario(empty, rounds=rounds)).measured[0]
    assert measured.summary is not None
    return measured.summary.median_s
