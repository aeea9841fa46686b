"""Nothing stays: neither after a thousand sandboxes nor after the death of the control process."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from sandbox_runtime import (
    Context,
    Runtime,
    Sandbox,
    SandboxError,
    Session,
    open_runtime,
    open_sandbox,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTROL = """
import trio
from sandbox_runtime import open_runtime, open_sandbox

async def main():
    async with open_runtime() as runtime:
        async with open_sandbox(runtime=runtime) as one, open_sandbox(runtime=runtime) as two:
            await two.run_code("x = 1")
            await one.files.write("file", b"")
            async with trio.open_nursery() as nursery:
                up = trio.Event()
                await one.exec("(setsid sleep 1000 &); (trap '' TERM; sleep 1000) &")
                await two.start_process("(setsid sleep 1000 &); sleep 1000")
                text = "echo up; trap '' TERM HUP INT; sleep 1000"
                nursery.start_soon(lambda: one.exec(text, on_stdout=lambda _: up.set()))
                nursery.start_soon(lambda: two.run_code("import time; time.sleep(1000)"))
                await up.wait()
                print("up", flush=True)
                await trio.sleep_forever()

trio.run(main)
"""


def children_of(pid: int) -> list[int]:
    """The processes below one, as this machine sees them."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text(errors="replace")
        except OSError:
            continue  # it ended meanwhile
        parents[int(entry.name)] = int(text.rpartition(") ")[2].split()[1])
    found = [pid]
    for above in found:
        found.extend(child for child, parent in parents.items() if parent == above)
    return found[1:]


def groups_of(launcher_pid: int) -> list[str]:
    """The control groups of one runtime."""
    start = f"sandbox-runtime-{launcher_pid}-"
    return sorted(
        directory
        for top, directories, _ in os.walk("/sys/fs/cgroup")
        for name in directories
        if name.startswith(start)
        for directory, _, _ in os.walk(Path(top, name))
    )


def descriptors() -> Counter[str]:
    """What this process has open, by kind."""
    found: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[entry.readlink().as_posix().partition(":[")[0]] += 1
        except OSError:
            continue  # that of this listing
    return found


class Traces:
    """What a runtime leaves in this process and on this machine."""

    def __init__(self, runtime: Runtime) -> None:
        gc.collect()  # what an earlier test has let go of is closed now, not meanwhile
        launcher = runtime.supervisor._launcher_pid
        self.descriptors = descriptors()
        self.processes = children_of(os.getpid())
        self.mounts = Path("/proc/self/mountinfo").read_text()
        self.groups = groups_of(launcher)

    def changes_since(self, before: Traces) -> dict[str, tuple[object, object]]:
        """What is not as it was: each kind with what there was and what there is."""
        return {
            kind: (before_, now)
            for kind, now in vars(self).items()
            if now != (before_ := vars(before)[kind])
        }


@pytest.mark.timeout(240)
async def test_a_thousand_sandboxes_leave_nothing(
    runtime: Runtime, record_property: pytest.FixtureRequest
) -> None:
    """Descriptors, processes, mounts and control groups are as they were before the first."""
    async with open_sandbox(runtime=runtime) as sandbox:
        await sandbox.exec("true")  # what the first one alone loads is no leak
    before = Traces(runtime)
    started_s = time.monotonic()
    for number in range(1000):
        async with open_sandbox(runtime=runtime) as sandbox:
            if number % 10 == 0:
                assert (await sandbox.exec("sleep 1000 & echo ok")).text == "ok\n"
    rate = 1000 / (time.monotonic() - started_s)
    print(f"\n{rate:.0f} sandboxes a second, every tenth with a command")  # noqa: T201
    record_property("sandboxes_per_second", rate)  # type: ignore[operator]
    assert Traces(runtime).changes_since(before) == {}


@pytest.mark.timeout(120)
async def test_sessions_and_processes_leave_nothing(runtime: Runtime, sandbox: Sandbox) -> None:
    """200 of each in one sandbox, ended in every way."""
    await sandbox.exec("true")
    await sandbox.files.write("file", b"")
    await sandbox.run_process("true")
    await sandbox.keeper.settle()
    before = Traces(runtime)
    for number in range(200):
        session = await sandbox.create_session()
        await session.exec(["true", "exit 3", "sleep 1000 &", "kill -9 $$"][number % 4])
        await session.aclose()
        await sandbox.run_process("(setsid sleep 1000 &); echo x")
        if number % 20 == 0:
            process = await sandbox.start_process("sleep 1000")
            await process.kill()
            await sandbox.run_process("sleep 1000", deadline_s=0.01)
            await sandbox.files.write("file", b"x" * 100_000)
            await sandbox.files.read("file")
    await sandbox.keeper.settle()
    assert Traces(runtime).changes_since(before) == {}


async def test_refused_calls_leave_nothing(runtime: Runtime, sandbox: Sandbox) -> None:
    """An error is cleaned up after as a success is."""
    await sandbox.exec("true")
    await sandbox.files.write("file", b"")
    before = Traces(runtime)
    for _ in range(30):
        for attempt in (
            sandbox.exec("true", cwd="/missing"),
            sandbox.exec("true", env={"UID": "1"}),
            sandbox.exec("true", limit_bytes=-1),
            sandbox.exec("true", stdin="text"),  # type: ignore[arg-type]
            sandbox.run_process(["missing"]),
            sandbox.run_process(["true"], cwd="/missing"),
            sandbox.run_process(["true"], limit_bytes=-1),
            sandbox.run_process(["true"], stdin="text"),  # type: ignore[arg-type]
            sandbox.create_session(cwd="/missing"),
            sandbox.create_session(env={"PATH": "/missing"}),
            sandbox.files.read("missing"),
            sandbox.files.write("/usr/file", b"x" * 200_000),
        ):
            with pytest.raises(SandboxError):
                await attempt
    assert Traces(runtime).changes_since(before) == {}


