"""Contexts that were ready before they were asked for become what is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from sandbox_runtime import (
    Context,
    Limits,
    NotStartedError,
    PoolSize,
    Preload,
    Runtime,
    Sandbox,
    open_runtime,
    open_sandbox,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def light() -> AsyncIterator[Runtime]:
    """Its usual contexts have imported nothing large."""
    preloads = {
        "data": Preload(modules=()),
        "named": Preload(modules=(), names={"j": "json"}),
        "other": Preload(modules=("decimal",)),
    }
    async with open_runtime(preloads=preloads) as runtime:
        yield runtime


@pytest.fixture
async def sandbox(light: Runtime) -> AsyncIterator[Sandbox]:
    """One with a context ready."""
    async with open_sandbox(runtime=light, pools={"python": PoolSize(min=1)}) as sandbox:
        await sandbox.contexts.warm_up()
        yield sandbox


async def text(context: Context, code: str) -> str | None:
    """What a cell says."""
    execution = await context.run(code, deadline_s=60)
    assert execution.ended == "ok", execution.error
    return execution.text


async def test_a_directory_and_variables_are_given_to_one_that_is_ready(sandbox: Sandbox) -> None:
    """As if it had been made for them, and the next one knows nothing of them."""
    await sandbox.files.make_directory("/workspace/deep")
    await sandbox.files.write("/workspace/deep/beside.py", "here = 'found'")
    (waiting,) = sandbox.contexts.pool("python")._ready
    context = await sandbox.contexts.create(
        cwd="/workspace/deep", env={"GREETING": "hello", "TZ": "Asia/Tokyo", "HOME": "/tmp/home"}
    )
    assert context._interpreter is waiting
    seen = "import beside, os, pathlib, time\n[os.getcwd(), os.environ['GREETING'], beside.here]"
    assert await text(context, seen) == "['/workspace/deep', 'hello', 'found']"
    assert await text(context, "str(pathlib.Path.home()), time.tzname[0]") == "('/tmp/home', 'JST')"
    assert (await context.run("%pwd")).text == "'/workspace/deep'"
    usual = await sandbox.contexts.create()
    assert await text(usual, "import os\nos.getcwd(), 'GREETING' in os.environ") == (
        "('/workspace', False)"
    )


async def test_the_next_one_is_made_beside_the_end_of_one_that_is_deleted(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while code may run in another one at any moment."""
    for name in ("pool.CALM_S", "pool.PATIENCE_S", "contexts.CALM_S"):
        monkeypatch.setattr(f"sandbox_runtime.interpreters.{name}", 1000)
    pool = sandbox.contexts.pool("python")
    first = await sandbox.contexts.create()
    second = await sandbox.contexts.create()
    await first.aclose()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert pool.ready == 0
    await second.aclose()
    with trio.fail_after(30):
        while not pool.ready:
            await pool._changed.wait()


async def test_names_of_a_preload_set_are_given_to_one_that_is_ready(sandbox: Sandbox) -> None:
    """A set with other modules needs another interpreter."""
    (waiting,) = sandbox.contexts.pool("python")._ready
    named = await sandbox.contexts.create(preload="named")
    assert named._interpreter is waiting
    assert await text(named, "j.dumps([1])") == "'[1]'"
    await sandbox.contexts.warm_up()
    (waiting,) = sandbox.contexts.pool("python")._ready
    other = await sandbox.contexts.create(preload="other")
    assert other._interpreter is not waiting


async def test_limits_and_networks_that_hold_anyway_need_none_of_its_own(sandbox: Sandbox) -> None:
    """Lower limits do."""
    (waiting,) = sandbox.contexts.pool("python")._ready
    context = await sandbox.contexts.create(limits=Limits(), network="sandbox")
    assert context._interpreter is waiting
    await sandbox.contexts.warm_up()
    (waiting,) = sandbox.contexts.pool("python")._ready
    context = await sandbox.contexts.create(limits=Limits(open_files=300))
    assert context._interpreter is not waiting


async def test_a_directory_that_is_not_there_is_told(sandbox: Sandbox) -> None:
    """And nobody gets the one that was sent there."""
    with pytest.raises(NotStartedError, match="missing"):
        await sandbox.contexts.create(cwd="/workspace/missing")
    assert sandbox.contexts.list() == []
    assert await text(await sandbox.contexts.create(), "1 + 1") == "2"


async def test_limits_of_a_context_hold_for_it_and_its_branches_alone(light: Runtime) -> None:
    """Memory, files, descriptors; what is more than the sandbox has is the sandbox's."""
    limits = Limits(memory_bytes=200 << 20, file_size_bytes=1 << 20, open_files=300)
    async with open_sandbox(runtime=light, python_pool=0) as sandbox:
        context = await sandbox.contexts.create(limits=limits)
        (branch,) = await context.fork()
        for one in (context, branch):
            execution = await one.run("held = bytearray(300 << 20)")
            assert execution.error is not None
            assert execution.error.name == "MemoryError"
            execution = await one.run("with open('big', 'wb') as f: f.write(bytes(2 << 20))")
            assert execution.error is not None
            assert "File too large" in execution.error.value
            soft = "import resource\nresource.getrlimit(resource.RLIMIT_NOFILE)"
            assert await text(one, soft) == "(300, 300)"
        free = await sandbox.contexts.create(limits=Limits(open_files=1 << 20))
        assert await text(free, "len(bytearray(300 << 20))") == str(300 << 20)
        soft = "import resource\nresource.getrlimit(resource.RLIMIT_NOFILE)[0]"
        assert int(await text(free, soft) or 0) <= Limits().open_files
