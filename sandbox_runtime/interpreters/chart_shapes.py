"""Charts in the shapes that clients know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from sandbox_runtime.interpreters.chart_reading import PLOTLY_MIME, VEGA_MIME
from sandbox_runtime.interpreters.charts import Axis, Chart

if TYPE_CHECKING:
    from collections.abc import Mapping

_IMAGES = ("image/png", "image/svg+xml", "image/jpeg")


def as_e2b(chart: Chart) -> dict[str, Any]:
    """The shape that clients of E2B's code interpreter read.

    It knows no histograms and heatmaps: a histogram with bins is a bar chart there, and what it
    cannot say is `unknown`.
    """
    if chart.type == "superchart":
        elements = [as_e2b(one) for one in chart.charts()]
        return {"type": "superchart", "title": chart.title, "elements": elements}
    kind, elements = _e2b_elements(chart)
    record: dict[str, Any] = {"type": kind, "title": chart.title, "elements": elements}
    if kind in {"line", "scatter", "bar", "box_and_whisker"}:
        for side, axis in (("x", chart.x or Axis()), ("y", chart.y or Axis())):
            record |= {f"{side}_label": axis.label, f"{side}_unit": axis.unit}
            if kind in {"line", "scatter"}:
                record |= {
                    f"{side}_ticks": axis.ticks,
                    f"{side}_tick_labels": axis.tick_labels,
                    f"{side}_scale": axis.scale,
                }
    return record


def _e2b_elements(chart: Chart) -> tuple[str, list[Any]]:
    match chart.type:
        case "line" | "scatter":
            names: tuple[str, ...] = ("label", "points")
        case "bar":
            names = ("label", "group", "value")
        case "box_and_whisker":
            names = (
                "label",
                "min",
                "first_quartile",
                "median",
                "third_quartile",
                "max",
                "outliers",
            )
        case "pie":
            return _e2b_slices(chart)
        case "histogram":
            return _e2b_bins(chart)
        case _:
            names = ()
    if not names or not all(name in one for one in chart.elements for name in names):
        return "unknown", []
    return chart.type, [{name: element[name] for name in names} for element in chart.elements]


def _e2b_slices(chart: Chart) -> tuple[str, list[Any]]:
    if all("angle" in one and "radius" in one for one in chart.elements):
        names = ("label", "angle", "radius")
        return "pie", [{name: one[name] for name in names} for one in chart.elements]
    values = [one.get("value") for one in chart.elements]
    if not values or not all(isinstance(value, (int, float)) and value >= 0 for value in values):
        return "unknown", []
    total = sum(values) or 1
    return "pie", [
        {"label": one.get("label", ""), "angle": 360 * one["value"] / total, "radius": 1}
        for one in chart.elements
    ]


def _e2b_bins(chart: Chart) -> tuple[str, list[Any]]:
    elements = []
    for one in chart.elements:
        if "bins" not in one:
            return "unknown", []
        elements += [
            {"label": f"{start} to {end}", "group": one.get("label", ""), "value": count}
            for start, end, count in one["bins"]
        ]
    return "bar", elements


_WIRE_TYPES = {"line", "bar", "scatter", "pie", "histogram", "heatmap"}


def as_wire(chart: Chart, data: Mapping[str, Any]) -> dict[str, Any]:
    """The `ChartData` of the wire protocol.

    Args:
        chart: What was read.
        data: The formats of the result that it was read from.
    """
    kind = chart.type if chart.type in _WIRE_TYPES else "unknown"
    record: dict[str, Any] = {"type": kind, "library": chart.library}
    if chart.title:
        record["title"] = chart.title
    if isinstance(figure := data.get(PLOTLY_MIME), dict):
        record["data"] = figure.get("data")
        record |= {name: figure[name] for name in ("layout", "config") if name in figure}
    elif spec := next((data[mime] for mime in data if VEGA_MIME.fullmatch(mime)), None):
        record["data"] = spec
    else:
        record["data"] = msgspec.to_builtins(chart)
    image = next((data[mime] for mime in _IMAGES if isinstance(data.get(mime), str)), None)
    if image is not None and kind == "unknown":
        record["image"] = image
    return record
