"""Finds the chart among the formats of a result.

A figure of matplotlib is described where it lives (`executors/python_charts.py`); figures of
Plotly and charts of Vega-Lite describe themselves. Whatever comes is untrusted: what has not the
shape of a chart is `unknown`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from sandbox_runtime.interpreters.charts import MOST_CHARTS, Chart, thinned
from sandbox_runtime.interpreters.plotly_charts import read_plotly
from sandbox_runtime.interpreters.vega_charts import read_vega

if TYPE_CHECKING:
    from collections.abc import Mapping

CHART_MIME = "application/vnd.sandbox.chart+json"
PLOTLY_MIME = "application/vnd.plotly.v1+json"
VEGA_MIME = re.compile(r"application/vnd\.vegalite\.v\d+\+json")


def chart_of(data: Mapping[str, Any]) -> Chart | None:
    """The chart among the formats of a result, None if it shows none."""
    if CHART_MIME in data:
        return _received(data[CHART_MIME])
    is_plotly = PLOTLY_MIME in data
    try:
        if is_plotly:
            return thinned(read_plotly(data[PLOTLY_MIME]))
        for mime, spec in data.items():
            if VEGA_MIME.fullmatch(mime):
                return thinned(read_vega(spec))
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError, ArithmeticError):
        return Chart(type="unknown", library="plotly" if is_plotly else "altair")
    return None


def _received(content: Any, depth: int = 0) -> Chart:
    """A chart as an executor described it."""
    try:
        chart = msgspec.convert(content, Chart)
        if chart.type == "superchart":
            if depth > 0:
                raise msgspec.ValidationError("a superchart in a superchart")
            charts = [_received(one, depth + 1) for one in chart.elements[:MOST_CHARTS]]
            return msgspec.structs.replace(chart, elements=charts)
        if not all(isinstance(element, dict) for element in chart.elements):
            raise msgspec.ValidationError("an element that is no dictionary")
    except msgspec.ValidationError:
        return Chart(type="unknown", library="matplotlib")
    return chart
