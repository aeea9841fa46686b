"""The pool: interpreters that are made before they are asked for, and how many there may be.

An interpreter leaves the pool once and never returns. The pool is of one sandbox and of the
languages that its interpreters can speak; each of these has places of its own. What it may hold is
decided by `plan`, which does nothing itself.

Theory of operation. A claim takes what is ready and has another made in its place. That waits
until no code has run in the sandbox and nobody asked for a moment: the processor is the users'.
Beside the end of a context it need not wait, as no cell can follow there. A claim that finds
nothing ready takes the one that comes next, which waits no more then. A pool that was found empty
keeps one more ready than before, up to two more than usual, until nobody has claimed anything for
a while. Making fails for reasons that stay (no IPython, no memory), so after some failures in a
row it is not tried for a while, and who asks is told the last reason.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.errors import (
    InterpreterMissingError,
    InterpreterRestingError,
    InterpreterUnavailableError,
    PoolFullError,
    SandboxClosedError,
    SandboxError,
)
from sandbox_runtime.interpreters.breaker import Breaker
from sandbox_runtime.interpreters.calm import CALM_S, PATIENCE_S, wait_calm
from sandbox_runtime.interpreters.pool_sizes import PoolSize

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from sandbox_runtime.interpreters.interpreter import Interpreter

_MOST_GROWTH = 2


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
    missing = _missing(state)
    begin = 0 if state.failing else max(0, missing)
    end = min(state.ready, max(0, -missing))
    return begin, end


def _missing(state: PoolState) -> int:
    """How many more there should be, ready or coming; negative if there are too many."""
    wished = state.size.min
    if state.quiet_s < state.size.idle_s:
        wished = max(wished, state.wished)
    if state.size.max is not None:
        wished = max(0, min(wished, state.size.max - state.lent))
    return wished - state.ready - state.coming


class _Coming:
    """An interpreter that is being made for the pool."""

    def __init__(self) -> None:
        self.patience = trio.CancelScope()
        self.begun = self.taken = self.hurried = False
        self.over = trio.Event()
        self.interpreter: Interpreter | None = None
        self.failure: InterpreterUnavailableError | None = None


class Pool:
    """Interpreters in one sandbox that are much the same.

    Args:
        open_one: Makes an interpreter of the usual kind; told whether it has time to warm up.
        sizes: How many, by language.
        nursery: Makes them in the background.
        wait_quiet: Waits until no code runs in the sandbox.
        rested_s: When code last ran there, on trio's clock.
    """

    def __init__(
        self,
        open_one: Callable[[bool], Awaitable[Interpreter]],
        sizes: Mapping[str, PoolSize],
        nursery: trio.Nursery,
        wait_quiet: Callable[[], Awaitable[None]] | None = None,
        rested_s: Callable[[], float] = lambda: -math.inf,
    ) -> None:
        self._open_one = open_one
        self._sizes = sizes
        self._size = _together(sizes.values())
        self._nursery = nursery
        self._wait_quiet = wait_quiet
        self._rested_s = rested_s
        self._places = {
            language: trio.CapacityLimiter(math.inf if size.max is None else size.max)
            for language, size in sizes.items()
        }
        self._turns = {language: trio.Lock() for language in sizes}
        self._breaker = Breaker(trio.current_time)
        self._reason = ""
        self._ready: deque[Interpreter] = deque()
        self._coming: list[_Coming] = []
        self._wished = self._size.min
        self._claimed_s = self._readied_s = -math.inf
        self._pressed = False  # whether claims come before what they take is ready, or right then
        self._idle: trio.CancelScope | None = None
        self._closed = False
        self._changed = trio.Event()

    @property
    def size(self) -> PoolSize:
        """What was asked for, of all languages together."""
        return self._size

    @property
    def ready(self) -> int:
        """How many wait to be claimed."""
        return len(self._ready)

    @property
    def lent(self) -> int:
        """How many have an owner."""
        return sum(places.borrowed_tokens for places in self._places.values())

    @property
    def waiting(self) -> int:
        """How many wait for places."""
        first = sum(places.statistics().tasks_waiting for places in self._places.values())
        return first + sum(turn.statistics().tasks_waiting for turn in self._turns.values())

    def _state(self) -> PoolState:
        return PoolState(
            size=self._size,
            ready=len(self._ready),
            coming=sum(not coming.taken for coming in self._coming),
            lent=self.lent,
            wished=self._wished,
            quiet_s=trio.current_time() - self._claimed_s,
            failing=bool(self._reason),
        )

    def refill(self) -> None:
        """Begins what is missing and ends what is too much, in the background."""
        if self._closed:
            return
        begin, end = plan(self._state())
        for _ in range(begin):
            self._coming.append(coming := _Coming())
            self._nursery.start_soon(self._add, coming)
        for _ in range(end):
            self._nursery.start_soon(self._ready.popleft().aclose)

    async def _add(self, coming: _Coming) -> None:
        try:
            with coming.patience:
                coming.patience.deadline = trio.current_time() + PATIENCE_S
                await self._wait_turn()
            coming.begun = True
            if not coming.taken and (self._reason or _missing(self._state()) < 0):
                return
            # Whoever claims next makes the attempt itself, and gets to see why it fails.
            with contextlib.suppress(SandboxError, OSError):
                coming.interpreter = await self._make_coming(coming)
                if self._closed:
                    await coming.interpreter.aclose()
                elif not coming.taken:
                    self._readied_s = trio.current_time()
                    self._ready.append(coming.interpreter)
        finally:
            self._coming.remove(coming)
            if coming.interpreter is not None:
                self.refill()  # its place may have been taken meanwhile
            coming.over.set()
            self._changed.set()
            self._changed = trio.Event()

    async def _make_coming(self, coming: _Coming) -> Interpreter:
        try:
            # Who waits for it, or will in a moment, has no time for it to warm up.
            return await self.make(
                lambda: self._open_one(not coming.taken and not (coming.hurried and self._pressed)),
                counts=True,
            )
        except InterpreterUnavailableError as error:
            coming.failure = error
            raise

    async def _wait_turn(self) -> None:
        """Waits until none is being made, and for a moment no code has run and nobody claimed."""

        def busy_s() -> float:
            return max(self._claimed_s, self._rested_s())

        calm = False
        while True:
            if first := [one for one in self._coming if one.begun or one.taken]:
                await first[0].over.wait()
                calm = False
            elif calm or self._wait_quiet is None:
                return
            else:
                await wait_calm(CALM_S, self._wait_quiet, busy_s)
                calm = True

    def hurry(self) -> None:
        """Begins what comes next, if nothing is being made: there is nobody to disturb."""
        if not any(one.begun or one.taken for one in self._coming):
            for coming in self._coming[:1]:
                coming.hurried = True
                coming.patience.cancel()

    async def make(
        self, open_one: Callable[[], Awaitable[Interpreter]], *, counts: bool
    ) -> Interpreter:
        """Makes an interpreter, unless that is known to fail at present.

        Args:
            open_one: Makes it.
            counts: Whether a failure says something about the next one: not if it may be due to
                what this one was asked to be.

        Raises:
            InterpreterUnavailableError: It did not come up.
            InterpreterRestingError: The last ones did not.
        """
        if counts and (wait_s := self._breaker.wait_s()) > 0:
            raise InterpreterRestingError(self._reason, wait_s)
        try:
            interpreter = await open_one()
        except InterpreterMissingError:
            raise  # to wait would help nobody
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

    def most(self, language: str) -> int | None:
        """How many places a language has; None for no limit."""
        return self._sizes[language].max

    async def take_place(self, owner: object, language: str, *, claims: bool = False) -> None:
        """Waits for a place; see `take_places`."""
        await self.take_places([owner], language, claims=claims)

    async def take_places(
        self, owners: Sequence[object], language: str, *, claims: bool = False
    ) -> None:
        """Waits for places, in the order of the calls: for all or none. `leave` gives one back.

        Args:
            owners: Whose they are.
            language: What they are for.
            claims: Whether one of the owners claims an interpreter at once, so that one that is
                ready is left for it; who brings its own has one ended if there are too many.

        Raises:
            PoolFullError: Too few became free in time.
        """
        size = self._sizes[language]
        try:
            with trio.move_on_after(size.wait_s):
                async with self._turns[language]:  # else two would wait for what the other holds
                    for owner in owners:
                        await self._places[language].acquire_on_behalf_of(owner)
                        self._make_room(spare=1 if claims else 0)
                return
            assert size.max is not None
            raise PoolFullError(size.max, size.wait_s, asked=len(owners))
        except BaseException:
            for owner in owners:
                self.leave(owner, language)
            raise

    def _make_room(self, spare: int) -> None:
        """Ends what is ready where an owner has taken its place."""
        _, end = plan(self._state())
        for _ in range(end - spare):
            self._nursery.start_soon(self._ready.popleft().aclose)

    def leave(self, owner: object, language: str) -> None:
        """Gives a place back; again does nothing."""
        with contextlib.suppress(RuntimeError):
            self._places[language].release_on_behalf_of(owner)
        if self._wished:
            self.refill()

    def claim(self) -> Interpreter | None:
        """Takes an interpreter that is ready, if there is one; another is begun in its place."""
        self._claimed_s = trio.current_time()
        if self._ready and self._claimed_s >= self._readied_s + CALM_S:
            self._pressed = False
        if self._idle is not None:
            self._idle.deadline = self._claimed_s + self._size.idle_s
        while self._ready:
            interpreter = self._ready.popleft()
            if interpreter.look():
                self.refill()
                return interpreter
            self._nursery.start_soon(interpreter.aclose)
        if self._size.min:
            self._wished = min(self._wished + 1, self._size.min + _MOST_GROWTH)
            if self._idle is None:
                self._idle = trio.CancelScope(deadline=self._claimed_s + self._size.idle_s)
                self._nursery.start_soon(self._end_idle, self._idle)
        self.refill()
        return None

    async def take(self) -> Interpreter | None:
        """As `claim`; but if none is ready and one is coming, it waits for that one.

        Raises:
            InterpreterUnavailableError: It did not come up.
        """
        if (ready := self.claim()) is not None:
            return ready
        coming = next((one for one in self._coming if not one.taken), None)
        if coming is None:
            return None
        coming.taken = True
        self._pressed = self._pressed or coming.begun
        coming.patience.cancel()
        self.refill()
        try:
            await coming.over.wait()
        except trio.Cancelled:
            coming.taken = False
            if coming.interpreter is not None:
                self._ready.append(coming.interpreter)
            raise
        if self._closed:
            raise SandboxClosedError("the sandbox is closed")
        if coming.failure is not None:
            raise coming.failure
        return coming.interpreter

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


def _together(sizes: Iterable[PoolSize]) -> PoolSize:
    """One size for all of several languages."""
    given = tuple(sizes)
    limits = [size.max for size in given]
    return PoolSize(
        min=sum(size.min for size in given),
        max=None if None in limits else sum(limit or 0 for limit in limits),
        idle_s=max(size.idle_s for size in given),
        wait_s=max(size.wait_s for size in given),
    )
