"""Arguments of another kind, and calls outside of a block: an error of ours, never a raw one.

Each parameter of each public function is given what cannot be meant, one after another.
"""

from __future__ import annotations

import asyncio  # noqa: TID251 - people try it
import copy
import inspect
from typing import TYPE_CHECKING, Any

import pytest
import trio

from sandbox_runtime import (
    FileAccessError,
    InvalidArgumentError,
    Limits,
    NotOpenedError,
    PoolSize,
    Preload,
    SandboxClosedError,
    SandboxError,
    open_runtime,
    open_sandbox,
)
from sandbox_runtime.git import clone

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_runtime import Runtime, Sandbox

WRONG = [5, -1, 1.5, "x", b"x", None, [], {}, object()]
"""Some of these mean something to some parameters: what counts is that none raises a raw error."""

_ANYTHING: Any = "5"
_NO_LIMITS = Limits(processes=_ANYTHING)

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("exec", {"command": "true"}),
    ("create_session", {}),
    ("find_session", {}),
    ("run_process", {"command": "true"}),
    ("start_process", {"command": "true"}),
    ("fill_pool", {}),
    ("connect", {"port": 9}),
    ("files.read", {"path": "file"}),
    ("files.read_text", {"path": "file"}),
    ("files.open_read", {"path": "file"}),
    ("files.write", {"path": "file", "content": "x"}),
    ("files.open_write", {"path": "file"}),
    ("files.stat", {"path": "file"}),
    ("files.exists", {"path": "file"}),
    ("files.list", {}),
    ("files.make_directory", {"path": "directory"}),
    ("files.remove", {"path": "directory"}),
    ("files.move", {"source": "file", "target": "file"}),
    ("ports.expose", {"port": 8000}),
    ("ports.unexpose", {"port": 8000}),
    ("ports.get", {"port": 8000}),
    ("ports.reserve", {"port": 8001}),
    ("processes.get", {}),
    ("processes.list", {}),
    ("processes.kill_all", {"session": "none"}),
    ("contexts.get", {}),
    ("contexts.delete", {}),
    ("contexts.restart", {}),
    ("contexts.pool", {}),
]


