"""What is made before it is asked for: taken once, never given back, made again when nobody works.

A standby holds a small number of one kind of thing. Whoever takes one owns it. Another is made in
its place, one at a time, in the background: once nobody has taken one for a moment and no work
is going on, unless that takes too long, for the processor is the users'. What died meanwhile is
ended and not handed out. When it is closed, or its nursery has ended, none is made any more. If
making fails, nothing is tried again until somebody asks: who asks makes one by himself then, and is
told why it fails.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import trio

from sandbox_runtime.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_CALM_S = 0.02
_PATIENCE_S = 1.0


class Prepared(Protocol):
    """One thing that waits for its owner."""

    @property
    def alive(self) -> bool:
        """Whether it can be handed out, looked at now."""
        ...

    async def aclose(self) -> None:
        """Ends it."""


T = TypeVar("T", bound=Prepared)


class Work:
    """Counts what runs at present; a block of it is one piece of work."""

    def __init__(self) -> None:
        self._pieces = 0
        self._over: trio.Event | None = None

    def __enter__(self) -> None:
        self._pieces += 1

    def __exit__(self, *_exc: object) -> None:
        self._pieces -= 1
        if not self._pieces and self._over is not None:
            self._over.set()
            self._over = None

    async def wait_quiet(self) -> None:
        """Waits until nothing runs."""
        while self._pieces:
            if self._over is None:
                self._over = trio.Event()
            await self._over.wait()


class Standby(Generic[T]):
    """Things of one kind that are ready, and those that are being made.

    Args:
        make: Makes one.
        count: How many are kept ready; 0 is none ever.
        nursery: Makes them in the background.
        work: What is not to be disturbed.
    """

    def __init__(
        self, make: Callable[[], Awaitable[T]], *, count: int, nursery: trio.Nursery, work: Work
    ) -> None:
        self._make = make
        self._count = count
        self._nursery = nursery
        self._work = work
        self._ready: deque[T] = deque()
        self._coming: trio.Event | None = None
        self._awaited = False
        self._full = trio.Event()
        self._full.set()
        self._rest: trio.CancelScope | None = None
        self._missing_since_s = math.inf
        self._closed = False

    @property
    def ready(self) -> int:
        """How many wait for an owner."""
        return len(self._ready)

    async def take(self) -> T | None:
        """Hands one out, also one that will be there in a moment; None if there is none.

        Another is not begun by this, see `refill`.
        """
        if (thing := self._claim()) is not None:
            return thing
        if self._coming is None or self._awaited:
            return None
        self._awaited = True
        try:
            await self._coming.wait()
        finally:
            self._awaited = False
        return self._claim()

    def _claim(self) -> T | None:
        while self._ready and not self._closed:
            thing = self._ready.popleft()
            if thing.alive:
                return thing
            if not self._start_soon(thing.aclose):
                self._ready.appendleft(thing)  # `aclose` ends it
        return None

    def _start_soon(self, task: Callable[..., Awaitable[object]], *args: object) -> bool:
        """Begins a task, unless the nursery has ended: then nothing is made any more."""
        try:
            self._nursery.start_soon(task, *args)
        except RuntimeError:  # it is closed to new tasks
            self._stop()
            return False
        return True

    def _stop(self) -> None:
        self._closed = True
        self._full.set()

    def add(self, thing: T) -> None:
        """Has one wait for its owner that somebody else has made, besides those that are kept."""
        self._ready.append(thing)

    def begin(self, make: Callable[[], Awaitable[T]]) -> None:
        """Makes one at once, in this way, besides those that are to be kept ready."""
        self._coming = coming = trio.Event()
        self._nursery.start_soon(self._add, make, coming)

    def refill(self) -> None:
        """Has those made that are missing, as soon as that disturbs nobody.

        This only sets an alarm: whoever has just taken one is to run on at once.
        """
        if not self._missing:
            return
        now_s = trio.current_time()
        if self._full.is_set():
            self._full = trio.Event()
            self._missing_since_s = now_s
        alarm_s = min(now_s + _CALM_S, self._missing_since_s + _PATIENCE_S)
        if self._rest is None:
            self._rest = trio.CancelScope(deadline=alarm_s)
            self._start_soon(self._keep_full, self._rest)
        else:
            self._rest.deadline = alarm_s

    @property
    def _missing(self) -> bool:
        return not self._closed and len(self._ready) + (self._coming is not None) < self._count

    async def _keep_full(self, rest: trio.CancelScope) -> None:
        try:
            while True:
                with rest:
                    await trio.sleep_forever()
                with trio.move_on_at(self._missing_since_s + _PATIENCE_S):
                    await self._work.wait_quiet()
                rest = self._rest = trio.CancelScope()
                while self._missing:
                    self._coming = coming = trio.Event()
                    if not await self._add(self._make, coming):
                        break
                self._full.set()
        finally:  # with its nursery
            self._stop()

    async def _add(self, make: Callable[[], Awaitable[T]], coming: trio.Event) -> bool:
        try:
            with contextlib.suppress(SandboxError, OSError):
                thing = await make()
                if self._closed:
                    await thing.aclose()
                    return False
                self._ready.append(thing)
                return True
            return False
        finally:
            self._coming = None
            coming.set()

    async def wait_full(self) -> None:
        """Waits until those that were asked for are ready, or will not be made."""
        if self._coming is not None:
            await self._coming.wait()
        await self._full.wait()

    async def aclose(self) -> None:
        """Ends what is ready, and what is being made as soon as it is."""
        self._stop()
        while self._ready:
            await self._ready.popleft().aclose()
