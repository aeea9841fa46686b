"""A nursery that serves a block of the caller's."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def open_serving_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery whose tasks serve the block: they end with it.

    What the block raises arrives as it was raised, also a `SystemExit`; a plain trio nursery
    would wrap it in a group. What the tasks raise arrives in a group, as ever, with what the block
    raised if it did so too.
    """
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except trio.Cancelled:
                raise  # the scope that it belongs to may be this nursery's
            except BaseException as raised:  # noqa: BLE001 - raised again outside the nursery
                error = raised
            finally:
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as of_tasks:
        if error is None:
            raise
        raise of_tasks.derive([error, *of_tasks.exceptions]) from None
    if error is not None:
        raise error
