"""Measuring: interleaved rounds of all candidates of a scenario."""

from __future__ import annotations

import contextlib
import gc
import statistics
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

    from sandbox_runtime.bench.results import Unit

ATTEMPT_LIMIT_S = 120.0
"""How long one measurement may take before it counts as failed."""

HOPELESS_FAILURES = 3
"""After how many failures, without a success among them, a candidate is not asked again."""


class Stopwatch:
    """Takes what a candidate measures: `with stopwatch: …` a time, `record` anything else.

    Attributes:
        values: What was measured; one value, or as many as a storm has.
        wall_s: How long a whole storm took; None if it is none.
    """

    def __init__(self) -> None:
        self.values: list[float | None] = []
        self.wall_s: float | None = None
        self._started_s = 0.0

    def __enter__(self) -> None:
        self._started_s = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        took_s = time.perf_counter() - self._started_s
        if kind is None:
            self.values.append(took_s)

    def record(self, value: float | None) -> None:
        """Takes a value in the scenario's unit; None is one that failed."""
        self.values.append(value)


Once: TypeAlias = "Callable[[Stopwatch], Awaitable[None]]"
"""One measurement: prepares, does the measured thing under the stopwatch, checks, cleans up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to do what a scenario asks for.

    Attributes:
        name: Unique in its scenario.
        open: Makes it ready; what it yields is called once a round.
        version: Of the program behind it.
        protections: What confines the code, in words.
        ours: Whether ratios are of this one.
        values: How many values each measurement has.
    """

    name: str
    open: Callable[[], AbstractAsyncContextManager[Once]]
    version: str = ""
    protections: str = "none"
    ours: bool = False
    values: int = 1


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
        warm_up: How many go before them at most and do not count.
        unit: What its figures are in.
        size_bytes: What each measurement moves, for a throughput.
        gap_s: How long nothing is done before each measurement.
    """

    name: str
    title: str
    candidates: tuple[Candidate, ...]
    missing: tuple[Missing, ...] = ()
    rounds: int = 100
    quick_rounds: int = 20
    warm_up: int = 3
    unit: Unit = "seconds"
    size_bytes: int = 0
    gap_s: float = 0.0


class _Series:
    """What was measured of one candidate."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.once: Once | None = None
        self.values: list[float | None] = []
        self.per_s: list[float] = []
        self.failure = ""
        self._failures = 0

    @property
    def hopeless(self) -> bool:
        """Whether it has only ever failed, which may take it long each time."""
        return self._failures >= HOPELESS_FAILURES and all(one is None for one in self.values)

    async def attempt(self, gap_s: float, *, counts: bool = True) -> None:
        """Measures once; what failed is as many failures as there should be values."""
        stopwatch = Stopwatch()
        if self.once is not None and not self.hopeless:
            try:
                with trio.fail_after(ATTEMPT_LIMIT_S):
                    if gap_s:
                        await trio.sleep(gap_s)
                    await self.once(stopwatch)
            except Exception as error:  # noqa: BLE001 - a peer may fail in any way; the row says how
                self.fail(error)
                stopwatch = Stopwatch()
        if not counts:
            return
        values = stopwatch.values[: self.candidate.values]
        self.values += values + [None] * (self.candidate.values - len(values))
        if stopwatch.wall_s:
            done = sum(value is not None for value in values)
            self.per_s.append(done / stopwatch.wall_s)

    def fail(self, error: Exception) -> None:
        """Keeps why it failed first."""
        self._failures += 1
        self.failure = self.failure or f"{type(error).__name__}: {error}"[:300]


async def run_scenario(
    scenario: Scenario,
    *,
    rounds: int,
    warm_up: int = 2,
    on_round: Callable[[int, int], None] | None = None,
) -> ScenarioResult:
    """Measures all candidates, one after another in each round, and never two at a time.

    Who begins changes with each round, so that nobody always comes after the same one.

    Args:
        scenario: What to measure.
        rounds: How often.
        warm_up: Rounds beforehand that do not count.
        on_round: Told how many rounds of how many are done.
    """
    series = [_Series(candidate) for candidate in scenario.candidates]
    async with AsyncExitStack() as stack:
        for one in series:
            try:
                one.once = await stack.enter_async_context(one.candidate.open())
            except Exception as error:  # noqa: BLE001 - as above
                one.fail(error)
        for _ in range(min(warm_up, scenario.warm_up)):
            for one in series:
                await one.attempt(0, counts=False)
        meter = LoadMeter()
        for number in range(rounds):
            first = number % max(1, len(series))
            with _no_collection():
                for one in series[first:] + series[:first]:
                    await one.attempt(scenario.gap_s)
            if on_round is not None:
                on_round(number + 1, rounds)
        load = meter.read()
    ours = next((one for one in series if one.candidate.ours), None)
    return ScenarioResult(
        scenario=scenario.name,
        title=scenario.title,
        unit=scenario.unit,
        rounds=rounds,
        size_bytes=scenario.size_bytes,
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
        per_s=statistics.median(one.per_s) if one.per_s else None,
        series=tuple(one.values),
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
    return measured.summary.median
