"""Contexts: state, results that stream, errors as data, and an end that is always told."""

from __future__ import annotations

import base64
import errno
import importlib.util
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from sandbox_runtime import (
    Context,
    Death,
    InterpreterUnavailableError,
    InvalidArgumentError,
    Limits,
    NotStartedError,
    Result,
    Runtime,
    Sandbox,
    SandboxClosedError,
    SandboxLostError,
    open_sandbox,
)
from sandbox_runtime.interpreters import python
from sandbox_runtime.interpreters.zygote import Zygote

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Sequence

    from sandbox_runtime.jail import Jail
    from sandbox_runtime.supervisor import Supervisor

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(16)).decode()


@pytest.fixture(autouse=True)
def _light_zygote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zygotes of these tests import no large library: each test has one of its own."""
    make = Zygote.open

    def open_light(
        supervisor: Supervisor,
        python: str,
        preload: Sequence[str] = (),
        *,
        host_network: bool = False,
    ) -> Awaitable[Zygote]:
        return make(supervisor, python, preload, host_network=host_network)

    monkeypatch.setattr(Zygote, "open", open_light)


@pytest.fixture
async def context(sandbox: Sandbox) -> AsyncIterator[Context]:
    """A context of that sandbox."""
    context = await sandbox.create_code_context()
    yield context
    await context.aclose()


# --- state ---------------------------------------------------------------------------------------


async def test_state_persists_between_runs(context: Context) -> None:
    """Variables, imports, functions and the directory; the count goes up."""
    first = await context.run("import math, os\nx = 20\ndef f(): return x + 1\nos.chdir('/tmp')")
    second = await context.run("x += 1\n(f(), math.floor(2.5), os.getcwd())")
    assert first.ended == second.ended == "ok"
    assert second.text == "(22, 2, '/tmp')"
    assert (first.execution_count, second.execution_count) == (1, 2)
    assert first.state_survived


async def test_runs_of_one_context_are_one_after_another(context: Context) -> None:
    """Calls at the same time queue up, in their order."""
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(context.run, f"seen = globals().get('seen', []) + [{number}]")
    assert sorted((await context.run("seen")).text or "") == sorted("[0, 1, 2, 3, 4]")


async def test_contexts_have_memory_of_their_own(sandbox: Sandbox) -> None:
    """What one defines or changes in a module does not exist in another."""
    one, other = await sandbox.create_code_context(), await sandbox.create_code_context()
    await one.run("import json\njson.mark = secret = 5")
    execution = await other.run("import json\nsecret")
    assert execution.error is not None
    assert execution.error.name == "NameError"
    assert (await other.run("hasattr(json, 'mark')")).text == "False"


async def test_where_it_starts_and_its_variables_can_be_chosen(sandbox: Sandbox) -> None:
    """The caller's variables come besides the usual ones."""
    context = await sandbox.create_code_context(cwd="/tmp", env={"GREETING": "grüße"})
    execution = await context.run(
        "import os\nos.getcwd(), os.environ['GREETING'], os.environ['HOME']"
    )
    assert execution.text == "('/tmp', 'grüße', '/workspace')"


async def test_a_directory_that_does_not_exist_is_an_error(sandbox: Sandbox) -> None:
    """No context, and the message names it."""
    with pytest.raises(NotStartedError, match="/nowhere"):
        await sandbox.create_code_context(cwd="/nowhere")
    assert (await sandbox.run_code("1")).text == "1"


@pytest.mark.parametrize("limits", [None, Limits(memory_bytes=1 << 30)], ids=["pool", "fresh"])
async def test_large_variables_arrive(sandbox: Sandbox, limits: Limits | None) -> None:
    """More than a socket holds, whether an interpreter was waiting for them or is made for them."""
    with trio.fail_after(30):
        context = await sandbox.contexts.create(env={"BIG": "x" * 1_000_000}, limits=limits)
        assert (await context.run("import os\nlen(os.environ['BIG'])")).text == "1000000"
        await context.restart()
        assert (await context.run("import os\nlen(os.environ['BIG'])")).text == "1000000"


