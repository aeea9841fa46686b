"""Charts of Vega-Lite (Altair) describe themselves; this reads their specification as a chart."""

from __future__ import annotations

from typing import Any

from sandbox_runtime.interpreters.charts import (
    Axis,
    Chart,
    joined,
    plain,
    size_of,
    text_of,
    unit_of,
)

_MARKS = {
    "line": "line",
    "trail": "line",
    "bar": "bar",
    "point": "scatter",
    "circle": "scatter",
    "square": "scatter",
    "arc": "pie",
    "rect": "heatmap",
    "boxplot": "box_and_whisker",
}
_VEGA_SCALES = {"quantitative": "linear", "temporal": "datetime"}
_COMPUTED = ("aggregate", "bin", "timeUnit")


def read_vega(spec: Any) -> Chart:
    """The chart of a specification with its data."""
    charts: list[Chart] = []
    unread: set[str] = set()
    _collect_vega(spec, spec.get("datasets") or {}, {}, charts, unread, 0)
    return joined(charts, text_of(spec.get("title")), "altair", sorted(unread))


def _collect_vega(
    spec: Any,
    datasets: Any,
    inherited: dict[str, Any],
    charts: list[Chart],
    unread: set[str],
    depth: int,
) -> None:
    """Adds a chart for each view of a specification."""
    if depth > 10:
        raise ValueError("views nested too deep")
    context = {
        "data": spec.get("data", inherited.get("data")),
        "encoding": {**inherited.get("encoding", {}), **(spec.get("encoding") or {})},
        "transform": [*inherited.get("transform", ()), *(spec.get("transform") or ())],
        "title": text_of(spec.get("title")) or inherited.get("title", ""),
    }
    for name in ("layer", "hconcat", "vconcat", "concat"):
        for part in spec.get(name) or ():
            _collect_vega(part, datasets, context, charts, unread, depth + 1)
    if "spec" in spec:  # a facet or a repetition: how its data is divided is not looked at
        unread.add("facet" if "facet" in spec else "repeat")
        return
    if "mark" not in spec:
        return
    mark = spec["mark"]
    mark = mark.get("type") if isinstance(mark, dict) else mark
    kind = _MARKS.get(str(mark), "unknown")
    if kind == "unknown":
        unread.add(str(mark))
        return
    charts.append(_vega_view(kind, context, datasets, unread))


def _vega_view(kind: str, context: Any, datasets: Any, unread: set[str]) -> Chart:
    encoding = context["encoding"]
    computed = {
        name
        for channel in encoding.values()
        if isinstance(channel, dict)
        for name in _COMPUTED
        if channel.get(name)
    }
    if context["transform"]:
        computed.add("transform")
    if kind == "bar" and "bin" in computed:
        kind = "histogram"
    rows = _vega_rows(context["data"], datasets)
    elements: list[Any] = []
    if computed or rows is None:
        # Their numbers are made where it is drawn.
        unread.update(computed or {"data"})
    else:
        elements = _vega_elements(kind, encoding, rows)
    has_sides = kind != "pie"
    return Chart(
        type=kind,  # type: ignore[arg-type]
        title=context["title"],
        library="altair",
        x=_vega_axis(encoding.get("x")) if has_sides else None,
        y=_vega_axis(encoding.get("y")) if has_sides else None,
        elements=elements,
        points_total=sum(map(size_of, elements)),
    )


def _vega_rows(data: Any, datasets: Any) -> list[Any] | None:
    if not isinstance(data, dict):
        return None
    rows = data["values"] if "values" in data else datasets.get(data.get("name"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return None
    return rows


def _vega_axis(channel: Any) -> Axis | None:
    if not isinstance(channel, dict):
        return None
    kind = channel.get("type")
    scale = channel.get("scale")
    scale = scale.get("type") if isinstance(scale, dict) else None
    label = channel.get("title")
    if not isinstance(label, str):
        label = str(channel.get("field") or "")
        if isinstance(how := channel.get("aggregate"), str):
            label = f"{how}({label})"
    usual = _VEGA_SCALES.get(str(kind), "categorical")
    return Axis(label=label, unit=unit_of(label), scale=scale if isinstance(scale, str) else usual)


def _vega_elements(kind: str, encoding: Any, rows: list[Any]) -> list[Any]:
    def field(channel: str) -> str:
        value = encoding.get(channel)
        name = value.get("field") if isinstance(value, dict) else None
        return name if isinstance(name, str) else ""

    x, y = field("x"), field("y")
    series = field("color") or field("detail") or field("strokeDash") or field("shape")
    match kind:
        case "line" | "scatter":
            lines: dict[str, list[Any]] = {}
            for row in rows:
                point = [plain(row.get(x)), plain(row.get(y))]
                lines.setdefault(str(row.get(series, "")) if series else "", []).append(point)
            return [{"label": label, "points": points} for label, points in lines.items()]
        case "bar":
            types = encoding.get("x") or {}, encoding.get("y") or {}
            across = types[0].get("type") == "quantitative" != types[1].get("type")
            name, value = (y, x) if across else (x, y)
            return [
                {
                    "label": str(row.get(name)),
                    "group": str(row.get(series, "")) if series else "",
                    "value": plain(row.get(value)),
                    "horizontal": across,
                }
                for row in rows
            ]
        case "pie":
            value, name = field("theta"), field("color")
            return [{"label": str(row.get(name)), "value": plain(row.get(value))} for row in rows]
        case "heatmap":
            shade = field("color")
            cells = [[plain(row.get(x)), plain(row.get(y)), plain(row.get(shade))] for row in rows]
            return [{"label": shade or "", "cells": cells}]
        case _:
            return [{"label": y or x or "", "samples": [plain(row.get(y or x)) for row in rows]}]
