"""Results in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox_runtime.bench.compare import Change
    from sandbox_runtime.bench.results import Measured, Results, ScenarioResult, Unit
    from sandbox_runtime.bench.samples import Summary
    from sandbox_runtime.bench.targets import Verdict

_ENOUGH_TO_DRIFT = 20


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def size(count: float) -> str:
    """A number of bytes in the unit that suits it."""
    for limit, factor, unit in ((1e3, 1, "B"), (1e6, 1e-3, "kB"), (1e9, 1e-6, "MB")):
        if count < limit:
            return f"{count * factor:.3g} {unit}"
    return f"{count / 1e9:.3g} GB"


def quantity(value: float, unit: Unit) -> str:
    """A figure in words."""
    return duration(value) if unit == "seconds" else size(value)


def throughput(result: ScenarioResult, row: Measured) -> str:
    """How much, or how many, in a second; empty if nothing is moved and it is no storm."""
    if row.per_s is not None:
        return f"{row.per_s:.3g}/s"
    if not result.size_bytes or row.summary is None:
        return ""
    return f"{size(result.size_bytes / row.summary.median)}/s"


def times(value: float, unit: Unit = "seconds") -> str:
    """A ratio of ours by a peer's, as people say it."""
    less, more = ("faster", "slower") if unit == "seconds" else ("smaller", "larger")
    return f"{1 / value:.3g}x {less}" if value < 1 else f"{value:.3g}x {more}"


def scenario_lines(result: ScenarioResult) -> list[str]:
    """A scenario: its title, a row for each candidate, and what is missing."""
    lines = [result.title]
    lines += [f"  {_row(result, row)}" for row in result.measured]
    lines += [f"  {one.candidate:<26} not here: {one.remedy}" for one in result.missing]
    if result.load.disturbed:
        share = f"{result.load.foreign_share:.0%}"
        lines.append(f"  others used {share} of the processors meanwhile: trust ratios only")
    return lines


def _row(result: ScenarioResult, row: Measured) -> str:
    summary = row.summary
    if summary is None:
        return f"{row.candidate:<26} failed: {row.failure}"
    median, p95 = quantity(summary.median, result.unit), quantity(summary.p95, result.unit)
    figures = f"{median:>9}  p95 {p95:>9}"
    compared = throughput(result, row)
    if row.ratio is not None:
        compared = f"ours is {times(row.ratio.value, result.unit)}"
    failed = f"  {summary.failures} failed: {row.failure}" if summary.failures else ""
    drift = "  drifts" if drifts(summary) else ""
    return f"{row.candidate:<26} {figures}  {compared:<22}  [{row.protections}]{drift}{failed}"


def drifts(summary: Summary) -> bool:
    """Whether later rounds differ from earlier ones by more than rounds do by chance."""
    return summary.count >= _ENOUGH_TO_DRIFT and not 0.8 < summary.drift < 1.25


def heading(results: Results) -> list[str]:
    """Where it was measured."""
    where = results.fingerprint
    guest = ", a virtual machine" if where.hypervisor else ""
    return [
        f"sandbox-runtime {where.version} on {where.kernel}",
        f"{where.cpu}, {where.cpus} processors{guest}, {where.python}, uid {where.uid}",
        f"the harness adds {duration(results.overhead_s)} to each measurement",
    ]


@dataclass(frozen=True, slots=True)
class VerdictCells:
    """What is shown of a target."""

    name: str
    state: str
    value: str
    bound: str
    remark: str


def verdict_cells(verdict: Verdict) -> VerdictCells:
    """A target in words: also how long what stands in the way takes on this machine."""
    target = verdict.target
    what = f"{target.scenario}: ours / {target.peer}" if target.peer else target.scenario
    if not target.peer:
        what += f", {target.figure}"
    remarks = []
    if verdict.state in {"limited", "missed"}:
        remarks.append(target.limit)
        if verdict.floor is not None:
            times_each = f"{target.floor_times} x " if target.floor_times > 1 else ""
            remarks.append(f"{target.floor} is {times_each}{duration(verdict.floor)} here")
    if verdict.state == "unmeasured":
        remarks.append(target.limit or "the peer or the scenario is not here")
    elif not verdict.sure:
        remarks.append("within noise")
    return VerdictCells(
        name=f"{target.name}: {what}" if target.name else what,
        state=verdict.state,
        value="-" if verdict.value is None else f"{verdict.value:.3g}",
        bound=f"{target.relation} {target.bound:.3g}",
        remark="; ".join(remark for remark in remarks if remark),
    )


def verdict_lines(verdicts: Iterable[Verdict]) -> list[str]:
    """A line for each target."""
    lines = []
    for verdict in verdicts:
        cells = verdict_cells(verdict)
        remark = f"  ({cells.remark})" if cells.remark else ""
        lines.append(f"{cells.state:<10} {cells.value:>8}  {cells.bound:<10} {cells.name}{remark}")
    return lines


def change_lines(changes: Iterable[Change]) -> list[str]:
    """A line for each figure that two runs share."""
    return [f"{one.verdict:<7} x{one.factor:<7.3g} {one.scenario}: {one.figure}" for one in changes]
