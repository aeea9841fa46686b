"""Rows that a native program measures: the jail without any Python around it.

The program prints one line of JSON: `series`, an object of lists of microseconds by name, of the
same rounds. `benches/native` builds and runs ours.
"""

from __future__ import annotations

import functools
import json
import subprocess
from typing import TYPE_CHECKING

import msgspec
import trio

from sandbox_runtime.bench.fingerprint import LoadMeter
from sandbox_runtime.bench.results import Measured, Missing, ScenarioResult
from sandbox_runtime.bench.samples import ratio, summarize
from sandbox_runtime.bench.spawned import PeerFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence

SCENARIOS = {
    "native-fresh-jail": "`/bin/true` in a fresh jail, natively",
    "native-prepared-jail": "`/bin/true` in a fresh jail that was made ahead, natively",
    "native-session-command": "`/bin/true` in a live session, natively, its output captured",
    "native-session-builtin": "`true` in a live session, natively",
}
"""Title by name."""
_PEERS = {"raw": "vfork+exec", "bash": "bash -c true", "bwrap": "bubblewrap"}
_NO_BWRAP = Missing(candidate="bubblewrap", remedy="apt-get install bubblewrap")


class _Printed(msgspec.Struct, frozen=True):
    series: dict[str, list[float]]


async def measure(argv: Sequence[str], protections: str) -> list[ScenarioResult]:
    """Runs the program, and makes a scenario of each of ours, against each of its peers.

    Raises:
        PeerFailedError: It failed, or printed something else.
    """
    meter = LoadMeter()
    run = functools.partial(subprocess.run, argv, stdout=subprocess.PIPE, text=True, check=False)
    done = await trio.to_thread.run_sync(run)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        raise PeerFailedError(f"{argv[0]} ended with {done.returncode} and measured nothing")
    try:
        series = msgspec.convert(json.loads(lines[-1]), _Printed).series
    except (ValueError, msgspec.ValidationError) as error:
        raise PeerFailedError(f"{argv[0]} printed no series: {error}") from error
    load = meter.read()
    return [
        ScenarioResult(
            scenario=scenario,
            title=title,
            unit="seconds",
            rounds=len(ours),
            size_bytes=0,
            measured=(
                _measured("ours: native", ours, protections, None),
                *(
                    _measured(_PEERS[peer], series[peer], "none", ours)
                    for peer in _PEERS
                    if series.get(peer)
                ),
            ),
            missing=() if "bwrap" in series else (_NO_BWRAP,),
            load=load,
        )
        for scenario, title in SCENARIOS.items()
        if (ours := series.get(scenario.removeprefix("native-").replace("-", "_")))
    ]


def _measured(
    name: str, values_us: list[float], protections: str, ours_us: list[float] | None
) -> Measured:
    values = [value / 1e6 for value in values_us]
    compared = None
    if ours_us is not None:
        # A slow peer takes part in every so many rounds.
        step = max(1, len(ours_us) // len(values))
        ours = [value / 1e6 for value in ours_us[::step]][: len(values)]
        compared = ratio(ours, values[: len(ours)])
    return Measured(
        candidate=name,
        version="",
        protections=protections,
        summary=summarize(values),
        ratio=compared,
        series=tuple(values),
    )
