"""Eight hypotheses about one loaded table, tried at once, each on a copy of it.

    python docs/examples/hypotheses.py [ROWS]

The table is loaded once (eight columns, 500 MB if ROWS is not given). Every hypothesis changes it
as it likes; what it does not change is not copied.
"""

from __future__ import annotations

import sys
import time

import trio

from sandbox_runtime import Context, Limits, open_sandbox

ROWS = 7_812_500

LOAD = """
import numpy as np
import pandas as pd
random = np.random.default_rng(7)
km = random.gamma(2.0, 2.5, {rows})
rain = random.random({rows}) < 0.2
hour = random.integers(0, 24, {rows}).astype(float)
minutes = km * random.normal(2.4, 0.3, {rows}) * np.where(rain, 1.15, 1.0) + 4
trips = pd.DataFrame({{
    "km": km, "minutes": minutes, "hour": hour, "rain": rain.astype(float),
    "fare": 3 + 1.9 * km + 0.2 * minutes, "people": random.integers(1, 5, {rows}).astype(float),
    "tip": 0.0, "zone": random.integers(0, 50, {rows}).astype(float),
}})
trips["tip"] = trips["fare"] * random.normal(0.12, 0.04, {rows}) * np.where(rain, 1.3, 1.0)
round(trips.memory_usage(index=False).sum() / 1e6)
"""

HYPOTHESES = {
    "rain makes trips slower": (
        "trips['minutes'] /= trips['km']\n"
        "trips.groupby('rain')['minutes'].median().round(2).to_dict()"
    ),
    "rain makes tips larger": (
        "trips['tip'] /= trips['fare']\ntrips.groupby('rain')['tip'].mean().round(3).to_dict()"
    ),
    "nights are faster": (
        "trips['hour'] = (trips['hour'] < 6).astype(float)\n"
        "(trips['km'] / trips['minutes']).groupby(trips['hour']).mean().round(3).to_dict()"
    ),
    "groups tip less each": (
        "trips['tip'] /= trips['people']\ntrips.groupby('people')['tip'].mean().round(2).to_dict()"
    ),
    "fares follow the distance": "round(float(trips['fare'].corr(trips['km'])), 3)",
    "long trips are a tenth": "round(float((trips['km'] > trips['km'].quantile(0.9)).mean()), 3)",
    "outliers carry the mean": (
        "trips.loc[trips['km'] > 20, 'fare'] = np.nan\nround(float(trips['fare'].mean()), 2)"
    ),
    "zones differ": "trips['zone'] %= 2\ntrips.groupby('zone')['fare'].mean().round(2).to_dict()",
}


async def main(rows: int) -> None:
    """Loads, branches, and prints what each hypothesis gives and what it took."""
    limits = Limits(memory_bytes=8 << 30)
    async with open_sandbox(limits=limits, python_pool=0) as sandbox:
        context = await sandbox.create_code_context()
        started_s = time.perf_counter()
        megabytes = await value(context, LOAD.format(rows=rows))
        print(f"{megabytes} MB loaded in {time.perf_counter() - started_s:.1f} s")

        started_s = time.perf_counter()
        branches = await context.fork(len(HYPOTHESES))
        print(f"{len(branches)} branches after {1e3 * (time.perf_counter() - started_s):.0f} ms")

        found: dict[str, str] = {}

        async def try_one(branch: Context, name: str) -> None:
            found[name] = await value(branch, HYPOTHESES[name])

        async with trio.open_nursery() as nursery:
            for branch, name in zip(branches, HYPOTHESES, strict=True):
                nursery.start_soon(try_one, branch, name)
        for name in HYPOTHESES:
            print(f"{name:26} {found[name]}")
        print(f"all of them after {time.perf_counter() - started_s:.1f} s")
        print("the first table is as it was:", await value(context, "int(trips['zone'].max())"))


async def value(context: Context, code: str) -> str:
    """The text of a cell's value."""
    execution = await context.run(code)
    if execution.ended != "ok" or execution.text is None:
        raise SystemExit(execution.error.traceback if execution.error else execution.ended)
    return execution.text


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else ROWS)
