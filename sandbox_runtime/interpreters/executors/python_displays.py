"""How the libraries that people plot and compute with are shown: every format they have, once.

What a library does for a notebook page is often no good here: it injects its whole JavaScript, asks
for packages, or opens a window. Each adapter below says what its library's objects are shown as.
They apply by name, so that a library is imported when the user does it, and not before.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import operator
import os
import re
import sys
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from IPython.core.formatters import (
    BaseFormatter,
    DisplayFormatter,
    IPythonDisplayFormatter,
    PlainTextFormatter,
)
from IPython.core.pylabtools import print_figure

from .python_cells import trait
from .python_charts import describe_figure, note_statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from .python_shell import Shell

Bundle = dict[str, Any]

CHART = "application/vnd.sandbox.chart+json"
TABLE = "application/vnd.dataresource+json"
PLOTLY = "application/vnd.plotly.v1+json"

MOST_ROWS = 1000
"""How many rows of a table are sent as data; its text and HTML are as pandas makes them."""
_MOST_CELLS = 50_000

_VEGA_VERSION = re.compile(r"/vega-lite/v(\d+)")


# --- what is shown -----------------------------------------------------------------------------


_PLAIN_TYPES = frozenset({bool, bytes, complex, dict, float, int, list, set, str, tuple})
"""What has no format but text, unless somebody has registered one."""
_EMPTY: dict[Any, Any] = {}
_OBJECT, _INT = ("builtins", "object"), ("builtins", "int")
_SHORT_TYPES = frozenset({bool, int, str})
_usual_printers: dict[Any, Any] = {}
"""How IPython's text formatter shows the types whose text is their `repr`, unless it is told."""


_registries = operator.itemgetter("type_printers", "deferred_printers", "singleton_printers")


def _told_to(formatters: Iterable[Any]) -> list[dict[str, Any]] | None:
    """What formatters but that of text were told of; None if it cannot be known of one."""
    told = []
    for formatter in formatters:
        if not isinstance(formatter, BaseFormatter):
            return None
        if formatter.__class__ is not PlainTextFormatter:
            for name in ("type_printers", "deferred_printers", "singleton_printers"):
                getattr(formatter, name)  # which is there from then on
            told.append(formatter._trait_values)  # noqa: SLF001
    return told


class Displays(DisplayFormatter):
    """All formats of an object."""

    _looked_at: tuple[Any, ...] = ()
    _told: list[dict[str, Any]] | None = None

    def format(self, obj: Any, include: Any = None, exclude: Any = None) -> tuple[Bundle, Bundle]:
        if not include and not exclude and type(obj) in _PLAIN_TYPES and self._only_text(obj):
            printer = self.formatters["text/plain"]
            text = short_text(obj, printer) or printer(obj)
            data: Bundle = {} if text is None else {"text/plain": text}
            metadata: Bundle = {}
        else:
            data, metadata = super().format(obj, include=include, exclude=exclude)
        if not include and ("image/png" in data or "image/svg+xml" in data) and _is_figure(obj):
            data[CHART] = describe_figure(obj)
        if not include and type(obj) in {dict, list} and (plain := _as_json(obj)) is not None:
            data.setdefault("application/json", plain)
        return data, metadata

    def _only_text(self, obj: Any) -> bool:
        """Whether no other formatter was told of it: asking them all is a third of a short cell."""
        formatters = (
            trait(self, "ipython_display_formatter"),
            trait(self, "mimebundle_formatter"),
            *trait(self, "formatters").values(),
        )
        if formatters != self._looked_at:
            self._looked_at, self._told = formatters, _told_to(formatters)
        if self._told is None:
            return False  # one is of somebody's own making
        kind = type(obj)
        named = {kind, object, (kind.__module__, kind.__name__), _OBJECT, id(obj)}
        if kind is bool:
            named |= {int, _INT}
        # Most know of nothing at all.
        known = filter(None, chain.from_iterable(map(_registries, self._told)))
        return all(registry.keys().isdisjoint(named) for registry in known)


