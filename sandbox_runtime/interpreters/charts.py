"""Charts as data: what a picture shows, whoever has drawn it.

Nothing is computed that a library would compute itself, and nothing is guessed: a histogram of
Plotly has samples, not bins, and what cannot be read is named as unread.
"""

from __future__ import annotations

import math
import re
from typing import Any, Literal

import msgspec

MOST_POINTS = 10_000
"""How many points of one chart are kept, evenly spread over each series."""

MOST_CHARTS = 200
"""How many charts of one picture are kept."""

_UNIT = re.compile(r"[(\[]([^()\[\]]{1,40})[)\]]\s*$")
_TIME = re.compile(r"\d{4}-\d\d(-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?)?(Z|[+-]\d\d:?\d\d)?")

ChartType = Literal[
    "line",
    "scatter",
    "bar",
    "histogram",
    "box_and_whisker",
    "pie",
    "heatmap",
    "superchart",
    "unknown",
]
"""What a chart is; a `superchart` holds others."""

_Plain = float | str | None


class Axis(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a chart.

    Attributes:
        label: Its name.
        unit: What stands in parentheses or brackets at the end of that.
        scale: `linear`, `log`, `datetime`, `categorical` …; `unknown` if it cannot be told.
        ticks: Where its marks are, if that is known.
        tick_labels: What they say.
    """

    label: str = ""
    unit: str | None = None
    scale: str = "unknown"
    ticks: list[_Plain] = []
    tick_labels: list[str] = []


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """What a picture shows.

    Attributes:
        type: What it is.
        title: Its title, or an empty text.
        library: Who drew it: `matplotlib`, `plotly` or `altair`.
        x: Its horizontal axis, if it has one.
        y: Its vertical axis, if it has one.
        elements: Its series, each as a dictionary with a `label`. Lines and scatters have `points`,
            pairs; bars `group`, `value` and `horizontal`; histograms `bins` (start, end, count) or
            `samples`; boxes `min`, `first_quartile`, `median`, `third_quartile`, `max`, `outliers`,
            or `samples`; pies `value` or `angle` and `radius`; heatmaps `values`, rows of numbers.
            A superchart has charts.
        unread: What is in the picture besides, and could not be read.
        points_total: How many points it shows.
        points_kept: How many of these are in `elements`; None for all.
    """

    type: ChartType
    title: str = ""
    library: str = ""
    x: Axis | None = None
    y: Axis | None = None
    elements: list[Any] = []
    unread: list[str] = []
    points_total: int = 0
    points_kept: int | None = None

    def charts(self) -> list[Chart]:
        """The charts of a superchart, this one if it is none."""
        if self.type != "superchart":
            return [self]
        return [one for one in self.elements if isinstance(one, Chart)]


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (int, float, str, type(None))) else str(value)


def text_of(value: Any) -> str:
    """A title, however it is wrapped."""
    if isinstance(value, dict):
        value = value.get("text")
    return value if isinstance(value, str) else ""


def unit_of(label: str) -> str | None:
    """What stands in parentheses or brackets at the end of a label."""
    found = _UNIT.search(label)
    return found[1].strip() if found else None


def scale_of(column: list[Any]) -> str:
    """The scale of an axis with these values, where nobody says."""
    values = [value for value in column if value is not None]
    if not values:
        return "unknown"
    if all(isinstance(value, (int, float)) for value in values):
        return "linear"
    if all(isinstance(value, str) and _TIME.fullmatch(value) for value in values):
        return "datetime"
    return "categorical"


def joined(charts: list[Chart], title: str, library: str, unread: list[str]) -> Chart:
    """One chart of those in a picture."""
    total = sum(chart.points_total for chart in charts)
    if not charts:
        return Chart(type="unknown", title=title, library=library, unread=unread)
    if len(charts) == 1:
        (chart,) = charts
        return msgspec.structs.replace(chart, title=chart.title or title, unread=unread)
    return Chart(
        type="superchart",
        title=title,
        library=library,
        elements=charts[:MOST_CHARTS],
        unread=unread,
        points_total=total,
    )


def size_of(element: Any) -> int:
    """How many points a series has."""
    if "values" in element:
        return sum(len(row) if isinstance(row, list) else 1 for row in element["values"])
    for name in ("points", "bins", "samples", "cells"):
        if name in element:
            return len(element[name])
    return 1


def thinned(chart: Chart) -> Chart:
    """Keeps no more than MOST_POINTS points, evenly spread over each series."""
    if chart.points_total <= MOST_POINTS:
        return chart
    step = math.ceil(chart.points_total / MOST_POINTS)
    charts = []
    for one in chart.charts():
        elements = [_thinned_element(element, step) for element in one.elements]
        if one.type in {"bar", "pie"}:
            elements = elements[::step]
        kept = sum(map(size_of, elements))
        charts.append(msgspec.structs.replace(one, elements=elements, points_kept=kept))
    if chart.type != "superchart":
        return charts[0]
    kept = sum(one.points_kept or 0 for one in charts)
    return msgspec.structs.replace(chart, elements=charts, points_kept=kept)


def _thinned_element(element: dict[str, Any], step: int) -> dict[str, Any]:
    thinned = dict(element)
    for name in ("points", "samples", "cells"):
        if name in thinned:
            thinned[name] = thinned[name][::step]
    if "values" in thinned:
        side = math.ceil(math.sqrt(step))
        thinned["values"] = [row[::side] for row in thinned["values"][::side]]
    return thinned
