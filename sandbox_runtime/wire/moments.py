"""Moments as the wire writes them."""

from __future__ import annotations

import math
import time
from functools import lru_cache


def iso_moment(seconds: float | None = None) -> str:
    """A moment as ISO 8601 in UTC with milliseconds, `2025-10-01T12:00:00.000Z`.

    Args:
        seconds: Since 1970; now by default.
    """
    if seconds is None:
        seconds = time.time()
    whole = math.floor(seconds)
    second, rest = divmod(whole * 1_000_000 + round((seconds - whole) * 1e6), 1_000_000)
    return f"{_iso_second(second)}.{rest // 1000:03d}Z"


@lru_cache(maxsize=8)  # nearly always the present one is asked for
def _iso_second(second: int) -> str:
    year, month, day, hour, minute, seconds, *_ = time.gmtime(second)
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{seconds:02}"