# --- results ---------------------------------------------------------------------------------


async def test_every_format_arrives(context: Context) -> None:
    """Each in its own shape: text, images as base64, JSON as objects."""
    execution = await context.run(
        f"""
from IPython.display import *
class Rich:
    def _repr_mimebundle_(self, **_):
        return {{
            "text/plain": "t", "text/html": "<b>h</b>", "text/markdown": "*m*",
            "image/svg+xml": "<svg/>", "image/png": {PNG!r}, "image/jpeg": "anBlZw==",
            "text/latex": "$l$", "application/json": {{"j": [1, None]}},
            "application/javascript": "1",
        }}
display(HTML("<i>first</i>"))
Rich()
"""
    )
    first, last = execution.results
    assert (first.html, first.is_main_result) == ("<i>first</i>", False)
    assert last.is_main_result
    assert last.formats() == [
        "text", "html", "markdown", "svg", "png", "jpeg", "latex", "json", "javascript"
    ]  # fmt: skip
    assert (last.text, last.html, last.markdown) == ("t", "<b>h</b>", "*m*")
    assert (last.svg, last.png, last.jpeg) == ("<svg/>", PNG, "anBlZw==")
    assert (last.latex, last.json, last.javascript) == ("$l$", {"j": [1, None]}, "1")


