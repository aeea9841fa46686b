"""When something may be made ahead: the processor is the users', who run cell after cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CALM_S = 0.05
"""How long no code has run in a context whose owner will not run another cell right away."""
PATIENCE_S = 1.0
"""Where it is never calm, what is to be made ahead is made after this time all the same."""


async def wait_calm(
    calm_s: float, wait_quiet: Callable[[], Awaitable[None]], busy_s: Callable[[], float]
) -> None:
    """Waits until nothing runs and for a moment nothing has: between two short cells nothing does.

    Args:
        calm_s: How long that moment is.
        wait_quiet: Waits until nothing runs.
        busy_s: When something last ran, on trio's clock.
    """
    while True:
        await wait_quiet()
        calm_at_s = busy_s() + calm_s
        if trio.current_time() >= calm_at_s:
            return
        await trio.sleep_until(calm_at_s)
