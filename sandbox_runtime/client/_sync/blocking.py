"""Calling what blocks; the one file whose other half is written by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def run_blocking(call: Callable[[], T]) -> T:
    """Calls it."""
    return call()