@pytest.mark.parametrize(
    ("module", "code", "formats"),
    [
        ("pandas", "import pandas\npandas.DataFrame({'a': [1]})", {"text", "html"}),
        ("matplotlib", "import matplotlib.pyplot as plt\nplt.plot([1, 2]);", {"text", "png"}),
    ],
)
async def test_libraries_show_what_they_have(
    context: Context, module: str, code: str, formats: set[str]
) -> None:
    """Tables as HTML, figures as images, without being asked to."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    execution = await context.run(code)
    assert execution.ended == "ok", execution.error
    assert formats <= {name for result in execution.results for name in result.formats()}


async def test_results_and_output_come_while_the_code_runs(
    sandbox: Sandbox, context: Context
) -> None:
    """The code waits for an answer to what it has shown, so it has been heard before its end."""
    await sandbox.exec("mkfifo /workspace/shown /workspace/printed")
    order: list[str] = []

    async def let_on(name: str) -> None:
        order.append(name)
        assert (await sandbox.exec(f"echo heard >/workspace/{name}", deadline_s=10)).ok

    async def on_result(result: Result) -> None:
        if result.text == "'show'":
            await let_on("shown")

    async def on_stdout(piece: bytes) -> None:
        if b"print" in piece:
            await let_on("printed")

    execution = await context.run(
        "display('show')\nopen('/workspace/shown').read()\n"
        "print('print', flush=True)\nopen('/workspace/printed').read()\n'end'",
        on_result=on_result,
        on_stdout=on_stdout,
        deadline_s=20,
    )
    assert execution.ended == "ok", execution
    assert order == ["shown", "printed"]
    assert execution.text == "'end'"


async def test_what_is_printed_first_is_heard_first(sandbox: Sandbox, context: Context) -> None:
    """Output and results take two ways; whoever was busy meanwhile still hears them in order."""
    await sandbox.exec("mkfifo /workspace/heard /workspace/all-said")
    order: list[str] = []

    async def on_result(result: Result) -> None:
        order.append(str(result.text))
        if result.text == "'first'":
            wait = "echo > /workspace/heard; cat /workspace/all-said"
            assert (await sandbox.exec(wait, deadline_s=10)).ok

    await context.run(
        "import os\ndisplay('first')\nopen('/workspace/heard').read()\n"
        "os.write(1, b'printed')\ndisplay('shown')\n"
        "open('/workspace/all-said', 'w').write('x');",
        on_result=on_result,
        on_stdout=lambda piece: order.append(piece.decode()),
        deadline_s=20,
    )
    assert order == ["'first'", "printed", "'shown'"]


async def test_a_result_can_be_updated_and_cleared(context: Context) -> None:
    """As notebooks do it: by display id, and all at once."""
    execution = await context.run("h = display('a', display_id='x')\nh.update('b')")
    assert [(r.display_id, r.is_update) for r in execution.results] == [("x", False), ("x", True)]
    execution = await context.run(
        "from IPython.display import clear_output\ndisplay('a')\nclear_output()\ndisplay('b')"
    )
    assert [result.text for result in execution.results] == ["'b'"]


async def test_output_of_python_of_c_and_of_programs_is_captured(context: Context) -> None:
    """In the order in which it was written, and apart from that of standard error."""
    execution = await context.run(
        "import ctypes, os, subprocess, sys\n"
        "print('python', flush=True)\nctypes.CDLL(None).puts(b'c')\nos.write(1, b'fd\\n')\n"
        "subprocess.run(['echo', 'program'])\nos.system('echo shell')\n"
        "print('error', file=sys.stderr)\nctypes.CDLL(None).write(2, b'raw\\n', 4);"
    )
    assert execution.stdout == b"python\nc\nfd\nprogram\nshell\n"
    assert execution.stderr == b"error\nraw\n"


# --- errors are data --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "name", "value"),
    [
        ("1 / 0", "ZeroDivisionError", "division by zero"),
        ("def", "SyntaxError", "invalid syntax"),
        ("  x = 1\n y = 2", "IndentationError", "unexpected indent"),
        ("undefined", "NameError", "undefined"),
        ("import no_such_module", "ModuleNotFoundError", "no_such_module"),
        ("raise ValueError('grüße \\ud800')", "ValueError", "grüße"),
        ("input('name? ')", "EOFError", "without a terminal"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("def f(): f()\nf()", "RecursionError", "maximum recursion"),
    ],
)
async def test_an_error_of_the_code_is_data(
    context: Context, code: str, name: str, value: str
) -> None:
    """Class, message and traceback; the context goes on."""
    execution = await context.run("kept = 3\nprint('before')\n" + code if code != "def" else code)
    assert execution.ended == "error"
    assert execution.error is not None
    assert execution.error.name == name
    assert value in execution.error.value
    assert name in execution.error.traceback
    assert execution.state_survived
    assert (await context.run("1 + 1")).text == "2"


async def test_a_traceback_shows_the_users_lines_and_not_ours(context: Context) -> None:
    """The line that failed, and no file of this package."""
    execution = await context.run("def broken():\n    return 1 / 0\nbroken()")
    assert execution.error is not None
    assert "return 1 / 0" in execution.error.traceback
    assert "sandbox_runtime" not in execution.error.traceback


@pytest.mark.parametrize("code", ["import sys; sys.exit(3)", "raise SystemExit", "quit()"])
async def test_sys_exit_does_not_end_the_context(context: Context, code: str) -> None:
    """As in a notebook: an error or nothing, but the state is there."""
    await context.run("x = 1")
    execution = await context.run(code)
    assert execution.ended in {"error", "ok"}
    assert execution.state_survived
    assert (await context.run("x")).text == "1"


@pytest.mark.parametrize(
    ("code", "death"),
    [
        ("os._exit(3)", Death(cause="exit", exit_code=3)),
        ("ctypes.string_at(0)", Death(cause="signal", signal=signal.SIGSEGV)),
        ("os.kill(os.getpid(), signal.SIGKILL)", Death(cause="signal", signal=signal.SIGKILL)),
        ("os.abort()", Death(cause="signal", signal=signal.SIGABRT)),
        ("os.execlp('true', 'true')", Death(cause="exit", exit_code=0)),
        ("os.closerange(3, 1000); time.sleep(600)", None),
    ],
)
async def test_the_death_of_the_interpreter_is_told(
    sandbox: Sandbox, code: str, death: Death | None
) -> None:
    """How it ended, if it did; what it had printed is there; the next run begins afresh."""
    await sandbox.run_code("x = 1")
    (context,) = sandbox.contexts.list()
    imports = "import ctypes, os, signal, time; print('last', flush=True)\n"
    execution = await sandbox.run_code(imports + code, deadline_s=20)
    assert (execution.ended, execution.state_survived) == ("context lost", False)
    assert execution.death == death
    assert execution.stdout == b"last\n"
    with pytest.raises(SandboxClosedError):
        await context.run("1")
    assert (await sandbox.run_code("'x' in globals()")).text == "False"


async def test_mistakes_of_the_caller_are_errors(sandbox: Sandbox) -> None:
    """An unknown language names the known ones; code has to be text, a deadline a time."""
    with pytest.raises(InvalidArgumentError, match=r"limits.memory_bytes"):
        await sandbox.create_code_context(limits=Limits(memory_bytes=-1))
    with pytest.raises(InvalidArgumentError, match=r"known: .*python"):
        await sandbox.run_code("1", language="cobol")
    with pytest.raises(InvalidArgumentError, match="code"):
        await sandbox.run_code(b"1")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="deadline_s"):
        await sandbox.run_code("1", deadline_s=0)


# --- deadlines, kill, cancellation ----------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "import time; time.sleep(600)",
        "while True: pass",
        "import subprocess; subprocess.run(['sleep', '600'])",
        "import threading; threading.Event().wait()",
        "import asyncio; await asyncio.sleep(600)",
    ],
)
async def test_a_deadline_interrupts_and_the_state_survives(context: Context, code: str) -> None:
    """Variables that were set before, and in the interrupted run itself, are there."""
    await context.run("x = 1")
    execution = await context.run("y = 2\nprint('said', flush=True)\n" + code, deadline_s=1)
    assert (execution.ended, execution.state_survived) == ("deadline", True)
    assert execution.stdout == b"said\n"
    assert execution.receipt.wall_s < 5
    assert (await context.run("x, y")).text == "(1, 2)"


@pytest.mark.parametrize(
    "code",
    [
        "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [2])\nwhile True: pass",
        "import signal; signal.signal(2, signal.SIG_IGN)\nwhile True: pass",
        "import ctypes\nwhile True: ctypes.CDLL(None).sleep(600)",
        "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
    ],
)
async def test_code_that_does_not_give_way_is_ended(sandbox: Sandbox, code: str) -> None:
    """The context is lost and says so; the next run has a fresh one."""
    await sandbox.run_code("x = 1")
    context = sandbox.contexts.list()[0]
    execution = await sandbox.run_code(code, deadline_s=0.3)
    assert execution.ended == "deadline"
    if not execution.state_survived:
        with pytest.raises(SandboxClosedError):
            await context.run("1")
        assert (await sandbox.run_code("'x' in globals()")).text == "False"
    else:
        assert "signal" not in code  # an interrupt came where nothing could hold it up
    assert (await sandbox.run_code("1 + 1")).text == "2"


async def test_a_deadline_ends_what_the_run_had_started(context: Context) -> None:
    """Also what was detached twice from its parents."""
    code = """
