"""The numbers that the README states, measured on this machine, each against a peer in one run.

Every figure is a median of interleaved rounds: ours, the peer, ours, the peer. Ratios are of
medians of the same run. Run it with ``make bench``; ``--json`` prints the figures alone.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from sandbox_runtime import Context, Runtime, Sandbox, open_runtime, open_sandbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROOT = Path(__file__).parent.parent
MB = 1_000_000
TARGETS: dict[str, tuple[str, float, str]] = {
    "fresh_jail_per_raw": ("<=", 1.5, "fresh jail, `true`: times raw vfork+exec"),
    "fresh_jail_per_bwrap": ("<=", 0.35, "the same: times bwrap --unshare-all"),
    "live_program_per_raw": ("<=", 1.15, "program in a live session, output captured: times raw"),
    "builtin_true_ms": ("<=", 0.3, "`true` in a live session, from Python, ms"),
    "builtin_true_per_bash": ("<=", 0.25, "the same: times `bash -c true`"),
    "context_warm_per_ipykernel": ("<=", 0.01, "first result, pool full: times ipykernel's start"),
    "context_cold_per_ipykernel": ("<=", 0.025, "first result, pool empty: likewise"),
    "idle_jail_mb": ("<=", 0.35, "idle jail, PSS in MB"),
    "idle_session_mb": ("<=", 1.0, "idle session with its shell, PSS in MB"),
    "idle_context_mb": ("<=", 6.0, "idle Python context, PSS in MB, of 200 alive"),
    "contexts_alive": (">=", 200, "contexts alive at once"),
    "output_mb_per_s": (">=", 300, "50 MB through exec, MB/s"),
}


def timed(action: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


async def timed_async(action: Callable[[], Awaitable[object]]) -> float:
    """Seconds that an awaitable takes."""
    start = time.perf_counter()
    await action()
    return time.perf_counter() - start


def spawn(*argv: str) -> None:
    """posix_spawn, which is vfork and exec, and waitpid: the floor for a program from Python."""
    pid = os.posix_spawn(argv[0], argv, {})
    assert os.waitpid(pid, 0)[1] == 0, argv


def spawn_captured(*argv: str) -> None:
    """As `spawn`, with both output streams read to their ends, as a session's command has them."""
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
    actions = [
        (os.POSIX_SPAWN_DUP2, writer, number) for number, (_, writer) in enumerate(pipes, start=1)
    ]
    pid = os.posix_spawn(argv[0], argv, {}, file_actions=actions)
    for _, writer in pipes:
        os.close(writer)
    for reader, _ in pipes:
        while os.read(reader, 65536):
            pass
        os.close(reader)
    assert os.waitpid(pid, 0)[1] == 0, argv


def pss_mb(pid: str) -> float:
    """Proportional set size of a process (smaps_rollup, proc(5))."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / MB


def processes_named(name: str) -> set[str]:
    """Pids of the processes whose name or command line begins with this."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            comm = (entry / "comm").read_text().strip()
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except (OSError, ValueError):
            continue
        if entry.name.isdigit() and (comm == name or line.startswith(name)):
            found.add(entry.name)
    return found


