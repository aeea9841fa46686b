"""A run of the harness: what is opened for it, and what is measured in it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import os
import re
import shlex
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sandbox_runtime.bench import fingerprint, native, rounds
from sandbox_runtime.bench.e2b import E2B
from sandbox_runtime.bench.embedded import PROTECTIONS, Embedded
from sandbox_runtime.bench.results import FORMAT, Results
from sandbox_runtime.bench.scenarios import embedded_scenarios
from sandbox_runtime.bench.starting import Startable
from sandbox_runtime.bench.wire import Served
from sandbox_runtime.bench.wire_scenarios import wire_scenarios
from sandbox_runtime.errors import InterpreterUnavailableError, InvalidArgumentError
from sandbox_runtime.interpreters.installation import node_candidates
from sandbox_runtime.interpreters.node import NodeFinder
from sandbox_runtime.runtime import open_runtime
from sandbox_runtime.sandbox import open_sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from sandbox_runtime.bench.plan import Sizes
    from sandbox_runtime.bench.results import ScenarioResult
    from sandbox_runtime.bench.rounds import Scenario
    from sandbox_runtime.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is to measure.

    Attributes:
        quick: Few rounds: about two minutes in all.
        sizes: The sizes that somebody may choose.
        only: Names of scenarios; all by default.
        peers: Names of peers; all that are there by default.
        servers: URLs of other servers of the wire to measure beside ours; `NAME=` may go before.
        commands: What starts further servers of it, with `{port}` for a free one; likewise.
        e2b: URLs of servers that speak E2B's protocol.
        native: A program that measures the jail natively; empty for none.
        attempts: How often a scenario is measured at most, as long as `unsettled` says so.
        processors: Which processors to run on; all by default.
        command: What to write down as the command that made the results.
    """

    quick: bool
    sizes: Sizes
    only: Collection[str] = ()
    peers: Collection[str] = ()
    servers: Sequence[str] = ()
    commands: Sequence[str] = ()
    e2b: Sequence[str] = ()
    native: Sequence[str] = ()
    attempts: int = 1
    processors: Collection[int] = ()
    command: Sequence[str] = ()


async def run(
    plan: Plan,
    *,
    on_scenario: Callable[[ScenarioResult], None] | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
    unsettled: Callable[[ScenarioResult], bool] | None = None,
) -> Results:
    """Measures.

    Args:
        plan: What.
        on_scenario: Called with each scenario as it is done.
        on_progress: Called with a scenario's title, and how many rounds of how many are done.
        unsettled: Whether a scenario is to be measured again, if there are attempts left.

    Raises:
        InvalidArgumentError: A name is no scenario's or no peer's, or a processor is not
            this process's.
    """
    plan.sizes.check()
    _pin(plan.processors)
    started = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    node = await _node()
    e2b = [E2B(url) for url in plan.e2b]
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(open_runtime())
        embedded = embedded_scenarios(Embedded(runtime), plan.sizes, node=node, e2b=e2b)
        startable = [_OURS]
        for given in plan.commands:
            name, command = named(given)
            startable.append(Startable(name=name, command=command, protections=_ITS_OWN))
        unserved = wire_scenarios([_served(_OURS.name, "")], startable, plan.sizes, node=node)
        names = [
            *(one.name for one in (*embedded, *unserved)),
            *(native.SCENARIOS if plan.native else ()),
        ]
        wanted = choose(names, plan.only)
        servers = [named(given)[0] for given in (*plan.commands, *plan.servers)]
        _check_peers(plan.peers, (*embedded, *unserved), servers)
        results = []

        def done(result: ScenarioResult) -> None:
            results.append(result)
            if on_scenario is not None:
                on_scenario(result)

        if any(name in wanted for name in native.SCENARIOS):
            for result in await native.measure(plan.native, PROTECTIONS):
                if result.scenario in wanted:
                    done(result)
        for scenario in embedded:
            if scenario.name in wanted:
                done(await _measured(scenario, plan, on_progress, unsettled))
        # Servers that idle would be in what is measured of memory, so they are started only now.
        if any(one.name in wanted for one in unserved):
            served = []
            for one in startable:
                url = await stack.enter_async_context(one.serving())
                served.append(_served(one.name, url))
            for given in plan.servers:
                name, url = named(given)
                served.append(_served(name, url))
            for scenario in wire_scenarios(served, startable, plan.sizes, node=node):
                if scenario.name in wanted:
                    done(await _measured(scenario, plan, on_progress, unsettled))
        return Results(
            format=FORMAT,
            command=shlex.join(plan.command),
            started=started,
            fingerprint=fingerprint.take(await _isolation(runtime)),
            overhead_s=await rounds.overhead_s(),
            scenarios=tuple(results),
        )


