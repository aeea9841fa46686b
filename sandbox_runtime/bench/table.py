"""Results in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox_runtime.bench.compare import Change
    from sandbox_runtime.bench.results import Measured, Results, ScenarioResult
    from sandbox_runtime.bench.targets import Verdict


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s"


def times(value: float) -> str:
    """A ratio of ours by a peer's, as people say it."""
    return f"{1 / value:.3g}x faster" if value < 1 else f"{value:.3g}x slower"


def scenario_lines(result: ScenarioResult) -> list[str]:
    """A scenario: its title, a row for each candidate, and what is missing."""
    lines = [result.title]
    lines += [f"  {_row(row)}" for row in result.measured]
    lines += [f"  {one.candidate:<26} not here: {one.remedy}" for one in result.missing]
    if result.load.disturbed:
        share = f"{result.load.foreign_share:.0%}"
        lines.append(f"  others used {share} of the processors meanwhile: trust ratios only")
    return lines


def _row(row: Measured) -> str:
    if row.summary is None:
        return f"{row.candidate:<26} failed: {row.failure}"
    figures = f"{duration(row.summary.median_s):>9}  p95 {duration(row.summary.p95_s):>9}"
    compared = ""
    if row.ratio is not None:
        compared = f"ours is {times(row.ratio.value)}"
    failed = f"  {row.summary.failures} failed: {row.failure}" if row.summary.failures else ""
    drift = "  drifts" if not 0.8 < row.summary.drift < 1.25 else ""
    return f"{row.candidate:<26} {figures}  {compared:<22}  [{row.protections}]{drift}{failed}"


def heading(results: Results) -> list[str]:
    """Where it was measured."""
    where = results.fingerprint
    guest = ", a virtual machine" if where.hypervisor else ""
    return [
        f"sandbox-runtime {where.version} on {where.kernel}",
        f"{where.cpu}, {where.cpus} processors{guest}, {where.python}, uid {where.uid}",
        f"the harness adds {duration(results.overhead_s)} to each measurement",
    ]


def verdict_lines(verdicts: Iterable[Verdict]) -> list[str]:
    """A line for each target."""
    lines = []
    for verdict in verdicts:
        target = verdict.target
        name = f"{target.scenario}: ours / {target.peer}" if target.peer else target.scenario
        if not target.peer:
            name += f", {target.figure}"
        value = "-" if verdict.value is None else f"{verdict.value:.4g}"
        doubt = "" if verdict.sure or verdict.state == "unmeasured" else " (within noise)"
        limit = f"  limit: {target.limit}" if verdict.state == "missed" and target.limit else ""
        bound = f"{target.relation} {target.bound:g}"
        lines.append(f"{verdict.state:<10} {value:>9}  {bound:<10} {name}{doubt}{limit}")
    return lines


def change_lines(changes: Iterable[Change]) -> list[str]:
    """A line for each figure that two runs share."""
    return [f"{one.verdict:<7} x{one.factor:<7.3g} {one.scenario}: {one.figure}" for one in changes]
