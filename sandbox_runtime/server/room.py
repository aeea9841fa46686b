"""Whether there are descriptors left for one thing more.

Each session, process, context and sandbox holds some for as long as it lives. None is begun once
three quarters of what this process may have are in use, so that requests, and what exists already,
go on: without any left, every answer would be an error of the server.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

from sandbox_runtime.server.http import BusyError

_OWN = Path("/proc/self/fd")


def check_descriptors() -> None:
    """Refuses to begin what holds descriptors, while too many are in use.

    Raises:
        BusyError: Three quarters are.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _count_open() >= limit // 4 * 3:
        raise BusyError(
            "the server has too few descriptors left to begin more",
            remedy="End sessions, processes or contexts; the operator gives it more with ulimit -n",
        )


def _count_open() -> int:
    """How many this process has; newer kernels say it without listing them."""
    return _OWN.stat().st_size or len(os.listdir(_OWN))  # noqa: PTH208 - names alone are counted
