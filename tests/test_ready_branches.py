"""Branches that are made ahead: handed out at once, while they hold their context's state."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing

from sandbox_runtime import (
    BranchRefusedError,
    Context,
    InterpreterUnavailableError,
    InvalidArgumentError,
    Limits,
    PoolFullError,
    PoolSize,
    Runtime,
    Sandbox,
    open_sandbox,
)
from sandbox_runtime.interpreters.ready_branches import ReadyBranches

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sandbox_runtime.interpreters.interpreter import Interpreter
    from sandbox_runtime.logs import LogFollower

PROCESSES = """
import os
def processes():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as stat:
                state = stat.read().rsplit(")")[1].split()[0]
        except OSError:
            continue  # it has ended since
        if pid != "1" and state not in "ZX":
            found.append(int(pid))
    return sorted(found)
"""

DAEMON = """
import subprocess
def daemon():
    made = "sleep 1000 >/dev/null 2>&1 & echo $!"
    return int(subprocess.run(["sh", "-c", made], stdout=-1).stdout)
"""

EXECUTOR = """
import sys
executor = next(m for m in list(sys.modules.values()) if hasattr(m, "separate_branch"))
real = executor.fork_away, executor.separate_branch
"""


# Nothing is made ahead: that would take time from the tests.
pytestmark = pytest.mark.sandbox_options(python_pool=0)


@pytest.fixture
async def context(sandbox: Sandbox) -> Context:
    """A context that makes two branches ahead; it has imported nothing large."""
    return await sandbox.contexts.create(preload="bare", ready_branches=2)


def void(_: object) -> None:
    """Callbacks give nothing back."""


async def text(context: Context, code: str) -> str | None:
    """What a cell says."""
    execution = await context.run(code, deadline_s=30)
    assert execution.ended == "ok", execution.error
    return execution.text


def pids_ahead(context: Context) -> list[int]:
    """The numbers of those that wait, in the jail."""
    assert context.ahead is not None
    return [branch.pid for branch in context.ahead._ready]


async def test_they_are_made_when_a_run_has_ended(context: Context) -> None:
    """As many as were asked for, and again when some were handed out; a first run makes them."""
    assert context.ready_branches == 0
    await context.run("x = ['first']")
    await context.wait_ready_branches()
    assert context.ready_branches == 2
    waiting = pids_ahead(context)
    (branch,) = await context.fork()
    assert branch._interpreter.pid == waiting[0]
    assert await text(branch, "x") == "['first']"
    assert branch.ready_branches == 0
    await context.wait_ready_branches()
    assert context.ready_branches == 2
    assert pids_ahead(context)[0] == waiting[1]


async def test_the_rest_is_made_on_demand(sandbox: Sandbox, context: Context) -> None:
    """Each with a state of its own, all of them contexts like others."""
    await context.run("x = []")
    await context.wait_ready_branches()
    waiting = pids_ahead(context)
    branches = await context.fork(4)
    assert [branch._interpreter.pid for branch in branches][:2] == waiting
    for number, branch in enumerate(branches):
        await branch.run(f"x.append({number})")
    assert [await text(one, "x") for one in branches] == ["[0]", "[1]", "[2]", "[3]"]
    assert await text(context, "x") == "[]"
    assert sandbox.contexts.list() == [context, *branches]


async def test_a_run_makes_them_stale(context: Context) -> None:
    """Also one that only fails; they are ended, and what is handed out holds the newer state."""
    await context.run(PROCESSES + "x = 1")
    await context.wait_ready_branches()
    stale = pids_ahead(context)
    execution = await context.run("x = 2\n1 / 0")
    assert execution.error is not None
    (early,) = await context.fork()
    assert await text(early, "x") == "2"
    await context.wait_ready_branches()
    fresh = pids_ahead(context)
    assert not set(stale) & {*fresh, early._interpreter.pid}
    (branch,) = await context.fork()
    assert await text(branch, "x") == "2"
    assert not set(stale) & set(json.loads(str(await text(branch, "processes()"))))


async def test_none_is_handed_out_while_a_run_goes_on(context: Context) -> None:
    """Who asks meanwhile waits for its end, and gets the state after it."""
    await context.run("x = 1")
    await context.wait_ready_branches()
    begun = trio.Event()

    async def run() -> None:
        await context.run(
            "x = 2\nprint('begun')\nopen('/tmp/go').read()\nx = 3",
            on_stdout=lambda _: begun.set(),
        )

    await context.run("import os\nos.mkfifo('/tmp/go')")
    await context.wait_ready_branches()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await begun.wait()
        assert context.ready_branches == 0
        branches: list[Context] = []

        async def fork() -> None:
            branches.extend(await context.fork())

        nursery.start_soon(fork)
        await trio.testing.wait_all_tasks_blocked()
        assert branches == []
        context.interrupt()
    assert await text(branches[0], "x") == "2"


async def test_an_interrupted_run_and_a_restart_make_them_stale(context: Context) -> None:
    """What is ready afterwards is a copy of what is there then."""
    await context.run("x = 1")
    await context.wait_ready_branches()
    execution = await context.run(
        "x = 2\nprint('begun')\nwhile True: pass",
        deadline_s=30,
        on_stdout=lambda _: void(context.interrupt()),
    )
    assert (execution.ended, execution.state_survived) == ("interrupted", True)
    await context.wait_ready_branches()
    (branch,) = await context.fork()
    assert await text(branch, "x") == "2"
    await context.wait_ready_branches()
    await context.restart()
    assert context.ready_branches == 0
    (branch,) = await context.fork()
    assert await text(branch, "'x' in globals()") == "False"


async def test_their_end_leaves_everybody_else_alone(context: Context) -> None:
    """Daemons, which have no parent any more, and what the running code has just started."""
    await context.run(
        PROCESSES + DAEMON + "import time\nfirst = daemon()",
    )
    await context.wait_ready_branches()
    stale = pids_ahead(context)
    assert len(stale) == 2
    await text(
        context, f"second = daemon()\nwhile set({stale}) & set(processes()): time.sleep(0.005)"
    )
    assert await text(context, "{first, second} <= set(processes())") == "True"


async def test_nothing_is_left_of_them_when_their_context_is_deleted(
    sandbox: Sandbox, context: Context
) -> None:
    """While a branch goes on in the same jail, with its own children."""
    await context.run(PROCESSES + "import subprocess")
    await context.wait_ready_branches()
    (branch,) = await context.fork()
    await context.wait_ready_branches()
    stale = pids_ahead(context)
    await branch.run("child = subprocess.Popen(['sleep', '1000'])")
    await context.aclose()
    left = json.loads(str(await text(branch, "processes()")))
    assert not set(stale) & set(left)
    assert left == [branch._interpreter.pid, int(str(await text(branch, "child.pid")))]
    jail = branch._interpreter._jail
    await branch.aclose()
    assert not jail.alive
    assert sandbox.contexts.pool("python").lent == 0


async def test_a_context_that_is_deleted_while_they_are_made_leaves_nothing(
    sandbox: Sandbox,
) -> None:
    """At whatever moment of their making; the jail ends with them."""
    for delay_s in (0, 0.008, 0.012, 0.014, 0.016, 0.02):
        context = await sandbox.contexts.create(preload="bare", ready_branches=3)
        await context.run("x = 1")
        await trio.sleep(delay_s)  # a moment of their making, not something that is waited for
        jail = context._interpreter._jail
        await context.aclose()
        assert not jail.alive
        assert context.ready_branches == 0
    assert sandbox.contexts.pool("python").lent == 0


async def test_one_that_has_died_is_not_handed_out(context: Context) -> None:
    """Its origin may end it, by a signal; another one is made."""
    await context.run("x = 1\nimport os, signal")
    await context.wait_ready_branches()
    first, second = pids_ahead(context)
    assert context.ahead is not None
    branches = list(context.ahead._ready)
    await branches[0]._jail.signal(first, 9)
    with trio.fail_after(5):
        while branches[0].look():
            await trio.lowlevel.wait_readable(branches[0].fileno())
    (branch,) = await context.fork()
    assert branch._interpreter.pid == second
    assert await text(branch, "x") == "1"


async def test_a_state_that_cannot_be_copied_has_none_ready(context: Context) -> None:
    """Nothing ends for that; `fork` names what is in the way, and when it is gone they come."""
    await context.run(
        PROCESSES + DAEMON + "import threading\n"
        "made = daemon()\n"
        "stop = threading.Event()\n"
        "thread = threading.Thread(target=stop.wait, name='the watcher'); thread.start()"
    )
    await context.wait_ready_branches()
    assert context.ready_branches == 0
    with pytest.raises(BranchRefusedError, match="the watcher"):
        await context.fork()
    await context.run("stop.set(); thread.join()")
    await context.wait_ready_branches()
    assert context.ready_branches == 2
    assert await text(context, "made in processes()") == "True"


@pytest.mark.parametrize("step", ["fork_away", "separate_branch"])
async def test_one_that_cannot_be_made_ends_nothing(context: Context, step: str) -> None:
    """Whether it was born or not: daemons live, and later ones come."""
    await context.run(
        PROCESSES + DAEMON + EXECUTOR + "import errno\n"
        "def fail(): raise OSError(errno.EAGAIN, 'no room')\n"
        f"executor.{step} = fail\n"
        "made = daemon()"
    )
    await context.wait_ready_branches()
    assert context.ready_branches == 0
    with pytest.raises(InterpreterUnavailableError, match="no room"):
        await context.fork()
    assert await text(context, "made in processes()") == "True"
    await context.run("executor.fork_away, executor.separate_branch = real")
    await context.wait_ready_branches()
    assert context.ready_branches == 2
    assert await text(context, "made in processes()") == "True"


async def test_a_jail_that_is_full_loses_nothing_by_them(runtime: Runtime) -> None:
    """Where there may be no process more, none is made, and those that are there go on."""
    limits = Limits(processes=40)
    async with open_sandbox(runtime=runtime, python_pool=0, limits=limits) as sandbox:
        context = await sandbox.contexts.create(preload="bare", ready_branches=1)
        full = (
            "made, children = daemon(), []\n"
            "try:\n"
            "    while True: children.append(subprocess.Popen(['sleep', '1000']))\n"
            "except BlockingIOError: pass"
        )
        await text(context, PROCESSES + DAEMON + full)
        await context.wait_ready_branches()
        assert context.ready_branches == 0
        assert await text(context, "made in processes()") == "True"
        await context.run("for child in children: child.kill(); child.wait()")
        await context.wait_ready_branches()
        assert context.ready_branches == 1
        assert await text(context, "made in processes()") == "True"


async def test_one_that_takes_too_long_costs_no_state(
    sandbox: Sandbox, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is given up; what it was to be a copy of goes on when it can, and copies come again."""
    other = await sandbox.contexts.create(preload="bare")
    await context.run(
        PROCESSES + DAEMON + EXECUTOR + "import time\n"
        "os.mkfifo('/tmp/go')\n"
        "def wait_and_fork():\n"
        "    open('/tmp/go').close()\n"
        "    return real[0]()\n"
        "made = daemon()"
    )
    await context.wait_ready_branches()
    with monkeypatch.context() as patched:
        patched.setattr("sandbox_runtime.interpreters.interpreter.BRANCHING_S", 0.1)
        await context.run("executor.fork_away = wait_and_fork")
        await context.wait_ready_branches()
        assert (context.ready_branches, context.lost) == (0, False)
    await text(other, "open('/tmp/go', 'w').close()")
    own = f"[{context._interpreter.pid}, made]"
    await text(
        context,
        f"executor.fork_away = real[0]\nwhile processes() != sorted({own}): time.sleep(0.005)",
    )
    await context.wait_ready_branches()
    assert context.ready_branches == 2