import os, subprocess
subprocess.Popen(["sleep", "1001"])
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execlp("sleep", "sleep", "1002")
    os._exit(0)
os.wait()
while True: pass
"""
    execution = await context.run(code, deadline_s=0.5)
    assert (execution.ended, execution.state_survived) == ("deadline", True)
    listing = """
import os
states = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    name, _, rest = open(f"/proc/{pid}/stat").read().rpartition(") ")
    if "sleep" in name and rest[0] not in "ZX":
        states.append(pid)
states
"""
    assert (await context.run(listing)).text == "[]"


async def test_an_interrupt_ends_the_run_and_says_so(context: Context) -> None:
    """From another task, while the code runs."""
    started = trio.Event()

    async with trio.open_nursery() as nursery:

        async def interrupt() -> None:
            await started.wait()
            context.interrupt()

        nursery.start_soon(interrupt)
        execution = await context.run(
            "x = 1\nprint(flush=True)\nwhile True: pass", on_stdout=lambda _: started.set()
        )
    assert (execution.ended, execution.state_survived) == ("interrupted", True)
    assert (await context.run("x")).text == "1"


async def test_cancellation_interrupts_and_the_context_can_be_used_again(context: Context) -> None:
    """The caller's own scope ends the run; nothing of it goes on."""
    with trio.CancelScope() as scope:
        await context.run(
            "x = 1\nprint(flush=True)\nwhile True: pass", on_stdout=lambda _: scope.cancel()
        )
    assert scope.cancelled_caught
    assert (await context.run("x")).text == "1"


