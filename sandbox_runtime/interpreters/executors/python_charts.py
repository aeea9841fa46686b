"""What a matplotlib figure shows, as data: series with their points, axes with their names.

Nothing is guessed. What the artists hold is read back; what they do not hold any more (the bins of
a histogram, the quartiles of a box) is noted when the user's code draws it. Artists that cannot be
read are named in `unread`, and a figure of which nothing can be read is of type `unknown`.

    {"type", "title", "library": "matplotlib", "x", "y", "elements", "unread", "points_total"}

`type` is `line`, `scatter`, `bar`, `histogram`, `box_and_whisker`, `pie`, `heatmap`, `superchart`
(whose elements are charts) or `unknown`; `x` and `y` are {"label", "unit", "scale", "ticks",
"tick_labels"}. Of a figure at most MOST_POINTS points are kept, evenly spread over each series.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import math
import re
import sys
from functools import wraps
from typing import Any

Chart = dict[str, Any]

MOST_POINTS = 10_000
"""How many points of one figure are kept."""

_UNIT = re.compile(r"[(\[]([^()\[\]]{1,40})[)\]]\s*$")
_NOTED = "_noted_by_the_sandbox"
_SCALES = {"linear", "log", "symlog", "logit", "asinh", "function", "functionlog"}


# --- what is noted while it is drawn -----------------------------------------------------------


def note_statistics(axes_class: Any) -> None:
    """Makes axes keep the numbers of histograms and boxes, which their artists do not hold."""
    hist, bxp = axes_class.hist, axes_class.bxp

    @wraps(hist)
    def noting_hist(self: Any, *args: Any, **kwargs: Any) -> Any:
        counts, edges, artists = hist(self, *args, **kwargs)
        several = (
            bool(artists) and not hasattr(artists, "patches") and hasattr(counts[0], "__len__")
        )
        rows = zip(counts, artists, strict=True) if several else [(counts, artists)]
        for row, drawn in rows:
            _note(self, ("histogram", list(drawn), (row, edges, drawn)))
        return counts, edges, artists

    @wraps(bxp)
    def noting_bxp(self: Any, bxpstats: Any, *args: Any, **kwargs: Any) -> Any:
        parts = bxp(self, bxpstats, *args, **kwargs)
        drawn = [artist for artists in parts.values() for artist in artists]
        _note(self, ("box_and_whisker", drawn, [dict(one) for one in bxpstats]))
        return parts

    axes_class.hist, axes_class.bxp = noting_hist, noting_bxp


def _note(axes: Any, entry: tuple[str, list[Any], Any]) -> None:
    vars(axes).setdefault(_NOTED, []).append(entry)


# --- a figure ----------------------------------------------------------------------------------


def describe_figure(figure: Any) -> Chart:
    """The chart of a figure; of type `unknown` if nothing of it can be read."""
    try:
        charts: list[Chart] = []
        for axes in figure.axes:
            if axes.get_visible() and not hasattr(axes, "_colorbar"):
                charts.extend(_describe_axes(axes))
        title = figure.get_suptitle()
    except Exception:  # noqa: BLE001 - subclasses of the user's may do anything
        charts, title = [], ""
    _limit_points(charts)
    if len(charts) == 1:
        return charts[0] | {"title": charts[0]["title"] or title}
    total = sum(chart["points_total"] for chart in charts)
    kind = "superchart" if charts else "unknown"
    return _chart(kind, title, charts) | {"points_total": total}


def _chart(kind: str, title: str, elements: list[Any]) -> Chart:
    return {
        "type": kind,
        "title": title,
        "library": "matplotlib",
        "x": None,
        "y": None,
        "elements": elements,
        "unread": [],
        "points_total": 0,
    }


def _describe_axes(axes: Any) -> list[Chart]:
    """One chart for each kind of series in it."""
    title = axes.get_title() or axes.get_title("left") or axes.get_title("right")
    if axes.name != "rectilinear":
        return [_chart("unknown", title, []) | {"unread": [axes.name]}]
    found: dict[str, list[Any]] = {}
    unread: set[str] = set()
    seen: set[int] = set()
    for kind, read in (
        ("noted", _read_noted),
        ("bar", _read_bars),
        ("pie", _read_slices),
        ("lines", _read_lines),
        ("scatter", _read_scatter),
        ("heatmap", _read_heatmaps),
    ):
        try:
            for element_kind, element in read(axes, seen):
                found.setdefault(element_kind, []).append(element)
        except Exception:  # noqa: BLE001
            unread.add(kind)
    for artist in [*axes.patches, *axes.collections, *axes.images, *axes.tables]:
        if id(artist) not in seen:
            unread.add(type(artist).__name__)
    if not found and not unread:
        return []  # empty axes show nothing
    x, y = _describe_axis(axes, "x"), _describe_axis(axes, "y")
    charts = []
    for kind, elements in found.items():
        sides = {} if kind == "pie" else {"x": x, "y": y}
        total = sum(_size(element) for element in elements)
        charts.append(_chart(kind, title, elements) | sides | {"points_total": total})
    if not charts:
        charts.append(_chart("unknown", title, []) | {"x": x, "y": y})
    charts[0]["unread"] = sorted(unread)
    return charts


def _describe_axis(axes: Any, side: str) -> Chart:
    axis = getattr(axes, f"{side}axis")
    label = axis.get_label_text()
    unit = _UNIT.search(label)
    scale = axis.get_scale()
    if (names := _category_names(axis)) is not None:
        scale = "categorical"
        ticks: list[Any] = list(names.values())
        labels = list(ticks)
    else:
        low, high = sorted(axis.get_view_interval())
        positions = [position for position in axis.get_ticklocs() if low <= position <= high]
        labels = axis.get_major_formatter().format_ticks(positions)
        labels = [str(label) for label in labels]
        ticks = [_position(axis, position) for position in positions]
        if _is_time(axis):
            scale = "datetime"
        elif scale not in _SCALES:
            scale = "unknown"
    return {
        "label": label,
        "unit": unit[1].strip() if unit else None,
        "scale": scale,
        "ticks": ticks[:200],
        "tick_labels": labels[:200],
    }


# --- series ------------------------------------------------------------------------------------


def _read_noted(axes: Any, seen: set[int]) -> list[tuple[str, Chart]]:
    found: list[tuple[str, Chart]] = []
    for kind, artists, numbers in vars(axes).get(_NOTED, ()):
        if not any(getattr(artist, "axes", None) is axes for artist in artists):
            continue  # cleared since
        seen.update(map(id, artists))
        if kind == "box_and_whisker":
            found.extend((kind, _box(one)) for one in numbers)
            continue
        counts, edges, drawn = numbers
        seen.add(id(drawn))
        label = _label(getattr(drawn, "get_label", str)()) or artists[0].get_label()
        edges = [_position(axes.xaxis, edge) for edge in edges]
        bins = zip(edges, edges[1:], counts, strict=False)
        found.append(
            (
                kind,
                {
                    "label": _label(label),
                    "bins": [[start, end, _plain(count)] for start, end, count in bins],
                },
            )
        )
    return found


def _box(numbers: dict[str, Any]) -> Chart:
    return {
        "label": str(numbers.get("label", "")),
        "min": _plain(numbers.get("whislo")),
        "first_quartile": _plain(numbers.get("q1")),
        "median": _plain(numbers.get("med")),
        "third_quartile": _plain(numbers.get("q3")),
        "max": _plain(numbers.get("whishi")),
        "outliers": [_plain(value) for value in numbers.get("fliers", ())],
    }


def _read_bars(axes: Any, seen: set[int]) -> list[tuple[str, Chart]]:
    found: list[tuple[str, Chart]] = []
    for container in axes.containers:
        if not hasattr(container, "patches"):  # error bars and stems: their lines are read
            seen.update(_ids(container))
            continue
        if any(id(patch) in seen for patch in container.patches):
            continue  # a histogram's
        seen.update(map(id, container.patches))
        across = container.orientation == "horizontal"
        axis = axes.yaxis if across else axes.xaxis
        names = _tick_names(axis)
        for bar in container.patches:
            middle = (
                bar.get_y() + bar.get_height() / 2 if across else bar.get_x() + bar.get_width() / 2
            )
            name = names.get(round(float(middle), 9))
            if name is None:
                position = _position(axis, middle)
                name = f"{position:g}" if isinstance(position, float) else str(position)
            value = bar.get_width() if across else bar.get_height()
            element = {
                "label": name,
                "group": _label(container.get_label()),
                "value": _plain(value),
                "horizontal": across,
            }
            found.append(("bar", element))
    return found


def _ids(container: Any) -> set[int]:
    """All artists of a container but the line of its data."""
    ids: set[int] = set()
    for part in container[1:]:
        parts = part if isinstance(part, (list, tuple)) else [part]
        ids.update(id(one) for one in parts)
    return ids


def _read_slices(axes: Any, seen: set[int]) -> list[tuple[str, Chart]]:
    wedges = [patch for patch in axes.patches if type(patch).__name__ == "Wedge"]
    # A pie draws its slices' names as texts, in the order of the slices, if it draws any.
    seen.update(map(id, wedges))
    return [
        (
            "pie",
            {
                "label": _label(wedge.get_label()),
                "angle": abs(_number(wedge.theta2) - _number(wedge.theta1)),
                "radius": _plain(wedge.r),
            },
        )
        for wedge in wedges
    ]


def _read_lines(axes: Any, seen: set[int]) -> list[tuple[str, Chart]]:
    found: list[tuple[str, Chart]] = []
    for line in axes.lines:
        if id(line) in seen or line.get_transform() != axes.transData:
            continue  # of a box or an error bar; or a mark across the axes, which has no points
        shown = line.get_linestyle() not in {"None", "none", " ", ""}
        if not shown and line.get_marker() in {None, "None", "none", " ", ""}:
            continue
        points = _points(axes, line.get_xdata(orig=True), line.get_ydata(orig=True))
        element = {"label": _label(line.get_label()), "points": points}
        found.append(("line" if shown else "scatter", element))
    return found


def _read_scatter(axes: Any, seen: set[int]) -> list[tuple[str, Chart]]:
    found: list[tuple[str, Chart]] = []
    for collection in axes.collections:
        if type(collection).__name__ != "PathCollection":
            continue
        seen.add(id(collection))
        offsets = collection.get_offsets()
        points = [
            [_position(axes.xaxis, x), _position(axes.yaxis, y)]
            for x, y in zip(offsets[:, 0], offsets[:, 1], strict=True)
        ]
        found.append(("scatter", {"label": _label(collection.get_label()), "points": points}))
    return found


def _read_heatmaps(axes: Any, seen: set[int]) -> list[tuple[str, Chart]]:
    found: list[tuple[str, Chart]] = []
    meshes = [mesh for mesh in axes.collections if type(mesh).__name__ == "QuadMesh"]
    for artist in [*axes.images, *meshes]:
        values = artist.get_array()
        if values is None or values.ndim != 2:
            continue  # a picture, not numbers
        seen.add(id(artist))
        rows = [[_plain(value) for value in row] for row in values]
        found.append(("heatmap", {"label": _label(artist.get_label()), "values": rows}))
    return found


# --- numbers -----------------------------------------------------------------------------------


def _points(axes: Any, xs: Any, ys: Any) -> list[list[Any]]:
    x_names, y_names = _category_names(axes.xaxis), _category_names(axes.yaxis)

    def plain(value: Any, axis: Any, *, is_number: bool) -> Any:
        found = _plain(value)
        return (
            _position(axis, found) if isinstance(found, (int, float)) and not is_number else found
        )

    x_number = x_names is None and not _is_time(axes.xaxis)
    y_number = y_names is None and not _is_time(axes.yaxis)
    return [
        [plain(x, axes.xaxis, is_number=x_number), plain(y, axes.yaxis, is_number=y_number)]
        for x, y in zip(list(xs), list(ys), strict=False)
    ]


def _position(axis: Any, position: Any) -> Any:
    """A place on an axis in the terms of its data."""
    if (names := _category_names(axis)) is not None:
        return names.get(round(float(position)), _plain(position))
    if _is_time(axis) and (found := _time(axis, position)) is not None:
        return found
    return _plain(position)


def _converter(axis: Any) -> Any:
    get = getattr(axis, "get_converter", None)
    return get() if get is not None else axis.converter


def _is_time(axis: Any) -> bool:
    name = type(_converter(axis)).__name__
    return any(word in name for word in ("Date", "Period", "Time"))


def _time(axis: Any, position: Any) -> str | None:
    if (unit := getattr(axis, "freq", None)) is not None:  # an ordinal of pandas, in its unit
        period = sys.modules["pandas"].Period(ordinal=round(float(position)), freq=unit)
        return str(period.start_time.isoformat())
    from matplotlib.dates import num2date

    return str(num2date(float(position)).replace(tzinfo=None).isoformat())


def _category_names(axis: Any) -> dict[int, str] | None:
    mapping = getattr(axis.units, "_mapping", None)
    return {int(place): str(name) for name, place in mapping.items()} if mapping else None


def _tick_names(axis: Any) -> dict[float, str]:
    """The names of places, where somebody has named them; numbers name themselves."""
    formatter = axis.get_major_formatter()
    if type(formatter).__name__ not in {"FixedFormatter", "StrCategoryFormatter", "FuncFormatter"}:
        return {}
    places = [float(place) for place in axis.get_ticklocs()]
    return dict(zip(places, map(str, formatter.format_ticks(places)), strict=False))


def _label(label: Any) -> str:
    """The name of a series; those that matplotlib made up are none."""
    text = "" if label is None else str(label)
    return "" if text.startswith("_") else text


def _number(value: Any) -> float:
    return float(value)


def _plain(value: Any) -> Any:  # noqa: PLR0911 - one per kind of value
    """A value as JSON has it: numbers, text, times in ISO 8601, and null for what is no number."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    name = type(value).__name__
    if name == "datetime64":
        return None if str(value) == "NaT" else str(value)
    if name in {"NaTType", "NAType", "MaskedConstant"}:
        return None
    if callable(iso := getattr(value, "isoformat", None)):
        return str(iso())
    if callable(item := getattr(value, "item", None)):  # a scalar of numpy
        unboxed = item()
        return _plain(unboxed) if type(unboxed) is not type(value) else str(value)
    try:
        return _plain(float(value))
    except (TypeError, ValueError):
        return str(value)


def _size(element: Chart) -> int:
    if "values" in element:
        return sum(map(len, element["values"]))
    many = element.get("points") or element.get("bins") or element.get("outliers")
    return max(1, len(many or ()))


def _limit_points(charts: list[Chart]) -> None:
    """Thins series out, evenly, until no more than MOST_POINTS are left of all."""
    total = sum(chart["points_total"] for chart in charts)
    if total <= MOST_POINTS:
        return
    step = math.ceil(total / MOST_POINTS)
    for chart in charts:
        for element in chart["elements"]:
            if "values" in element:
                step_of_side = math.ceil(math.sqrt(step))
                element["values"] = [
                    row[::step_of_side] for row in element["values"][::step_of_side]
                ]
            for key in ("points", "outliers", "bins"):
                if key in element:
                    element[key] = element[key][::step]
        if chart["type"] in {"bar", "pie", "box_and_whisker"}:
            chart["elements"] = chart["elements"][:MOST_POINTS]
        chart["points_kept"] = sum(_size(element) for element in chart["elements"])