def short_text(obj: Any, printer: Any) -> str | None:
    """The text of a number or a string, without asking a pretty-printer; None if that must be."""
    kind = type(obj)
    if kind not in _SHORT_TYPES or printer.__class__ is not PlainTextFormatter:
        return None
    told, as_repr = printer._trait_values, _usual_printers[int]  # noqa: SLF001
    printers = told.get("type_printers", _EMPTY)
    if (
        printers.get(kind) is not _usual_printers[kind]
        or printers.get(int) is not as_repr
        or told.get("singleton_printers", _EMPTY).get(id(obj), as_repr) is not as_repr
        or ("builtins", kind.__name__) in told.get("deferred_printers", _EMPTY)
    ):
        return None
    try:
        return repr(obj)
    except ValueError:  # more digits than Python writes: the printer tells of it
        return None


def _as_json(obj: Any) -> Any:
    """A dictionary or list as JSON has it; None if it holds what JSON has not, as sets or NaN."""
    try:
        return json.loads(json.dumps(obj, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        return None


class _OwnDisplay(IPythonDisplayFormatter):
    """Objects that show themselves, but for those that an adapter shows better."""

    def __call__(self, obj: Any) -> Any:
        if any(_name(cls) in _ADAPTED for cls in type(obj).__mro__):
            return None
        return super().__call__(obj)


def _name(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__name__


def _is_figure(obj: Any) -> bool:
    return any(_name(cls) == ("matplotlib.figure", "Figure") for cls in type(obj).__mro__)


def plotly_bundle(figure: Any) -> Bundle:
    """A figure of plotly: its data, and a piece of HTML that fetches plotly's JavaScript."""
    return {
        PLOTLY: json.loads(figure.to_json()),
        "text/html": figure.to_html(full_html=False, include_plotlyjs="cdn"),
    }


def vega_bundle(chart: Any) -> Any:
    """A chart of Altair: its specification with its data, and what its renderer makes of it."""
    renderers = sys.modules["altair"].renderers
    try:
        spec = chart.to_dict(context={"pre_transform": False})
    except Exception:  # noqa: BLE001 - its own method tells the user what is wrong
        return chart._repr_mimebundle_()
    rendered = renderers.get()(spec) or {}
    data, metadata = rendered if isinstance(rendered, tuple) else (rendered, {})
    version = _VEGA_VERSION.search(str(spec.get("$schema")))
    if version is not None:
        data = {f"application/vnd.vegalite.v{version[1]}+json": spec, **data}
    return data, metadata


def table_bundle(frame: Any) -> Any:
    """The head of a table as data with its schema; nothing if it cannot be had as that."""
    columns = frame.shape[1] if frame.ndim == 2 else 1
    rows = min(MOST_ROWS, _MOST_CELLS // max(1, columns))
    try:
        if frame.ndim == 2 and not frame.columns.is_unique:
            return {}
        # Times as text: the default writes numbers that lose their zone.
        text = frame.head(rows).to_json(orient="table", date_format="iso", default_handler=str)
        table = json.loads(text)
    except Exception:  # noqa: BLE001 - columns in several levels
        return {}
    table["schema"].pop("pandas_version", None)
    return {TABLE: table}, {TABLE: {"rows": len(frame), "rows_kept": min(rows, len(frame))}}


_BUNDLES: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("plotly.basedatatypes", "BaseFigure"): plotly_bundle,
    ("altair.vegalite.v5.api", "TopLevelMixin"): vega_bundle,
    ("altair.vegalite.v6.api", "TopLevelMixin"): vega_bundle,
    ("pandas", "DataFrame"): table_bundle,
    ("pandas", "Series"): table_bundle,
    ("pandas.core.frame", "DataFrame"): table_bundle,
    ("pandas.core.series", "Series"): table_bundle,
}
_ADAPTED = frozenset({("plotly.basedatatypes", "BaseFigure")})


def adapt_displays(shell: Shell) -> None:
    """Makes a new shell show the libraries' objects as this module says."""
    formatter: Any = Displays(parent=shell)
    shell.display_formatter = formatter
    printers = formatter.formatters["text/plain"].type_printers
    _usual_printers.update({kind: printers.get(kind) for kind in _SHORT_TYPES})
    formatter.ipython_display_formatter = _OwnDisplay(parent=formatter)
    for (module, name), bundle in _BUNDLES.items():
        formatter.mimebundle_formatter.for_type_by_name(module, name, bundle)
    # By name, so that a shell without matplotlib does not import it.
    formatter.formatters["image/png"].for_type_by_name(
        "matplotlib.figure", "Figure", partial(print_figure, fmt="png", base64=True)
    )
    adaptations: dict[str, Callable[[ModuleType], object]] = {
        "matplotlib.pyplot": lambda _: adopt_pyplot(shell),
        "plotly.io": adopt_plotly,
    }
    for imported, adapt in adaptations.items():
        if (found := sys.modules.get(imported)) is not None:
            adapt(found)
    sys.meta_path.insert(0, _AdaptOnImport(adaptations))


# --- when it is imported -----------------------------------------------------------------------


class _AdaptOnImport(importlib.abc.MetaPathFinder):
    """Calls an adapter right after its module was imported."""

    def __init__(self, adaptations: Mapping[str, Callable[[ModuleType], object]]) -> None:
        self._adaptations = adaptations

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._adaptations:
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                break
        else:
            return None
        if spec.loader is None:
            return None
        execute, adapt = spec.loader.exec_module, self._adaptations[name]

        def execute_and_adapt(module: ModuleType) -> None:
            execute(module)
            adapt(module)

        spec.loader.exec_module = execute_and_adapt  # type: ignore[method-assign]
        return spec


def adopt_plotly(plotly_io: Any) -> None:
    """Makes `figure.show()` display here, unless the user has chosen a renderer."""
    from IPython.display import display

    base: Any = importlib.import_module("plotly.io._base_renderers").ExternalRenderer

    class SandboxRenderer(base):  # type: ignore[misc]
        def render(self, fig_dict: Bundle) -> None:
            figure = importlib.import_module("plotly.graph_objects").Figure(
                fig_dict, skip_invalid=True
            )
            display(figure)

    renderers = plotly_io.renderers
    renderers["sandbox"] = SandboxRenderer()
    if not os.environ.get("PLOTLY_RENDERER"):
        renderers.default = "sandbox"


# --- figures of matplotlib ---------------------------------------------------------------------


def adopt_pyplot(shell: Shell) -> None:
    """Makes `plt.show()` and `figure.show()` display a figure and close it."""
    if shell.pyplot_adopted:
        return
    from IPython.display import display
    from matplotlib._pylab_helpers import Gcf
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import FigureManagerBase
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    class InlineManager(FigureManagerBase):
        def show(self) -> None:
            # Closed first: a figure that cannot be drawn must not fail again at the end.
            Gcf.destroy(self)
            display(self.canvas.figure)

    FigureCanvasAgg.manager_class = InlineManager  # type: ignore[method-assign,assignment]
    note_statistics(Axes)
    shell.pyplot_adopted = True


def show_open_figures(shell: Shell, begin: Callable[[], object]) -> None:
    """Displays and closes the figures a cell has left open, in the order of their making.

    Args:
        shell: The one whose cell it was.
        begin: Called before the first of them is drawn.
    """
    if "matplotlib.pyplot" not in sys.modules:
        return
    helpers = sys.modules.get("matplotlib._pylab_helpers")
    if helpers is not None and not helpers.Gcf.figs:
        return
    from IPython.display import display
    from matplotlib._pylab_helpers import Gcf

    shell.user_code_depth += 1  # so that a figure that fails to draw says so on stderr
    try:
        for manager in Gcf.get_all_fig_managers():
            begin()
            Gcf.destroy(manager)
            display(manager.canvas.figure)
    finally:
        shell.user_code_depth -= 1
