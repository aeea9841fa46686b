"""Contexts: what users hold of an interpreter. Never given to anybody else."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, get_args

import trio

from sandbox_runtime.arguments import check_callbacks, check_count, check_flags
from sandbox_runtime.capture import Capture
from sandbox_runtime.choices import MOST_BRANCHES
from sandbox_runtime.errors import InvalidArgumentError, SandboxClosedError
from sandbox_runtime.interpreters.calm import CALM_S
from sandbox_runtime.interpreters.execution import TracebackStyle
from sandbox_runtime.interpreters.runs import Run
from sandbox_runtime.programs import check_seconds
from sandbox_runtime.settings import OUTPUT_LIMIT_BYTES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from sandbox_runtime.alarms import Alarms
    from sandbox_runtime.interpreters.execution import Execution
    from sandbox_runtime.interpreters.interpreter import Interpreter
    from sandbox_runtime.interpreters.languages import Wanted
    from sandbox_runtime.interpreters.ready_branches import ReadyBranches
    from sandbox_runtime.interpreters.runs import ClearHandler, ResultHandler
    from sandbox_runtime.keeper import Keeper
    from sandbox_runtime.output_stream import OutputHandler

_STYLES: tuple[str, ...] = get_args(TracebackStyle)


class Context:
    """The state of one interpreter. `Sandbox.create_code_context` makes it.

    Runs are one after another, in the order of the calls; who is cancelled while it waits for its
    turn has run nothing.

    Attributes:
        id: Its name in `Sandbox.contexts`.
        wanted: What it was asked to be.
        name: What people call it, if anything.
        created_s: When it was made, in seconds since 1970.
        used_s: When it was made or its last run began, likewise.
        rested_s: When its last run ended, on trio's clock.
        on_fork: Has its branches made and makes contexts of them.
        ahead: Its branches that are made ahead, if any are.
        on_closing: Called when it is about to end.
        on_closed: Called once nothing of it is left, for its owner to forget it.
        work: Entered for each run, which is not to be disturbed.
        alarms: What keeps the deadlines of short runs.
        keeper: The native process below its sandbox.
    """

    def __init__(
        self,
        id: str,  # noqa: A002 - what users call it
        wanted: Wanted,
        interpreter: Interpreter,
        reopen: Callable[[Wanted], Awaitable[Interpreter]],
        *,
        name: str | None = None,
    ) -> None:
        self.id = id
        self.wanted = wanted
        self.name = name
        self._interpreter = interpreter
        self._reopen = reopen
        self._turn = trio.Semaphore(1)  # a lock would also note whose it is, at each turn
        self._closed = False
        self._runs_waiting = 0
        self._awaited = trio.Event()  # by a run, while a branch is made ahead
        self._restarted: trio.Event | None = None
        self._idle = trio.Event()
        self._idle.set()
        self.created_s = self.used_s = time.time()
        self.rested_s = -math.inf
        self._made_s = trio.current_time()
        self.on_fork: Callable[[Context, int], Awaitable[list[Context]]]
        self.ahead: ReadyBranches | None = None
        self.on_closing: Callable[[Context], object] = lambda _: None
        self.on_closed: Callable[[Context], object] = lambda _: None
        self.work: AbstractContextManager[object] = nullcontext()
        self.alarms: Alarms
        self.keeper: Keeper

    @property
    def language(self) -> str:
        """What it speaks."""
        return self.wanted.language

    @property
    def imported_late(self) -> dict[str, str]:
        """Modules of its preload set that it had to import itself when it started, and why."""
        return self._interpreter.imported_late

    @property
    def lost(self) -> bool:
        """Whether its process has ended; only a restart helps then."""
        return self._closed or self._interpreter.lost

    @property
    def closed(self) -> bool:
        """Whether it was deleted."""
        return self._closed

    @property
    def busy(self) -> bool:
        """Whether a run is going on."""
        return not self._idle.is_set()

    @property
    def is_used(self) -> bool:
        """Whether a run goes on, or another one may come at any moment."""
        used_s = max(self.rested_s, self._made_s)
        return self.busy or trio.current_time() < used_s + CALM_S

    async def wait_idle(self) -> None:
        """Waits until the run of this moment is over."""
        await self._idle.wait()

    @property
    def waiting(self) -> int:
        """How many runs wait for their turn."""
        return self._runs_waiting

    async def run(
        self,
        code: str,
        *,
        deadline_s: float | None = None,
        on_stdout: OutputHandler | None = None,
        on_stderr: OutputHandler | None = None,
        on_result: ResultHandler | None = None,
        on_clear: ClearHandler | None = None,
        traceback: TracebackStyle = "plain",
        limit_bytes: int = OUTPUT_LIMIT_BYTES,
        silent: bool = False,
        history: bool = True,
    ) -> Execution:
        """Runs code; what it defines is there in the next run.

        Args:
            code: A cell, as in a notebook.
            deadline_s: Seconds until it is interrupted, and ended if it does not give way.
                Every process that the context has started ends too.
            on_stdout: Called, and awaited if it returns an awaitable, with each piece as it comes.
            on_stderr: Likewise.
            on_result: Likewise, with each result as it is shown.
            on_clear: Likewise, when the code clears what it has shown; with whether that is to stay
                until something new comes.
            traceback: How an error is shown, if the language knows several ways.
            limit_bytes: How much of each output stream is kept, and of all results together.
            silent: Whether the value of the last expression is no result; there is no history then.
            history: Whether Python counts the cell and remembers its code.

        Returns:
            How it ended. An error of the code is data in it.

        Raises:
            InvalidArgumentError: The code is no text, or the deadline no time.
            SandboxClosedError: The context has ended before.

        Cancellation: as the deadline; the context may be used again if its state survived.
        """
        if not isinstance(code, str):
            raise InvalidArgumentError("code", f"must be text, not {type(code).__name__}")
        if traceback not in _STYLES:
            known = ", ".join(_STYLES)
            raise InvalidArgumentError("traceback", f"{traceback!r} is not known; known: {known}")
        check_callbacks(on_result=on_result, on_clear=on_clear)
        check_flags(silent=silent, history=history)
        timeout_s = check_seconds("deadline_s", deadline_s)
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            # Without the turn of trio's loop that `acquire` takes; the run will take one.
            self._turn.acquire_nowait()
        except trio.WouldBlock:
            self._awaited.set()
            self._runs_waiting += 1
            try:
                await self._turn.acquire()
            finally:
                self._runs_waiting -= 1
        try:
            if self.lost:
                raise self._ended()
            self.used_s = time.time()
            if self.ahead is not None:
                self.ahead.drop()
            self._idle = trio.Event()
            try:
                capture = Capture(limit_bytes, on_stdout, on_stderr, make_pipes=False)
                with self.work, capture:
                    run = Run(on_result, limit_bytes, on_clear, silent=silent, history=history)
                    return await self._interpreter.execute(
                        code, capture, run, timeout_s, alarms=self.alarms, traceback=traceback
                    )
            finally:
                self.rested_s = trio.current_time()
                self._idle.set()
        finally:
            self._turn.release()
            if self.ahead is not None and not self.lost:
                self.ahead.refill()

    def _ended(self) -> SandboxClosedError:
        """Why it cannot be used, and what can be done."""
        if self.keeper.closed:
            return SandboxClosedError("the sandbox is closed")
        if self._closed:
            return SandboxClosedError("the context was closed; create a new one")
        return SandboxClosedError("the context has ended; restart it or create a new one")

    def interrupt(self) -> bool:
        """Ends the run of this moment as its deadline would; its result says `interrupted`.

        Returns:
            Whether anything ran.
        """
        return self._interpreter.interrupt()

    async def fork(self, count: int = 1) -> list[Context]:
        """Branches: contexts that begin with a copy of this one's live state.

        The memory is copied when it is written to, so that a branch of a large state costs
        little. Each branch has its own runs, output, deadlines and end; the files are the
        sandbox's. Branches share this one's jail: nobody there can read or trace them, nor can they
        signal each other or this one where Landlock has scopes, but all see each other in /proc,
        and this one can signal them.

        Args:
            count: How many, 1 to 64.

        Raises:
            BranchRefusedError: It has threads, sockets or unfinished tasks, which are named.
            InterpreterUnavailableError: There is no room for a copy, or it is the branch of a
                branch too many: Landlock has 16 layers.
            InvalidArgumentError: The number cannot be.
            PoolFullError: There are as many contexts as there may be.
            SandboxClosedError: The context has ended.
        """
        check_count("count", count, 1, MOST_BRANCHES)
        async with self._turn:
            if self.lost:
                raise self._ended()
            branches = await self.on_fork(self, count)
        if self.ahead is not None:
            self.ahead.refill()
        return branches

    async def copy(self, count: int) -> list[Interpreter]:
        """Copies of its interpreter, those first that were made ahead; only `on_fork` calls it."""
        copies = []
        if self.ahead is not None and self._interpreter.look():
            copies = self.ahead.take(count)
        if len(copies) == count:
            return copies
        try:
            return [*copies, *await self._interpreter.fork(count - len(copies))]
        except BaseException:
            if self.ahead is not None:
                self.ahead.give_up(copies)
            raise

    async def copy_ahead(self, holds: Callable[[], bool]) -> Interpreter | None:
        """One copy of its interpreter, for `ahead`; None if the state does not hold any more."""
        async with self._turn:
            if self.lost or not holds():
                return None
            # A branch that is begun is finished: only by its number is it ended for certain.
            interpreter = self._interpreter
            if not self.waiting:  # then a run that has waited for an earlier one has set it
                self._awaited = trio.Event()
            with trio.CancelScope(shield=True):
                copies = await interpreter.begin_fork(1, awaited=self._awaited)
        with trio.CancelScope(shield=True):  # a run need not wait for this
            await interpreter.finish_fork(copies)
        return copies[0]

    @property
    def ready_branches(self) -> int:
        """How many branches wait to be asked for."""
        return 0 if self.ahead is None else self.ahead.ready

    async def wait_ready_branches(self) -> None:
        """Waits until as many branches are made ahead as are to be, or none will be at present."""
        if self.ahead is not None:
            await self.ahead.wait_full()

    async def restart(self) -> None:
        """Begins anew: same id and settings, fresh state. What runs or waits ends as killed.

        Raises:
            SandboxClosedError: The context or its sandbox was closed.
            InterpreterUnavailableError: The new interpreter did not come up.
        """
        if self._closed:
            raise self._ended()
        old = self._interpreter
        if self.ahead is not None:
            self.ahead.drop()
        await old.aclose()
        async with self._turn:
            if self._interpreter is not old or self._closed:
                return  # somebody else was faster
            self._restarted = trio.Event()
            try:
                self._interpreter = await self._reopen(self.wanted)
            finally:
                self._restarted.set()
                self._restarted = None

    async def aclose(self) -> None:
        """Ends the context; its processes and memory are gone when this returns."""
        if not self._closed:
            self._closed = True
            self.on_closing(self)
        if self.ahead is not None:
            self.ahead.drop()  # first, so that the jail ends with its last interpreter
        with trio.CancelScope(shield=True):
            if self._restarted is not None:
                await self._restarted.wait()
            await self._interpreter.aclose()
            if self.ahead is not None:
                await self.ahead.aclose()
        self.on_closed(self)
