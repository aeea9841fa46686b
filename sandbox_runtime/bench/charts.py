"""Bar charts as SVG: for the page, and as pictures of their own."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

from sandbox_runtime.bench.table import quantity

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_runtime.bench.headlines import Headline
    from sandbox_runtime.bench.results import ScenarioResult

COLOURS = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #6a737d;
        --ours: #0b7285; --peer: #adb5bd; --line: #e1e4e8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #14171a; --soft: #9aa4ad; --ours: #3bc9db; --peer: #495057;
          --line: #2c3136; } }
svg text { font: 13px system-ui, sans-serif; fill: var(--ink); }
svg .soft { fill: var(--soft); } svg .ours { fill: var(--ours); } svg .peer { fill: var(--peer); }
svg .range { stroke: var(--ink); stroke-width: 1.5; opacity: .55; }
svg .grid { stroke: var(--line); }
"""
_WIDTH, _NAME, _BAR, _ROW = 900, 230, 500, 30


class _Scale:
    """A logarithmic axis over whole decades."""

    def __init__(self, least: float, most: float, *, left: int, width: int) -> None:
        self._left, self._width = left, width
        self.low = 10 ** math.floor(math.log10(least))
        self.high = max(10 ** math.ceil(math.log10(most)), self.low * 10)

    def place(self, value: float) -> float:
        share = math.log10(max(value, self.low) / self.low) / math.log10(self.high / self.low)
        return self._left + share * self._width

    def decades(self) -> list[float]:
        count = round(math.log10(self.high / self.low))
        step = max(1, math.ceil(count / 8))
        return [self.low * 10**n for n in range(0, count + 1, step)]


def bars(result: ScenarioResult) -> str:
    """Horizontal bars, one for each candidate that was measured."""
    rows = [(row, row.summary) for row in result.measured if row.summary is not None]
    rows = [(row, summary) for row, summary in rows if summary.min > 0]
    if not rows:
        return ""
    least, most = min(one.min for _, one in rows), max(one.p95 for _, one in rows)
    scale = _Scale(least, most, left=_NAME, width=_BAR)
    height = _ROW * len(rows) + 24
    label = html.escape(f"Bar chart: {result.title}")
    marks = [f"<svg viewBox='0 0 {_WIDTH} {height}' role=img aria-label='{label}'>"]
    for decade in scale.decades():
        at = scale.place(decade)
        marks.append(f"<line class=grid x1={at:.1f} x2={at:.1f} y1=0 y2={height - 20} />")
        marks.append(
            f"<text class=soft x={at:.1f} y={height - 5} text-anchor=middle>"
            f"{quantity(decade, result.unit)}</text>"
        )
    for number, (row, summary) in enumerate(rows):
        top = number * _ROW + 6
        end = scale.place(summary.median)
        kind = "ours" if row.candidate.startswith("ours") else "peer"
        name = html.escape(_short(row.candidate))
        marks += [
            f"<text x={_NAME - 8} y={top + 14} text-anchor=end>{name}</text>",
            f"<rect class={kind} x={_NAME} y={top} width={max(2, end - _NAME):.1f} "
            "height=18 rx=2 />",
            f"<line class=range x1={scale.place(summary.min):.1f} "
            f"x2={scale.place(summary.p95):.1f} y1={top + 9} y2={top + 9} />",
            f"<text x={scale.place(summary.p95) + 8:.1f} y={top + 14}>"
            f"{quantity(summary.median, result.unit)}</text>",
        ]
    return "".join(marks) + "</svg>"


def overview(headlines: Sequence[Headline]) -> str:
    """A whole picture: how many times less ours takes than each headline's peer."""
    shown = [one for one in headlines if one.ratio is not None]
    if not shown:
        return ""
    factors = [1 / one.ratio for one in shown if one.ratio]
    width, row = 1060, 44
    scale = _Scale(min([1.0, *factors]), max([10.0, *factors]), left=440, width=520)
    height = row * len(shown) + 60
    marks = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        'aria-label="How many times faster, or smaller, than what one would use instead">',
        f"<style>{COLOURS} .paper {{ fill: var(--paper); }} "
        "text.big { font-weight: 600; font-size: 15px; }</style>",
        f'<rect class="paper" width="{width}" height="{height}" />',
        '<text class="big" x="16" y="26">Times faster, or smaller, than the peer '
        "(same run, interleaved; logarithmic)</text>",
    ]
    one_at = scale.place(1.0)
    for decade in scale.decades():
        at = scale.place(decade)
        marks.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="40" y2="{height - 18}" />'
            f'<text class="soft" x="{at:.1f}" y="{height - 4}" text-anchor="middle">'
            f"{decade:g}x</text>"
        )
    for number, (one, factor) in enumerate(zip(shown, factors, strict=True)):
        top = number * row + 44
        end = scale.place(factor)
        left, right = sorted((one_at, end))
        kind = "ours" if factor >= 1 else "peer"
        marks += [
            f'<text x="16" y="{top + 13}">{html.escape(one.title.replace("`", ""))}</text>',
            f'<text class="soft" x="16" y="{top + 29}">{html.escape("against " + one.peer)}</text>',
            f'<rect class="{kind}" x="{left:.1f}" y="{top + 2}" '
            f'width="{max(2.0, right - left):.1f}" height="26" rx="3" />',
            f'<text class="big" x="{right + 8:.1f}" y="{top + 20}">{factor:.3g}x</text>',
        ]
    return "\n".join(marks) + "\n</svg>\n"


def _short(name: str) -> str:
    return name if len(name) <= 34 else f"{name[:33]}…"