async def test_a_callback_that_raises_ends_the_run(context: Context) -> None:
    """Its error is the caller's, unwrapped, and the context goes on."""

    def broken(_: object) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await context.run("print(1, flush=True)\nwhile True: pass", on_stdout=broken)
    with pytest.raises(LookupError, match="mine"):
        await context.run("display(1)\nwhile True: pass", on_result=broken)
    assert (await context.run("1 + 1")).text == "2"


async def test_nothing_is_left_of_a_closed_context(sandbox: Sandbox) -> None:
    """Its interpreter and all that it had started have ended when `aclose` returns."""
    context = await sandbox.create_code_context()
    code = """
import os
for number in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.execlp("sleep", "sleep", "1000")
"""
    await context.run(code)
    init = os.dup(context._interpreter._jail._fds[0])  # a pidfd: its end is that of the whole jail
    await context.aclose()
    await context.aclose()  # again does nothing
    with trio.fail_after(10):
        await trio.lowlevel.wait_readable(init)
    os.close(init)
    with pytest.raises(SandboxClosedError):
        await context.run("1")
    assert (await sandbox.run_code("1")).text == "1"


# --- many, and the pool --------------------------------------------------------------------------


async def test_twenty_contexts_at_once(runtime: Runtime) -> None:
    """Made and used at the same time, each answers for itself."""
    async with open_sandbox(runtime=runtime, python_pool=0) as sandbox:
        texts: dict[int, str | None] = {}

        async def use(number: int) -> None:
            context = await sandbox.create_code_context()
            await context.run(f"x = {number}")
            texts[number] = (await context.run("x * x")).text

        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(use, number)
    assert texts == {number: str(number * number) for number in range(20)}


async def test_a_context_never_serves_twice(runtime: Runtime) -> None:
    """Contexts from the pool and made on demand: each has a jail that no other had."""
    async with open_sandbox(runtime=runtime, python_pool=2) as sandbox:
        await sandbox.fill_pool()
        seen = set()
        for _ in range(5):
            context = await sandbox.create_code_context()
            execution = await context.run(
                "import os\nfresh = 'used' not in globals(); used = 1\n"
                "fresh, os.stat('/proc/self/ns/pid').st_ino"
            )
            assert execution.text is not None
            assert execution.text.startswith("(True, ")
            seen.add(execution.text)
            await sandbox.fill_pool()
        assert len(seen) == 5


async def test_the_pool_serves_without_forking_and_fills_again(runtime: Runtime) -> None:
    """A claim takes one that is ready; an empty pool serves by making one."""
    async with open_sandbox(runtime=runtime, python_pool=1) as sandbox:
        await sandbox.fill_pool()
        assert sandbox.contexts.pool("python").ready == 1
        (ready,) = sandbox.contexts.pool("python")._ready
        first = await sandbox.create_code_context()
        assert first._interpreter is ready
        second = await sandbox.create_code_context()
        assert second is not first
        assert (await second.run("1")).text == "1"
        await sandbox.fill_pool()
        ready_before = sandbox.contexts.pool("python").ready
        assert ready_before in {1, 2}  # it has grown unless the next one was ready in time
        chosen = await sandbox.create_code_context(cwd="/tmp")
        assert (await chosen.run("import os; os.getcwd()")).text == "'/tmp'"
        await sandbox.fill_pool()
        assert sandbox.contexts.pool("python").ready == ready_before