async def test_random_numbers_differ_between_them(sandbox: Sandbox) -> None:
    """As between branches that are made on demand, and from their origin."""
    context = await sandbox.contexts.create(ready_branches=2)
    await context.run("import random, secrets, uuid\nimport numpy as np")
    await context.wait_ready_branches()
    all_of_them = [context, *await context.fork(3)]
    for draw in ("random.random()", "np.random.rand()", "uuid.uuid4()"):
        assert len({await text(one, draw) for one in all_of_them}) == 4, draw


async def test_each_takes_a_place_of_the_pool(runtime: Runtime) -> None:
    """Whether it is there at the moment or not; the places come back with the context's end."""
    sizes = {"python": PoolSize(min=0, max=4, wait_s=0.1)}
    async with open_sandbox(runtime=runtime, pools=sizes) as small:
        with pytest.raises(InvalidArgumentError, match="ready_branches: must be less than"):
            await small.contexts.create(preload="bare", ready_branches=4)
        assert small.contexts.pool("python").lent == 0
        context = await small.contexts.create(preload="bare", ready_branches=2)
        assert small.contexts.pool("python").lent == 3
        assert small.contexts.branches_ahead == 2
        await context.run("1")
        await context.wait_ready_branches()
        await context.fork()
        with pytest.raises(PoolFullError, match=r"2 places are those of ready .* 1 more of 4"):
            await context.fork()
        await context.aclose()
        assert small.contexts.pool("python").lent == 1


