"""Ours, as a Python program uses it: the trio API in this process."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.bench.fingerprint import descendants, proportional_set_bytes
from sandbox_runtime.bench.rounds import Candidate
from sandbox_runtime.bench.spawned import TRUE, PeerFailedError
from sandbox_runtime.sandbox import open_sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sandbox_runtime.bench.rounds import Once, Stopwatch
    from sandbox_runtime.interpreters.execution import Execution
    from sandbox_runtime.receipts import CommandResult
    from sandbox_runtime.sandbox import Runtime, Sandbox

PROTECTIONS = "every row of our report"


def _check(result: CommandResult) -> None:
    if result.exit_code != 0:
        raise PeerFailedError(f"ended by {result.ended}, exit code {result.exit_code}")


def check_answer(execution: Execution) -> None:
    """Raises unless a cell's result was 2, as every scenario's is."""
    if execution.text != "2":
        raise PeerFailedError(f"answered {execution.text!r}: {execution.error}")


class Embedded:
    """Our candidates, all on one runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def _candidate(
        self,
        name: str,
        once: Callable[[Sandbox, Stopwatch], Awaitable[None]],
        *,
        pool: int = 0,
    ) -> Candidate:
        """A candidate that measures something in one sandbox."""

        @asynccontextmanager
        async def opened() -> AsyncIterator[Once]:
            async with open_sandbox(runtime=self._runtime, python_pool=pool) as sandbox:

                async def measure(stopwatch: Stopwatch) -> None:
                    await once(sandbox, stopwatch)

                yield measure

        return Candidate(name=name, open=opened, protections=PROTECTIONS, ours=True)

    def fresh_jail(self) -> Candidate:
        """`true` in a jail made for it."""

        async def once(sandbox: Sandbox, stopwatch: Stopwatch) -> None:
            with stopwatch:
                result = await sandbox.run_process([TRUE])
            _check(result)

        return self._candidate("ours: fresh jail", once)

    def fresh_sandbox(self) -> Candidate:
        """A sandbox made, and its first command's output seen."""

        @asynccontextmanager
        async def opened() -> AsyncIterator[Once]:
            async def measure(stopwatch: Stopwatch) -> None:
                with stopwatch:
                    opening = open_sandbox(runtime=self._runtime, python_pool=0)
                    sandbox = await opening.__aenter__()
                    result = await sandbox.exec("echo ready")
                await opening.__aexit__(None, None, None)
                if result.stdout != b"ready\n":
                    raise PeerFailedError(f"printed {result.stdout!r}")

            yield measure

        return Candidate(
            name="ours: fresh sandbox", open=opened, protections=PROTECTIONS, ours=True
        )

    def session_builtin(self) -> Candidate:
        """The builtin `true` in a live session."""

        async def once(sandbox: Sandbox, stopwatch: Stopwatch) -> None:
            with stopwatch:
                result = await sandbox.exec("true")
            _check(result)

        return self._candidate("ours: session", once)

    def session_program(self) -> Candidate:
        """The program `true` in a live session."""

        async def once(sandbox: Sandbox, stopwatch: Stopwatch) -> None:
            with stopwatch:
                result = await sandbox.exec([TRUE])
            _check(result)

        return self._candidate("ours: session", once)

    def fresh_context(self, language: str, code: str, *, pool: int) -> Candidate:
        """A context made, and its first result seen."""

        async def once(sandbox: Sandbox, stopwatch: Stopwatch) -> None:
            if pool:
                await sandbox.fill_pool()
            with stopwatch:
                context = await sandbox.create_code_context(language)
                execution = await context.run(code)
            await context.aclose()
            check_answer(execution)

        name = "ours: context from the pool" if pool else "ours: context, pool empty"
        return self._candidate(name, once, pool=pool)

    def live_context(self, language: str) -> Candidate:
        """`1 + 1` in a context that lives."""

        async def once(sandbox: Sandbox, stopwatch: Stopwatch) -> None:
            with stopwatch:
                execution = await sandbox.run_code("1 + 1", language=language)
            check_answer(execution)

        return self._candidate("ours: live context", once)

    def files(self, size_bytes: int) -> Candidate:
        """A file written and read back."""
        content = os.urandom(size_bytes)

        async def once(sandbox: Sandbox, stopwatch: Stopwatch) -> None:
            with stopwatch:
                await sandbox.files.write("/workspace/file", content)
                back = await sandbox.files.read("/workspace/file")
            if back != content:
                raise PeerFailedError("read something else than was written")

        return self._candidate("ours: file API", once)

    def output(self, size_bytes: int) -> Candidate:
        """Output read through a session, none of it kept."""

        async def once(sandbox: Sandbox, stopwatch: Stopwatch) -> None:
            with stopwatch:
                result = await sandbox.exec(f"head -c {size_bytes} /dev/zero", limit_bytes=0)
            if result.stdout_bytes != size_bytes:
                raise PeerFailedError(f"{result.stdout_bytes} of {size_bytes} bytes came")

        return self._candidate("ours: session", once)

    def kill_tree(self, count: int) -> Candidate:
        """A command's tree of sleeping processes, from the kill to the answer."""

        async def once(sandbox: Sandbox, stopwatch: Stopwatch) -> None:
            up = trio.Event()
            process = await sandbox.start_process(
                f"for i in $(seq {count}); do sleep 1000 & done; echo up; wait",
                on_stdout=lambda _: up.set(),
            )
            await up.wait()
            with stopwatch:
                await process.kill()

        return self._candidate("ours: kill", once)


def idle_memory_bytes(before: set[int]) -> int:
    """Memory of everything below this process that was not there before."""
    return proportional_set_bytes([pid for pid in descendants(os.getpid()) if pid not in before])
