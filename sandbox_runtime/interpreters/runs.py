"""What one run has said so far, put together from its frames."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from sandbox_runtime.interpreters.execution import ExecutionError, Result

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandbox_runtime.interpreters.frames import Frame

    ResultHandler = Callable[[Result], Awaitable[None] | None]
    ClearHandler = Callable[[bool], Awaitable[None] | None]

OF_A_RUN = frozenset({"display", "update_display", "result", "clear_output", "error", "done"})
"""The types of frames that belong to a run."""


class Run:
    """The results and the error of one run.

    Args:
        on_result: Hears of each result.
        limit_bytes: How much of all results together is kept.
        on_clear: Hears when the code clears what it has shown.
        silent: Whether the value of the last expression is no result.
        history: Whether the interpreter remembers the run and counts it.
    """

    def __init__(
        self,
        on_result: ResultHandler | None,
        limit_bytes: int,
        on_clear: ClearHandler | None = None,
        *,
        silent: bool = False,
        history: bool = True,
    ) -> None:
        self._on_result = on_result
        self._on_clear = on_clear
        self.silent = silent
        self.history = history and not silent
        self._room_bytes = self._limit_bytes = limit_bytes
        self.results: list[Result] = []
        self.dropped = 0
        self.error: ExecutionError | None = None
        self.done: Frame | None = None

    @property
    def calls_back(self) -> bool:
        """Whether somebody is to hear each result."""
        return self._on_result is not None

    def mute(self) -> None:
        """Calls nobody back from here on."""
        self._on_result = self._on_clear = None

    def note(self, frame: Frame, size_bytes: int) -> Awaitable[None] | None:
        """Takes one frame of this run, and how much memory it takes, about.

        Returns:
            What is to be awaited before the next one, if anything.
        """
        handled: Awaitable[None] | None = None
        match frame.type:
            case "result" if self.silent:
                pass
            case "display" | "update_display" | "result" as kind:
                result = Result(
                    data=frame.data or {},
                    metadata=frame.metadata or {},
                    capped=frame.capped or {},
                    is_main_result=kind == "result",
                    display_id=None if frame.display_id is None else str(frame.display_id),
                    is_update=kind == "update_display",
                )
                self._room_bytes -= size_bytes
                if self._room_bytes >= 0:
                    self.results.append(result)
                else:
                    self.dropped += 1
                if self._on_result is not None:
                    handled = self._on_result(result)
            case "clear_output":
                self.results.clear()
                self._room_bytes, self.dropped = self._limit_bytes, 0
                if self._on_clear is not None:
                    handled = self._on_clear(bool(frame.wait))
            case "error":
                self.error = ExecutionError(
                    name=str(frame.name),
                    value=str(frame.value),
                    traceback="\n".join(map(str, frame.traceback or ())),
                )
            case "done":
                self.done = frame
        return handled if handled is not None and inspect.isawaitable(handled) else None
