"""Servers from their start to their first answer."""

from __future__ import annotations

import compileall
import os
import shlex
import socket
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.bench.alive import settled, weighing
from sandbox_runtime.bench.rounds import Candidate
from sandbox_runtime.bench.spawned import PeerFailedError
from sandbox_runtime.bench.wire import WireClient
from sandbox_runtime.choices import LANGUAGES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from contextlib import AbstractAsyncContextManager

    from sandbox_runtime.bench.rounds import Once, Stopwatch

_UP_S = 60
_END_S = 20
_LOOK_EVERY_S = 0.005


@asynccontextmanager
async def own_server(env: Mapping[str, str] | None = None) -> AsyncIterator[str]:
    """A control process of ours on a free port of the loopback; yields its URL.

    Args:
        env: Variables besides this process's own.
    """
    argv = [sys.executable, "-m", "sandbox_runtime", "serve", "--port", "0"]
    with tempfile.TemporaryFile() as log:
        process = await trio.lowlevel.open_process(
            argv, stdout=subprocess.PIPE, stderr=log, env=os.environ | dict(env or {})
        )
        try:
            assert process.stdout is not None
            line = b""
            while not line.endswith(b"\n"):
                piece = await process.stdout.receive_some(1024)
                if not piece:
                    log.seek(0)
                    said = log.read()[-500:].decode(errors="replace")
                    raise PeerFailedError(f"our own server did not start: {said}")
                line += piece
            yield line.split()[-1].decode()
        finally:
            with trio.CancelScope(shield=True):
                await _end(process)


@asynccontextmanager
async def other_server(command: str, env: Mapping[str, str] | None = None) -> AsyncIterator[str]:
    """A server that a command starts, whose `{port}` is a free one; yields its URL when it is up.

    Whoever wants to know when a strange server listens has to look again and again: every 5 ms.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = [word.replace("{port}", str(port)) for word in shlex.split(command)]
    with tempfile.TemporaryFile() as log:
        process = await trio.lowlevel.open_process(
            argv, stdout=log, stderr=log, env=os.environ | dict(env or {})
        )
        try:
            with trio.move_on_after(_UP_S):
                while process.poll() is None and not await _listens(port):  # noqa: ASYNC110
                    await trio.sleep(_LOOK_EVERY_S)
            if process.poll() is not None or not await _listens(port):
                log.seek(0)
                said = log.read()[-500:].decode(errors="replace")
                raise PeerFailedError(f"{command} did not listen on port {port}: {said}")
            yield f"http://127.0.0.1:{port}"
        finally:
            with trio.CancelScope(shield=True):
                await _end(process)


def compile_package() -> None:
    """Compiles this package's modules, as an installer does, where the disk takes that.

    Out of a source tree, and with `PYTHONDONTWRITEBYTECODE` set, each start would compile what has
    changed since somebody did, which no user's start does: 100 ms of 300.
    """
    compileall.compile_dir(Path(__file__).parents[1], quiet=2)


async def _end(process: trio.Process) -> None:
    """Asks a server to end, and ends it if it does not in time."""
    process.terminate()
    with trio.move_on_after(_END_S):
        await process.wait()
    if process.poll() is None:
        process.kill()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Startable:
    """A server that can be started.

    Attributes:
        name: What it is called.
        protections: What confines what runs there, in words.
        command: What starts it, with `{port}` for a free one; ours, if there is none.
    """

    name: str
    protections: str
    command: str = ""

    def serving(self, env: Mapping[str, str] | None = None) -> AbstractAsyncContextManager[str]:
        """Starts it; yields its URL."""
        return other_server(self.command, env) if self.command else own_server(env)

    def start(self) -> Candidate:
        """It started, to the end of its first command."""

        async def once(stopwatch: Stopwatch) -> None:
            async with AsyncExitStack() as undo:
                with stopwatch:
                    url = await undo.enter_async_context(self.serving())
                    client = WireClient(url)
                    undo.callback(client.finish)
                    answer = client.call(
                        "POST", "/api/execute", {"id": client.session(), "command": "true"}
                    )
            if answer["exitCode"] != 0:
                raise PeerFailedError(f"exit code {answer['exitCode']}")

        @asynccontextmanager
        async def open_it() -> AsyncIterator[Once]:
            if not self.command:
                await trio.to_thread.run_sync(compile_package)
            yield once

        return self._candidate(open_it)

    def empty_pools(self, measured: Callable[[str], Candidate]) -> Candidate:
        """What somebody measures of its address, with no interpreter kept ready."""
        return self._without(
            [f"{language.upper()}_POOL_MIN_SIZE" for language in LANGUAGES], measured
        )

    def on_demand(self, measured: Callable[[str], Candidate]) -> Candidate:
        """Likewise, with no sandbox and no shell kept ready, where it does that at all."""
        return self._without(["SANDBOX_READY_SANDBOXES"], measured)

    def _without(self, variables: list[str], measured: Callable[[str], Candidate]) -> Candidate:
        @asynccontextmanager
        async def open_it() -> AsyncIterator[Once]:
            async with (
                self.serving(dict.fromkeys(variables, "0")) as url,
                measured(url).open() as once,
            ):
                yield once

        return self._candidate(open_it)

    def idle_sessions(self, count: int) -> Candidate:
        """Memory of each of many sessions that have run a command."""

        @asynccontextmanager
        async def open_it() -> AsyncIterator[Once]:
            async with self.serving() as url:
                first = WireClient(url)
                first.call("POST", "/api/execute", {"id": first.session(), "command": "true"})
                first.finish()
                await settled()

                @asynccontextmanager
                async def all_alive(count: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
                    client = WireClient(url)
                    made = [client.session() for _ in range(count)]

                    async def check() -> None:
                        await trio.lowlevel.checkpoint()
                        for session in made:
                            client.call("POST", "/api/execute", {"id": session, "command": "true"})

                    await check()
                    yield check
                    client.finish()

                weighed = weighing(self.name, count, all_alive, protections=self.protections)
                async with weighed.open() as once:
                    yield once

        return self._candidate(open_it)

    def _candidate(self, open_it: Callable[[], AbstractAsyncContextManager[Once]]) -> Candidate:
        return Candidate(
            name=self.name, open=open_it, protections=self.protections, ours=not self.command
        )
