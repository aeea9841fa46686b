"""Peers for code: plain interpreters, a notebook's kernel, and a compiler of TypeScript."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from sandbox_runtime.bench.results import Missing
from sandbox_runtime.bench.rounds import Candidate
from sandbox_runtime.bench.spawned import (
    CLEAN_ENV,
    PeerFailedError,
    asking,
    opened,
    spawn_seen,
    version_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sandbox_runtime.bench.rounds import Once, Stopwatch

_IPYKERNEL_MISSING = Missing(candidate="ipykernel", remedy="pip install ipykernel")

# 50 lines, with what needs new code (an enum, parameter properties) and what does not.
TYPESCRIPT = "\n".join(
    [
        "enum Level { Low = 1, High = 5 }",
        "interface Item { name: string; level: Level; tags?: string[] }",
        "class Store<T extends Item> {",
        "  private items: T[] = []",
        "  constructor(public readonly label: string) {}",
        "  add(item: T): this { this.items.push(item); return this }",
        "  find(level: Level): T[] { return this.items.filter((one: T) => one.level === level) }",
        "}",
        "const store = new Store<Item>('bench')",
        *[f"store.add({{ name: 'n{n}' as string, level: Level.Low }})" for n in range(40)],
        "store.find(Level.Low).length - 38",
    ]
)


def python(code: str) -> Candidate:
    """A Python started for one piece of code, whose last line is an expression that is 2."""
    *before, last = code.split("\n")
    argv = [sys.executable, "-c", "\n".join([*before, f"print({last})"])]

    async def once(stopwatch: Stopwatch) -> None:
        await trio.lowlevel.checkpoint()
        spawn_seen(argv, stopwatch, b"2\n")

    return Candidate(name="python -c", open=opened(once), version=version_of(sys.executable))


def node(path: str) -> Candidate:
    """A Node started for one expression."""

    async def once(stopwatch: Stopwatch) -> None:
        await trio.lowlevel.checkpoint()
        spawn_seen([path, "-p", "1 + 1"], stopwatch, b"2\n")

    return Candidate(name="node -p", open=opened(once), version=version_of(path))


def has_ipykernel() -> bool:
    """Whether a notebook's kernel can be measured."""
    return importlib.util.find_spec("ipykernel") is not None


@asynccontextmanager
async def open_kernel() -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """A kernel of ipykernel's; yields what runs a cell whose result must be 2."""
    from jupyter_client.manager import start_new_kernel

    env = CLEAN_ENV | {"HOME": "/tmp", "IPYTHONDIR": "/tmp/.ipython"}
    manager, client = await trio.to_thread.run_sync(
        functools.partial(
            start_new_kernel, kernel_name="python3", env=env, stderr=subprocess.DEVNULL
        )
    )

    async def run(code: str) -> None:
        await trio.lowlevel.checkpoint()
        _run(client, code)

    def stop() -> None:
        client.stop_channels()
        manager.shutdown_kernel(now=True)

    try:
        yield run
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(stop)


def ipykernel_fresh(code: str, name: str = "ipykernel") -> Candidate | Missing:
    """A kernel started for one cell."""
    if not has_ipykernel():
        return _IPYKERNEL_MISSING

    async def once(stopwatch: Stopwatch) -> None:
        kernel = open_kernel()
        with stopwatch:
            run = await kernel.__aenter__()
            await run(code)
        await kernel.__aexit__(None, None, None)

    version = importlib.metadata.version("ipykernel")
    return Candidate(name=name, open=opened(once), version=version)


def ipykernel_live(code: str) -> Candidate | Missing:
    """A cell in a kernel that runs."""
    if not has_ipykernel():
        return _IPYKERNEL_MISSING

    @asynccontextmanager
    async def open_it() -> AsyncIterator[Once]:
        async with open_kernel() as run:

            async def once(stopwatch: Stopwatch) -> None:
                with stopwatch:
                    await run(code)

            yield once

    version = importlib.metadata.version("ipykernel")
    return Candidate(name="ipykernel", open=open_it, version=version)


def _run(client: Any, code: str) -> None:
    """Runs a cell and waits for its result, which must be 2."""
    seen: list[str] = []

    def hook(message: dict[str, Any]) -> None:
        if message["msg_type"] == "execute_result":
            seen.append(message["content"]["data"]["text/plain"])

    client.execute_interactive(code, output_hook=hook, timeout=50)
    if seen != ["2"]:
        raise PeerFailedError(f"answered {seen}")


# Reads a line of JSON with the text, answers with a line: what the compiled text's value is.
_ESBUILD = """
const esbuild = require("esbuild");
const vm = require("node:vm");
const context = vm.createContext({});
const lines = require("node:readline").createInterface({ input: process.stdin });
console.log(esbuild.version);
lines.on("line", async (line) => {
  const { code } = await esbuild.transform(JSON.parse(line), { loader: "ts" });
  console.log(vm.runInContext(`{${code}}`, context));
});
"""


def esbuild(node_path: str) -> Candidate | Missing:
    """Many lines of TypeScript, compiled by esbuild's own service and run in a live Node."""
    missing = Missing(candidate="esbuild", remedy="npm install --global esbuild; set NODE_PATH")
    env = CLEAN_ENV | {"NODE_PATH": os.environ.get("NODE_PATH", "/usr/local/lib/node_modules")}
    try:
        subprocess.run(
            [node_path, "-e", "require.resolve('esbuild')"],
            check=True,
            capture_output=True,
            env=env,
        )
    except (OSError, subprocess.CalledProcessError):
        return missing
    version = subprocess.run(
        [node_path, "-p", "require('esbuild').version"],
        check=True,
        capture_output=True,
        text=True,
        env=env,
    ).stdout.strip()

    line = json.dumps(TYPESCRIPT).encode() + b"\n"
    asked = asking([node_path, "-e", _ESBUILD], line, b"2\n", env)
    return Candidate(name="esbuild", open=asked, version=version)