async def test_those_of_a_sandbox_that_has_ended_are_not_waited_for() -> None:
    """Nobody waits for what is not made any more, and no descriptor is left open."""
    closed: list[object] = []

    class Branch:
        def forget(self) -> None:
            """As an interpreter's."""

        def close_ends(self) -> None:
            closed.append(self)

    async def make(_: object) -> None:
        raise AssertionError

    async with trio.open_nursery() as nursery:
        ahead = ReadyBranches(1, make, nursery, trio.lowlevel.checkpoint, lambda: -math.inf)
    ahead.refill()
    await ahead.wait_full()
    branch = Branch()
    ahead.give_up([cast("Interpreter", branch)])
    assert closed == [branch]
    await ahead.aclose()


async def test_a_number_that_another_has_got_since_ends_nobody(context: Context) -> None:
    """A branch that has ended of itself leaves its number to who comes."""
    await context.run("x = 1")
    branch, other = await context.fork(2)
    shared = other._interpreter._shared
    await shared.end([other._interpreter.pid])
    assert await text(other, "x") == await text(branch, "x") == "1"


async def test_mistakes_are_told(sandbox: Sandbox) -> None:
    """Numbers that cannot be, and languages that have no branches."""
    for count in (-1, 65, True, "2", math.nan):
        with pytest.raises(InvalidArgumentError, match="ready_branches"):
            await sandbox.contexts.create(ready_branches=count)  # type: ignore[arg-type]
    if "javascript" in sandbox.contexts.languages:
        with pytest.raises(InvalidArgumentError, match="cannot be branched"):
            await sandbox.contexts.create("javascript", ready_branches=1)
    assert sandbox.contexts.list() == []


