"""Results as one HTML file: no script, no other file, light and dark."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from sandbox_runtime.bench.table import duration, heading, times

if TYPE_CHECKING:
    from sandbox_runtime.bench.results import Measured, Results, ScenarioResult

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #6a737d;
        --ours: #0b7285; --peer: #adb5bd; --line: #e1e4e8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #14171a; --soft: #9aa4ad; --ours: #3bc9db; --peer: #495057;
          --line: #2c3136; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; }
p.where, td.soft, caption { color: var(--soft); font-size: .875rem; }
svg { width: 100%; height: auto; display: block; }
svg text { font: 13px system-ui, sans-serif; fill: var(--ink); }
svg .soft { fill: var(--soft); } svg .ours { fill: var(--ours); } svg .peer { fill: var(--peer); }
svg .range { stroke: var(--ink); stroke-width: 1.5; opacity: .55; }
svg .grid { stroke: var(--line); }
table { border-collapse: collapse; width: 100%; font-size: .875rem; }
td, th { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
"""
_WIDTH, _NAME, _BAR, _ROW = 900, 210, 520, 30


def page(results: Results) -> str:
    """The whole document."""
    where = "<br>".join(html.escape(line) for line in heading(results))
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width'>",
        f"<title>sandbox-runtime: measured</title><style>{_STYLE}</style>",
        "<h1>What people wait for</h1>",
        f"<p class=where>{where}<br>{html.escape(results.started)}, by "
        f"<code>{html.escape(results.command)}</code></p>",
        "<p>Medians of interleaved rounds on a logarithmic scale; the thin line reaches from the "
        "least to the 95th percentile. Read the ratios: absolute times are this machine's.</p>",
    ]
    parts += [_section(one) for one in results.scenarios]
    parts.append(_machine(results))
    return "\n".join(parts) + "\n"


def _section(result: ScenarioResult) -> str:
    rows = "\n".join(_table_row(row) for row in result.measured)
    absent = "".join(
        f"<tr><td>{html.escape(one.candidate)}<td class=soft colspan=4>not here: "
        f"{html.escape(one.remedy)}"
        for one in result.missing
    )
    loaded = ""
    if result.load.disturbed:
        loaded = (
            f"<p class=where>Others used {result.load.foreign_share:.0%} of the processors.</p>"
        )
    return (
        f"<h2>{html.escape(result.title)}</h2>{_plot(result)}{loaded}"
        f"<table><caption>{result.rounds} rounds</caption>"
        "<tr><th>candidate<th>median<th>p95<th>ours is<th>protections"
        f"{rows}{absent}</table>"
    )


def _table_row(row: Measured) -> str:
    name = html.escape(f"{row.candidate} {row.version}".strip())
    if row.summary is None:
        return f"<tr><td>{name}<td class=soft colspan=4>failed: {html.escape(row.failure)}"
    compared = times(row.ratio.value) if row.ratio is not None else ""
    return (
        f"<tr><td>{name}<td class=number>{duration(row.summary.median_s)}"
        f"<td class=number>{duration(row.summary.p95_s)}<td class=number>{compared}"
        f"<td class=soft>{html.escape(row.protections)}"
    )


def _plot(result: ScenarioResult) -> str:
    """Horizontal bars, one for each candidate that was measured."""
    rows = [(row, row.summary) for row in result.measured if row.summary is not None]
    if not rows:
        return ""
    low = 10 ** math.floor(math.log10(min(summary.min_s for _, summary in rows)))
    high = 10 ** math.ceil(math.log10(max(summary.p95_s for _, summary in rows)))
    high = max(high, low * 10)

    def place(seconds: float) -> float:
        share = math.log10(max(seconds, low) / low) / math.log10(high / low)
        return _NAME + share * _BAR

    height = _ROW * len(rows) + 24
    label = html.escape(f"Bar chart: {result.title}")
    marks = [f"<svg viewBox='0 0 {_WIDTH} {height}' role=img aria-label='{label}'>"]
    decade = low
    while decade <= high * 1.001:
        at = place(decade)
        marks.append(f"<line class=grid x1={at:.1f} x2={at:.1f} y1=0 y2={height - 20} />")
        marks.append(
            f"<text class=soft x={at:.1f} y={height - 5} text-anchor=middle>"
            f"{duration(decade)}</text>"
        )
        decade *= 10
    for number, (row, summary) in enumerate(rows):
        top = number * _ROW + 6
        end = place(summary.median_s)
        kind = "ours" if row.candidate.startswith("ours") else "peer"
        marks += [
            f"<text x={_NAME - 8} y={top + 14} text-anchor=end>{html.escape(row.candidate)}</text>",
            f"<rect class={kind} x={_NAME} y={top} width={end - _NAME:.1f} height=18 rx=2 />",
            f"<line class=range x1={place(summary.min_s):.1f} x2={place(summary.p95_s):.1f} "
            f"y1={top + 9} y2={top + 9} />",
            f"<text x={place(summary.p95_s) + 8:.1f} y={top + 14}>"
            f"{duration(summary.median_s)}</text>",
        ]
    return "".join(marks) + "</svg>"


def _machine(results: Results) -> str:
    where = results.fingerprint
    facts = {
        "processors": f"{where.cpus} of {where.cpu}",
        "memory": f"{where.memory_bytes / 1e9:.1f} GB",
        "governor": where.governor or "none",
        "mitigations": "; ".join(f"{name}: {text}" for name, text in where.mitigations.items()),
        "isolation of ours": "; ".join(where.isolation),
    }
    rows = "".join(
        f"<tr><th>{html.escape(name)}<td>{html.escape(fact)}" for name, fact in facts.items()
    )
    return f"<h2>The machine</h2><table>{rows}</table>"
