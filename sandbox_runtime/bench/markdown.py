"""Results as a page of the documentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_runtime.bench.headlines import headlines, slower
from sandbox_runtime.bench.table import (
    drifts,
    heading,
    quantity,
    throughput,
    times,
    verdict_cells,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sandbox_runtime.bench.headlines import Headline
    from sandbox_runtime.bench.results import Measured, Results, ScenarioResult
    from sandbox_runtime.bench.targets import Verdict

BEGIN, END = "<!-- headlines: begin -->", "<!-- headlines: end -->"


def page(results: Results, verdicts: Sequence[Verdict] = (), *, picture: str = "") -> str:
    """The whole document; `picture` is a path to show beside the figures."""
    where = results.fingerprint
    lines = [
        "# Results",
        "",
        "Made by the harness; do not edit. [benchmark.md](benchmark.md) says how it measures, "
        "[performance.md](performance.md) what was learnt.",
        "",
        f"```sh\n{results.command}\n```",
        "",
        *(f"- {line}" for line in heading(results)),
        f"- {where.memory_bytes / 1e9:.1f} GB of memory; governor: {where.governor or 'none'}",
        f"- {results.started}",
        "",
        "## In short",
        "",
        *headline_lines(results),
        "",
    ]
    if picture:
        lines += [f"![How many times faster, or smaller, than its peer]({picture})", ""]
    lines += _slower(slower(results))
    if verdicts:
        lines += _verdicts(verdicts)
    lines += [
        "## Every scenario",
        "",
        "The ratio is ours by theirs, of the same rounds, with its 95 % confidence interval.",
        "",
    ]
    for scenario in results.scenarios:
        lines += _section(scenario)
    lines += ["## Isolation of ours", "", "; ".join(where.isolation) + ".", ""]
    lines += ["## Mitigations of the processor", ""]
    lines += [f"- {name}: {text}" for name, text in where.mitigations.items()]
    return "\n".join(lines) + "\n"


def headline_lines(results: Results) -> list[str]:
    """The table that the README shows too, between marks."""
    rows = [
        (one.title, one.ours, one.peer and f"{_code(one.peer)} {one.theirs}", _ratio(one))
        for one in headlines(results)
    ]
    return [BEGIN, *_table(("", "ours", "peer, same run", "ours is"), rows), END]


def _ratio(one: Headline) -> str:
    return "" if one.ratio is None else times(one.ratio, one.unit)


def _code(name: str) -> str:
    return f"`{name}`" if " -" in name or "_" in name or "." in name or "+" in name else name


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows]
    return lines


def _slower(rows: Sequence[Headline]) -> list[str]:
    lines = ["## Where a peer does better", ""]
    if not rows:
        return [*lines, "Nowhere in this run.", ""]
    cells = [
        (
            one.title,
            one.peer,
            one.ours,
            one.theirs,
            _ratio(one),
            "" if one.clear else "within noise",
        )
        for one in rows
    ]
    lines += ["Some of them protect less: what each had stands with its row below.", ""]
    return [*lines, *_table(("", "peer", "ours", "its", "ours is", ""), cells), ""]


def _verdicts(verdicts: Sequence[Verdict]) -> list[str]:
    states = [verdict.state for verdict in verdicts]
    counted = ", ".join(
        f"{states.count(state)} {state}"
        for state in ("met", "limited", "missed", "unmeasured")
        if state in states
    )
    rows = []
    for verdict in verdicts:
        cells = verdict_cells(verdict)
        rows.append((cells.name, cells.state, cells.value, cells.bound, cells.remark))
    lines = [
        "## Targets",
        "",
        f"{counted}. `limited` is not met, but within what its limit excuses.",
        "",
    ]
    return [*lines, *_table(("", "", "is", "aim", "what stands in the way"), rows), ""]


def _section(result: ScenarioResult) -> list[str]:
    lines = [f"### {result.title}", "", f"`{result.scenario}`, {result.rounds} rounds"]
    if result.load.disturbed:
        lines[-1] += f"; others used {result.load.foreign_share:.0%} of the processors meanwhile"
    rows = [_row(result, row) for row in result.measured]
    lines += ["", *_table(("", "min", "median", "p95", "p99", "ratio", "protections"), rows), ""]
    if result.missing:
        absent = "; ".join(f"{one.candidate} ({one.remedy})" for one in result.missing)
        lines += [f"Not here: {absent}.", ""]
    return lines


def _row(result: ScenarioResult, row: Measured) -> Sequence[str]:
    name = f"{row.candidate} ({row.version})" if row.version else row.candidate
    summary = row.summary
    if summary is None:
        return name, "", "", "", "", "", f"failed: {row.failure}"
    compared = throughput(result, row)
    if row.ratio is not None:
        compared = f"{row.ratio.value:.3g} ({row.ratio.low:.3g} to {row.ratio.high:.3g})"
    failed = f"; {summary.failures} of {summary.count + summary.failures} failed: {row.failure}"
    remark = (failed if summary.failures else "") + ("; drifts" if drifts(summary) else "")
    figures = (summary.min, summary.median, summary.p95, summary.p99)
    return (
        name,
        *(quantity(figure, result.unit) for figure in figures),
        compared,
        row.protections + remark,
    )
