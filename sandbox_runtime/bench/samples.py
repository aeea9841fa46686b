"""What a series of measurements says: pure functions of the numbers."""

from __future__ import annotations

import random
import statistics
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

_RESAMPLES = 400
_CONFIDENCE = 0.95


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What one candidate's series says, in its scenario's unit.

    Attributes:
        count: How many measurements succeeded.
        failures: How many did not; they are in no other figure.
        min: The least.
        median: The median.
        p95: What 95 of 100 do not exceed.
        p99: What 99 of 100 do not exceed.
        low: Lower end of the median's 95 % confidence interval (bootstrap).
        high: Its upper end.
        drift: Median of the second half of the rounds by that of the first; 1 is none.
    """

    count: int
    failures: int
    min: float
    median: float
    p95: float
    p99: float
    low: float
    high: float
    drift: float


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate's median by another's, of the same rounds.

    Attributes:
        value: The ratio of the medians.
        low: Lower end of its 95 % confidence interval (bootstrap over rounds).
        high: Its upper end.
    """

    value: float
    low: float
    high: float


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def _interval(values: list[float]) -> tuple[float, float]:
    ends = (1 - _CONFIDENCE) / 2
    return percentile(values, ends), percentile(values, 1 - ends)


def summarize(series: Sequence[float | None]) -> Summary | None:
    """What a series says; None in it is a failure, and None is the answer if all failed."""
    values = [value for value in series if value is not None]
    if not values:
        return None
    draw = random.Random(0)  # noqa: S311 - the same interval for the same numbers
    medians = [statistics.median(draw.choices(values, k=len(values))) for _ in range(_RESAMPLES)]
    low, high = _interval(medians)
    half = len(values) // 2
    drift = 1.0
    if half:
        drift = statistics.median(values[half:]) / statistics.median(values[:half])
    return Summary(
        count=len(values),
        failures=len(series) - len(values),
        min=min(values),
        median=statistics.median(values),
        p95=percentile(values, 0.95),
        p99=percentile(values, 0.99),
        low=low,
        high=high,
        drift=drift,
    )


def ratio(ours: Sequence[float | None], theirs: Sequence[float | None]) -> Ratio | None:
    """How two series of the same rounds compare; None without a round in which both succeeded."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    if not pairs:
        return None
    draw = random.Random(0)  # noqa: S311 - the same interval for the same numbers

    def of(chosen: list[tuple[float, float]]) -> float:
        return statistics.median(a for a, _ in chosen) / statistics.median(b for _, b in chosen)

    low, high = _interval([of(draw.choices(pairs, k=len(pairs))) for _ in range(_RESAMPLES)])
    return Ratio(value=of(pairs), low=low, high=high)
