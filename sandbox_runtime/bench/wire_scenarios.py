"""What a client of the wire waits for, and who takes part."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from sandbox_runtime.bench import interpreters, ping
from sandbox_runtime.bench.arriving import contexts_of_arrivals
from sandbox_runtime.bench.scenarios import BARE, KIB, MIB, NODE_LANGUAGES, scenario
from sandbox_runtime.bench.wire import Served

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandbox_runtime.bench.plan import Sizes
    from sandbox_runtime.bench.rounds import Candidate, Scenario
    from sandbox_runtime.bench.starting import Startable


_REFILLED_S = 0.1
"""After so long a sandbox is there again in the place of one that was taken."""


def wire_scenarios(
    servers: Sequence[Served], startable: Sequence[Startable], sizes: Sizes, *, node: str | None
) -> list[Scenario]:
    """All of them; the first server is ours, and is the first that can be started.

    Args:
        servers: Who is asked.
        startable: Which of them this process can start by itself.
        sizes: How large a run is.
        node: The Node that contexts run on.
    """

    def each(name: str, title: str, method: str, *args: object, **fields: Any) -> Scenario:
        """The same of every server, and of whoever else takes part."""
        others = fields.pop("others", ())
        first, *rest = [getattr(server, method)(*args) for server in servers]
        candidates = [dataclasses.replace(first, ours=True), *rest, *others]
        return scenario(name, f"HTTP: {title}", candidates, **({"quick_rounds": 5} | fields))

    kernel_fresh = interpreters.ipykernel_fresh(BARE)
    kernel_live = interpreters.ipykernel_live(BARE)
    few: dict[str, Any] = {"rounds": 7, "quick_rounds": 2, "warm_up": 1}
    idle = min(sizes.alive, 50)
    found = [
        *_pings(servers[0]),
        scenario(
            "server-start",
            "a server started, to the end of its first command",
            [one.start() for one in startable],
            **(few | {"rounds": 5, "warm_up": 0}),
        ),
        each(
            "http-tti",
            "time to interactive: sandbox asked for, to the end of its first command",
            "time_to_interactive",
            rounds=30,
            gap_s=_REFILLED_S,
        ),
        scenario(
            "http-tti-on-demand",
            "HTTP: the same, nothing kept ready",
            [_interactive_on_demand(one) for one in startable],
            rounds=30,
            quick_rounds=5,
        ),
        each("http-execute", "`true` in a live session", "execute", "true"),
        each("http-program", "`/bin/true` in a live session", "execute", "/bin/true"),
        each(
            "http-32", "`true` four times in 32 sessions at once", "sessions_at_once", 32, 4, **few
        ),
        each(
            "http-session", "session created, to its first command's end", "new_session", rounds=20
        ),
        each("http-stream", "first output of a running command", "first_output", rounds=15),
        each("http-process", "process started, to its first line", "process_first_line", rounds=20),
        each(
            "http-follow",
            "process started, to its first streamed line",
            "process_followed",
            rounds=20,
        ),
        each("http-kill", "process killed", "kill", rounds=15),
        each(
            "http-kill-50",
            "50 processes killed by one request",
            "kill_all",
            50,
            rounds=1,
            quick_rounds=1,
            warm_up=0,
        ),
        each("http-file-1k", "1 KiB file written and read", "file_round_trip", KIB),
        each("http-file-1m", "1 MiB file written and read", "file_round_trip", MIB, rounds=15),
        each("http-file-10m", "10 MiB file written and read", "file_round_trip", 10 * MIB, **few),
        each("http-list", "a directory of 10 000 files listed", "entries", 10_000, **few),
        each(
            "http-python",
            "Python context, to its first result",
            "fresh_context",
            "python",
            BARE,
            others=[kernel_fresh],
            **(few | {"gap_s": 0.3}),
        ),
        scenario(
            "http-python-empty-pool",
            "HTTP: the same, with an empty pool",
            [
                one.empty_pools(
                    lambda url: Served("", url, protections="").fresh_context("python", BARE)
                )
                for one in startable
            ],
            **few,
        ),
        scenario(
            "http-10-arrive",
            "HTTP: 10 Python contexts at once in a server just started, its pool full: the first"
            " result of each",
            [contexts_of_arrivals(one, 10) for one in startable],
            rounds=3,
            quick_rounds=1,
            warm_up=0,
        ),
        each(
            "http-10-contexts",
            "10 Python contexts at once in a server that has served others (a peer may hand out the"
            " processes that they used), to the last one's first result",
            "contexts_at_once",
            10,
            **(few | {"gap_s": 1.0, "rounds": 4}),
        ),
        scenario(
            "http-50-contexts",
            "HTTP: 50 Python contexts made, run and deleted, one after another",
            [dataclasses.replace(servers[0].contexts_in_turn(50), ours=True)],
            **(few | {"rounds": 3, "quick_rounds": 1, "warm_up": 0}),
        ),
        each(
            "http-cell",
            "`1 + 1` in a live Python context",
            "live_context",
            "python",
            others=[kernel_live],
        ),
        each(
            "http-line",
            "the first line of a long cell, from printed to read",
            "printed_line",
            rounds=15,
        ),
    ]
    if idle:
        found.append(
            scenario(
                "alive-http-session",
                f"HTTP: memory of each idle session, of {idle}",
                [one.idle_sessions(idle) for one in startable],
                unit="bytes",
                rounds=2,
                quick_rounds=1,
                warm_up=0,
            )
        )
    if sizes.array_mb:
        ours = dataclasses.replace(servers[0].branch(sizes.array_mb), ours=True)
        title = (
            f"HTTP: a context with an array of {sizes.array_mb} MB branched, to the first result"
        )
        found.append(scenario("http-branch", title, [ours], rounds=20, quick_rounds=3))
        ours = dataclasses.replace(servers[0].branch(sizes.array_mb, ready=True), ours=True)
        title = f"HTTP: the same with {sizes.array_mb} MB and a branch that was made ahead"
        found.append(scenario("http-branch-ready", title, [ours], rounds=20, quick_rounds=3))
    if node:
        found += _of_node(each, startable, few)
    return found


def _interactive_on_demand(one: Startable) -> Candidate:
    def measured(url: str) -> Candidate:
        served = Served("", url, protections="", many=not one.command)
        return served.time_to_interactive()

    return one.on_demand(measured)


def _pings(ours: Served) -> list[Scenario]:
    return [
        scenario(
            f"ping{suffix}",
            f"HTTP: a ping, {title}",
            ping.candidates(burst, ours.url, ours.protections),
            rounds=20,
            quick_rounds=4,
            warm_up=1,
        )
        for suffix, title, burst in (
            ("", "back to back", ping.BACK_TO_BACK),
            ("-gaps", "one each 2 ms", ping.WITH_GAPS),
        )
    ]


def _of_node(
    each: Callable[..., Scenario], startable: Sequence[Startable], few: dict[str, Any]
) -> list[Scenario]:
    found = []
    for language, name in NODE_LANGUAGES:

        def fresh(url: str, language: str = language) -> Candidate:
            return Served("", url, protections="").fresh_context(language, BARE)

        found += [
            each(
                f"http-{language}",
                f"{name} context, to its first result",
                "fresh_context",
                language,
                BARE,
                **(few | {"gap_s": 0.3}),
            ),
            scenario(
                f"http-{language}-empty-pool",
                f"HTTP: {name} context, with an empty pool",
                [one.empty_pools(fresh) for one in startable],
                **few,
            ),
            each(
                f"http-{language}-cell",
                f"`1 + 1` in a live {name} context",
                "live_context",
                language,
                rounds=30,
            ),
        ]
    return found
