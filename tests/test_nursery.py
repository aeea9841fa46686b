"""A nursery that serves a block."""

from __future__ import annotations

import pytest
import trio

from sandbox_runtime.nursery import open_serving_nursery


async def test_what_the_block_raises_arrives_plain() -> None:
    async def fail() -> None:
        async with open_serving_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise KeyError

    with pytest.raises(KeyError):
        await fail()


async def test_neither_the_blocks_error_nor_a_tasks_is_lost() -> None:
    async def fail_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise ValueError

    async def fail() -> None:
        async with open_serving_nursery() as nursery:
            nursery.start_soon(fail_at_the_end)
            await trio.testing.wait_all_tasks_blocked()
            raise KeyError

    with pytest.raises(BaseExceptionGroup) as raised:
        await fail()
    assert raised.group_contains(KeyError)
    assert raised.group_contains(ValueError)


async def test_a_cancellation_from_outside_ends_it() -> None:
    with trio.move_on_after(0) as scope:
        async with open_serving_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
    assert scope.cancelled_caught
