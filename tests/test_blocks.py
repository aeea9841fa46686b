"""The blocks of a runtime and of a sandbox: what leaves them, and what their end waits for."""

from __future__ import annotations

import array
import os
import select
from typing import TYPE_CHECKING

import pytest
import trio

from sandbox_runtime import open_runtime, open_sandbox
from sandbox_runtime.messages import Execute, encode_env
from sandbox_runtime.settings import DEFAULT_ENV

if TYPE_CHECKING:
    from sandbox_runtime import Runtime, Sandbox


class ForeignCancellation(BaseException):
    """As other libraries end their tasks."""


LEAVING = [SystemExit(3), KeyboardInterrupt(), ForeignCancellation(), LookupError("mine")]


async def raise_within(error: BaseException, *, in_sandbox: bool) -> None:
    """Raises it in the block of a runtime, or of a sandbox in that."""
    async with open_runtime() as runtime:
        if in_sandbox:
            async with open_sandbox(runtime=runtime):
                raise error
        raise error


@pytest.mark.parametrize("error", LEAVING, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("in_sandbox", [True, False])
async def test_what_a_block_raises_arrives_as_it_was_raised(
    error: BaseException, *, in_sandbox: bool
) -> None:
    """Not in a group, also what is no `Exception`: the caller's `except` and exit codes hold."""
    with pytest.raises(type(error)) as caught:
        await raise_within(error, in_sandbox=in_sandbox)
    assert caught.value is error


async def test_a_cancelled_block_ends_quietly(runtime: Runtime) -> None:
    """Cancellation is its scope's, whatever lies between."""
    with trio.move_on_after(0.01) as scope:
        async with open_sandbox(runtime=runtime):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_every_closer_of_a_jail_waits_for_its_end(sandbox: Sandbox) -> None:
    """Also those who come while the first one still waits."""
    devnull = os.open(os.devnull, os.O_RDWR)
    try:
        argv = (b"bash", b"-c", b"for n in {1..50}; do sleep 1000 & done; wait")
        program = Execute(argv=argv, env=encode_env(DEFAULT_ENV), cwd=b"/")
        jail = await sandbox._keeper.create_jail(program, [devnull] * 3)
    finally:
        os.close(devnull)
    await jail.wait_started()
    pidfd = os.dup(jail._fds[0])

    async def close() -> None:
        await jail.aclose()
        assert select.select([pidfd], [], [], 0)[0], "a process that has ended is readable"

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(close)
    finally:
        os.close(pidfd)


@pytest.mark.parametrize("kind", ["i", "d"])
async def test_wide_items_are_bytes(sandbox: Sandbox, kind: str) -> None:
    """A view of numbers is counted in bytes wherever content is taken; nothing is cut or lost."""
    numbers = array.array(kind, range(100))
    for content in (memoryview(numbers), memoryview(numbers)[::2], memoryview(numbers)[:0]):
        expected = content.tobytes()
        assert (await sandbox.exec("cat", stdin=content)).stdout == expected  # type: ignore[arg-type]
        ran = await sandbox.run_process("cat", stdin=content)  # type: ignore[arg-type]
        assert ran.stdout == expected
        await sandbox.files.write("numbers", content)  # type: ignore[arg-type]
        assert await sandbox.files.read("numbers") == expected
