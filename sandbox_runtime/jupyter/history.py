"""The cells of a kernel's life, for front ends that leaf through them."""

from __future__ import annotations

import fnmatch
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox_runtime.jupyter.messages import Request

_KEPT_CELLS = 1000
_SESSION = 0


class History:
    """The newest cells, each with its number."""

    def __init__(self) -> None:
        self._cells: deque[tuple[int, str]] = deque(maxlen=_KEPT_CELLS)

    def add(self, count: int, code: str) -> None:
        """Remembers a cell."""
        self._cells.append((count, code))

    def clear(self) -> None:
        """Forgets all of them, before their numbers come again."""
        self._cells.clear()

    def asked(self, request: Request) -> list[tuple[int, int, str]]:
        """What a `history_request` asks for: session, number, code."""
        cells = list(self._cells)
        kind = request.text("hist_access_type")
        if kind == "range":
            start, stop = request.number("start", 0), request.number("stop", 1 << 31)
            cells = [cell for cell in cells if start <= cell[0] < stop]
        elif kind == "search":
            pattern = request.text("pattern") or "*"
            cells = [cell for cell in cells if fnmatch.fnmatchcase(cell[1], pattern)]
        if kind != "range":
            most = max(0, request.number("n", _KEPT_CELLS))
            cells = cells[len(cells) - most :] if most < len(cells) else cells
        return [(_SESSION, count, code) for count, code in cells]
