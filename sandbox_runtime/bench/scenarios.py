"""Every scenario, and who takes part in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sandbox_runtime.bench import interpreters, spawned
from sandbox_runtime.bench.results import Missing
from sandbox_runtime.bench.rounds import Candidate, Scenario

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox_runtime.bench.embedded import Embedded
    from sandbox_runtime.bench.wire import Served

DATA_LIBRARIES = "import numpy, pandas, matplotlib.pyplot\n1 + 1"
KIB, MIB = 1024, 1024 * 1024


def _scenario(
    name: str,
    title: str,
    candidates: Iterable[Candidate | Missing],
    *,
    missing: Iterable[Missing] = (),
    rounds: int = 100,
    quick_rounds: int = 15,
) -> Scenario:
    """Sorts what is there from what is not."""
    given = list(candidates)
    return Scenario(
        name=name,
        title=title,
        candidates=tuple(one for one in given if isinstance(one, Candidate)),
        missing=(*missing, *(one for one in given if isinstance(one, Missing))),
        rounds=rounds,
        quick_rounds=quick_rounds,
    )


def embedded_scenarios(ours: Embedded, *, javascript: bool) -> list[Scenario]:
    """What a Python program waits for."""
    sandboxes, absent = spawned.sandboxes()
    plain, by_subprocess, bash = spawned.processes()
    found = [
        _scenario(
            "fresh-jail",
            "`true` in a fresh jail",
            [ours.fresh_jail(), plain, by_subprocess, *sandboxes],
            missing=absent,
        ),
        _scenario(
            "fresh-sandbox",
            "fresh sandbox, to its first command's output",
            [ours.fresh_sandbox(), *sandboxes],
            missing=absent,
            rounds=50,
        ),
        _scenario("session-builtin", "`true` in a live session", [ours.session_builtin(), bash]),
        _scenario(
            "session-program", "`/bin/true` in a live session", [ours.session_program(), plain]
        ),
        _scenario(
            "python-pool",
            "fresh Python context from the pool, data libraries loaded, to its first result",
            [
                ours.fresh_context("python", DATA_LIBRARIES, pool=1),
                interpreters.plain("python -c", "python", DATA_LIBRARIES),
                interpreters.ipykernel_fresh("1 + 1"),
            ],
            rounds=20,
            quick_rounds=4,
        ),
        _scenario(
            "python-empty-pool",
            "the same, with an empty pool",
            [
                ours.fresh_context("python", DATA_LIBRARIES, pool=0),
                interpreters.plain("python -c", "python", DATA_LIBRARIES),
                interpreters.ipykernel_fresh("1 + 1"),
            ],
            rounds=20,
            quick_rounds=4,
        ),
        _scenario(
            "python-cell",
            "`1 + 1` in a live Python context",
            [ours.live_context("python"), interpreters.ipykernel_live("1 + 1")],
        ),
        _scenario("file-1k", "1 KiB file written and read", [ours.files(KIB)]),
        _scenario("file-10m", "10 MiB file written and read", [ours.files(10 * MIB)], rounds=20),
        _scenario(
            "output-50m", "50 MB of output", [ours.output(50_000_000)], rounds=20, quick_rounds=5
        ),
        _scenario(
            "kill-tree-400",
            "a tree of 400 processes killed",
            [ours.kill_tree(400)],
            rounds=10,
            quick_rounds=3,
        ),
    ]
    if javascript:
        found += [
            _scenario(
                f"{language}-fresh",
                f"fresh {name} context, to its first result",
                [
                    ours.fresh_context(language, "1 + 1", pool=0),
                    interpreters.plain("node -e", "node", "1 + 1"),
                ],
                rounds=20,
                quick_rounds=4,
            )
            for language, name in (("javascript", "JavaScript"), ("typescript", "TypeScript"))
        ]
    return found


def wire_scenarios(servers: list[Served], *, javascript: bool) -> list[Scenario]:
    """What a client of the wire waits for; the first server is ours."""

    def each(name: str, title: str, method: str, *args: object, rounds: int = 50) -> Scenario:
        candidates: list[Candidate] = [getattr(server, method)(*args) for server in servers]
        first, *others = candidates
        ours = Candidate(
            name=first.name,
            open=first.open,
            version=first.version,
            protections=first.protections,
            ours=True,
        )
        return _scenario(name, title, [ours, *others], rounds=rounds, quick_rounds=5)

    found = [
        each("http-execute", "HTTP: `true` in a live session", "execute", "true", rounds=200),
        each("http-program", "HTTP: `/bin/true` in a live session", "execute", "/bin/true"),
        each("http-session", "HTTP: session created, to its first command's end", "new_session"),
        each("http-stream", "HTTP: first output of a running command", "first_output"),
        each("http-process", "HTTP: process started, to its first line", "process_first_line"),
        each(
            "http-follow", "HTTP: process started, to its first streamed line", "process_followed"
        ),
        each("http-kill", "HTTP: process killed", "kill", rounds=15),
        each("http-kill-50", "HTTP: 50 processes killed by one request", "kill_all", 50, rounds=5),
        each(
            "http-32", "HTTP: `true` four times in 32 sessions at once", "sessions_at_once", 32, 4
        ),
        each("http-list", "HTTP: 10 000 entries listed", "entries", 10_000, rounds=20),
        each("http-file-1k", "HTTP: 1 KiB file written and read", "file_round_trip", KIB),
        each("http-file-1m", "HTTP: 1 MiB, likewise", "file_round_trip", MIB, rounds=20),
        each("http-file-10m", "HTTP: 10 MiB, likewise", "file_round_trip", 10 * MIB, rounds=10),
        each(
            "http-python",
            "HTTP: Python context, to its first result",
            "fresh_context",
            "python",
            "1 + 1",
            rounds=20,
        ),
        each(
            "http-10-contexts",
            "HTTP: 10 Python contexts at once",
            "contexts_at_once",
            10,
            rounds=10,
        ),
        each("http-50-contexts", "HTTP: 50 in turn", "contexts_in_turn", 50, rounds=5),
        each("http-cell", "HTTP: `1 + 1` in a live Python context", "live_context", "python"),
    ]
    if javascript:
        found += [
            each(
                f"http-{language}",
                f"HTTP: {name} context, to its first result",
                "fresh_context",
                language,
                "1 + 1",
                rounds=20,
            )
            for language, name in (("javascript", "JavaScript"), ("typescript", "TypeScript"))
        ]
    return found
