"""Branches of a context that are made before anybody asks for them.

They are what a branch made on demand would be, as long as the state that they were copied from is
the context's: a context's state changes by its runs alone, since what has threads or unfinished
tasks is not copied. So they are given up when a run begins, and others are made when it has ended.

Theory of operation. Making one occupies the interpreter for some milliseconds. That waits until no
code has run in the sandbox for a moment, unless it takes too long, and they are made one at a time.
What is given up is forgotten at once, so that nobody gets it, and ended in the background, alone:
nothing else in the jail ends with it. If one cannot be made, no other is tried before the next run
has ended: who asks for a branch then makes the attempt itself, and is told why it fails.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.errors import InterpreterUnavailableError, SandboxError
from sandbox_runtime.interpreters.calm import PATIENCE_S, wait_calm

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sandbox_runtime.interpreters.interpreter import Interpreter

    Holds = Callable[[], bool]

_CALM_S = 0.01
_MOST_FAILURES = 3
_LOG = logging.getLogger("sandbox_runtime")


class ReadyBranches:
    """Copies of one context's state that wait for their owners.

    Args:
        count: How many are to wait.
        make: Makes one, unless what it is told to look at says that the state is another by now.
        nursery: Makes and ends them in the background.
        wait_quiet: Waits until no code runs in the sandbox.
        rested_s: When code last ran there, on trio's clock.
    """

    def __init__(
        self,
        count: int,
        make: Callable[[Holds], Awaitable[Interpreter | None]],
        nursery: trio.Nursery,
        wait_quiet: Callable[[], Awaitable[None]],
        rested_s: Callable[[], float],
    ) -> None:
        self.count = count
        self._make = make
        self._nursery = nursery
        self._wait_quiet = wait_quiet
        self._rested_s = rested_s
        self._ready: deque[Interpreter] = deque()
        self._states = 0  # how many there have been
        self._filling: trio.CancelScope | None = None
        self._wanted = False
        self._tasks = 0
        self._changed = trio.Event()
        self._closed = False

    @property
    def ready(self) -> int:
        """How many wait."""
        return len(self._ready)

    def take(self, most: int) -> list[Interpreter]:
        """Those that wait and are alive, as many as are asked for; they are the caller's."""
        taken: list[Interpreter] = []
        dead: list[Interpreter] = []
        while self._ready and len(taken) < most:
            branch = self._ready.popleft()
            (taken if branch.look() else dead).append(branch)
        self.give_up(dead)
        return taken

    def refill(self) -> None:
        """Has those made that are missing, as soon as that disturbs nobody."""
        self._wanted = True
        # One attempt at a time, also of those that were given up: what is being born, and user code
        # decides how long that takes, has descriptors and is a process already.
        if not self._closed and self._filling is None and len(self._ready) < self.count:
            self._filling = trio.CancelScope()
            self._start(self._fill, self._filling, self._states)

    def drop(self) -> None:
        """Gives up those that wait or are being made: the state is about to be another."""
        self._states += 1
        self._wanted = False
        if self._filling is not None:
            self._filling.cancel()
            self._tell()
        stale = list(self._ready)
        self._ready.clear()
        self.give_up(stale)

    def give_up(self, branches: Sequence[Interpreter]) -> None:
        """Ends branches that nobody has had, in the background."""
        for branch in branches:
            branch.forget()
        if branches and not self._start(self._end, branches):
            for branch in branches:
                branch.close_ends()

    async def wait_full(self) -> None:
        """Waits until as many wait as are to, or none is being made."""
        while self._filling is not None and self._wanted and len(self._ready) < self.count:
            await self._changed.wait()

    async def aclose(self) -> None:
        """Ends all of them; nothing of them is alive when this returns."""
        self._closed = True
        self.drop()
        while self._tasks:
            await self._changed.wait()

    def _start(self, task: Callable[..., Awaitable[None]], *args: object) -> bool:
        try:
            self._nursery.start_soon(self._run, task, args)
        except RuntimeError:  # it has ended, and the sandbox with everything in it
            self._closed = True
            self._filling = None
            self._tell()
            return False
        self._tasks += 1
        return True

    async def _run(self, task: Callable[..., Awaitable[None]], args: Sequence[object]) -> None:
        try:
            await task(*args)
        finally:
            self._tasks -= 1
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _end(self, branches: Sequence[Interpreter]) -> None:
        with trio.CancelScope(shield=True):
            await branches[0].end_forgotten(branches)

    async def _fill(self, scope: trio.CancelScope, state: int) -> None:
        asked_s = trio.current_time()

        def busy_s() -> float:
            return max(asked_s, self._rested_s())  # who was given one is about to use it

        try:
            with scope:
                with trio.move_on_after(PATIENCE_S):
                    await wait_calm(_CALM_S, self._wait_quiet, busy_s)
                await self._make_missing(state)
        except (SandboxError, OSError, trio.TooSlowError) as error:
            _LOG.debug("no branch can be made ahead: %s", error)
        finally:
            self._filling = None
            if state != self._states and self._wanted:  # which waited for this
                self.refill()

    async def _make_missing(self, state: int) -> None:
        def holds() -> bool:
            return state == self._states

        failures = 0
        while holds() and len(self._ready) < self.count:
            try:
                branch = await self._make(holds)
            except InterpreterUnavailableError:
                failures += 1
                if failures == _MOST_FAILURES:
                    raise
                continue  # a sibling's end has swept it away before the jail knew of it
            if branch is None:
                return
            if holds():
                self._ready.append(branch)
                self._tell()
            else:
                self.give_up([branch])
