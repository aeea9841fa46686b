"""The pool: interpreters that are made before they are asked for.

An interpreter leaves the pool once and never returns. The pool is of one sandbox, since its
interpreters' jails are; what it may hold is decided by `plan`, which does nothing itself.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandbox_runtime.interpreters.interpreter import Interpreter


def plan(*, size: int, ready: int, coming: int) -> int:
    """How many to begin now, so that `size` are ready in a while."""
    return max(0, size - ready - coming)


class Pool:
    """Interpreters of one sandbox, ready to be claimed."""

    def __init__(
        self, open_one: Callable[[], Awaitable[Interpreter]], size: int, nursery: trio.Nursery
    ) -> None:
        self._open_one = open_one
        self._size = size
        self._nursery = nursery
        self._ready: deque[Interpreter] = deque()
        self._coming = 0
        self._closed = False
        self._changed = trio.Event()

    @property
    def ready(self) -> int:
        """How many wait to be claimed."""
        return len(self._ready)

    def refill(self) -> None:
        """Begins what is missing, in the background."""
        for _ in range(plan(size=self._size, ready=len(self._ready), coming=self._coming)):
            self._coming += 1
            self._nursery.start_soon(self._add)

    async def _add(self) -> None:
        try:
            # Whoever claims next makes the attempt itself, and gets to see why it fails.
            with contextlib.suppress(SandboxError, OSError):
                interpreter = await self._open_one()
                if self._closed:
                    await interpreter.aclose()
                else:
                    self._ready.append(interpreter)
        finally:
            self._coming -= 1
            self._changed.set()
            self._changed = trio.Event()

    async def wait_full(self) -> None:
        """Waits until nothing more is coming."""
        self.refill()
        while self._coming:
            await self._changed.wait()

    def claim(self) -> Interpreter | None:
        """Takes an interpreter that is ready, if there is one; another is begun in its place."""
        while self._ready:
            interpreter = self._ready.popleft()
            if interpreter.look():
                self.refill()
                return interpreter
            self._nursery.start_soon(interpreter.aclose)
        self.refill()
        return None

    async def aclose(self) -> None:
        """Ends what is ready, and what is still coming as soon as it comes."""
        self._closed = True
        while self._ready:
            await self._ready.popleft().aclose()
