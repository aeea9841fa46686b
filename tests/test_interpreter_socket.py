"""The socket of an interpreter that does not read it, or that is closed under whoever waits."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing

from sandbox_runtime.capture import Capture
from sandbox_runtime.errors import InterpreterUnavailableError
from sandbox_runtime.interpreters.interpreter import Interpreter
from sandbox_runtime.interpreters.runs import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_runtime.interpreters.execution import Execution


class EmptyJail:
    """A jail in which nothing runs; it counts what would have been signalled."""

    def __init__(self) -> None:
        self.signals = 0

    def count_memory_kills(self) -> int:
        return 0

    async def signal(self, _pid: int, _signal: int, *, group: bool) -> None:
        assert group
        await trio.lowlevel.checkpoint()
        self.signals += 1

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Silent:
    """An interpreter whose process neither reads nor says anything."""

    def __init__(self) -> None:
        self.jail = EmptyJail()
        self.ours, self.theirs = socket.socketpair()
        self.interpreter = Interpreter(cast("Any", self.jail), self.ours)

    def fill(self) -> None:
        """Leaves no room in its socket."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.ours.send(bytes(64 * 1024))

    async def execute(self, code: str) -> Execution:
        """Runs code whose deadline is over already."""
        with Capture(100) as capture:
            run = Run(None, 100)
            return await self.interpreter.execute(code, capture, run, 0)


@pytest.fixture
def silent() -> Iterator[Silent]:
    made = Silent()
    with made.theirs, made.ours:
        yield made


async def test_a_run_that_was_not_told_by_its_deadline_has_not_run(silent: Silent) -> None:
    silent.fill()
    execution = await silent.execute("1")
    assert (execution.ended, execution.state_survived) == ("deadline", True)
    assert silent.jail.signals == 0


async def test_an_interpreter_that_was_told_half_a_run_is_ended(silent: Silent) -> None:
    execution = await silent.execute("#" * 4_000_000)
    assert (execution.ended, execution.state_survived) == ("deadline", False)


async def test_an_interpreter_that_is_closed_while_it_is_told_a_run_stays_lost(
    silent: Silent,
) -> None:
    silent.fill()
    executions = []

    async def execute() -> None:
        with Capture(100) as capture:
            run = Run(None, 100)
            executions.append(await silent.interpreter.execute("1", capture, run, 60))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(execute)
        await trio.testing.wait_all_tasks_blocked()
        await silent.interpreter.aclose()
    assert [(one.ended, one.state_survived) for one in executions] == [("killed", False)]


async def test_an_interpreter_that_is_closed_while_it_starts_is_unavailable(
    silent: Silent,
) -> None:
    async with trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(InterpreterUnavailableError):
                await silent.interpreter.first_frame()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        await silent.interpreter.aclose()
