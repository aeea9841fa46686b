"""Targets: what results have to reach, from a file that people read too."""

from __future__ import annotations

import operator
import tomllib
from typing import TYPE_CHECKING, Literal

import msgspec

from sandbox_runtime.errors import InvalidArgumentError

if TYPE_CHECKING:
    from pathlib import Path

    from sandbox_runtime.bench.results import Measured, Results

_RELATIONS = {"<=": operator.le, ">=": operator.ge}


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One figure and its bound.

    Attributes:
        scenario: Which scenario.
        peer: Ours by this candidate's median; without it, ours alone.
        figure: What is bound if there is no peer.
        relation: `<=` or `>=`.
        bound: The bound; milliseconds, megabytes a second, or a ratio.
        limit: What stands in the way, if it is known not to be reached everywhere.
    """

    scenario: str
    bound: float
    peer: str = ""
    figure: Literal["median_ms", "p95_ms", "mb_per_s"] = "median_ms"
    relation: Literal["<=", ">="] = "<="
    limit: str = ""


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    target: tuple[Target, ...]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a target.

    Attributes:
        target: The target.
        value: The figure; None if it was not measured.
        state: `met`, `missed`, or `unmeasured` (the peer or the scenario is not there).
        sure: Whether the whole 95 % confidence interval lies on that side of the bound.
    """

    target: Target
    value: float | None
    state: Literal["met", "missed", "unmeasured"]
    sure: bool


def read_targets(path: Path) -> tuple[Target, ...]:
    """The targets of a file.

    Raises:
        InvalidArgumentError: It is missing, no TOML, or has another field.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), _File).target
    except OSError as error:
        raise InvalidArgumentError(str(path), error.strerror or "cannot be read") from error
    except (ValueError, msgspec.ValidationError) as error:
        raise InvalidArgumentError(str(path), f"is no file of targets: {error}") from error


def judge(results: Results, target: Target) -> Verdict:
    """Whether results reach a target."""
    rows = next((one.measured for one in results.scenarios if one.scenario == target.scenario), ())
    if target.peer:
        peer = next((row for row in rows if row.candidate == target.peer), None)
        if peer is None or peer.ratio is None:
            return Verdict(target=target, value=None, state="unmeasured", sure=False)
        value, low, high = peer.ratio.value, peer.ratio.low, peer.ratio.high
    else:
        ours = next((row for row in rows if row.candidate.startswith("ours")), None)
        if ours is None or ours.summary is None:
            return Verdict(target=target, value=None, state="unmeasured", sure=False)
        value, low, high = _figure(target, ours)
    holds = _RELATIONS[target.relation]
    met = holds(value, target.bound)
    sure = holds(low, target.bound) == met == holds(high, target.bound)
    return Verdict(target=target, value=value, state="met" if met else "missed", sure=sure)


def _figure(target: Target, ours: Measured) -> tuple[float, float, float]:
    summary = ours.summary
    assert summary is not None
    match target.figure:
        case "median_ms":
            return summary.median_s * 1e3, summary.low_s * 1e3, summary.high_s * 1e3
        case "p95_ms":
            return (summary.p95_s * 1e3,) * 3
        case "mb_per_s":
            return 50 / summary.median_s, 50 / summary.high_s, 50 / summary.low_s
