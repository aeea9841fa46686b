"""The figures that are told first: what people ask about, and against what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sandbox_runtime.bench.results import Unit
from sandbox_runtime.bench.table import quantity, throughput

if TYPE_CHECKING:
    from sandbox_runtime.bench.results import Results, ScenarioResult

# Scenario, what it is called, and the peer; without one, the figure stands alone.
_CHOSEN = (
    ("native-fresh-jail", "`true` in a fresh jail, every protection, natively", "vfork+exec"),
    ("native-fresh-jail", "`true` in a fresh jail, every protection, natively", "bubblewrap"),
    ("tti-ready", "sandbox kept ready, to its first command's end", "bash -c true"),
    ("tti-ready", "sandbox kept ready, to its first command's end", "bubblewrap"),
    ("tti", "sandbox made on demand, to its first command's end", "bubblewrap"),
    ("tti", "sandbox made on demand, to its first command's end", "runc"),
    ("tti", "sandbox made on demand, to its first command's end", "podman"),
    ("session-builtin", "`true` in a live session", "bash -c true"),
    ("native-session-command", "`/bin/true` in a live session, natively", "vfork+exec"),
    ("session-program", "`/bin/true` in a live session", "posix_spawn"),
    ("python-pool", "fresh Python with pandas, pool full, to its first result", "ipykernel"),
    ("python-empty-pool", "the same, pool empty", "ipykernel"),
    ("python-cell", "`1 + 1` in a live Python context", "ipykernel"),
    ("javascript-pool", "fresh JavaScript, pool full, to its first result", "node -p"),
    ("branch", "a Python context with a large array, branched", "os.fork, 4 KiB pages"),
    ("branch-ready", "the same, the branch made ahead", "os.fork, 4 KiB pages"),
    ("kill-tree", "a large tree of processes killed", "bubblewrap"),
    ("output-50m", "50 MB of output", ""),
    ("alive-session", "memory of an idle session with its shell", "bash"),
    ("alive-python", "memory of an idle Python context with pandas", "ipykernel, of 3"),
)


class Headline(msgspec.Struct, frozen=True, kw_only=True):
    """One of them.

    Attributes:
        title: What it is.
        ours: Our figure, in words.
        peer: Against what; empty if it stands alone.
        theirs: Its figure, in words.
        ratio: Ours by theirs; None if it stands alone.
        unit: What the figures are in.
        clear: Whether the whole confidence interval of the ratio lies on one side of 1.
    """

    title: str
    ours: str
    peer: str
    theirs: str
    ratio: float | None
    unit: Unit
    clear: bool


def headlines(results: Results) -> list[Headline]:
    """Those of the chosen that were measured."""
    scenarios = {one.scenario: one for one in results.scenarios}
    found = [
        _headline(scenarios[name], title, peer)
        for name, title, peer in _CHOSEN
        if name in scenarios
    ]
    return [one for one in found if one is not None]


def slower(results: Results) -> list[Headline]:
    """Every peer, of every scenario, that does better than ours."""
    found = [
        _headline(scenario, scenario.title, row.candidate)
        for scenario in results.scenarios
        for row in scenario.measured
        if row.ratio is not None and row.ratio.value > 1
    ]
    return [one for one in found if one is not None]


def _headline(scenario: ScenarioResult, title: str, peer: str) -> Headline | None:
    ours = next((row for row in scenario.measured if row.candidate.startswith("ours")), None)
    if ours is None or ours.summary is None:
        return None
    moved = throughput(scenario, ours)
    text = quantity(ours.summary.median, scenario.unit) + (f" ({moved})" if moved else "")
    if not peer:
        return Headline(
            title=title, ours=text, peer="", theirs="", ratio=None, unit=scenario.unit, clear=True
        )
    row = next((row for row in scenario.measured if row.candidate == peer), None)
    if row is None or row.summary is None or row.ratio is None:
        return None
    return Headline(
        title=title,
        ours=quantity(ours.summary.median, scenario.unit),
        peer=peer,
        theirs=quantity(row.summary.median, scenario.unit),
        ratio=row.ratio.value,
        unit=scenario.unit,
        clear=row.ratio.low > 1 or row.ratio.high < 1,
    )
