"""The demo: code as a model writes it, on real data; what it cost; three attempts to break out.

Every number is measured while it runs and every answer is the sandbox's own. Each attack has a
control: the demo first shows itself that the same thing works outside.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import secrets
import shutil
import signal
import statistics
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.errors import InterpreterUnavailableError
from sandbox_runtime.nursery import open_serving_nursery
from sandbox_runtime.sandbox import open_sandbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sandbox_runtime.interpreters.execution import Execution
    from sandbox_runtime.receipts import Receipt
    from sandbox_runtime.sandbox import Sandbox

TASK = (
    "Compare the big technology stocks in prices.csv (monthly closing prices since 1990) with "
    "the market: yearly growth, risk, worst fall. Draw one chart."
)

ANALYSIS = """\
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

prices = pd.read_csv("prices.csv", comment="#", parse_dates=["Date"], index_col="Date")
prices = prices.dropna(how="all").rename(columns={"^GSPC": "S&P 500", "^IXIC": "Nasdaq"})
prices = prices.resample("MS").last().dropna(axis="columns")  # whole period only
print(f"{len(prices)} months, {prices.index[0]:%B %Y} to {prices.index[-1]:%B %Y}\\n")

returns = np.log(prices).diff()
years = (prices.index[-1] - prices.index[0]).days / 365.25
falls = prices / prices.cummax() - 1
table = pd.DataFrame({
    "times": prices.iloc[-1] / prices.iloc[0],
    "growth/yr": (prices.iloc[-1] / prices.iloc[0]) ** (1 / years) - 1,
    "risk/yr": returns.std() * np.sqrt(12),
    "worst fall": falls.min(),
    "in": falls.idxmin().dt.year,
    "market corr.": returns.corr()["S&P 500"],
}).sort_values("growth/yr", ascending=False)
percent = "{:.1%}".format
print(table.to_string(formatters={
    "times": "{:,.1f}x".format, "growth/yr": percent, "risk/yr": percent,
    "worst fall": percent, "market corr.": "{:.2f}".format,
}))

best, market = table.index[0], "S&P 500"
colors = dict(zip(table.index, plt.cm.tab10.colors)) | {market: "black"}
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False,
                     "font.size": 11, "text.parse_math": False})
figure, (top, bottom) = plt.subplots(
    2, 1, figsize=(10, 7.5), sharex=True, height_ratios=[3, 1], layout="constrained"
)
growth = prices / prices.iloc[0]
height = 0
for name, times in growth.iloc[-1].sort_values().items():
    strong = name in (best, market)
    top.plot(growth[name], color=colors[name], lw=2.4 if strong else 1.3)
    height = max(times, height * 1.45)  # labels must not overlap
    top.annotate(f"{name}  {times:,.3g}x", (prices.index[-1], height), xytext=(8, 0),
                 textcoords="offset points", va="center", color=colors[name],
                 weight="bold" if strong else "normal")
top.set_yscale("log")
top.yaxis.set_major_formatter("${x:,.4g}")
top.grid(axis="y", color="0.9")
top.set_title(f"One dollar in {best} became ${growth[best].iloc[-1]:,.0f}; "
              f"in the market, ${growth[market].iloc[-1]:,.0f}",
              loc="left", fontsize=15, weight="bold", pad=24)
top.text(0, 1.015, f"Value of $1 invested in {prices.index[0]:%B %Y}, logarithmic",
         transform=top.transAxes, color="0.4")
for name in (best, market):
    fall = 100 * falls[name]
    bottom.fill_between(fall.index, fall, color=colors[name], alpha=0.25, lw=0)
    bottom.plot(fall, color=colors[name], lw=1.2, label=name)
bottom.set_title("Below the highest price so far", loc="left", fontsize=11, color="0.4")
bottom.yaxis.set_major_formatter("{x:.0f} %")
bottom.legend(loc="lower right", frameon=False, ncols=2)
bottom.set_xlim(prices.index[0], prices.index[-1])
figure.savefig("chart.png", dpi=120)
plt.close(figure)
"""
"""What a model might have answered to `TASK`."""

SECRET_NAME = "SANDBOX_RUNTIME_DEMO_SECRET"  # noqa: S105 - its name, not the secret

STEAL_ENVIRONMENTS = """\
import glob, os
found, opened = [name for name in os.environ if name == "SECRET_NAME"], 0
paths = glob.glob("/proc/[0-9]*/environ")
for path in ["/proc/HOST_PID/environ", *paths]:
    try:
        with open(path, "rb") as file:
            found += [entry for entry in file.read().split(b"\\0") if b"SECRET_NAME" in entry]
        opened += 1
    except OSError as error:
        print(f"{path}: {error.strerror}")
