"""What a run of code gave. The names are those that users of code interpreters know."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from sandbox_runtime.choices import DeathCause, RunEnded
from sandbox_runtime.interpreters.chart_reading import chart_of
from sandbox_runtime.receipts import Receipt

if TYPE_CHECKING:
    from sandbox_runtime.interpreters.charts import Chart

TracebackStyle = Literal["plain", "ipython", "color"]
"""How an error is shown: as Python does, as IPython does, or likewise in a terminal's colours."""

TABLE_MIME = "application/vnd.dataresource+json"

_FORMATS = {
    "text": "text/plain",
    "html": "text/html",
    "markdown": "text/markdown",
    "svg": "image/svg+xml",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "latex": "text/latex",
    "json": "application/json",
    "javascript": "application/javascript",
}
SHORT_NAMES = {mime: name for name, mime in _FORMATS.items()}
"""What users call a format, by its MIME type."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was shown, in all the formats it has.

    Attributes:
        data: By MIME type; images as base64, JSON as objects, all else as text.
        metadata: By MIME type, what the object said of it.
        is_main_result: Whether it is the value of the last expression.
        display_id: Set when it may be updated later.
        is_update: Whether it replaces the earlier result with the same `display_id`.
        capped: Formats that were too large, by MIME type, with their full sizes in bytes. Text is
            cut off after 1 MiB; others are left out from 16 MiB on, and what is no text also beyond
            4 MiB, 50 000 values or 100 levels.
    """

    data: dict[str, Any]
    metadata: dict[str, Any] = {}
    is_main_result: bool = False
    display_id: str | None = None
    is_update: bool = False
    capped: dict[str, int] = {}

    def formats(self) -> list[str]:
        """The short names of the formats it has, e.g. `["text", "html"]`."""
        names = [name for name, mime in _FORMATS.items() if mime in self.data]
        return [*names, "chart"] if self.chart is not None else names

    @property
    def chart(self) -> Chart | None:
        """What a picture shows, as data: of matplotlib, Plotly or Vega-Lite (Altair)."""
        return chart_of(self.data)

    @property
    def table(self) -> Any:
        """A table of pandas as data: `schema` and the first rows as `data` (Table Schema)."""
        return self.data.get(TABLE_MIME)

    @property
    def text(self) -> str | None:
        """text/plain."""
        return self.data.get("text/plain")

    @property
    def html(self) -> str | None:
        """text/html."""
        return self.data.get("text/html")

    @property
    def markdown(self) -> str | None:
        """text/markdown."""
        return self.data.get("text/markdown")

    @property
    def svg(self) -> str | None:
        """image/svg+xml."""
        return self.data.get("image/svg+xml")

    @property
    def png(self) -> str | None:
        """image/png, base64."""
        return self.data.get("image/png")

    @property
    def jpeg(self) -> str | None:
        """image/jpeg, base64."""
        return self.data.get("image/jpeg")

    @property
    def latex(self) -> str | None:
        """text/latex."""
        return self.data.get("text/latex")

    @property
    def json(self) -> Any:
        """application/json."""
        return self.data.get("application/json")

    @property
    def javascript(self) -> str | None:
        """application/javascript."""
        return self.data.get("application/javascript")


class ExecutionError(msgspec.Struct, frozen=True, kw_only=True):
    """What the code raised.

    Attributes:
        name: The exception's class.
        value: Its message.
        traceback: As the interpreter shows it, without our own frames.
    """

    name: str
    value: str
    traceback: str


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """How an interpreter came to its end.

    Attributes:
        cause: It exited (`os._exit`); a signal ended it (a crash, `kill`); the kernel did because
            the sandbox had no memory left; or we did, as user code had spoken in its name what
            cannot be understood.
        exit_code: 0 to 255, if it exited.
        signal: The number of the signal, if one ended it.
    """

    cause: DeathCause
    exit_code: int | None = None
    signal: int | None = None


class Logs(msgspec.Struct, frozen=True, kw_only=True):
    """What the code printed, as text.

    Attributes:
        stdout: In pieces as they came.
        stderr: Likewise.
    """

    stdout: list[str]
    stderr: list[str]


class Execution(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended.

    Attributes:
        results: What was shown, in order, and last the value of the last expression, up to the
            limit.
        stdout: What was printed, byte for byte, up to the limit.
        stderr: Likewise.
        stdout_bytes: How much was printed in all.
        stderr_bytes: Likewise.
        error: What was raised, or None.
        ended: Why it is over.
        state_survived: Whether the next run finds the variables of this one. After a deadline the
            code is interrupted, and they are there; if it does not give way the context is ended.
        death: How the interpreter ended, if it did and that is known.
        execution_count: The number of the run in its context.
        receipt: What it cost.
        results_dropped: How many results were beyond the limit.
    """

    results: list[Result]
    stdout: bytes
    stderr: bytes
    stdout_bytes: int
    stderr_bytes: int
    error: ExecutionError | None
    ended: RunEnded
    state_survived: bool
    execution_count: int | None
    receipt: Receipt
    death: Death | None = None
    results_dropped: int = 0

    @property
    def text(self) -> str | None:
        """The main result as text."""
        for result in self.results:
            if result.is_main_result:
                return result.text
        return None

    @property
    def logs(self) -> Logs:
        """What was printed, line by line."""
        return Logs(
            stdout=self.stdout.decode(errors="replace").splitlines(keepends=True),
            stderr=self.stderr.decode(errors="replace").splitlines(keepends=True),
        )

    @property
    def truncated(self) -> bool:
        """Whether more was printed or shown than is kept."""
        return (
            len(self.stdout) < self.stdout_bytes
            or len(self.stderr) < self.stderr_bytes
            or self.results_dropped > 0
        )