async def test_cancelled_calls_leave_nothing(runtime: Runtime, sandbox: Sandbox) -> None:
    """At whatever moment they were cancelled."""
    await sandbox.exec("true")
    await sandbox.files.write("file", b"")
    before = Traces(runtime)
    for step in range(60):
        for attempt in (
            lambda: sandbox.exec("cat > /dev/null; sleep 1000", stdin=b"x" * 100_000),
            lambda: sandbox.run_process("sleep 1000"),
            lambda: sandbox.files.write("file", b"x" * 1_000_000),
            lambda: open_and_close(runtime),
        ):
            with trio.move_on_after(step / 5000):
                await attempt()
    await sandbox.exec("true")  # a shell that a cancelled call had cost is there again
    await sandbox.files.read("file")
    await trio.testing.wait_all_tasks_blocked()
    assert Traces(runtime).changes_since(before) == {}


async def test_a_process_without_free_descriptors_leaks_none(runtime: Runtime) -> None:
    """Each call fails at whatever descriptor is one too many, and gives back the others."""
    async with open_sandbox(runtime=runtime, python_pool=0) as sandbox:
        await sandbox.exec("true")
        await sandbox.run_code("1")
        await sandbox.files.write("file", b"")
        session = await sandbox.create_session()
        await trio.testing.wait_all_tasks_blocked()
        before = descriptors()
        failures = 0
        for free in range(24):
            for attempt in (
                sandbox.create_session,
                lambda: sandbox.create_code_context(cwd="/tmp"),
                lambda: sandbox.run_process("true", stdin=b"x"),
                lambda: session.exec("true", stdin=b"x"),
                lambda: sandbox.files.write("file", b"x"),
                lambda: sandbox.run_code("1"),
            ):
                with only_free(free):
                    try:
                        made = await attempt()
                    except (OSError, SandboxError):
                        failures += 1
                        made = None
                if isinstance(made, Session | Context):
                    await made.aclose()
                await session.exec("true")
                await trio.testing.wait_all_tasks_blocked()
                await sandbox.keeper.settle()
                assert descriptors() == before, free
        assert failures > 20


@contextlib.contextmanager
def only_free(count: int) -> Iterator[None]:
    """This process can open so many descriptors more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(256, taken[0] + 1), hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(taken[0]))
        for _ in range(count):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


async def test_what_is_closed_is_forgotten(sandbox: Sandbox) -> None:
    """A sandbox that lives long holds nothing of sessions and contexts that have ended."""
    for _ in range(3):
        session = await sandbox.create_session()
        context = await sandbox.create_code_context()
        await session.aclose()
        await context.aclose()
        with pytest.raises(SandboxError):
            await sandbox.create_session(cwd="/missing")
        assert (await sandbox.run_code("import os; os._exit(1)")).ended == "context lost"
    await sandbox.run_code("1")
    assert len(sandbox._sessions) == 0
    assert len(sandbox.contexts.list()) == 1  # the one that is in use


async def open_and_close(runtime: Runtime) -> None:
    """A sandbox that is waited in for ever."""
    async with open_sandbox(runtime=runtime) as sandbox:
        await sandbox.exec("sleep 1000")


async def test_a_runtime_leaves_nothing() -> None:
    """Neither in this process nor on this machine, once its block is over."""
    async with open_runtime() as runtime:
        pass
    before = descriptors()
    for _ in range(20):
        async with open_runtime() as runtime:
            async with open_sandbox(runtime=runtime) as sandbox:
                await sandbox.exec("sleep 1000 &")
            launcher = runtime.supervisor._launcher_pid
            assert launcher in children_of(os.getpid())
        assert launcher not in children_of(os.getpid())
        assert groups_of(launcher) == []
    assert descriptors() == before


@pytest.mark.parametrize("victim", ["control process", "launcher"])
def test_a_sudden_death_takes_everything_with_it(victim: str) -> None:
    """SIGKILL of the control process or the launcher: no process of any sandbox survives."""
    with subprocess.Popen(
        [sys.executable, "-P", "-c", CONTROL], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as control:
        pidfds: dict[int, int] = {}
        try:
            assert control.stdout is not None
            assert control.stdout.readline() == b"up\n"
            for pid in children_of(control.pid):
                with contextlib.suppress(ProcessLookupError):  # a child of the pool's that is over
                    pidfds[pid] = os.pidfd_open(pid)
            assert len(pidfds) > 15  # launcher, supervisor, zygote, keepers, inits, programs
            launcher = next(iter(pidfds))
            os.kill(control.pid if victim == "control process" else launcher, signal.SIGKILL)
            deadline_s = time.monotonic() + 30
            for pidfd in pidfds.values():
                poll = select.poll()
                poll.register(pidfd, select.POLLIN)
                assert poll.poll(max(0, 1000 * (deadline_s - time.monotonic())))
        finally:
            control.kill()
            for pidfd in pidfds.values():
                os.close(pidfd)
    if victim == "launcher":

        async def start_the_next() -> None:
            async with open_runtime():
                pass

        trio.run(start_the_next)  # which removes what nobody was left to remove
    assert groups_of(launcher) == []
