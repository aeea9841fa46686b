"""Figures of Plotly describe themselves; this reads their description as a chart."""

from __future__ import annotations

import array
import base64
import sys
from typing import TYPE_CHECKING, Any

from sandbox_runtime.interpreters.charts import (
    Axis,
    Chart,
    joined,
    plain,
    scale_of,
    size_of,
    text_of,
    unit_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_TYPE_CODES = {
    "i1": "b",
    "u1": "B",
    "i2": "h",
    "u2": "H",
    "i4": "i",
    "u4": "I",
    "i8": "q",
    "u8": "Q",
    "f4": "f",
    "f8": "d",
}


def _numbers(value: Any) -> list[Any]:
    """A column: a list, or the base64 of an array of numbers."""
    if isinstance(value, dict) and "bdata" in value:
        column = array.array(_TYPE_CODES[value["dtype"]])
        column.frombytes(base64.b64decode(value["bdata"]))
        if sys.byteorder != "little":
            column.byteswap()
        flat = [plain(number) for number in column]
        shape = [int(side) for side in str(value.get("shape", len(flat))).split(",")]
        if len(shape) == 2:
            return [flat[start : start + shape[1]] for start in range(0, len(flat), shape[1])]
        return flat
    if isinstance(value, list):
        return [
            [plain(cell) for cell in row] if isinstance(row, list) else plain(row) for row in value
        ]
    return []


def read_plotly(figure: Any) -> Chart:
    """The chart of a figure as JSON."""
    layout = figure.get("layout") or {}
    title = text_of(layout.get("title"))
    by_place: dict[tuple[str, str, str], list[Any]] = {}
    unread: set[str] = set()
    for trace in figure["data"]:
        kind, elements = _plotly_elements(trace)
        if kind == "unknown":
            unread.add(str(trace.get("type")))
            continue
        sides = (str(trace.get("xaxis", "x")), str(trace.get("yaxis", "y")))
        by_place.setdefault((kind, *sides), []).extend(elements)
    charts = []
    for (kind, x, y), elements in by_place.items():
        has_sides = kind != "pie"
        charts.append(
            Chart(
                type=kind,  # type: ignore[arg-type]
                title=title,
                library="plotly",
                x=_plotly_axis(layout, "x", x, elements) if has_sides else None,
                y=_plotly_axis(layout, "y", y, elements) if has_sides else None,
                elements=elements,
                points_total=sum(map(size_of, elements)),
            )
        )
    return joined(charts, title, "plotly", sorted(unread))


def _plotly_axis(layout: Any, side: str, name: str, elements: list[Any]) -> Axis:
    axis = layout.get(f"{side}axis{name[1:]}") or {}
    label = text_of(axis.get("title"))
    scale = axis.get("type")
    if scale == "date":
        scale = "datetime"
    elif scale in {"category", "multicategory"}:
        scale = "categorical"
    elif scale not in {"linear", "log"}:
        scale = scale_of(_column(elements, side))
    ticks, labels = _numbers(axis.get("tickvals")), _numbers(axis.get("ticktext"))
    return Axis(
        label=label,
        unit=unit_of(label),
        scale=scale,
        ticks=ticks[:200],
        tick_labels=[str(label) for label in labels][:200],
    )


def _column(elements: list[Any], side: str) -> list[Any]:
    place = 0 if side == "x" else 1
    column: list[Any] = []
    for element in elements:
        column.extend(point[place] for point in element.get("points", ()))
        if "value" in element:
            along = element.get("horizontal", False) == (side == "x")
            column.append(element["value"] if along else element["label"])
        if "samples" in element and element.get("side", side) == side:
            column.extend(element["samples"])
    return column


def _plotly_elements(  # noqa: PLR0911 - one per kind of trace
    trace: Any,
) -> tuple[str, list[Any]]:
    label = text_of(trace.get("name"))
    kind = trace.get("type", "scatter")
    x, y = _numbers(trace.get("x")), _numbers(trace.get("y"))
    match kind:
        case "scatter" | "scattergl":
            mode = str(trace.get("mode", "lines"))
            xs: Sequence[Any] = x or range(len(y))
            ys: Sequence[Any] = y or range(len(x))
            points = [[a, b] for a, b in zip(xs, ys, strict=False)]
            shown = "line" if "lines" in mode else "scatter"
            return shown, [{"label": label, "points": points}]
        case "bar":
            across = trace.get("orientation") == "h"
            names, values = (y, x) if across else (x, y)
            names = names or list(range(len(values)))
            return "bar", [
                {"label": str(name), "group": label, "value": value, "horizontal": across}
                for name, value in zip(names, values, strict=False)
            ]
        case "histogram":
            side = "x" if x else "y"
            return "histogram", [{"label": label, "samples": x or y, "side": side}]
        case "box":
            side = "x" if x and (trace.get("orientation") == "h" or not y) else "y"
            return "box_and_whisker", _plotly_boxes(trace, label, x if side == "x" else y, side)
        case "pie":
            names, values = _numbers(trace.get("labels")), _numbers(trace.get("values"))
            names = names or list(range(len(values)))
            return "pie", [
                {"label": str(name), "value": value}
                for name, value in zip(names, values, strict=False)
            ]
        case "heatmap" | "heatmapgl":
            element = {"label": label, "values": _numbers(trace.get("z")), "x": x, "y": y}
            return "heatmap", [element]
        case _:
            return "unknown", []


def _plotly_boxes(trace: Any, label: str, samples: list[Any], side: str) -> list[Any]:
    medians = _numbers(trace.get("median"))
    if not medians:
        return [{"label": label, "samples": samples, "side": side}]
    names = {
        "min": "lowerfence",
        "first_quartile": "q1",
        "third_quartile": "q3",
        "max": "upperfence",
    }
    columns = {ours: _numbers(trace.get(theirs)) for ours, theirs in names.items()}
    return [
        {
            "label": label,
            "median": median,
            "outliers": [],
            **{
                name: column[index] if index < len(column) else None
                for name, column in columns.items()
            },
        }
        for index, median in enumerate(medians)
    ]