pids = ", ".join(path.split("/")[2] for path in paths)
print(f"processes to be seen: {pids}; environments read: {opened}; FOUND: {found or 'nothing'}")
"""

KILL_EVERYTHING = """\
for target in HOST_PIDS $PPID -1; do
    if kill -9 -- $target; then echo "kill -9 $target: no error"; fi
done 2>&1
for pid in HOST_PIDS; do
    if [ -e /proc/$pid ]
    then echo "/proc/$pid is a process of the jail: $(tr '\\0' ' ' </proc/$pid/cmdline)"
    else echo "/proc/$pid does not exist"; fi
done
"""

CONNECT = """\
import socket
for host in ("127.0.0.1", "localhost", "0.0.0.0"):
    try:
        with socket.create_connection((host, PORT), timeout=2) as connection:
            print(f"{host} port PORT: CONNECTED, it says {connection.recv(100)!r}")
    except OSError as error:
        print(f"{host} port PORT: {error}")
print("interfaces:", ", ".join(name for _, name in socket.if_nameindex()))
"""

_WARM_ROUNDS = 10
_TRUE_ROUNDS = 200
_HOST_ROUNDS = 50


@dataclass(frozen=True, slots=True)
class Attack:
    """One attempt.

    Attributes:
        tried: What it was.
        outside: What was seen of it on the host; first, that it can be done there.
        inside: What the sandbox answered, word for word.
        proves: Whether what was tried works outside, so that its failure inside means something.
        succeeded: Whether it worked inside.
    """

    tried: str
    outside: str
    inside: str
    proves: bool
    succeeded: bool

    @property
    def verdict(self) -> str:
        """In words."""
        if self.succeeded:
            return "!!! IT SUCCEEDED"
        return "refused" if self.proves else "NONE: it does not work outside either"


def main(directory: Path) -> int:
    """Runs it all; returns the exit status, 1 if an attack succeeded."""
    _hold_secret()
    directory.mkdir(parents=True, exist_ok=True)
    return trio.run(_demonstrate, directory)


def _hold_secret() -> None:
    """Starts this program anew with a secret in its environment.

    What `/proc/PID/environ` shows is what a program was started with; a variable that is set later
    would not be there to be stolen.
    """
    if not os.environ.get(SECRET_NAME, "").startswith(f"{os.getpid()}-"):
        secret = f"{os.getpid()}-{secrets.token_hex(12)}"
        sys.stdout.flush()
        os.execve(sys.executable, sys.orig_argv, {**os.environ, SECRET_NAME: secret})  # noqa: S606


async def _demonstrate(directory: Path) -> int:
    data = _data()
    width = max(60, min(shutil.get_terminal_size((92, 24)).columns, 92))
    _heading(width, "A task for an agent")
    print(textwrap.fill(TASK, width))
    started_s = time.perf_counter()
    async with open_sandbox() as sandbox:
        made_s = time.perf_counter() - started_s
        await sandbox.files.write("prices.csv", data.read_bytes())
        started_s = time.perf_counter()
        await sandbox.fill_pool()
        warmed_s = time.perf_counter() - started_s
        print(f"\nsandbox made in {made_s * 1000:.0f} ms; Python with numpy, pandas and matplotlib")
        print(f"warmed in {warmed_s:.1f} s, once for all sandboxes and contexts of a program;")
        print(f"copied in: {data.name}, {data.stat().st_size:,} bytes, comes with matplotlib")

        _heading(width, "The code that the model wrote")
        print(textwrap.indent(ANALYSIS, "  | ", lambda _: True), end="")
        _heading(width, "What it printed, as it came")
        receipt = await _analyse(sandbox)
        chart = directory / "chart.png"
        chart.write_bytes(await sandbox.files.read("chart.png"))
        print(f"\nchart copied out: {chart} ({chart.stat().st_size:,} bytes)")

        _heading(width, "What it cost")
        _print_receipt(receipt)
        _heading(width, "How fast this is, measured just now (median)")
        await _measure(sandbox)
        _heading(width, f"What protects you (level {sandbox.report.level})")
        print("\n".join(_clip(line, width) for line in sandbox.report.table().splitlines()))
        print("  `sandbox-runtime doctor` says how to get what is missing, if anything is")

        refused = 0
        attacks = (_attack_environments, _attack_processes, _attack_loopback)
        for number, attempt in enumerate(attacks, 1):
            attack = await attempt(sandbox)
            _heading(width, f"Attack {number} of {len(attacks)}: {attack.tried}")
            _print_indented("outside", attack.outside)
            _print_indented("inside", attack.inside)
            _print_indented("verdict", attack.verdict)
            refused += attack.proves and not attack.succeeded
    _heading(width, "Done")
    print(f"The chart is {chart}.")
    print(f"{refused} of {len(attacks)} attacks were refused.")
    if refused < len(attacks):
        print("!!! THIS SANDBOX DOES NOT HOLD WHAT IT PROMISES. DO NOT TRUST IT.")
        return 1
    return 0


# --- the analysis ----------------------------------------------------------------------------


def _data() -> Path:
    """Prices that matplotlib brings with it."""
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None or importlib.util.find_spec("pandas") is None:
        raise InterpreterUnavailableError(
            "the demo analyses data with pandas and matplotlib, and one of them is not installed",
            remedy="pip install numpy pandas matplotlib",
        )
    path = Path(spec.origin).parent / "mpl-data" / "sample_data" / "Stocks.csv"
    if not path.is_file():
        import matplotlib as mpl

        path = Path(mpl.get_data_path()) / "sample_data" / "Stocks.csv"
    if not path.is_file():
        raise InterpreterUnavailableError(
            f"matplotlib's sample data is not at {path}",
            remedy="Install matplotlib with pip, or its data package (python-matplotlib-data)",
        )
    return path


async def _analyse(sandbox: Sandbox) -> Receipt:
    def stream(chunk: bytes) -> None:
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()

    sys.stdout.flush()
    execution = await sandbox.run_code(ANALYSIS, deadline_s=60, on_stdout=stream, on_stderr=stream)
    if execution.ended != "ok":
        why = execution.error.traceback if execution.error else execution.ended
        raise InterpreterUnavailableError(f"the analysis did not end well: {why}")
    return execution.receipt


def _print_receipt(receipt: Receipt) -> None:
    cpu_s = None
    if receipt.user_s is not None and receipt.system_s is not None:
        cpu_s = receipt.user_s + receipt.system_s
    peak = receipt.peak_memory_bytes
    rows = (
        ("wall", f"{receipt.wall_s:.3f} s", receipt.sources["wall_s"]),
        ("cpu", "-" if cpu_s is None else f"{cpu_s:.3f} s", receipt.sources["user_s"]),
        (
            "peak",
            "-" if peak is None else f"{peak / 2**20:.0f} MiB",
            receipt.sources["peak_memory_bytes"],
        ),
    )
    for name, value, source in rows:
        print(f"  {name:<6} {value:>10}   {source}")


# --- speed -----------------------------------------------------------------------------------


async def _measure(sandbox: Sandbox) -> None:
    first_s = []
    for _ in range(_WARM_ROUNDS):
        await sandbox.fill_pool()
        started_s = time.perf_counter()
        context = await sandbox.create_code_context()
        execution = await context.run("1 + 1")
        first_s.append(time.perf_counter() - started_s)
        assert execution.text == "2"
        await context.aclose()
    await sandbox.exec("true")
    session_s = []
    for _ in range(_TRUE_ROUNDS):
        started_s = time.perf_counter()
        await sandbox.exec("true")
        session_s.append(time.perf_counter() - started_s)
    fresh_s = []
    for _ in range(_HOST_ROUNDS):
        started_s = time.perf_counter()
        await sandbox.run_process(["true"])
        fresh_s.append(time.perf_counter() - started_s)
    host_s = []
    for _ in range(_HOST_ROUNDS):
        started_s = time.perf_counter()
        subprocess.run(["bash", "-c", "true"], check=True)  # noqa: ASYNC221 - nothing else runs
        host_s.append(time.perf_counter() - started_s)
    for what, times_s in (
        ("fresh Python context from the pool, result of `1 + 1`", first_s),
        ("`true` in a session of the sandbox", session_s),
        ("`true` in a fresh jail of its own", fresh_s),
        ("`bash -c true` on this host, no sandbox at all", host_s),
    ):
        print(f"  {what:<56} {statistics.median(times_s) * 1000:8.2f} ms  ({len(times_s)} rounds)")


# --- attacks ---------------------------------------------------------------------------------


async def _attack_environments(sandbox: Sandbox) -> Attack:
    """The variables of this process hold a secret, as an agent's hold its keys."""
    secret = os.environ[SECRET_NAME]
    own = f"/proc/{os.getpid()}/environ"
    there = secret.encode() in await trio.Path(own).read_bytes()
    code = STEAL_ENVIRONMENTS.replace("HOST_PID", str(os.getpid()))
    execution = await sandbox.run_code(code.replace("SECRET_NAME", SECRET_NAME), deadline_s=30)
    answer = _said(execution)
    return Attack(
        tried="steal a secret from the agent's environment",
        outside=f"{own} (this process) has {SECRET_NAME if there else 'NO SECRET'}",
        inside=answer,
        proves=there and "FOUND: nothing" in answer,
        succeeded=secret in answer or f"{SECRET_NAME}=" in answer,
    )


