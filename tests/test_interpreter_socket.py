"""The socket of an interpreter that does not read it, that is closed under whoever waits, or that
answers in the very moment in which its run is stopped."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import struct
import tracemalloc
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing

from sandbox_runtime.alarms import Alarms
from sandbox_runtime.capture import Capture
from sandbox_runtime.errors import InterpreterUnavailableError
from sandbox_runtime.interpreters.frames import encode
from sandbox_runtime.interpreters.interpreter import Interpreter
from sandbox_runtime.interpreters.runs import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sandbox_runtime.interpreters.execution import Execution, Result


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

    async def sweep(self, **_spared: object) -> int:
        await trio.lowlevel.checkpoint()
        return 0

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
        with Capture(100, make_pipes=False) as capture:
            run = Run(None, 100)
            return await self.interpreter.execute(code, capture, run, 0, alarms=Alarms())


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


@pytest.mark.parametrize("timeout_s", [60, math.inf])
async def test_an_interpreter_that_is_closed_while_it_is_told_a_run_stays_lost(
    silent: Silent, timeout_s: float
) -> None:
    silent.fill()
    executions = []

    async def execute() -> None:
        with Capture(100, make_pipes=False) as capture:
            run = Run(None, 100)
            executions.append(
                await silent.interpreter.execute("1", capture, run, timeout_s, alarms=Alarms())
            )

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


class Answering(Silent):
    """An interpreter whose process says what the test tells it to."""

    number = 0

    def answer(self, stdout: bytes = b"", stderr: bytes = b"", shown: str | None = None) -> None:
        """Has the run of this moment print, show something, and end."""
        _, fds, _, _ = socket.recv_fds(self.theirs, 64 * 1024, 2)
        for fd, text in zip(fds, (stdout, stderr), strict=True):
            os.write(fd, text)
            os.close(fd)
        self.number += 1
        frames: list[dict[str, Any]] = [{"type": "done", "status": "ok"}]
        if shown is not None:
            frames.insert(0, {"type": "result", "data": {"text/plain": shown}})
        self.theirs.send(b"".join(encode(frame | {"id": str(self.number)}) for frame in frames))

    async def run(self, capture: Capture, run: Run, during: Callable[[], object]) -> Execution:
        """Runs something; once it waits for its first news, `during` is called."""
        ended: list[Execution] = []

        async def execute() -> None:
            with capture:
                ended.append(
                    await self.interpreter.execute("", capture, run, math.inf, alarms=Alarms())
                )

        async with trio.open_nursery() as nursery:
            nursery.start_soon(execute)
            await trio.testing.wait_all_tasks_blocked()
            during()
        return ended[0]


@pytest.fixture
def answering() -> Iterator[Answering]:
    made = Answering()
    with made.theirs, made.ours:
        yield made


async def test_what_a_run_printed_that_was_stopped_as_it_ended_is_its_own(
    answering: Answering,
) -> None:
    heard: list[bytes] = []

    def end_and_stop() -> None:
        answering.answer(stdout=b"first\n")
        assert answering.interpreter.interrupt()

    capture = Capture(100, heard.append, make_pipes=False)
    first = await answering.run(capture, Run(None, 100), end_and_stop)
    assert (first.ended, first.stdout, heard) == ("ok", b"first\n", [b"first\n"])
    capture = Capture(100, heard.append, make_pipes=False)
    second = await answering.run(
        capture, Run(None, 100), lambda: answering.answer(stdout=b"second\n")
    )
    assert (second.ended, second.stdout) == ("ok", b"second\n")
    assert heard == [b"first\n", b"second\n"]


async def test_a_result_that_was_shown_as_its_run_was_stopped_is_heard_in_that_run(
    answering: Answering,
) -> None:
    heard: list[str] = []

    async def hear(result: Result) -> None:
        heard.append(result.data["text/plain"])

    def show_and_stop() -> None:
        answering.answer(shown="42")
        assert answering.interpreter.interrupt()

    first = await answering.run(Capture(100, make_pipes=False), Run(hear, 100_000), show_and_stop)
    assert (first.ended, heard) == ("ok", ["42"])


async def test_a_callback_that_waits_is_cancelled_when_its_run_was_stopped_and_nothing_is_lost(
    answering: Answering,
) -> None:
    cancelled: list[bytes] = []

    async def hear(chunk: bytes) -> None:
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            cancelled.append(chunk)
            raise

    def end_and_stop() -> None:
        answering.answer(stdout=b"out\n", stderr=b"err\n")
        assert answering.interpreter.interrupt()

    capture = Capture(100, hear, make_pipes=False)
    first = await answering.run(capture, Run(None, 100), end_and_stop)
    assert cancelled == [b"out\n"]
    assert (first.ended, first.stdout, first.stderr) == ("interrupted", b"out\n", b"err\n")
    second = await answering.run(
        Capture(100, make_pipes=False), Run(None, 100), lambda: answering.answer(b"second\n")
    )
    assert (second.stdout, second.stderr) == (b"second\n", b"")


async def test_a_run_whose_interpreter_is_closed_before_any_news_of_it_says_killed(
    answering: Answering,
) -> None:
    async with trio.open_nursery() as nursery:

        def close() -> None:
            nursery.start_soon(answering.interpreter.aclose)

        capture = Capture(100, make_pipes=False)
        execution = await answering.run(capture, Run(None, 100), close)
    assert (execution.ended, execution.state_survived) == ("killed", False)


async def test_half_a_frame_of_an_interpreter_that_is_lost_is_not_kept(
    answering: Answering,
) -> None:
    def half_a_frame_and_the_end() -> None:
        answering.theirs.send(struct.pack(">I", 1 << 20) + b" " * 50_000)
        answering.theirs.close()

    tracemalloc.start()
    try:
        before_bytes, _ = tracemalloc.get_traced_memory()
        capture = Capture(100, make_pipes=False)
        lost = await answering.run(capture, Run(None, 100), half_a_frame_and_the_end)
        after_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert lost.ended == "context lost"
    assert after_bytes - before_bytes < 50_000
