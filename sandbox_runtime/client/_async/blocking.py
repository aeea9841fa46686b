"""Calling what blocks; the one file whose other half is written by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import anyio.to_thread

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


async def run_blocking(call: Callable[[], T]) -> T:
    """Calls it in a thread, so that other tasks go on."""
    return await anyio.to_thread.run_sync(call)