async def _attack_processes(sandbox: Sandbox) -> Attack:
    """Beside this process stands one more that it alone could kill."""
    await sandbox.exec("marker=unharmed")
    bystander = subprocess.Popen(["sleep", "600"])  # noqa: ASYNC220 - returns at once
    try:
        text = KILL_EVERYTHING.replace("HOST_PIDS", f"{os.getpid()} {bystander.pid}")
        result = await sandbox.run_process(["bash", "-c", text], deadline_s=30)
        alive = bystander.poll() is None
        marker = (await sandbox.exec("echo $marker")).text.strip()
    finally:
        bystander.kill()
        killed = bystander.wait() == -signal.SIGKILL
    return Attack(
        tried="kill the agent and everything else",
        outside=f"pid {os.getpid()} (this process) is alive: it writes this\n"
        f"pid {bystander.pid} (`sleep` beside it) {'was alive afterwards' if alive else 'IS DEAD'};"
        f" this process could {'end it' if killed else 'NOT END IT'} at once\n"
        f"the sandbox's other session is {marker or 'GONE'}",
        inside=result.text.replace("bash: line 2: ", ""),
        proves=killed or not alive,
        succeeded=not alive or marker != "unharmed",
    )


@contextlib.asynccontextmanager
async def _server() -> AsyncIterator[tuple[int, bytes, Callable[[], int]]]:
    """A real server on this host's loopback, that greets and counts who comes."""
    greeting = f"hello from the host {secrets.token_hex(4)}".encode()
    visitors = 0

    async def greet(stream: trio.SocketStream) -> None:
        nonlocal visitors
        visitors += 1
        async with stream:
            await stream.send_all(greeting)

    async with open_serving_nursery() as nursery:
        serve = functools.partial(trio.serve_tcp, greet, 0, host="127.0.0.1")
        listeners = await nursery.start(serve)
        yield listeners[0].socket.getsockname()[1], greeting, lambda: visitors


