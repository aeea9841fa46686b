"""Any server that speaks E2B's protocol, by E2B's own client."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from sandbox_runtime.bench.results import Missing
from sandbox_runtime.bench.rounds import Candidate
from sandbox_runtime.bench.spawned import PeerFailedError, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sandbox_runtime.bench.rounds import Once, Stopwatch

_LIFETIME_S = 300


class E2B:
    """Candidates of one server; its key comes from the environment, as the client wants it.

    Args:
        url: The address of its API.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def _create(self) -> Any:
        from e2b import Sandbox

        return Sandbox.create(api_url=self._url, timeout=_LIFETIME_S)

    def fresh_sandbox(self, command: str, expected: str) -> Candidate | Missing:
        """A sandbox made, and its first command's output seen; its end is not timed."""

        def run(stopwatch: Stopwatch) -> None:
            with stopwatch:
                sandbox = self._create()
                result = sandbox.commands.run(command)
            sandbox.kill()
            if expected not in result.stdout:
                raise PeerFailedError(f"printed {result.stdout!r}")

        async def once(stopwatch: Stopwatch) -> None:
            await trio.to_thread.run_sync(run, stopwatch)

        return self._candidate(opened(once))

    def command(self, command: str) -> Candidate | Missing:
        """A command in a sandbox that lives."""

        def measure(sandbox: Any, stopwatch: Stopwatch) -> None:
            with stopwatch:
                result = sandbox.commands.run(command)
            if result.exit_code != 0:
                raise PeerFailedError(f"exit code {result.exit_code}")

        return self._live(measure)

    def file_round_trip(self, size_bytes: int) -> Candidate | Missing:
        """A text file written and read back."""
        content = "x" * size_bytes

        def measure(sandbox: Any, stopwatch: Stopwatch) -> None:
            with stopwatch:
                sandbox.files.write("bench.txt", content)
                back = sandbox.files.read("bench.txt")
            if back != content:
                raise PeerFailedError("read something else than was written")

        return self._live(measure)

    def _live(self, measure: Callable[[Any, Stopwatch], None]) -> Candidate | Missing:
        @asynccontextmanager
        async def open_it() -> AsyncIterator[Once]:
            sandbox = await trio.to_thread.run_sync(self._create)
            try:
                yield lambda stopwatch: trio.to_thread.run_sync(
                    functools.partial(measure, sandbox, stopwatch)
                )
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(sandbox.kill)

        return self._candidate(open_it)

    def _candidate(self, open_it: Any) -> Candidate | Missing:
        name = f"E2B at {self._url}"
        if importlib.util.find_spec("e2b") is None:
            return Missing(candidate=name, remedy="pip install e2b; set E2B_API_KEY")
        version = f"client {importlib.metadata.version('e2b')}"
        return Candidate(
            name=name, open=open_it, version=version, protections="as its operator chose"
        )
