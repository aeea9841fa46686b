"""What the libraries that people use show: every format, in one result, and charts as data.

All cells run once, in one context with the real libraries; the tests look at what they gave.
"""

from __future__ import annotations

import base64
import importlib.util
import re
from typing import TYPE_CHECKING, Any

import pytest
import trio

from sandbox_runtime import open_sandbox

if TYPE_CHECKING:
    from sandbox_runtime import Execution, Result

TABLE = "application/vnd.dataresource+json"
CHART = "application/vnd.sandbox.chart+json"
PLOTLY = "application/vnd.plotly.v1+json"

CELLS = {
    "setup": """
import datetime
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
""",
    "frame": "pd.DataFrame({'n': [1, 2], 't': ['a', None]})",
    "long frame": "pd.DataFrame({'n': range(5000)})",
    "odd frame": "pd.DataFrame([[1, 2]], columns=['same', 'same'])",
    "series": "pd.Series([1.5, None], name='s')",
    "line": """
plt.plot([1, 2, 3], [3.0, float("nan"), 2.5], label="speed")
plt.plot([1, 2], [1, 1], "--", label="limit")
plt.axhline(2)
plt.title("A ride")
plt.xlabel("time (s)")
plt.ylabel("speed [m/s]")
plt.yscale("log")
plt.legend();
""",
    "dates": """
days = [datetime.date(2026, 1, day) for day in (1, 2, 3)]
plt.plot(days, [1, 2, 3]);
""",
    "pandas dates": """
pd.DataFrame({"v": [1, 2]}, index=pd.date_range("2026-01-01", periods=2)).plot();
""",
    "scatter": """
plt.scatter([1, 2], [3, 4], label="dots")
plt.plot([5], [6], "o", label="mark");
""",
    "bar": """
plt.bar(["a", "b"], [1, 2], label="left")
plt.bar(["a", "b"], [3, 4], bottom=[1, 2], label="right");
""",
    "horizontal bar": "plt.barh(['a', 'b'], [1, 2]);",
    "histogram": "plt.hist([1, 1, 2, 4], bins=3, range=(1, 4), label='h');",
    "step histogram": "plt.hist([[1, 1, 2], [2, 2, 2]], bins=2, histtype='step');",
    "box": "plt.boxplot([[1, 2, 3, 4, 100], [5, 6, 7]], tick_labels=['one', 'two']);",
    "pie": "plt.pie([1, 3], labels=['small', 'big']);",
    "heatmap": """
plt.imshow([[1, 2], [3, 4]])
plt.colorbar();
""",
    "picture": "plt.imshow(np.zeros((2, 2, 3)));",
    "several": """
figure, (left, right) = plt.subplots(1, 2)
left.plot([1, 2], [1, 2])
left.bar([1, 2], [2, 1])
right.pie([1])
right.set_title("all")
figure.suptitle("both");
""",
    "contour": "plt.contour([[1, 2], [3, 4]]);",
    "3d": "plt.figure().add_subplot(projection='3d').plot([1], [2], [3]);",
    "many points": "plt.plot(np.arange(50_000));",
    "hostile axes": """
class Hostile(plt.Axes):
    def get_title(self, *args, **kwargs):
        raise RuntimeError("no")
figure = plt.figure()
figure.add_axes(Hostile(figure, (0, 0, 1, 1))).plot([1]);
""",
    "two figures": """
plt.figure(figsize=(1, 1)); plt.plot([1, 2])
plt.figure(figsize=(2, 1)); plt.plot([1, 2])
print("between")
"last"
""",
    "svg": """
%config InlineBackend.figure_formats = ["svg"]
plt.plot([1, 2]);
""",
    "both": """
%config InlineBackend.figure_formats = ["svg", "png"]
plt.plot([1, 2]);
""",
    "plotly": """
%config InlineBackend.figure_formats = ["png"]
import plotly.express as px
import plotly.graph_objects as go
figure = px.line(x=np.array([1, 2, 3]), y=[3, 1, 2], title="t", labels={"x": "time (s)"})
figure
""",
    "plotly show": "figure.show()",
    "plotly kinds": """
go.Figure([
    go.Bar(x=["a", "b"], y=[1, 2], name="bars"),
    go.Scatter(x=["a", "b"], y=[1, 2], mode="markers", name="dots"),
    go.Histogram(x=[1, 1, 2]),
    go.Box(y=[1, 2, 9], name="box"),
    go.Pie(labels=["p", "q"], values=[1, 3]),
    go.Heatmap(z=np.arange(6).reshape(2, 3)),
    go.Sunburst(labels=["s"], parents=[""]),
])
""",
    "altair": """
import altair as alt
people = pd.DataFrame({"name": ["x", "y"], "size (cm)": [1, 2], "kind": ["k", "l"]})
alt.Chart(people, title="sizes").mark_bar().encode(x="name", y="size (cm)")
""",
    "altair points": """
alt.Chart(people).mark_point().encode(x="size (cm):Q", y="size (cm):Q", color="kind")
""",
    "altair computed": "alt.Chart(people).mark_bar().encode(x='name', y='mean(size (cm))')",
    "altair layers": """
base = alt.Chart(people).encode(x="name", y="size (cm)")
base.mark_line() + base.mark_circle()
""",
    "bokeh": """
from bokeh.plotting import figure as bokeh_figure
page = bokeh_figure()
page.line([1, 2], [3, 4])
page
""",
    "long text": "'x' * 3_000_000",
    "long html": "display({'text/html': 'x' * 20_000_000, 'text/plain': 'short'}, raw=True)",
    "long error": "raise ValueError('é' * 1_000_000)",
}


