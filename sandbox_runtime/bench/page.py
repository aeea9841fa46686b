"""Results as one HTML file: no script, no other file, light and dark."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from sandbox_runtime.bench import charts
from sandbox_runtime.bench.headlines import headlines, slower
from sandbox_runtime.bench.table import (
    drifts,
    duration,
    heading,
    quantity,
    throughput,
    times,
    verdict_cells,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_runtime.bench.headlines import Headline
    from sandbox_runtime.bench.results import Measured, Results, ScenarioResult
    from sandbox_runtime.bench.targets import Verdict

_STYLE = f"""
{charts.COLOURS}
body {{ font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 64rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.15rem; margin: 2.5rem 0 .5rem; }}
p.where, td.soft, caption {{ color: var(--soft); font-size: .875rem; }}
svg {{ width: 100%; height: auto; display: block; }}
table {{ border-collapse: collapse; width: 100%; font-size: .875rem; }}
td, th {{ text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line);
         vertical-align: top; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.missed {{ font-weight: 600; }}
"""


def page(results: Results, verdicts: Sequence[Verdict] = ()) -> str:
    """The whole document; with verdicts, also what was aimed at."""
    where = "<br>".join(html.escape(line) for line in heading(results))
    told = headlines(results)
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>sandbox-runtime: measured</title><style>{_STYLE}</style>",
        "<h1>What people wait for</h1>",
        f"<p class=where>{where}<br>{html.escape(results.started)}, by "
        f"<code>{html.escape(results.command)}</code></p>",
        "<p>Medians of interleaved rounds. Read the ratios: absolute times are this machine's.</p>",
        charts.overview(told),
        _headline_table(told) if told else "",
        _slower(slower(results)),
        _verdicts(verdicts) if verdicts else "",
        "<p>Below, bars are medians on a logarithmic scale; the thin line reaches from the least "
        "to the 95th percentile.</p>",
    ]
    parts += [_section(one) for one in results.scenarios]
    parts.append(_machine(results))
    return "\n".join(part for part in parts if part) + "\n"


def _words(text: str) -> str:
    """Text with `code` in it."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


def _headline_table(told: Sequence[Headline]) -> str:
    rows = "".join(
        f"<tr><td>{_words(one.title)}<td class=number>{one.ours}<td>{html.escape(one.peer)}"
        f"<td class=number>{one.theirs}<td class=number>"
        f"{'' if one.ratio is None else times(one.ratio, one.unit)}"
        for one in told
    )
    return f"<table><tr><th><th>ours<th>peer<th>its<th>ours is{rows}</table>"


def _slower(rows: Sequence[Headline]) -> str:
    if not rows:
        return "<h2>Where a peer does better</h2><p>Nowhere in this run.</p>"
    lines = "".join(
        f"<tr><td>{_words(one.title)}<td>{html.escape(one.peer)}<td class=number>{one.ours}"
        f"<td class=number>{one.theirs}<td class=number>{times(one.ratio or 1, one.unit)}"
        f"<td class=soft>{'' if one.clear else 'within noise'}"
        for one in rows
    )
    return (
        "<h2>Where a peer does better</h2><p class=where>Some protect less: their protections "
        "stand with each row below.</p><table><tr><th><th>peer<th>ours<th>its<th>ours is<th>"
        f"{lines}</table>"
    )


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    lines = ""
    for verdict in verdicts:
        cells = verdict_cells(verdict)
        lines += (
            f"<tr class={verdict.state}><td>{html.escape(cells.name)}<td>{cells.state}"
            f"<td class=number>{cells.value}<td class=number>{html.escape(cells.bound)}"
            f"<td class=soft>{html.escape(cells.remark)}"
        )
    return f"<h2>Targets</h2><table><tr><th><th><th>is<th>aim<th>{lines}</table>"


def _section(result: ScenarioResult) -> str:
    rows = "\n".join(_table_row(result, row) for row in result.measured)
    absent = "".join(
        f"<tr><td>{html.escape(one.candidate)}<td class=soft colspan=6>not here: "
        f"{html.escape(one.remedy)}"
        for one in result.missing
    )
    loaded = ""
    if result.load.disturbed:
        loaded = (
            f"<p class=where>Others used {result.load.foreign_share:.0%} of the processors.</p>"
        )
    return (
        f"<h2>{_words(result.title)}</h2>{charts.bars(result)}{loaded}"
        f"<table><caption>{result.rounds} rounds</caption>"
        "<tr><th>candidate<th>median<th>p95<th>p99<th>succeeded<th>ours is<th>protections"
        f"{rows}{absent}</table>"
    )


def _table_row(result: ScenarioResult, row: Measured) -> str:
    name = html.escape(f"{row.candidate} {row.version}".strip())
    summary = row.summary
    if summary is None:
        return f"<tr><td>{name}<td class=soft colspan=6>failed: {html.escape(row.failure)}"
    compared = throughput(result, row)
    if row.ratio is not None:
        compared = times(row.ratio.value, result.unit)
        compared += f"<br>{row.ratio.low:.3g} to {row.ratio.high:.3g}"
    share = summary.count / (summary.count + summary.failures)
    remark = "; drifts" if drifts(summary) else ""
    return (
        f"<tr><td>{name}<td class=number>{quantity(summary.median, result.unit)}"
        f"<td class=number>{quantity(summary.p95, result.unit)}"
        f"<td class=number>{quantity(summary.p99, result.unit)}"
        f"<td class=number>{share:.0%}<td class=number>{compared}"
        f"<td class=soft>{html.escape(row.protections)}{remark}"
    )


def _machine(results: Results) -> str:
    where = results.fingerprint
    facts = {
        "processors": f"{where.cpus} of {where.cpu}",
        "memory": f"{where.memory_bytes / 1e9:.1f} GB",
        "governor": where.governor or "none",
        "mitigations": "; ".join(f"{name}: {text}" for name, text in where.mitigations.items()),
        "isolation of ours": "; ".join(where.isolation),
        "the harness adds": f"{duration(results.overhead_s)} to each measurement",
    }
    rows = "".join(
        f"<tr><th>{html.escape(name)}<td>{html.escape(fact)}" for name, fact in facts.items()
    )
    return f"<h2>The machine</h2><table>{rows}</table>"