def native_jails() -> dict[str, float]:
    """The jail as a native caller sees it: `rust_core/benches/jail.rs`."""
    target = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    host = next(line.split()[1] for line in target.splitlines() if line.startswith("host:"))

    def cargo(*arguments: str, flags: str = "", **env: str) -> str:
        done = subprocess.run(
            ["cargo", *arguments, "--quiet", "--target", host],
            cwd=ROOT,
            env=os.environ | {"CARGO_ENCODED_RUSTFLAGS": flags} | env,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return done.stdout

    # What `rust_core/build.rs` puts into the extension, built as it does.
    static = "-Ctarget-feature=+crt-static"
    metadata = subprocess.run(
        ["cargo", "metadata", "--format-version", "1", "--no-deps"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    built = Path(json.loads(metadata.stdout)["target_directory"]) / host / "embedded"
    embedded = ("build", "--locked", "--profile", "embedded", "--package")
    cargo(*embedded, "rust_core", "--bin", "sandbox-supervisor", flags=static)
    cargo(*embedded, "sandbox_shell_builtin")
    output = cargo(
        *("bench", "--package", "rust_core", "--bench", "jail"),
        flags=static,
        SANDBOX_SUPERVISOR=str(built / "sandbox-supervisor"),
        SANDBOX_SHELL_BUILTIN=str(built / "libsandbox_shell_builtin.so"),
    )
    line = next(line for line in output.splitlines() if line.startswith("{"))
    figures: dict[str, float] = json.loads(line)
    return figures


async def sessions(sandbox: Sandbox, rounds: int) -> dict[str, float]:
    """Commands in a live session against the same outside."""
    session = await sandbox.create_session()
    builtin, bash, live, raw, captured = [], [], [], [], []
    for _ in range(rounds):
        builtin.append(await timed_async(lambda: session.exec("true")))
        bash.append(timed(lambda: spawn("/bin/bash", "-c", "true")))
        live.append(await timed_async(lambda: session.exec(["/bin/true"])))
        raw.append(timed(lambda: spawn("/bin/true")))
        captured.append(timed(lambda: spawn_captured("/bin/true")))
    await session.aclose()
    mid = statistics.median
    return {
        "builtin_true_ms": mid(builtin) * 1e3,
        "bash_c_true_ms": mid(bash) * 1e3,
        "builtin_true_per_bash": mid(builtin) / mid(bash),
        "live_program_from_python_ms": mid(live) * 1e3,
        "posix_spawn_true_ms": mid(raw) * 1e3,
        "posix_spawn_true_captured_ms": mid(captured) * 1e3,
        "live_program_from_python_per_raw": mid(live) / mid(raw),
        "live_program_from_python_per_captured": mid(live) / mid(captured),
    }


async def output(sandbox: Sandbox, rounds: int) -> dict[str, float]:
    """50 MB through exec, nothing kept, and what this process grew by."""
    speeds = []
    await sandbox.exec("head -c 1000000 /dev/zero", limit_bytes=0)
    for _ in range(rounds):
        took = await timed_async(
            lambda: sandbox.exec(f"head -c {50 * MB} /dev/zero", limit_bytes=0, check=True)
        )
        speeds.append(50 / took)
    return {"output_mb_per_s": statistics.median(speeds)}


async def contexts(runtime: Runtime, rounds: int) -> dict[str, float]:
    """A fresh context to its first result, pool full and pool empty."""
    await runtime.python_zygote()
    warm, cold = [], []

    async def first_result(sandbox: Sandbox) -> None:
        context = await sandbox.create_code_context()
        execution = await context.run("import numpy, pandas, matplotlib.pyplot\n1 + 1")
        assert execution.text == "2", execution
        opened.append(context)

    opened: list[Context] = []
    async with (
        open_sandbox(runtime=runtime, python_pool=1) as pooled,
        open_sandbox(runtime=runtime, python_pool=0) as empty,
    ):
        for _ in range(rounds):
            await pooled.fill_pool()
            warm.append(await timed_async(lambda: first_result(pooled)))
            await pooled.fill_pool()
            cold.append(await timed_async(lambda: first_result(empty)))
            while opened:
                await opened.pop().aclose()
    return {
        "context_warm_ms": statistics.median(warm) * 1e3,
        "context_cold_ms": statistics.median(cold) * 1e3,
    }


IPYKERNEL = """
import time
from jupyter_client.manager import start_new_kernel
start = time.perf_counter()
manager, client = start_new_kernel(kernel_name="python3")
client.execute_interactive("1 + 1", output_hook=lambda message: None)
print(time.perf_counter() - start)
client.stop_channels()
manager.shutdown_kernel(now=True)
"""


def ipykernel_start_ms(rounds: int) -> float | None:
    """Start of an ipykernel to its first result, libraries not even imported; None without it."""
    took = []
    for _ in range(rounds):
        done = subprocess.run(
            [sys.executable, "-c", IPYKERNEL], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            return None
        took.append(float(done.stdout.split()[-1]))
    return statistics.median(took) * 1e3


async def memory(runtime: Runtime, count: int) -> dict[str, float]:
    """What idle things weigh, many of each alive."""
    figures: dict[str, float] = {}
    async with open_sandbox(runtime=runtime, python_pool=0) as sandbox:
        before = processes_named("sbx-init")
        sessions = [await sandbox.create_session() for _ in range(20)]
        inits = [pss_mb(pid) for pid in processes_named("sbx-init") - before]
        shells = [pss_mb(pid) for pid in processes_named("bash --norc --noprofile")]
        figures["idle_jail_mb"] = statistics.median(inits)
        figures["idle_session_mb"] = statistics.median(inits) + statistics.median(shells)
        for session in sessions:
            await session.aclose()
    name = f"{sys.executable} -I -B"
    zygotes = processes_named(name)
    async with open_sandbox(runtime=runtime, python_pool=0) as sandbox:
        alive = [await sandbox.create_code_context() for _ in range(count)]
        sizes = [pss_mb(pid) for pid in processes_named(name) - zygotes]
        assert len(sizes) == count, (len(sizes), count)
        checks = [await alive[index].run("6 * 7") for index in (0, count // 2, -1)]
        assert [check.text for check in checks] == ["42"] * 3
        figures["idle_context_mb"] = statistics.median(sizes)
        figures["contexts_alive"] = count
    return figures


async def measure(rounds: int) -> dict[str, float]:
    """All figures."""
    native = native_jails()
    figures = {
        "raw_vfork_exec_us": native["raw_us"],
        "fresh_jail_us": native["fresh_jail_us"],
        "fresh_jail_per_raw": native["jail_per_raw"],
        "live_program_us": native["session_command_us"],
        "live_program_per_raw": native["session_command_per_raw"],
    }
    if native["bwrap_us"] is not None:
        figures["bwrap_us"] = native["bwrap_us"]
        figures["fresh_jail_per_bwrap"] = native["jail_per_bwrap"]
    async with open_runtime() as runtime:
        async with open_sandbox(runtime=runtime) as sandbox:
            figures |= await sessions(sandbox, rounds)
            figures |= await output(sandbox, 10)
        figures |= await contexts(runtime, 40)
        figures |= await memory(runtime, 200)
    ipykernel = ipykernel_start_ms(10)
    if ipykernel is not None:
        figures["ipykernel_ms"] = ipykernel
        figures["context_warm_per_ipykernel"] = figures["context_warm_ms"] / ipykernel
        figures["context_cold_per_ipykernel"] = figures["context_cold_ms"] / ipykernel
    return figures


def verdicts(figures: dict[str, float]) -> list[str]:
    """A line for each target: the figure, the target, whether it is met."""
    lines = []
    for name, (relation, target, meaning) in TARGETS.items():
        value = figures.get(name)
        if value is None:
            lines.append(f"  {'not measured: the peer is missing':>44}  {meaning}")
            continue
        met = value <= target if relation == "<=" else value >= target
        mark = "met" if met else "MISSED"
        lines.append(f"  {value:>10.4g}  {relation} {target:<7g} {mark:<7} {meaning}")
    return lines


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures alone")
    parser.add_argument("--rounds", type=int, default=200, help="rounds of the short ones")
    options = parser.parse_args()
    figures = trio.run(measure, options.rounds)
    if options.json:
        print(json.dumps(figures, indent=2))
        return
    print("\n".join(verdicts(figures)))
    print("\nmedians behind them:")
    for name, value in figures.items():
        if name not in TARGETS:
            print(f"  {value:>10.4g}  {name}")


if __name__ == "__main__":
    main()