@pytest.fixture(scope="module")
def shown() -> dict[str, Execution]:
    """What each of the cells gave."""
    for name in ("pandas", "matplotlib", "plotly", "altair", "bokeh"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    executions = {}

    async def run_cells() -> None:
        async with open_sandbox(python_pool=0) as sandbox:
            context = await sandbox.create_code_context()
            for name, cell in CELLS.items():
                executions[name] = await context.run(cell)

    trio.run(run_cells)
    for name, execution in executions.items():
        if name != "long error":
            assert execution.ended == "ok", (name, execution.error)
            assert execution.stderr == b"", (name, execution.stderr)
    return executions


def only(execution: Execution) -> Result:
    """The one result of a cell."""
    (result,) = execution.results
    return result


def chart(execution: Execution) -> Any:
    """The one chart of a cell."""
    (result,) = (result for result in execution.results if result.chart is not None)
    return result.chart


TEXT, HTML = "text/plain", "text/html"
BUNDLES = {
    "frame": {TEXT, HTML, TABLE},
    "odd frame": {TEXT, HTML},
    "series": {TEXT, TABLE},
    "line": {TEXT, "image/png", CHART},
    "pie": {TEXT, "image/png", CHART},
    "svg": {TEXT, "image/svg+xml", CHART},
    "both": {TEXT, "image/png", "image/svg+xml", CHART},
    "plotly": {TEXT, HTML, PLOTLY},
    "plotly kinds": {TEXT, HTML, PLOTLY},
    "altair": {TEXT, HTML, "application/vnd.vegalite.vN+json"},
    "altair layers": {TEXT, HTML, "application/vnd.vegalite.vN+json"},
    "bokeh": {TEXT, HTML},
}
"""Every format of what the libraries show, no more and no less."""


@pytest.mark.parametrize("name", BUNDLES)
def test_what_libraries_show_has_these_formats_and_no_others(
    shown: dict[str, Execution], name: str
) -> None:
    """In one result; images are whole, texts are text, data are data."""
    data = {
        re.sub(r"vegalite\.v\d+", "vegalite.vN", mime): value
        for mime, value in shown[name].results[-1].data.items()
    }
    assert set(data) == BUNDLES[name]
    for mime, value in data.items():
        if mime.endswith("+json"):
            assert isinstance(value, dict), mime
        else:
            assert isinstance(value, str), mime
        if mime == "image/png":
            image = base64.b64decode(value)
            assert image.startswith(b"\x89PNG\r\n\x1a\n")
            assert image.endswith(b"IEND\xaeB`\x82")
        if mime == "image/svg+xml":
            assert value.rstrip().endswith("</svg>")


# --- tables ------------------------------------------------------------------------------------


def test_a_table_is_text_and_html_and_data_in_one_result(shown: dict[str, Execution]) -> None:
    """With its schema; a missing value is null."""
    result = only(shown["frame"])
    assert result.formats() == ["text", "html"]
    assert result.text == "   n    t\n0  1    a\n1  2  NaN"
    assert "<table" in str(result.html)
    assert [field["name"] for field in result.table["schema"]["fields"]] == ["index", "n", "t"]
    assert result.table["data"] == [
        {"index": 0, "n": 1, "t": "a"},
        {"index": 1, "n": 2, "t": None},
    ]


def test_a_long_table_sends_its_head_and_says_how_long_it_is(
    shown: dict[str, Execution],
) -> None:
    """So that nobody takes the head for the whole."""
    result = only(shown["long frame"])
    assert len(result.table["data"]) == 1000
    assert result.metadata[TABLE] == {"rows": 5000, "rows_kept": 1000}


def test_a_table_that_cannot_be_data_is_shown_all_the_same(shown: dict[str, Execution]) -> None:
    """As text and HTML."""
    result = only(shown["odd frame"])
    assert result.formats() == ["text", "html"]
    assert result.table is None


def test_a_series_is_text_and_data(shown: dict[str, Execution]) -> None:
    """Its name is the column's."""
    assert only(shown["series"]).table["data"] == [
        {"index": 0, "s": 1.5},
        {"index": 1, "s": None},
    ]


# --- figures of matplotlib ---------------------------------------------------------------------


def test_a_figure_is_an_image_and_a_chart_in_one_result(shown: dict[str, Execution]) -> None:
    """The image is a PNG; the chart has title, labels, units, scales and series."""
    result = only(shown["line"])
    assert result.formats() == ["text", "png", "chart"]
    assert base64.b64decode(str(result.png)).startswith(b"\x89PNG\r\n\x1a\n")
    line = chart(shown["line"])
    assert (line.type, line.title, line.library) == ("line", "A ride", "matplotlib")
    assert (line.x.label, line.x.unit, line.x.scale) == ("time (s)", "s", "linear")
    assert (line.y.label, line.y.unit, line.y.scale) == ("speed [m/s]", "m/s", "log")
    assert line.elements == [
        {"label": "speed", "points": [[1, 3.0], [2, None], [3, 2.5]]},
        {"label": "limit", "points": [[1, 1], [2, 1]]},
    ]
    assert len(line.x.ticks) == len(line.x.tick_labels) > 0


@pytest.mark.parametrize("name", ["dates", "pandas dates"])
def test_times_are_told_in_words_of_iso_8601(shown: dict[str, Execution], name: str) -> None:
    """Not as the numbers that matplotlib draws them at."""
    line = chart(shown[name])
    assert line.x.scale == "datetime"
    days = [point[0][:10] for point in line.elements[0]["points"]]
    assert days[:2] == ["2026-01-01", "2026-01-02"]


def test_dots_are_a_scatter_however_they_were_drawn(shown: dict[str, Execution]) -> None:
    """With `scatter`, or with `plot` and no line."""
    scatter = chart(shown["scatter"])
    assert scatter.type == "scatter"
    assert {"label": "dots", "points": [[1, 3], [2, 4]]} in scatter.elements
    assert {"label": "mark", "points": [[5, 6]]} in scatter.elements


def test_bars_have_name_group_and_value(shown: dict[str, Execution]) -> None:
    """Stacked ones their own height."""
    bars = chart(shown["bar"])
    assert (bars.type, bars.x.scale) == ("bar", "categorical")
    assert [(bar["label"], bar["group"], bar["value"]) for bar in bars.elements] == [
        ("a", "left", 1),
        ("b", "left", 2),
        ("a", "right", 3),
        ("b", "right", 4),
    ]
    across = chart(shown["horizontal bar"])
    assert [(bar["label"], bar["value"]) for bar in across.elements] == [("a", 1), ("b", 2)]
    assert all(bar["horizontal"] for bar in across.elements)


def test_a_histogram_has_its_bins(shown: dict[str, Execution]) -> None:
    """As they were counted, whatever it is drawn with."""
    histogram = chart(shown["histogram"])
    assert histogram.type == "histogram"
    assert histogram.elements == [{"label": "h", "bins": [[1, 2, 2], [2, 3, 1], [3, 4, 1]]}]
    steps = chart(shown["step histogram"])
    assert steps.type == "histogram"
    assert [[count for _, _, count in one["bins"]] for one in steps.elements] == [[2, 1], [0, 3]]


def test_boxes_have_their_quartiles(shown: dict[str, Execution]) -> None:
    """And what lies outside of the whiskers."""
    boxes = chart(shown["box"])
    assert boxes.type == "box_and_whisker"
    assert boxes.elements[0] == {
        "label": "one",
        "min": 1,
        "first_quartile": 2,
        "median": 3,
        "third_quartile": 4,
        "max": 4,
        "outliers": [100],
    }
    assert boxes.elements[1]["label"] == "two"


def test_a_pie_has_its_slices(shown: dict[str, Execution]) -> None:
    """By angle."""
    pie = chart(shown["pie"])
    assert (pie.type, pie.x) == ("pie", None)
    assert [(one["label"], round(one["angle"])) for one in pie.elements] == [
        ("small", 90),
        ("big", 270),
    ]


def test_a_heatmap_has_its_numbers_and_a_picture_has_none(shown: dict[str, Execution]) -> None:
    """The bar that explains the colours is no chart of its own."""
    heatmap = chart(shown["heatmap"])
    assert (heatmap.type, heatmap.elements[0]["values"]) == ("heatmap", [[1, 2], [3, 4]])
    picture = chart(shown["picture"])
    assert (picture.type, picture.unread) == ("unknown", ["AxesImage"])


def test_several_axes_or_kinds_are_a_superchart(shown: dict[str, Execution]) -> None:
    """One chart for each kind of series in each of the axes."""
    several = chart(shown["several"])
    assert (several.type, several.title) == ("superchart", "both")
    assert [one.type for one in several.elements] == ["bar", "line", "pie"]
    assert several.elements[2].title == "all"


@pytest.mark.parametrize(
    ("name", "unread"), [("contour", ["QuadContourSet"]), ("3d", ["3d"]), ("hostile axes", [])]
)
def test_what_cannot_be_read_is_unknown_and_has_its_image(
    shown: dict[str, Execution], name: str, unread: list[str]
) -> None:
    """Nothing is made up."""
    result = only(shown[name])
    assert result.chart is not None
    assert (result.chart.type, result.chart.elements) == ("unknown", [])
    assert result.chart.unread == unread
    assert result.png


def test_a_chart_of_many_points_is_thinned_out_and_says_so(shown: dict[str, Execution]) -> None:
    """Evenly, to 10 000."""
    line = chart(shown["many points"])
    assert (line.points_total, line.points_kept) == (50_000, 10_000)
    assert line.elements[0]["points"][:2] == [[0, 0], [5, 5]]


def test_figures_come_in_order_before_the_value(shown: dict[str, Execution]) -> None:
    """The value of the last expression is known before its cell's figures are drawn."""
    results = shown["two figures"].results
    assert [result.png is not None for result in results] == [False, True, True]
    widths = [int.from_bytes(base64.b64decode(str(one.png))[16:20], "big") for one in results[1:]]
    assert widths[0] < widths[1]


def test_a_figure_is_svg_when_asked(shown: dict[str, Execution]) -> None:
    """Instead of the PNG or besides, in the same result."""
    assert only(shown["svg"]).formats() == ["text", "svg", "chart"]
    assert "<svg" in str(only(shown["svg"]).svg)
    assert only(shown["both"]).formats() == ["text", "svg", "png", "chart"]


# --- Plotly, Altair, Bokeh ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plotly", "plotly show"])
def test_a_figure_of_plotly_is_its_data_and_html_in_one_result(
    shown: dict[str, Execution], name: str
) -> None:
    """Without the 5 MB of JavaScript that a page would get."""
    result = only(shown[name])
    assert result.formats() == ["text", "html", "chart"]
    assert len(str(result.html)) < 50_000
    assert result.data[PLOTLY]["data"][0]["type"] == "scatter"
    assert result.is_main_result == (name == "plotly")
    line = chart(shown[name])
    assert (line.type, line.title, line.library) == ("line", "t", "plotly")
    assert (line.x.label, line.x.unit, line.x.scale) == ("time (s)", "s", "linear")
    assert line.elements == [{"label": "", "points": [[1, 3], [2, 1], [3, 2]]}]


def test_all_kinds_of_plotly_are_read(shown: dict[str, Execution]) -> None:
    """What its JavaScript would count or average is left as it is: samples."""
    several = chart(shown["plotly kinds"])
    kinds = {one.type: one for one in several.elements}
    assert kinds.keys() == {"bar", "scatter", "histogram", "box_and_whisker", "pie", "heatmap"}
    assert kinds["bar"].elements[0] == {
        "label": "a",
        "group": "bars",
        "value": 1,
        "horizontal": False,
    }
    assert kinds["bar"].x.scale == "categorical"
    assert kinds["histogram"].elements[0]["samples"] == [1, 1, 2]
    assert kinds["box_and_whisker"].elements[0]["samples"] == [1, 2, 9]
    assert kinds["pie"].elements == [{"label": "p", "value": 1}, {"label": "q", "value": 3}]
    assert kinds["heatmap"].elements[0]["values"] == [[0, 1, 2], [3, 4, 5]]
    assert several.unread == ["sunburst"]


def test_a_chart_of_altair_is_its_specification_and_html(shown: dict[str, Execution]) -> None:
    """With its data in it."""
    result = only(shown["altair"])
    assert result.formats() == ["text", "html", "chart"]
    (spec,) = (value for mime, value in result.data.items() if "vegalite" in mime)
    assert spec["mark"]["type"] == "bar"
    bars = chart(shown["altair"])
    assert (bars.type, bars.title, bars.library) == ("bar", "sizes", "altair")
    assert (bars.y.label, bars.y.unit, bars.y.scale) == ("size (cm)", "cm", "linear")
    assert [(bar["label"], bar["value"]) for bar in bars.elements] == [("x", 1), ("y", 2)]
    points = chart(shown["altair points"])
    assert points.elements == [
        {"label": "k", "points": [[1, 1]]},
        {"label": "l", "points": [[2, 2]]},
    ]


def test_numbers_that_are_made_elsewhere_are_not_made_up(shown: dict[str, Execution]) -> None:
    """A mean is computed by Vega where it is drawn; type and labels are known here."""
    bars = chart(shown["altair computed"])
    assert (bars.type, bars.elements, bars.unread) == ("bar", [], ["aggregate"])
    assert bars.y.label == "mean(size (cm))"
    assert [one.type for one in chart(shown["altair layers"]).elements] == ["line", "scatter"]


def test_a_figure_of_bokeh_is_html(shown: dict[str, Execution]) -> None:
    """It has no data of a chart that could be read."""
    result = only(shown["bokeh"])
    assert result.formats() == ["text", "html"]
    assert result.chart is None


# --- what is too large -------------------------------------------------------------------------


def test_long_text_is_cut_and_other_formats_left_out_and_that_is_said(
    shown: dict[str, Execution],
) -> None:
    """With the size that it had."""
    text = only(shown["long text"])
    assert len(str(text.text)) == 1 << 20
    assert text.capped == {"text/plain": 3_000_002}
    html = only(shown["long html"])
    assert (html.html, html.text) == (None, "short")
    assert html.capped == {"text/html": 20_000_000}


def test_a_long_message_of_an_error_is_cut(shown: dict[str, Execution]) -> None:
    """No character is halved, and its size is told."""
    error = shown["long error"].error
    assert error is not None
    assert error.value == "é" * (32 << 10) + " [2000000 bytes, cut]"
    assert len(error.traceback) < 70_000
