"""What JavaScript and TypeScript contexts cost, each against a bare `node -e` in the same run.

Every figure is a median of interleaved rounds: ours, then the peer. The peer is a Node without a
sandbox that starts, runs one expression, prints it and ends. Run it with
``python benches/javascript.py``; ``--json`` prints the figures alone, ``--rounds N`` says how many.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from sandbox_runtime import Context, Sandbox, open_sandbox
from sandbox_runtime.interpreters.node import NodeFinder, node_candidates

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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
        "store.find(Level.Low).length",
    ]
)


async def timed(action: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds that an awaitable takes."""
    start = time.perf_counter()
    await action()
    return (time.perf_counter() - start) * 1000


async def run(context: Context, code: str) -> None:
    """Runs code that must not fail."""
    execution = await context.run(code)
    assert execution.ended == "ok", execution


def first(sandbox: Sandbox, language: str, code: str = "1 + 1") -> Callable[[], Awaitable[None]]:
    """A new context with its first result."""

    async def create_and_run() -> None:
        context = await sandbox.create_code_context(language)
        await run(context, code)
        made.append(context)

    return create_and_run


made: list[Context] = []


def pss_mb(name: str) -> float:
    """Mean proportional set size of the processes that run this file, in MB."""
    sizes = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if name.encode() in (entry / "cmdline").read_bytes():
                found = re.search(
                    r"^Pss:\s+(\d+)", (entry / "smaps_rollup").read_text(), re.MULTILINE
                )
                sizes.append(int(found[1]) * 1024 / 1e6 if found else 0)
        except OSError:
            continue
    return statistics.mean(sizes) if sizes else float("nan")


async def measure(rounds: int) -> dict[str, float]:
    """All figures."""
    node = (await NodeFinder(node_candidates()).find()).path
    times: dict[str, list[float]] = {}

    async def peer() -> None:
        await trio.run_process([node, "-e", "console.log(1 + 1)"], capture_stdout=True, env={})

    async with open_sandbox(node_pool=1) as sandbox, open_sandbox(node_pool=0) as bare:
        live = {
            language: await bare.create_code_context(language)
            for language in ("javascript", "typescript")
        }
        for context in live.values():
            await run(context, "1 + 1")
        await run(live["typescript"], TYPESCRIPT)
        for _ in range(rounds):
            for language in live:
                await sandbox.fill_pool(language)
            await trio.sleep(0.05)  # what has just started still works
            cases: dict[str, Callable[[], Awaitable[object]]] = {
                "peer": peer,
                "javascript warm": first(sandbox, "javascript"),
                "typescript warm": first(sandbox, "typescript", TYPESCRIPT),
                "javascript cold": first(bare, "javascript"),
                "typescript cold": first(bare, "typescript", TYPESCRIPT),
            }
            for name, action in cases.items():
                times.setdefault(name, []).append(await timed(action))
                while made:
                    await made.pop().aclose()
                await sandbox.fill_pool("javascript")
                await sandbox.fill_pool("typescript")
            for name, code, count in (("1 + 1", "1 + 1", 20), ("50 lines", TYPESCRIPT, 5)):
                for language, context in live.items():
                    if language == "javascript" and code is TYPESCRIPT:
                        continue
                    for _ in range(count):
                        took = await timed(lambda: run(context, code))  # noqa: B023
                        times.setdefault(f"{language} live {name}", []).append(took)
        memory = pss_mb("node_executor.mjs") if os.geteuid() == 0 else float("nan")
    figures = {f"{name}, ms": statistics.median(taken) for name, taken in times.items()}
    floor = figures["peer, ms"]
    ratios = {f"{name[:-4]}, times node -e": taken / floor for name, taken in figures.items()}
    return {**figures, **ratios, "context, PSS in MB": memory}


def main() -> None:
    """The program; see the start of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = trio.run(measure, arguments.rounds)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    for name, figure in figures.items():
        print(f"{name:45} {figure:10.3f}")


if __name__ == "__main__":
    main()
