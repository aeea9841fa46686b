"""Two runs side by side, and what has become slower."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from sandbox_runtime.bench.results import Measured, Results

NOISE = 1.10
"""A change of less than this is none, however small the intervals are."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One figure in two runs.

    Attributes:
        scenario: Which scenario.
        figure: Our median, or our median by a peer's.
        before: In the first run (the scenario's unit, or a ratio).
        after: In the second.
        factor: After by before.
        verdict: `slower` or `faster` only if the intervals do not touch and it is more than noise.
    """

    scenario: str
    figure: str
    before: float
    after: float
    factor: float
    verdict: Literal["same", "slower", "faster"]


def compare(before: Results, after: Results) -> list[Change]:
    """Every figure that both runs have. Ratios are what carries over from machine to machine."""
    changes = []
    earlier = {one.scenario: one.measured for one in before.scenarios}
    for scenario in after.scenarios:
        rows = {row.candidate: row for row in earlier.get(scenario.scenario, ())}
        for row in scenario.measured:
            then = rows.get(row.candidate)
            if then is not None and (change := _change(scenario.scenario, then, row)) is not None:
                changes.append(change)
    return changes


def _change(scenario: str, before: Measured, after: Measured) -> Change | None:
    if before.ratio is not None and after.ratio is not None:
        figure = f"ours / {after.candidate}"
        old = (before.ratio.low, before.ratio.value, before.ratio.high)
        new = (after.ratio.low, after.ratio.value, after.ratio.high)
    elif before.summary is not None and after.summary is not None and after.ratio is None:
        figure = after.candidate
        old = (before.summary.low, before.summary.median, before.summary.high)
        new = (after.summary.low, after.summary.median, after.summary.high)
    else:
        return None
    factor = new[1] / old[1]
    verdict: Literal["same", "slower", "faster"] = "same"
    if factor > NOISE and new[0] > old[2]:
        verdict = "slower"
    elif factor < 1 / NOISE and new[2] < old[0]:
        verdict = "faster"
    return Change(
        scenario=scenario,
        figure=figure,
        before=old[1],
        after=new[1],
        factor=factor,
        verdict=verdict,
    )
