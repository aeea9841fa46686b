"""Sandboxes and shells that are made before they are asked for: fresh, of one kind, never twice."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import trio

from sandbox_runtime import InvalidArgumentError, Limits, Sandbox, open_runtime, open_sandbox
from sandbox_runtime.errors import IsolationError
from sandbox_runtime.pidfds import wait_process_end
from sandbox_runtime.report import PROTECTIONS
from sandbox_runtime.server.hosting import HostSettings, SandboxSpec, open_host
from sandbox_runtime.settings import DEFAULT_ENV

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sandbox_runtime import Runtime
    from sandbox_runtime.fresh import FreshSandbox
    from sandbox_runtime.shell import Shell

CANARY = "echo canary | tee /workspace/canary /tmp/canary /dev/shm/canary; export CANARY=1; umask 0"
LOOK = 'cat /workspace/canary /tmp/canary /dev/shm/canary 2>/dev/null; echo "$CANARY" "$(umask)"'


@pytest.fixture
async def ready() -> AsyncIterator[Runtime]:
    """A runtime that keeps one sandbox ready, which is there."""
    async with open_runtime(ready_sandboxes=1) as runtime:
        await runtime.wait_ready()
        yield runtime


@pytest.fixture
async def keeping(runtime: Runtime) -> AsyncIterator[Sandbox]:
    """A sandbox that keeps a shell ready."""
    async with open_sandbox(runtime=runtime, ready_shell=True) as sandbox:
        yield sandbox


def processes_below(pid: int) -> set[int]:
    """All that are alive, in whatever namespaces they are; one may end while this looks."""
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                if is_alive(child):
                    found |= {child} | processes_below(child)
    return found


def is_alive(pid: int) -> bool:
    """Not so if it has ended and only waits to be reaped."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def open_descriptors() -> list[str]:
    """Of this process."""
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def ready_one(runtime: Runtime) -> FreshSandbox:
    """The only one that waits."""
    assert runtime._ready is not None
    (waiting,) = runtime._ready._standby._ready
    return waiting


def shell_of(waiting: FreshSandbox) -> Shell:
    """Its shell, which waits too."""
    assert waiting.shell is not None
    return waiting.shell


async def kill(shell: Shell) -> None:
    """Ends it as memory pressure would, and waits for that."""
    await shell.jail.signal(shell.pid, signal.SIGKILL)
    await shell.jail.wait_exited()


async def test_one_is_made_ahead_and_another_in_its_place(ready: Runtime) -> None:
    waiting = ready_one(ready)
    async with open_sandbox(runtime=ready) as sandbox:
        assert sandbox.keeper is waiting.keeper
        assert (await sandbox.exec("echo hi")).text == "hi\n"
        await ready.wait_ready()
        assert ready_one(ready) is not waiting


async def test_none_is_made_ahead_unless_somebody_wants_it(runtime: Runtime) -> None:
    async with open_sandbox(runtime=runtime), open_sandbox(runtime=runtime):
        await runtime.wait_ready()
        assert runtime.ready_sandboxes == 0


async def test_nothing_of_one_is_in_the_next(ready: Runtime) -> None:
    """A canary that one leaves wherever it can write, also in its shell."""
    hosts = set()
    for _ in range(5):
        await ready.wait_ready()
        async with open_sandbox(runtime=ready) as sandbox:
            assert (await sandbox.exec(LOOK)).text == " 0022\n"
            assert (await sandbox.exec(CANARY)).ok
            hosts.add(sandbox.keeper)
    assert len(hosts) == 5


async def test_its_report_is_its_own_and_as_full_as_any(ready: Runtime) -> None:
    async with open_sandbox(runtime=ready) as first, open_sandbox(runtime=ready) as second:
        achieved = [
            {row.name: row.achieved for row in one.report.protections} for one in (first, second)
        ]
        assert achieved[0] == achieved[1]
        assert first.report["mnt_namespace"].detail != second.report["mnt_namespace"].detail


async def test_a_protection_that_is_required_is_checked_when_it_is_handed_over(
    ready: Runtime,
) -> None:
    async with open_sandbox(runtime=ready) as sandbox:
        lacking = [row.name for row in sandbox.report.protections if row.achieved != "full"]
    if not lacking:
        pytest.skip("this machine lacks no protection")
    await ready.wait_ready()
    with pytest.raises(IsolationError, match=lacking[0]):
        async with open_sandbox(runtime=ready, require=[lacking[0]]):
            pass
    assert set(lacking) <= set(PROTECTIONS)


@pytest.mark.parametrize("other", ["limits", "host_name"])
async def test_who_wants_another_kind_gets_it_on_demand(ready: Runtime, other: str) -> None:
    limits = Limits(open_files=300) if other == "limits" else None
    name = "another" if other == "host_name" else "sandbox"
    async with open_sandbox(runtime=ready, limits=limits, host_name=name) as sandbox:
        said = (await sandbox.exec("ulimit -n; hostname 2>/dev/null || uname -n")).text
        assert said == f"{300 if limits else 4096}\n{name}\n"
        assert ready.ready_sandboxes == 1


