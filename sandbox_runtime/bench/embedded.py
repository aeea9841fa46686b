"""Ours, as a Python program uses it: the trio API in this process."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.bench import alive
from sandbox_runtime.bench.rounds import Candidate
from sandbox_runtime.bench.spawned import TRUE, PeerFailedError, opened
from sandbox_runtime.bench.trees import tree_of
from sandbox_runtime.runtime import open_runtime
from sandbox_runtime.sandbox import open_sandbox
from sandbox_runtime.settings import Limits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from sandbox_runtime.bench.rounds import Once, Stopwatch
    from sandbox_runtime.interpreters.execution import Execution
    from sandbox_runtime.receipts import CommandResult
    from sandbox_runtime.runtime import Runtime
    from sandbox_runtime.sandbox import Sandbox

PROTECTIONS = "every row of our report"
_SETTLE_S = 0.15
"""What was just put into a pool still warms up, Node for 50 ms; nobody asks so soon in earnest."""


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
        limits: Limits | None = None,
    ) -> Candidate:
        """A candidate that measures something in one sandbox."""

        @asynccontextmanager
        async def open_it() -> AsyncIterator[Once]:
            async with open_sandbox(
                runtime=self._runtime, python_pool=pool, node_pool=pool, limits=limits
            ) as sandbox:

                async def measure(stopwatch: Stopwatch) -> None:
                    await once(sandbox, stopwatch)

                yield measure

        return Candidate(name=name, open=open_it, protections=PROTECTIONS, ours=True)

    def fresh_jail(self) -> Candidate:
        """`true` in a jail that is made when it is asked for."""

        async def once(sandbox: Sandbox, stopwatch: Stopwatch) -> None:
            with stopwatch:
                result = await sandbox.run_process([TRUE])
            await sandbox.keeper.settle()  # the next one is made on demand too
            _check(result)

        return self._candidate("ours: fresh jail", once)

    def prepared_jail(self) -> Candidate:
        """`true` in a jail of its own that was made ahead."""

        async def once(sandbox: Sandbox, stopwatch: Stopwatch) -> None:
            with stopwatch:
                result = await sandbox.run_process([TRUE])
            sandbox.keeper.prepare_jail()
            await sandbox.keeper.wait_prepared()  # while nobody else is measured
            _check(result)

        return self._candidate("ours: fresh jail, made ahead", once)

    def fresh_sandbox(self, command: str, expected: bytes) -> Candidate:
        """A sandbox made, and its first command's output seen; its end is not timed."""

        async def measure(stopwatch: Stopwatch) -> None:
            stopwatch.record(await self.time_to_interactive(command, expected))

        return Candidate(
            name="ours: fresh sandbox", open=opened(measure), protections=PROTECTIONS, ours=True
        )

    async def time_to_interactive(self, command: str, expected: bytes) -> float:
        """Seconds from asking for a sandbox to its first command's end."""
        started_s = trio.current_time()
        async with open_sandbox(
            runtime=self._runtime, python_pool=0, node_pool=0, first_shell=True
        ) as sandbox:
            result = await sandbox.exec(command)
            took_s = trio.current_time() - started_s
        if expected not in result.stdout:
            raise PeerFailedError(f"printed {result.stdout!r} {result.stderr!r}")
        return took_s

    def ready_sandbox(self, command: str, expected: bytes) -> Candidate:
        """A sandbox that was kept ready taken, and its first command's output seen.

        That it is made again in time, which is not timed, is waited for.
        """

        @asynccontextmanager
        async def open_it() -> AsyncIterator[Once]:
            async with open_runtime(ready_sandboxes=1) as runtime:
                ours = Embedded(runtime)

                async def once(stopwatch: Stopwatch) -> None:
                    await runtime.wait_ready()
                    await trio.sleep(_SETTLE_S)
                    if not runtime.ready_sandboxes:
                        raise PeerFailedError("no sandbox was ready")
                    stopwatch.record(await ours.time_to_interactive(command, expected))

                yield once

        return Candidate(
            name="ours: sandbox kept ready", open=open_it, protections=PROTECTIONS, ours=True
        )

    def ready_session(self) -> Candidate:
        """A shell that was kept ready taken, and its first command's output seen."""

        @asynccontextmanager
        async def open_it() -> AsyncIterator[Once]:
            async with open_sandbox(
                runtime=self._runtime, python_pool=0, node_pool=0, ready_shell=True
            ) as sandbox:
                for _ in range(2):
                    await (await sandbox.create_session()).aclose()

                async def once(stopwatch: Stopwatch) -> None:
                    await sandbox.wait_ready_shell()
                    await trio.sleep(_SETTLE_S)
                    if not sandbox.ready_shells:
                        raise PeerFailedError("no shell was ready")
                    with stopwatch:
                        session = await sandbox.create_session()
                        result = await session.exec("echo hi")
                    await session.aclose()
                    _check(result)

                yield once

        return Candidate(
            name="ours: shell kept ready", open=open_it, protections=PROTECTIONS, ours=True
        )

    def fresh_session(self) -> Candidate:
        """A shell made in a sandbox that lives, and its first command's output seen."""

        async def once(sandbox: Sandbox, stopwatch: Stopwatch) -> None:
            with stopwatch:
                session = await sandbox.create_session()
                result = await session.exec("echo hi")
            await session.aclose()
            _check(result)

        return self._candidate("ours: fresh session", once)

    def session_echo(self) -> Candidate:
        """`echo hi` in a live session."""

        async def once(sandbox: Sandbox, stopwatch: Stopwatch) -> None:
            with stopwatch:
                result = await sandbox.exec("echo hi")
            _check(result)

        return self._candidate("ours: session", once)

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
                await sandbox.fill_pool(language)
                await trio.sleep(_SETTLE_S)
            with stopwatch:
                context = await sandbox.create_code_context(language)
                execution = await context.run(code)
            await context.aclose()
            check_answer(execution)

        name = "ours: context from the pool" if pool else "ours: context, pool empty"
        return self._candidate(name, once, pool=pool)

    def live_context(self, language: str, code: str = "1 + 1") -> Candidate:
        """Code in a context that lives."""

        async def once(sandbox: Sandbox, stopwatch: Stopwatch) -> None:
            with stopwatch:
                execution = await sandbox.run_code(code, language=language)
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
        """A command's tree of sleeping processes, from the kill until nothing of it is left."""
        limits = Limits(processes=count + 100)

        async def once(sandbox: Sandbox, stopwatch: Stopwatch) -> None:
            up = trio.Event()
            process = await sandbox.start_process(
                tree_of(count), on_stdout=lambda _: up.set(), stdin=b""
            )
            await up.wait()
            with stopwatch:
                await process.kill()

        return self._candidate("ours: kill", once, limits=limits)

    def branch(self, array_mb: int, *, ready: bool = False) -> Candidate:
        """A context that holds an array copied, to the copy's first result.

        Args:
            array_mb: How large the array is.
            ready: Whether the copy is made before it is asked for.
        """

        @asynccontextmanager
        async def open_it() -> AsyncIterator[Once]:
            async with open_sandbox(runtime=self._runtime, python_pool=0) as sandbox:
                context = await sandbox.create_code_context(ready_branches=int(ready))
                held = await context.run(f"import numpy\nx = numpy.ones({array_mb * 125_000})")
                if held.error is not None:
                    raise PeerFailedError(str(held.error))

                async def once(stopwatch: Stopwatch) -> None:
                    await context.wait_ready_branches()
                    if context.ready_branches < int(ready):
                        raise PeerFailedError("no branch was made ahead")
                    with stopwatch:
                        (child,) = await context.fork()
                        execution = await child.run("int(x[-1]) + 1")
                    await child.aclose()
                    check_answer(execution)

                yield once

        return Candidate(
            name=f"ours: {'ready branch' if ready else 'context.fork'}",
            open=open_it,
            protections=PROTECTIONS,
            ours=True,
        )

    def alive_sandboxes(self, count: int) -> Candidate:
        """Sandboxes, each with its first session."""

        @asynccontextmanager
        async def all_alive(count: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
            async with AsyncExitStack() as stack:
                made = [
                    await stack.enter_async_context(
                        open_sandbox(runtime=self._runtime, python_pool=0, node_pool=0)
                    )
                    for _ in range(count)
                ]
                for sandbox in made:
                    _check(await sandbox.exec("true"))

                async def check() -> None:
                    for sandbox in made:
                        _check(await sandbox.exec("true"))

                yield check

        return self._weighing("ours: sandbox with a session", count, all_alive)

    def alive_sessions(self, count: int) -> Candidate:
        """Sessions of one sandbox."""

        @asynccontextmanager
        async def all_alive(count: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
            async with self._roomy(count) as sandbox:
                made = [await sandbox.create_session() for _ in range(count)]

                async def check() -> None:
                    for session in made:
                        _check(await session.exec("true"))

                yield check

        return self._weighing("ours: session", count, all_alive)

    def alive_processes(self, count: int) -> Candidate:
        """Background programs, each in a jail of its own."""

        @asynccontextmanager
        async def all_alive(count: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
            async with self._roomy(count) as sandbox:
                made = [await sandbox.start_process(["/bin/sleep", "1000"]) for _ in range(count)]

                async def check() -> None:
                    for process in made:
                        _check_killed(await process.kill())

                yield check

        return self._weighing("ours: jail with a program", count, all_alive)

    def alive_contexts(self, language: str, code: str, count: int) -> Candidate:
        """Contexts of one sandbox that have run some code."""

        @asynccontextmanager
        async def all_alive(count: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
            async with self._roomy(count) as sandbox:
                made = [await sandbox.create_code_context(language) for _ in range(count)]

                async def check() -> None:
                    for context in made:
                        check_answer(await context.run(code))

                await check()
                yield check

        return self._weighing("ours: context", count, all_alive)

    def _roomy(self, count: int) -> AbstractAsyncContextManager[Sandbox]:
        limits = Limits(processes=40 * count + 500)
        return open_sandbox(runtime=self._runtime, limits=limits, python_pool=0, node_pool=0)

    def _weighing(
        self,
        name: str,
        count: int,
        all_alive: Callable[[int], AbstractAsyncContextManager[Callable[[], Awaitable[None]]]],
    ) -> Candidate:
        return alive.weighing(name, count, all_alive, protections=PROTECTIONS, ours=True)


def _check_killed(result: CommandResult) -> None:
    if result.ended != "killed":
        raise PeerFailedError(f"a program had ended by {result.ended}")