async def known(plan: Plan) -> list[tuple[str, str]]:
    """Name and title of every scenario that a plan has here."""
    node = await _node()
    async with open_runtime() as runtime:
        scenarios = [
            *embedded_scenarios(Embedded(runtime), plan.sizes, node=node),
            *wire_scenarios([_served(_OURS.name, "")], [_OURS], plan.sizes, node=node),
        ]
    native_ones = [(name, title) for name, title in native.SCENARIOS.items() if plan.native]
    return [*native_ones, *((one.name, one.title) for one in scenarios)]


async def _measured(
    scenario: Scenario,
    plan: Plan,
    on_progress: Callable[[str, int, int], None] | None,
    unsettled: Callable[[ScenarioResult], bool] | None,
) -> ScenarioResult:
    """A scenario; again if there is reason to."""
    if plan.peers:
        kept = [one for one in scenario.candidates if one.ours or one.name in plan.peers]
        scenario = dataclasses.replace(scenario, candidates=tuple(kept), missing=())
    for attempt in range(plan.attempts):
        result = await rounds.run_scenario(
            scenario,
            rounds=scenario.quick_rounds if plan.quick else scenario.rounds,
            warm_up=1 if plan.quick else 3,
            on_round=on_progress and functools.partial(on_progress, scenario.title),
        )
        last = attempt == plan.attempts - 1
        if last or unsettled is None or not unsettled(result):
            break
    return result


_OURS = Startable(name="ours: over HTTP", protections=PROTECTIONS)
_ITS_OWN = "as its operator chose"


def _served(name: str, url: str) -> Served:
    if name == _OURS.name:
        return Served(name, url, protections=PROTECTIONS, many=True)
    return Served(name, url, protections=_ITS_OWN)


def named(given: str) -> tuple[str, str]:
    """`NAME=WHAT` in two, or what was given as its own name."""
    found = re.fullmatch(r"([A-Za-z0-9][\w.-]*)=(.+)", given)
    return (found[1], found[2]) if found else (given, given)


def _pin(processors: Collection[int]) -> None:
    """Keeps this process, and so all that it starts, on these."""
    if not processors:
        return
    there = os.sched_getaffinity(0)
    if absent := sorted(set(processors) - there):
        message = f"{absent[0]} is none of this process's processors: {sorted(there)}"
        raise InvalidArgumentError("pin", message)
    os.sched_setaffinity(0, processors)


async def _node() -> str | None:
    """The Node that contexts run on, as the runtime itself finds it."""
    try:
        return (await NodeFinder(node_candidates()).find()).path
    except InterpreterUnavailableError:
        return None


async def _isolation(runtime: Runtime) -> tuple[str, ...]:
    async with open_sandbox(runtime=runtime, python_pool=0) as sandbox:
        return tuple(f"{row.name}: {row.achieved}" for row in sandbox.report.protections)


def _check_peers(
    peers: Collection[str], scenarios: Collection[Scenario], servers: Collection[str]
) -> None:
    """Refuses a peer that no scenario has, even on a machine where all are installed."""
    there = {one.name for scenario in scenarios for one in scenario.candidates}
    there |= {one.candidate for scenario in scenarios for one in scenario.missing}
    there |= set(servers)
    for name in peers:
        if name not in there:
            known = ", ".join(sorted(there))
            raise InvalidArgumentError("peer", f"{name!r} is not known; known: {known}")


def choose(names: Collection[str], only: Collection[str]) -> Collection[str]:
    """Those that were asked for.

    Raises:
        InvalidArgumentError: A name is no scenario's.
    """
    for name in only:
        if name not in names:
            known = ", ".join(names)
            raise InvalidArgumentError("scenario", f"{name!r} is not known; known: {known}")
    return only or names
