"""Peers for code: plain interpreters, and a notebook's kernel."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from sandbox_runtime.bench.results import Missing
from sandbox_runtime.bench.rounds import Candidate
from sandbox_runtime.bench.spawned import CLEAN_ENV, PeerFailedError, spawn, version_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox_runtime.bench.rounds import Once, Stopwatch

IPYKERNEL_MISSING = Missing(candidate="ipykernel", remedy="pip install ipykernel")


def plain(name: str, program: str, code: str) -> Candidate | Missing:
    """An interpreter started for one piece of code."""
    path = sys.executable if program == "python" else shutil.which(program)
    if path is None:
        return Missing(candidate=name, remedy=f"install {program}")

    async def once(stopwatch: Stopwatch) -> None:
        await trio.lowlevel.checkpoint()
        with stopwatch:
            spawn([path, "-c" if program == "python" else "-e", code])

    @asynccontextmanager
    async def opened() -> AsyncIterator[Once]:
        yield once

    return Candidate(name=name, open=opened, version=version_of(path))


def ipykernel_fresh(code: str) -> Candidate | Missing:
    """A kernel started for one cell."""
    if importlib.util.find_spec("ipykernel") is None:
        return IPYKERNEL_MISSING

    async def once(stopwatch: Stopwatch) -> None:
        from jupyter_client.manager import start_new_kernel

        def start_and_run() -> tuple[Any, Any]:
            manager, client = start_new_kernel(kernel_name="python3", env=_kernel_env())
            _run(client, code)
            return manager, client

        with stopwatch:
            manager, client = await trio.to_thread.run_sync(start_and_run)
        await trio.to_thread.run_sync(_stop, manager, client)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Once]:
        yield once

    return Candidate(name="ipykernel", open=opened, version=_version("ipykernel"))


def ipykernel_live(code: str) -> Candidate | Missing:
    """A cell in a kernel that runs."""
    if importlib.util.find_spec("ipykernel") is None:
        return IPYKERNEL_MISSING

    @asynccontextmanager
    async def opened() -> AsyncIterator[Once]:
        from jupyter_client.manager import start_new_kernel

        def start() -> tuple[Any, Any]:
            return start_new_kernel(kernel_name="python3", env=_kernel_env())

        manager, client = await trio.to_thread.run_sync(start)

        async def once(stopwatch: Stopwatch) -> None:
            await trio.lowlevel.checkpoint()
            with stopwatch:
                _run(client, code)

        try:
            yield once
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_stop, manager, client)

    return Candidate(name="ipykernel", open=opened, version=_version("ipykernel"))


def _kernel_env() -> dict[str, str]:
    return CLEAN_ENV | {"HOME": "/tmp", "IPYTHONDIR": "/tmp/.ipython"}


def _run(client: Any, code: str) -> None:
    """Runs a cell and waits for its result, which must be 2."""
    seen: list[str] = []

    def hook(message: dict[str, Any]) -> None:
        if message["msg_type"] == "execute_result":
            seen.append(message["content"]["data"]["text/plain"])

    client.execute_interactive(code, output_hook=hook, timeout=50)
    if seen != ["2"]:
        raise PeerFailedError(f"answered {seen}")


def _stop(manager: Any, client: Any) -> None:
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def _version(package: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(package)
