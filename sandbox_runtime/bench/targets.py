"""Targets: what results have to reach, from a file that people read too."""

from __future__ import annotations

import operator
import tomllib
from typing import TYPE_CHECKING, Literal

import msgspec

from sandbox_runtime.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sandbox_runtime.bench.results import Measured, Results, ScenarioResult

_RELATIONS = {"<=": operator.le, ">=": operator.ge}


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One figure and its bound.

    Attributes:
        name: What it is called, for people.
        scenario: Which scenario.
        ours: Which candidate of ours; the scenario's first by default.
        peer: Ours by this candidate's median; without it, ours alone.
        figure: What is bound if there is no peer. With one it is the ratio of medians, or, for
            `per_s`, of how long all of a round took together.
        relation: `<=` or `>=`.
        bound: The bound; milliseconds, megabytes, megabytes or how many a second, or a ratio.
        limit: What stands in the way, if it is known not to be reached everywhere.
        allowed: How far that limit excuses; a figure beyond it is a miss in spite of it. Without
            it, nothing is excused.
        floor: A scenario whose first candidate measures that limit on this machine.
        floor_times: How many of those stand in the way.
    """

    scenario: str
    bound: float
    name: str = ""
    ours: str = ""
    peer: str = ""
    figure: Literal["median_ms", "p95_ms", "per_s", "mb", "mb_per_s", "success"] = "median_ms"
    relation: Literal["<=", ">="] = "<="
    limit: str = ""
    allowed: float | None = None
    floor: str = ""
    floor_times: int = 1


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    target: tuple[Target, ...]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a target.

    Attributes:
        target: The target.
        value: The figure; None if it was not measured.
        state: `met`, `limited` (not met, but within what its named limit excuses), `missed`, or
            `unmeasured` (the peer or the scenario is not there).
        sure: Whether the whole 95 % confidence interval lies on that side of the bound.
        floor: The median of what stands in the way, as it was measured; None if it was not.
    """

    target: Target
    value: float | None
    state: Literal["met", "limited", "missed", "unmeasured"]
    sure: bool
    floor: float | None = None


def read_targets(path: Path) -> tuple[Target, ...]:
    """The targets of a file.

    Raises:
        InvalidArgumentError: It is missing, no TOML, or has another field.
    """
    try:
        targets = msgspec.convert(tomllib.loads(path.read_text()), _File).target
    except OSError as error:
        raise InvalidArgumentError(str(path), error.strerror or "cannot be read") from error
    except (ValueError, msgspec.ValidationError) as error:
        raise InvalidArgumentError(str(path), f"is no file of targets: {error}") from error
    for target in targets:
        if target.allowed is not None and not target.limit:
            message = f"{target.name or target.scenario}: `allowed` needs a `limit` that is named"
            raise InvalidArgumentError(str(path), message)
    return targets


def is_missed_by(targets: Iterable[Target], scenario: ScenarioResult) -> bool:
    """Whether a scenario misses a target of its own."""
    return any(
        _judge(scenario, target, None).state == "missed"
        for target in targets
        if target.scenario == scenario.scenario
    )


def judge(results: Results, target: Target) -> Verdict:
    """Whether results reach a target."""
    return _judge(_scenario(results, target.scenario), target, _floor(results, target))


def _judge(scenario: ScenarioResult | None, target: Target, floor: float | None) -> Verdict:
    found = None if scenario is None else _figure(scenario, target)
    if found is None:
        return Verdict(target=target, value=None, state="unmeasured", sure=False)
    value, low, high = found
    holds = _RELATIONS[target.relation]
    met = holds(value, target.bound)
    excused = target.allowed is not None and holds(value, target.allowed)
    return Verdict(
        target=target,
        value=value,
        state="met" if met else "limited" if excused else "missed",
        sure=holds(low, target.bound) == met == holds(high, target.bound),
        floor=floor,
    )


def fails(verdicts: Iterable[Verdict], *, surely: bool = False) -> bool:
    """Whether any target is missed beyond what its limit excuses.

    Args:
        verdicts: What became of each.
        surely: Whether a miss counts only if its whole confidence interval lies there.
    """
    return any(one.state == "missed" and (one.sure or not surely) for one in verdicts)


def _scenario(results: Results, name: str) -> ScenarioResult | None:
    return next((one for one in results.scenarios if one.scenario == name), None)


def _floor(results: Results, target: Target) -> float | None:
    scenario = _scenario(results, target.floor)
    summary = scenario.measured[0].summary if scenario and scenario.measured else None
    return None if summary is None else summary.median


def _figure(scenario: ScenarioResult, target: Target) -> tuple[float, float, float] | None:
    """The figure, and the ends of its confidence interval."""
    ours = next((row for row in scenario.measured if _is_ours(row, target)), None)
    if target.peer:
        peer = next((row for row in scenario.measured if row.candidate == target.peer), None)
        if peer is None or peer.ratio is None:
            return None
        if target.figure == "per_s":
            return None if ours is None else _of_all(ours, peer)
        return peer.ratio.value, peer.ratio.low, peer.ratio.high
    if ours is None:
        return None
    return _of_all(ours) if target.figure == "per_s" else _of_ours(scenario, ours, target)


def _of_all(ours: Measured, peer: Measured | None = None) -> tuple[float, float, float] | None:
    """How many a second, or how long all of them took, by the peer's time; no interval is known."""
    if peer is None:
        return None if ours.per_s is None else (ours.per_s,) * 3
    return (peer.per_s / ours.per_s,) * 3 if ours.per_s and peer.per_s else None


def _is_ours(row: Measured, target: Target) -> bool:
    return row.candidate == target.ours if target.ours else row.candidate.startswith("ours")


def _of_ours(
    scenario: ScenarioResult, ours: Measured, target: Target
) -> tuple[float, float, float] | None:
    summary = ours.summary
    if target.figure == "success":
        share = 0.0 if summary is None else summary.count / (summary.count + summary.failures)
        return share, share, share
    if summary is None:
        return None
    match target.figure:
        case "median_ms":
            return summary.median * 1e3, summary.low * 1e3, summary.high * 1e3
        case "p95_ms":
            return (summary.p95 * 1e3,) * 3
        case "mb":
            return summary.median / 1e6, summary.low / 1e6, summary.high / 1e6
        case _:  # mb_per_s
            moved = scenario.size_bytes / 1e6
            return moved / summary.median, moved / summary.high, moved / summary.low
