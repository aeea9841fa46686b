"""A circuit breaker: what fails again and again is not tried for a while."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Breaker:
    """Closed it lets everything pass, open nothing, half open one try at a time.

    Args:
        now_s: The clock.
        failures: How many in a row open it.
        rest_s: How long it stays open before it lets one try pass.
    """

    def __init__(
        self, now_s: Callable[[], float], *, failures: int = 5, rest_s: float = 30.0
    ) -> None:
        self._now_s = now_s
        self._most = failures
        self._rest_s = rest_s
        self._failed = 0
        self._closed_until_s = -math.inf

    def wait_s(self) -> float:
        """How long to wait before a try makes sense; 0 lets it pass."""
        if self._failed < self._most:
            return 0.0
        left_s = self._closed_until_s - self._now_s()
        if left_s <= 0:
            self._closed_until_s = self._now_s() + self._rest_s  # the next one waits for this one
            return 0.0
        return left_s

    def succeeded(self) -> None:
        """A try went well."""
        self._failed = 0

    def failed(self) -> None:
        """A try went wrong."""
        self._failed += 1
        if self._failed >= self._most:
            self._closed_until_s = self._now_s() + self._rest_s