async def test_a_context_from_the_pool_is_as_new(runtime: Runtime) -> None:
    """Its rehearsal has left no number, no name and no output."""
    async with open_sandbox(runtime=runtime, python_pool=1) as sandbox:
        await sandbox.fill_pool()
        context = await sandbox.create_code_context()
        execution = await context.run("[name for name in ('_', '__', '_1') if globals().get(name)]")
        assert (execution.text, execution.execution_count) == ("[]", 1)
        assert execution.stdout == execution.stderr == b""


async def test_a_context_that_died_in_the_pool_is_not_given_out(runtime: Runtime) -> None:
    """It is noticed when it is claimed, and another one is made."""
    async with open_sandbox(runtime=runtime, python_pool=1) as sandbox:
        await sandbox.fill_pool()
        (ready,) = sandbox.contexts.pool("python")._ready
        await ready._jail.signal(ready.pid, signal.SIGKILL)
        await trio.lowlevel.wait_readable(ready._socket)
        context = await sandbox.create_code_context()
        assert context._interpreter is not ready
        assert (await context.run("1")).text == "1"


async def test_a_library_that_is_not_there_is_named(runtime: Runtime) -> None:
    """The zygote says which of its preloads are missing, and works without them."""
    zygote = await Zygote.open(
        runtime.supervisor, runtime._python, preload=["json", "no_such_library"]
    )
    assert zygote.missing == ("no_such_library",)
    zygote.close()


async def test_an_interpreter_that_is_none_is_an_error_with_a_remedy(
    runtime: Runtime, tmp_path: Path
) -> None:
    """Neither a hang nor a stack of internals: what did not start, and what to install."""
    with pytest.raises(InterpreterUnavailableError) as refused:
        await Zygote.open(runtime.supervisor, "/usr/bin/true")
    assert "/usr/bin/true" in str(refused.value)
    assert refused.value.remedy
    with pytest.raises(InterpreterUnavailableError):
        await Zygote.open(runtime.supervisor, str(tmp_path / "missing"))


def memory_kib(pid: int, field: str) -> int:
    """A sum of /proc/PID/smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def children(pid: int) -> list[int]:
    """Of a process with one thread."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.timeout(120)
async def test_two_hundred_contexts_live_at_once(
    runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each keeps its own state, and costs a small part of an interpreter."""
    count = 200
    zygote = await runtime.python_zygote()
    with trio.fail_after(60):
        async with open_sandbox(runtime=runtime, python_pool=0) as sandbox:
            contexts = [await sandbox.create_code_context() for _ in range(count)]
            for number, context in enumerate(contexts):
                await context.run(f"x = {number}")
            for number, context in enumerate(contexts):
                assert (await context.run("x")).text == str(number)
            (supervisor,) = children(runtime.supervisor._launcher_pid)
            (zygote_pid,) = (
                pid
                for pid in children(supervisor)
                if not Path(f"/proc/{pid}/comm").read_text().startswith("sbx-")
            )
            pids = children(zygote_pid)
            assert len(pids) == count
            try:
                private = [
                    memory_kib(pid, "Private_Dirty") + memory_kib(pid, "Private_Clean")
                    for pid in pids
                ]
                total = sum(memory_kib(pid, "Pss") for pid in pids)
            except PermissionError:
                pytest.skip("an ordinary user may not read another process's smaps_rollup here")
    assert not zygote.lost
    with capsys.disabled():
        print(  # noqa: T201 - a figure that the run is to show
            f"\n{count} contexts: {total / 1024:.0f} MiB PSS together, "
            f"{sum(private) / count / 1024:.1f} MiB of its own each"
        )
    assert sum(private) / count < 10 * 1024


async def test_a_context_for_which_there_is_no_descriptor_leaves_no_jail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jails = []

    def fail(jail: Jail, *_args: object, **_more: object) -> None:
        jails.append(jail)
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(python, "Interpreter", fail)
    async with open_sandbox(python_pool=0) as sandbox:
        with pytest.raises(OSError, match="Too many open files"):
            await sandbox.create_code_context("python")
        (jail,) = jails
        with pytest.raises((SandboxClosedError, SandboxLostError)):
            await jail.signal(1, 0)