async def test_a_loop_that_the_context_goes_on_using_is_not_closed_for_them(
    context: Context,
) -> None:
    """On demand it is closed, and whoever asks for a branch knows it."""
    kept = "import asyncio\nloop = asyncio.get_running_loop()\nawait asyncio.sleep(0)"
    await context.run(f"{kept}\nfuture = loop.create_future()")
    await context.wait_ready_branches()
    assert context.ready_branches == 0
    execution = await context.run("loop.call_soon(future.set_result, 5)\nawait future")
    assert execution.text == "5"
    (branch,) = await context.fork()
    assert (await branch.run("await asyncio.sleep(0, 'mine')")).text == "'mine'"


async def test_what_is_slow_to_be_born_is_made_once(context: Context) -> None:
    """However often the state changes meanwhile: each attempt is a process, and has descriptors."""
    slow = "os.register_at_fork(after_in_child=lambda: time.sleep(1000))"
    await context.run(f"{PROCESSES}\nimport time\n{slow}")
    most = 0
    for _ in range(20):
        await trio.testing.wait_all_tasks_blocked(0.03)  # by then one is being made
        most = max(most, int(await text(context, "len(processes())") or 0))
    assert most <= 2


async def test_what_waits_besides_a_run_hurries_no_copy(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even if a run had to wait before; one that waits does."""
    context = await sandbox.contexts.create(preload="bare")
    await context.run("x = 1")
    hurried = []
    real = context._interpreter.begin_fork

    async def begin_fork(count: int, *, awaited: trio.Event | None = None) -> list[Interpreter]:
        if awaited is not None:
            hurried.append(awaited.is_set())
        return await real(count, awaited=awaited)

    async def copy_ahead() -> None:
        copy = await context.copy_ahead(lambda: True)
        assert copy is not None
        copy.forget()
        await context._interpreter.end_forgotten([copy])

    async def run() -> None:
        assert await text(context, "x") == "1"

    monkeypatch.setattr(context._interpreter, "begin_fork", begin_fork)
    calls: list[Callable[[], Awaitable[object]]] = [run, copy_ahead, context.fork, copy_ahead]
    for order in (calls, calls[::-1]):
        async with trio.open_nursery() as nursery, context._turn:
            for call in order:
                nursery.start_soon(call)
                await trio.testing.wait_all_tasks_blocked()
            assert context.waiting == 1
    assert hurried == [False, False, True, True]


HOOK = """
import os, time
def hold_up():
    with open("/workspace/held-up", "w") as pipe:
        pipe.write(".")
    %s
os.register_at_fork(%s=hold_up)
"""


async def hear_hooks(sandbox: Sandbox) -> LogFollower:
    """Where a `HOOK` tells that it holds a copy up."""
    await sandbox.exec("mkfifo held-up")
    process = await sandbox.start_process("exec cat <>held-up")
    return process.logs.follow()


@pytest.mark.parametrize("when", ["before", "after_in_parent"])
async def test_what_code_does_around_a_fork_holds_up_no_run(
    sandbox: Sandbox, context: Context, when: str
) -> None:
    """It is interrupted for a run that waits, and only it: the run is whole."""
    heard = await hear_hooks(sandbox)
    await context.run(HOOK % ("time.sleep(1000)", when))
    for _ in range(3):
        with trio.fail_after(30):
            await heard.receive_some()
            execution = await context.run("1 + 1", deadline_s=20)
        assert (execution.ended, execution.text) == ("ok", "2")


async def test_what_cannot_be_interrupted_around_a_fork_ends_with_the_deadline_of_a_run(
    sandbox: Sandbox, context: Context
) -> None:
    """The attempt is given up first; the state is lost as with a cell that does not give way."""
    heard = await hear_hooks(sandbox)
    deaf = """while True:
        try: time.sleep(1000)
        except KeyboardInterrupt: pass"""
    await context.run(HOOK % (deaf, "before"))
    with trio.fail_after(30):
        await heard.receive_some()
    with trio.fail_after(9):
        execution = await context.run("1 + 1", deadline_s=0.5)
    assert (execution.ended, execution.state_survived) == ("deadline", False)