async def test_one_that_has_died_is_replaced(ready: Runtime) -> None:
    waiting = ready_one(ready)
    pidfd = waiting.keeper._fds[0]
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    await wait_process_end(pidfd)
    async with open_sandbox(runtime=ready) as sandbox:
        assert sandbox.keeper is not waiting.keeper
        assert (await sandbox.exec("echo hi")).text == "hi\n"
    await waiting.keeper.wait_gone()


async def test_one_whose_shell_has_died_is_replaced(ready: Runtime) -> None:
    waiting = ready_one(ready)
    await kill(shell_of(waiting))
    async with open_sandbox(runtime=ready) as sandbox:
        assert sandbox.keeper is not waiting.keeper
        assert (await sandbox.exec("echo hi")).text == "hi\n"


async def test_they_end_with_their_runtime_and_leave_nothing() -> None:
    fds = open_descriptors()
    before = processes_below(os.getpid())
    for _ in range(2):
        async with open_runtime(ready_sandboxes=2) as runtime:
            await runtime.wait_ready()
            async with open_sandbox(runtime=runtime):
                pass
    assert processes_below(os.getpid()) == before
    assert open_descriptors() == fds


async def test_a_runtime_can_end_while_one_is_being_made() -> None:
    fds = open_descriptors()
    async with open_runtime(ready_sandboxes=2) as runtime:
        with trio.move_on_after(0.005):
            await runtime.wait_ready()
    assert open_descriptors() == fds


async def test_a_number_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="ready_sandboxes"):
        async with open_runtime(ready_sandboxes=-1):
            pass


async def test_its_first_session_is_what_any_session_is(ready: Runtime) -> None:
    """Variables, directory, age, number of commands: as of one that was made on demand."""
    ask = "env | sort; pwd; echo $- $0; ls -A; ulimit -a; umask; jobs"
    async with open_sandbox(runtime=ready) as prepared, open_sandbox(runtime=ready) as made:
        results = [await sandbox.exec(ask) for sandbox in (prepared, made)]
    assert results[0].text == results[1].text
    assert results[0].number == results[1].number == 1
    for name, value in DEFAULT_ENV.items():
        assert f"{name}={value}\n" in results[0].text


async def test_the_clock_of_a_session_starts_with_it(ready: Runtime) -> None:
    """However old its shell is; what the user sets it to afterwards stays."""
    shell = shell_of(ready_one(ready))
    async with open_sandbox(runtime=ready) as sandbox:
        session = await sandbox.create_session()
        assert shell.handed_over_s is not None
        shell.handed_over_s -= 60  # as if nothing was asked of it for so long
        assert 60 <= int((await session.exec("echo $SECONDS")).text) < 500
        assert int((await session.exec("SECONDS=1000; echo $SECONDS")).text) >= 1000
        assert int((await session.exec("echo $SECONDS")).text) >= 1000


async def test_a_command_that_cannot_be_sent_does_not_take_the_sessions_age(ready: Runtime) -> None:
    async with open_sandbox(runtime=ready) as sandbox:
        session = await sandbox.create_session()
        shell = session._shell
        assert shell is not None
        assert shell.handed_over_s is not None
        shell.handed_over_s -= 60
        with pytest.raises(InvalidArgumentError, match="env"):
            await session.exec("true", env={f"A{number}": "" for number in range(70_000)})
        assert int((await session.exec("echo $SECONDS")).text) >= 60


async def test_a_runtime_that_has_ended_keeps_none_ready() -> None:
    """Who asks for it just then learns that from what he does next."""
    async with open_runtime() as runtime:
        pass
    runtime.keep_ready(1)
    assert runtime.ready_sandboxes == 0
    await runtime.wait_ready()


async def test_a_session_of_another_kind_is_made_on_demand(ready: Runtime) -> None:
    async with open_sandbox(runtime=ready) as sandbox:
        assert sandbox.ready_shells == 1
        elsewhere = await sandbox.create_session(cwd="/tmp")
        assert (await elsewhere.exec("pwd; echo $OLDPWD")).text == "/tmp\n\n"
        other = await sandbox.create_session(env={"A": "1"})
        assert (await other.exec("echo $A")).text == "1\n"
        assert sandbox.ready_shells == 1


async def test_a_shell_is_kept_ready_from_the_second_session_on(keeping: Sandbox) -> None:
    sandbox = keeping
    for made in range(4):
        await sandbox.wait_ready_shell()
        assert sandbox.ready_shells == (1 if made >= 2 else 0)
        session = await sandbox.create_session()
        assert (await session.exec("echo $X; X=1; echo $$")).text == "\n2\n"


