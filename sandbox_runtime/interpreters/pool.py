"""The pool: interpreters that are made before they are asked for, and how many there may be.

An interpreter leaves the pool once and never returns. The pool is of one sandbox and one language,
since its interpreters' jails are; what it may hold is decided by `plan`, which does nothing itself.

Theory of operation. A claim takes what is ready and has another made in its place. That waits until
no code runs in the sandbox, for a moment at least: the processor is the users'. A claim that finds
nothing makes its own, and a pool with a limit then keeps one more ready than before, until nobody
has claimed anything for a while. Making fails for reasons that stay (no IPython, no memory), so
after some failures in a row it is not tried for a while, and who asks is told the last reason.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.errors import InterpreterUnavailableError, PoolFullError, SandboxError
from sandbox_runtime.interpreters.breaker import Breaker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandbox_runtime.interpreters.interpreter import Interpreter
    from sandbox_runtime.interpreters.pool_sizes import PoolSize

_PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """What `plan` looks at.

    Attributes:
        size: What was asked for.
        ready: How many wait to be claimed.
        coming: How many are being made for the pool.
        lent: How many have an owner, or are being made for one.
        wished: How many should be ready, after the claims that found none.
        quiet_s: How long nobody has claimed one.
        failing: Whether making one is known to fail at present.
    """

    size: PoolSize
    ready: int
    coming: int
    lent: int
    wished: int
    quiet_s: float
    failing: bool


def plan(state: PoolState) -> tuple[int, int]:
    """How many to begin now, and how many of those that are ready to end."""
    wished = state.size.min
    if state.quiet_s < state.size.idle_s:
        wished = max(wished, state.wished)
    room = math.inf if state.size.max is None else state.size.max - state.lent
    wished = max(0, int(min(wished, room)))
    held = state.ready + state.coming
    begin = 0 if state.failing else max(0, wished - held)
    end = min(state.ready, max(0, held - wished))
    return begin, end


class Pool:
    """Interpreters of one language in one sandbox.

    Args:
        open_one: Makes an interpreter of the usual kind.
        size: How many.
        nursery: Makes them in the background.
        wait_quiet: Waits until no code runs in the sandbox.
    """

    def __init__(
        self,
        open_one: Callable[[], Awaitable[Interpreter]],
        size: PoolSize,
        nursery: trio.Nursery,
        wait_quiet: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._open_one = open_one
        self._size = size
        self._nursery = nursery
        self._wait_quiet = wait_quiet
        self._places = trio.CapacityLimiter(math.inf if size.max is None else size.max)
        self._breaker = Breaker(trio.current_time)
        self._reason = ""
        self._ready: deque[Interpreter] = deque()
        self._coming = 0
        self._wished = size.min
        self._claimed_s = trio.current_time()
        self._idle: trio.CancelScope | None = None
        self._closed = False
        self._changed = trio.Event()

    @property
    def size(self) -> PoolSize:
        """What was asked for."""
        return self._size

    @property
    def ready(self) -> int:
        """How many wait to be claimed."""
        return len(self._ready)

    @property
    def lent(self) -> int:
        """How many have an owner."""
        return self._places.borrowed_tokens

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return self._places.statistics().tasks_waiting

    def _plan(self) -> tuple[int, int]:
        return plan(
            PoolState(
                size=self._size,
                ready=len(self._ready),
                coming=self._coming,
                lent=self.lent,
                wished=self._wished,
                quiet_s=trio.current_time() - self._claimed_s,
                failing=bool(self._reason),
            )
        )

    def refill(self) -> None:
        """Begins what is missing and ends what is too much, in the background."""
        if self._closed:
            return
        begin, end = self._plan()
        for _ in range(begin):
            self._coming += 1
            self._nursery.start_soon(self._add)
        for _ in range(end):
            self._nursery.start_soon(self._ready.popleft().aclose)

    async def _add(self) -> None:
        try:
            if self._wait_quiet is not None:
                with trio.move_on_after(_PATIENCE_S):
                    await self._wait_quiet()
            # Whoever claims next makes the attempt itself, and gets to see why it fails.
            with contextlib.suppress(SandboxError, OSError):
                interpreter = await self.make(self._open_one, counts=True)
                if self._closed:
                    await interpreter.aclose()
                else:
                    self._ready.append(interpreter)
        finally:
            self._coming -= 1
            self._changed.set()
            self._changed = trio.Event()

    async def make(
        self, open_one: Callable[[], Awaitable[Interpreter]], *, counts: bool
    ) -> Interpreter:
        """Makes an interpreter, unless that is known to fail at present.

        Args:
            open_one: Makes it.
            counts: Whether a failure says something about the next one: not if it may be due to
                what this one was asked to be.

        Raises:
            InterpreterUnavailableError: It did not come up, or the last ones did not.
        """
        if counts and (wait_s := self._breaker.wait_s()) > 0:
            again = f"It is tried again in {math.ceil(wait_s)} s"
            raise InterpreterUnavailableError(self._reason, remedy=again)
        try:
            interpreter = await open_one()
        except InterpreterUnavailableError as error:
            if counts:
                self._breaker.failed()
                self._reason = str(error)
            raise
        self._breaker.succeeded()
        self._reason = ""
        return interpreter

    async def wait_full(self) -> None:
        """Waits until nothing more is coming."""
        self.refill()
        while self._coming:
            await self._changed.wait()

    async def take_place(self, owner: object) -> None:
        """Waits for a place, in the order of the calls; `leave` gives it back.

        Raises:
            PoolFullError: None became free in time.
        """
        with trio.move_on_after(self._size.wait_s) as scope:
            await self._places.acquire_on_behalf_of(owner)
            self._make_room()
            return
        if scope.cancelled_caught:
            assert self._size.max is not None
            raise PoolFullError(self._size.max, self._size.wait_s)

    def _make_room(self) -> None:
        """Ends an interpreter that is ready if an owner of another kind needs its place."""
        _, end = self._plan()
        for _ in range(end - 1):  # the owner may claim one of them
            self._nursery.start_soon(self._ready.popleft().aclose)

    def leave(self, owner: object) -> None:
        """Gives a place back; again does nothing."""
        with contextlib.suppress(RuntimeError):
            self._places.release_on_behalf_of(owner)
        if self._wished:
            self.refill()

    def claim(self) -> Interpreter | None:
        """Takes an interpreter that is ready, if there is one; another is begun in its place."""
        self._claimed_s = trio.current_time()
        if self._idle is not None:
            self._idle.deadline = self._claimed_s + self._size.idle_s
        while self._ready:
            interpreter = self._ready.popleft()
            if interpreter.look():
                self.refill()
                return interpreter
            self._nursery.start_soon(interpreter.aclose)
        if self._size.min and self._size.max is not None:  # there is room to grow, and an end to it
            self._wished = max(self._size.min, self._coming) + 1
            if self._idle is None:
                self._idle = trio.CancelScope(deadline=self._claimed_s + self._size.idle_s)
                self._nursery.start_soon(self._end_idle, self._idle)
        self.refill()
        return None

    async def _end_idle(self, scope: trio.CancelScope) -> None:
        """Ends what is beyond the minimum; every claim moves the scope's deadline."""
        with scope:
            await trio.sleep_forever()
        self._idle = None
        self._wished = self._size.min
        self.refill()

    async def aclose(self) -> None:
        """Ends what is ready, and what is still coming as soon as it comes."""
        self._closed = True
        if self._idle is not None:
            self._idle.cancel()
        while self._ready:
            await self._ready.popleft().aclose()