async def _attack_loopback(sandbox: Sandbox) -> Attack:
    """Databases and agents' own servers often listen there, without a password."""
    async with _server() as (port, greeting, visitors):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            heard = await stream.receive_some()
        execution = await sandbox.run_code(CONNECT.replace("PORT", str(port)), deadline_s=60)
        came = visitors()
    reached = heard == greeting
    return Attack(
        tried="reach a server on the host's loopback",
        outside=f"127.0.0.1 port {port}: this process "
        + (f"is told {greeting.decode()!r}" if reached else "CANNOT REACH IT")
        + f"\nvisitors in all, with this process: {came}",
        inside=_said(execution),
        proves=reached,
        succeeded=came > 1,
    )


def _said(execution: Execution) -> str:
    """What it printed, or how it ended if it did not end well."""
    error = f"{execution.error.name}: {execution.error.value}" if execution.error else ""
    output = (execution.stdout + execution.stderr).decode(errors="replace")
    return f"{output}{error or ('' if execution.ended == 'ok' else execution.ended)}"


# --- printing --------------------------------------------------------------------------------


def _heading(width: int, text: str) -> None:
    print(f"\n-- {text} {'-' * max(0, width - len(text) - 4)}\n", flush=True)


def _print_indented(name: str, text: str) -> None:
    print(f"{name + ':':<10}" + textwrap.indent(text.strip(), " " * 10).strip())


def _clip(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: width - 3]}..."