async def use(function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Calls it, waits for it, enters and leaves it: whatever it is."""
    done = function(**arguments)
    if hasattr(type(done), "__aenter__"):
        async with done:
            pass
    elif inspect.isawaitable(done):
        await done


async def try_each_parameter(function: Callable[..., Any], arguments: dict[str, Any]) -> list[str]:
    """The parameters, all of which have been given what is wrong."""
    names = [name for name in inspect.signature(function).parameters if name != "memory"]
    for name in names:
        for wrong in WRONG:
            try:
                await use(function, arguments | {name: wrong})
            except SandboxError:
                continue
            except Exception as error:
                error.add_note(f"{name}={wrong!r}")
                raise
    return names


@pytest.mark.parametrize(("call", "arguments"), CALLS, ids=[name for name, _ in CALLS])
async def test_what_cannot_be_meant_is_never_a_raw_error(
    sandbox: Sandbox, call: str, arguments: dict[str, Any]
) -> None:
    """And the sandbox goes on."""
    await sandbox.files.write("file", "x")
    holder: Any = sandbox
    for part in call.split("."):
        holder = getattr(holder, part)
    assert await try_each_parameter(holder, arguments)
    assert (await sandbox.exec("echo on")).text == "on\n"


async def test_nor_is_it_of_what_a_sandbox_holds(sandbox: Sandbox) -> None:
    """Sessions, processes, contexts, and the cloning into one."""
    session = await sandbox.create_session()
    await try_each_parameter(session.exec, {"command": "true"})
    process = await sandbox.start_process("for n in 5 x; do echo $n; done; exec sleep 1000")
    await try_each_parameter(process.signal, {"number": 18})
    await try_each_parameter(process.logs.read, {})
    waits: list[Any] = [{"port": 0}, {"port": 80, "process": 5}, {"port": 80, "interval_s": "x"}]
    for wrong in waits:
        with pytest.raises(InvalidArgumentError):
            await sandbox.ports.wait_until_open(**wrong)
    for pattern in (5, None, [], b"", object()):
        with pytest.raises(InvalidArgumentError, match="pattern"):
            await process.wait_for_log(pattern)  # type: ignore[arg-type]
    await try_each_parameter(clone, {"where": sandbox, "url": "/nothing", "directory": "\0"})
    context = await sandbox.create_code_context(preload="bare")
    await try_each_parameter(context.run, {"code": "1"})
    await try_each_parameter(sandbox.run_code, {"code": "1", "context": context})
    counts: list[Any] = [0, 65, "x", None, [], 1.5]
    for count in counts:
        with pytest.raises(InvalidArgumentError, match="count"):
            await context.fork(count)
    for name in inspect.signature(sandbox.create_code_context).parameters:
        for value in (-1, b"x", object()):  # which none of them may be
            with pytest.raises(SandboxError):
                await use(sandbox.create_code_context, {name: value})


async def test_nor_is_it_of_what_opens_a_sandbox_or_a_runtime(runtime: Runtime) -> None:
    """Every parameter but those for which all of it means something."""
    for name in inspect.signature(open_sandbox).parameters:
        for wrong in (-1, b"x", object()):
            with pytest.raises(InvalidArgumentError) as caught:
                await use(open_sandbox, {"runtime": runtime} | {name: wrong})
            assert caught.value.field == name
    for name in inspect.signature(open_runtime).parameters:
        for wrong in (-1, b"x", object()):
            with pytest.raises(InvalidArgumentError) as caught:
                await use(open_runtime, {name: wrong})
            assert caught.value.field == name
    for name in inspect.signature(runtime.keep_ready).parameters:
        arguments: dict[str, Any] = {"count": 1, name: "x"}
        with pytest.raises(InvalidArgumentError):
            runtime.keep_ready(**arguments)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"pools": {"python": 1}}, r"pools\[python\]: must be a PoolSize, e\.g\. .*, not int"),
        ({"pools": [("python", PoolSize())]}, "pools: must be a mapping, e.g. .*, not list"),
        ({"python_pool": "2"}, "python_pool: must be 0 to .*, not '2'"),
        ({"limits": {"processes": 5}}, r"limits: must be Limits, e\.g\. .*, not dict"),
        ({"limits": _NO_LIMITS}, "limits.processes: must be a positive number"),
        ({"runtime": "x"}, "runtime: must be a Runtime, as `open_runtime` gives one, not str"),
        ({"require": "seccomp"}, "require: must be a list of names"),
        ({"first_shell": None}, "first_shell: must be True or False, not None"),
    ],
)
async def test_an_error_names_the_parameter_and_what_to_give(
    arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=told):
        async with open_sandbox(**arguments):
            pass


async def test_text_and_bytes_are_told_apart(sandbox: Sandbox) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^content: must be text or bytes, not int$"):
        await sandbox.files.write("a", 5)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match=r"^stdin: must be bytes, .* text\.encode\(\)"):
        await sandbox.exec("cat", stdin="text")  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [5, "numpy", Preload(modules="numpy"), Preload(modules=5)])  # type: ignore[arg-type]
async def test_a_preload_set_that_is_none_is_named(given: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"preloads\[mine\]"):
        async with open_runtime(preloads={"mine": given}):
            pass


@pytest.mark.parametrize("opener", [open_sandbox, open_runtime])
async def test_whoever_forgets_the_block_is_told_how_to_write_it(opener: Any) -> None:
    name = opener.__name__.removeprefix("open_")
    how = rf"the {name} is not open\. Write `async with {opener.__name__}\(\.\.\.\) as {name}:`"
    with pytest.raises(NotOpenedError, match=f"{how} and use `{name}.exec` in it"):
        await opener().exec("true")
    with pytest.raises(NotOpenedError, match=how):
        await opener()
    with pytest.raises(NotOpenedError, match=how), opener():
        pass
    assert not hasattr(opener(), "exec")
    assert copy.copy(opener()) is not None


async def test_a_file_opened_without_a_block_says_how_to_write_it(sandbox: Sandbox) -> None:
    opened: Any = sandbox.files.open_read("a")
    with pytest.raises(NotOpenedError, match=r"`async with open_read\(\.\.\.\) as reader:`"):
        await opened.receive_some()
    with pytest.raises(NotOpenedError, match=r"as writer:"):
        await sandbox.files.open_write("a")  # type: ignore[misc]


@pytest.mark.parametrize("recursive", [False, True])
async def test_the_sandboxs_own_directory_stays(sandbox: Sandbox, *, recursive: bool) -> None:
    """A recursive removal empties it."""
    await sandbox.files.write("a/b", b"")
    with pytest.raises(FileAccessError, match="is the sandbox's own directory, which stays"):
        await sandbox.files.remove("/workspace", recursive=recursive)
    assert len(await sandbox.files.list()) == (0 if recursive else 1)


async def test_a_runtime_whose_block_has_ended_says_what_to_write() -> None:
    """It has not died."""
    async with open_runtime() as runtime:
        pass
    with pytest.raises(SandboxClosedError, match=r"block has ended.* Put `open_sandbox` inside"):
        async with open_sandbox(runtime=runtime):
            pass


async def test_a_closed_context_says_one_remedy_and_a_closed_sandbox_none(runtime: Runtime) -> None:
    async with open_sandbox(runtime=runtime) as sandbox:
        closed, left = [await sandbox.create_code_context(preload="bare") for _ in range(2)]
        await closed.aclose()
        for use_it in (lambda: closed.run("1"), closed.fork, closed.restart):
            with pytest.raises(SandboxClosedError, match=r"^the context was closed; create a new"):
                await use_it()
    for use_it in (lambda: left.run("1"), left.fork, left.restart):
        with pytest.raises(SandboxClosedError, match=r"^the sandbox is closed$"):
            await use_it()


async def test_a_block_is_entered_once() -> None:
    block = open_runtime()
    async with block:
        pass
    with pytest.raises(NotOpenedError, match="call it again"):
        await block.__aenter__()


def test_on_asyncio_it_is_told_what_runs_there() -> None:
    async def main() -> None:
        async with open_sandbox():
            pass

    with pytest.raises(NotOpenedError, match=r"trio\.run\(main\).*sandbox_runtime\.client"):
        asyncio.run(main())


async def test_what_is_of_another_sandbox_is_refused_by_its_name(runtime: Runtime) -> None:
    """A context, a session, a process: two sandboxes are never mixed."""
    async with open_sandbox(runtime=runtime) as one, open_sandbox(runtime=runtime) as other:
        context = await one.create_code_context(preload="bare")
        session = await one.create_session()
        process = await one.start_process("sleep 1000")
        calls: dict[str, list[Callable[[], Any]]] = {
            "context": [lambda: other.run_code("1", context=context)],
            "session": [
                lambda: other.start_process("true", session=session),
                lambda: other.processes.list(session),
                lambda: other.processes.kill_all(session),
            ],
            "process": [lambda: other.ports.wait_until_open(5, process=process)],
        }
        with trio.fail_after(20):
            for field, refused in calls.items():
                for call in refused:
                    with pytest.raises(InvalidArgumentError, match=f"^{field}: belongs to another"):
                        await use(call, {})
        assert one.processes.list(session) == []
        (branch,) = await context.fork()
        assert (await one.run_code("1 + 1", context=branch)).text == "2"


async def test_what_is_used_behind_the_end_of_its_block_says_so(runtime: Runtime) -> None:
    async with open_sandbox(runtime=runtime) as sandbox:
        session = await sandbox.create_session()
    calls: list[Callable[[], Any]] = [
        lambda: sandbox.exec("true"),
        lambda: session.exec("true"),
        lambda: sandbox.run_process("true"),
        lambda: sandbox.start_process("true"),
        lambda: sandbox.processes.start("true"),
        sandbox.create_session,
        sandbox.create_code_context,
        lambda: sandbox.run_code("1"),
        sandbox.fill_pool,
        lambda: sandbox.files.read("a"),
        lambda: sandbox.files.write("a", b"x" * 100_000),
        lambda: sandbox.files.open_write("a"),
        lambda: sandbox.connect(8000),
        lambda: sandbox.ports.expose(8000, listen="127.0.0.1"),
    ]
    with trio.fail_after(20):
        for call in calls:
            with pytest.raises(SandboxClosedError):
                await use(call, {})
