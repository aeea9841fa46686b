"""The pool: contexts that are forked before they are asked for.

A context leaves the pool once and never returns. The pool is of one sandbox, since a context's
jail is; what it may hold is decided by `plan`, which does nothing itself.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandbox_runtime.interpreters.contexts import Context


def plan(*, size: int, ready: int, coming: int) -> int:
    """How many contexts to begin now, so that `size` are ready in a while."""
    return max(0, size - ready - coming)


class Pool:
    """Contexts of one sandbox, ready to be claimed."""

    def __init__(
        self, open_context: Callable[[], Awaitable[Context]], size: int, nursery: trio.Nursery
    ) -> None:
        self._open_context = open_context
        self._size = size
        self._nursery = nursery
        self._ready: deque[Context] = deque()
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
                context = await self._open_context()
                if self._closed:
                    await context.aclose()
                else:
                    self._ready.append(context)
        finally:
            self._coming -= 1
            self._changed.set()
            self._changed = trio.Event()

    async def wait_full(self) -> None:
        """Waits until nothing more is coming."""
        self.refill()
        while self._coming:
            await self._changed.wait()

    def claim(self) -> Context | None:
        """Takes a context that is ready, if there is one; another is begun in its place."""
        while self._ready:
            context = self._ready.popleft()
            if context.look():
                self.refill()
                return context
            self._nursery.start_soon(context.aclose)
        self.refill()
        return None

    async def aclose(self) -> None:
        """Ends what is ready, and what is still coming as soon as it comes."""
        self._closed = True
        while self._ready:
            await self._ready.popleft().aclose()