async def test_sessions_leave_nothing_but_the_shell_that_is_kept(keeping: Sandbox) -> None:
    for _ in range(2):
        await (await keeping.create_session()).aclose()
    await keeping.wait_ready_shell()
    fds, processes = open_descriptors(), len(processes_below(os.getpid()))
    for _ in range(20):
        session = await keeping.create_session()
        await session.exec("sleep 1000 &")
        await session.aclose()
    await keeping.wait_ready_shell()
    assert (len(open_descriptors()), len(processes_below(os.getpid()))) == (len(fds), processes)


async def test_a_shell_that_has_died_is_no_sessions(keeping: Sandbox) -> None:
    sandbox = keeping
    for _ in range(2):
        await sandbox.create_session()
    await sandbox.wait_ready_shell()
    (waiting,) = sandbox._shells._standby._ready
    await kill(waiting)
    session = await sandbox.create_session()
    assert session._shell is not waiting
    assert (await session.exec("echo hi")).text == "hi\n"


async def test_no_shell_is_kept_unless_that_is_wanted(sandbox: Sandbox) -> None:
    for _ in range(3):
        await sandbox.create_session()
        await sandbox.wait_ready_shell()
    assert sandbox.ready_shells == 0


async def test_no_shell_is_kept_where_it_would_take_what_was_given(runtime: Runtime) -> None:
    """Its two processes count; where only few are allowed, they are the user's."""
    async with open_sandbox(
        runtime=runtime, limits=Limits(processes=20), ready_shell=True
    ) as sandbox:
        for _ in range(3):
            await sandbox.create_session()
            await sandbox.wait_ready_shell()
        assert sandbox.ready_shells == 0


async def test_a_shell_that_starts_with_its_sandbox_is_the_first_sessions(runtime: Runtime) -> None:
    async with open_sandbox(runtime=runtime, first_shell=True) as sandbox:
        assert (await sandbox.exec("echo $$ $PPID; kill -0 3 2>/dev/null || echo alone")).text == (
            "2 1\nalone\n"
        )
        await sandbox.wait_ready_shell()
        assert sandbox.ready_shells == 0


async def test_a_sandbox_can_be_closed_while_its_shell_starts(runtime: Runtime) -> None:
    fds = open_descriptors()
    for _ in range(3):
        async with open_sandbox(runtime=runtime, first_shell=True):
            pass
    assert open_descriptors() == fds


async def test_a_server_starts_no_shell_ahead_where_it_would_take_what_was_given() -> None:
    async with open_host(HostSettings(ready_sandboxes=1)) as host:
        for processes, has_shell in ((20, False), (100, True)):
            spec = SandboxSpec(id=f"of-{processes}", limits=Limits(processes=processes))
            hosted = await host.create(spec)
            await hosted.sandbox.wait_ready_shell()
            assert hosted.sandbox.ready_shells == has_shell


async def test_a_server_keeps_them_ready_once_a_client_has_made_one() -> None:
    settings = HostSettings(ready_sandboxes=1, limits=Limits(open_files=300))
    async with open_host(settings) as host:
        runtime = cast("Runtime", host._runtime)
        await runtime.wait_ready()
        assert runtime.ready_sandboxes == 0
        await host.create(SandboxSpec(id="a", limits=settings.limits))
        await runtime.wait_ready()
        assert runtime.ready_sandboxes == 1
        waiting = ready_one(runtime)
        made = await host.create(SandboxSpec(id="b", limits=settings.limits))
        assert made.sandbox.keeper is waiting.keeper
        assert (await made.sandbox.exec("ulimit -n")).text == "300\n"
        await runtime.wait_ready()
        await host.create(SandboxSpec(id="c", limits=Limits()))
        assert runtime.ready_sandboxes == 1


async def test_a_server_that_keeps_none_starts_nothing_ahead() -> None:
    settings = HostSettings(ready_sandboxes=0)
    async with open_host(settings) as host:
        made = await host.create(SandboxSpec(id="a", limits=settings.limits))
        for _ in range(3):
            await made.sandbox.create_session()
            await made.sandbox.wait_ready_shell()
        assert made.sandbox.ready_shells == 0
        assert cast("Runtime", host._runtime).ready_sandboxes == 0


@pytest.mark.parametrize("processes", [3, 4])
async def test_a_sandbox_of_few_processes_has_them_all_for_its_first_shell(
    runtime: Runtime, processes: int
) -> None:
    """What has checked the sandbox is gone by then."""
    limits = Limits(processes=processes)
    for _ in range(10):
        async with open_sandbox(runtime=runtime, limits=limits, first_shell=True) as sandbox:
            assert (await sandbox.exec("echo hi")).text == "hi\n"


async def test_cells_and_programs_in_the_foreground_are_work(sandbox: Sandbox) -> None:
    work = sandbox._runtime.work
    seen: list[int] = []

    def look(_output: bytes) -> None:
        seen.append(work._pieces)

    await sandbox.run_process(["echo", "hi"], on_stdout=look)
    await sandbox.run_code("print('hi')", on_stdout=look)
    assert set(seen) == {1}
    assert len(seen) >= 2
    assert not work._pieces
