"""Charts in the shape that clients of E2B's code interpreter read, from real figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sandbox_runtime import Runtime, open_sandbox
from sandbox_runtime.interpreters.chart_shapes import as_e2b

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox_runtime import Context

AXES = {"x_label", "x_unit", "y_label", "y_unit"}
TICKS = {f"{side}_{what}" for side in "xy" for what in ("ticks", "tick_labels", "scale")}


@pytest.fixture
async def context(runtime: Runtime) -> AsyncIterator[Context]:
    """Draws with matplotlib."""
    async with open_sandbox(runtime=runtime, python_pool=0) as sandbox:
        yield await sandbox.contexts.create()


async def shape(context: Context, code: str) -> dict[str, Any]:
    """The figure that some code draws."""
    execution = await context.run(f"import matplotlib.pyplot as plt\n{code}", deadline_s=60)
    assert execution.error is None
    (chart,) = [one.chart for one in execution.results if one.chart is not None]
    return as_e2b(chart)


async def test_what_the_shape_knows_comes_with_its_own_fields(context: Context) -> None:
    """Lines, points, bars, boxes and slices."""
    line = await shape(
        context,
        "plt.plot([1, 2], [3, 4], label='a')\nplt.title('T')\n"
        "plt.xlabel('time (s)'); plt.ylabel('speed')\nplt.show()",
    )
    assert line.keys() == {"type", "title", "elements"} | AXES | TICKS
    assert (line["type"], line["title"], line["x_label"], line["x_unit"]) == (
        "line",
        "T",
        "time (s)",
        "s",
    )
    assert line["elements"] == [{"label": "a", "points": [[1.0, 3.0], [2.0, 4.0]]}]
    scatter = await shape(context, "plt.scatter([1, 2], [3, 4])\nplt.show()")
    assert scatter["type"] == "scatter"
    assert scatter["elements"][0]["points"] == [[1.0, 3.0], [2.0, 4.0]]
    bar = await shape(context, "plt.bar(['x', 'y'], [1, 2], label='g')\nplt.show()")
    assert bar.keys() == {"type", "title", "elements"} | AXES
    assert bar["elements"] == [
        {"label": "x", "group": "g", "value": 1},
        {"label": "y", "group": "g", "value": 2},
    ]
    box = await shape(context, "plt.boxplot([1, 2, 3, 4, 100])\nplt.show()")
    assert box["type"] == "box_and_whisker"
    (element,) = box["elements"]
    assert (element["median"], element["outliers"]) == (3.0, [100.0])
    pie = await shape(context, "plt.pie([1, 3], labels=['a', 'b'])\nplt.show()")
    assert [(one["label"], round(one["angle"])) for one in pie["elements"]] == [
        ("a", 90),
        ("b", 270),
    ]


async def test_what_it_does_not_know_is_told_as_what_comes_nearest(context: Context) -> None:
    """Bins as bars, several axes as charts of their own, and a heatmap as unknown."""
    histogram = await shape(context, "plt.hist([1, 1, 2], bins=2)\nplt.show()")
    assert histogram["type"] == "bar"
    assert [one["value"] for one in histogram["elements"]] == [2, 1]
    heatmap = await shape(context, "plt.imshow([[1, 2], [3, 4]])\nplt.show()")
    assert (heatmap["type"], heatmap["elements"]) == ("unknown", [])
    both = await shape(
        context, "f, (a, b) = plt.subplots(1, 2)\na.plot([1, 2])\nb.bar(['x'], [1])\nplt.show()"
    )
    assert both["type"] == "superchart"
    assert [one["type"] for one in both["elements"]] == ["line", "bar"]
