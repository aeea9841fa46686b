"""How many descriptors this process may have: as many as it is allowed to allow itself.

Each connection, session and background process takes some, and the usual soft limit of 1024 is
there for programs that use select(2). Programs of others that we start get the limit that we got.
"""

from __future__ import annotations

import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def raise_descriptor_limit() -> int:
    """Raises the soft limit to the hard one.

    Returns:
        The soft limit as it was.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


@contextmanager
def descriptor_limit(soft: int) -> Iterator[None]:
    """What is started in this block inherits this soft limit."""
    present, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (present, hard))
