"""What the kernel ends for lack of memory is told apart from what somebody has killed."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from sandbox_runtime import (
    CommandFailedError,
    Death,
    Limits,
    Runtime,
    Sandbox,
    SandboxLostError,
    open_sandbox,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MEMORY_BYTES = 256 << 20
FILL = """
import mmap
held = mmap.mmap(-1, 400 << 20)
while held.write(b"x" * 65536): pass
"""


@pytest.fixture
async def sandbox(runtime: Runtime) -> AsyncIterator[Sandbox]:
    """One with little memory, counted by a control group."""
    limits = Limits(memory_bytes=MEMORY_BYTES)
    async with open_sandbox(runtime=runtime, limits=limits, python_pool=0) as sandbox:
        rows = {row.name: row for row in sandbox.report.protections}
        if rows["cgroup_memory"].achieved != "full":
            pytest.skip("no control group limits the memory of a sandbox here")
        yield sandbox


async def test_a_context_says_that_it_had_no_memory_left(sandbox: Sandbox) -> None:
    """And one that kills itself afterwards says that."""
    context = await sandbox.contexts.create(preload="bare")
    execution = await context.run(FILL, deadline_s=60)
    assert (execution.ended, execution.state_survived) == ("context lost", False)
    assert execution.death == Death(cause="out of memory", signal=9)
    await context.restart()
    execution = await context.run("import os\nos.kill(os.getpid(), 9)")
    assert execution.death == Death(cause="signal", signal=9)


async def test_a_branch_says_it_too(sandbox: Sandbox) -> None:
    """Its origin lives."""
    context = await sandbox.contexts.create(preload="bare")
    (branch,) = await context.fork()
    execution = await branch.run(FILL, deadline_s=60)
    assert execution.death == Death(cause="out of memory", signal=9)
    assert (await context.run("1 + 1")).text == "2"


async def test_a_command_and_a_process_say_it(sandbox: Sandbox) -> None:
    """A command of a session, whose shell lives on, and a program in the background."""
    program = ["python3", "-c", FILL]
    session = await sandbox.create_session()
    result = await session.exec(program, deadline_s=60)
    assert (result.exit_code, result.out_of_memory) == (137, True)
    result = await session.exec("bash -c 'kill -9 $$'", deadline_s=60)
    assert (result.exit_code, result.out_of_memory) == (137, False)
    process = await sandbox.start_process(program)
    result = await process.wait()
    assert (result.signal, result.ended, result.out_of_memory) == (9, "signal", True)
    result = await (await sandbox.start_process("kill -9 $$")).wait()
    assert (result.signal, result.out_of_memory) == (9, False)


async def test_a_checked_command_says_it_and_names_the_limit(sandbox: Sandbox) -> None:
    """Instead of how its shell or its program ended alone."""
    with pytest.raises(CommandFailedError, match=r"no memory left.*limits\.memory_bytes"):
        await sandbox.exec(["python3", "-c", FILL], deadline_s=60, check=True)


async def test_a_file_service_that_dies_where_there_is_little_memory_names_it(
    runtime: Runtime,
) -> None:
    """The kernel may choose any process, and the group that counts them may be gone by then."""
    limits = Limits(memory_bytes=8 << 20)
    async with open_sandbox(runtime=runtime, limits=limits, python_pool=0) as sandbox:
        await sandbox.files.write("a", b"")
        signal.pidfd_send_signal(sandbox.keeper._fds[0], signal.SIGKILL)
        await sandbox.keeper.wait_gone()
        with pytest.raises(SandboxLostError, match=r"want of memory.* 8 MiB\. Give it 16 MiB"):
            await sandbox.files.read("a")
