"""A server that another program started for itself, and that ends with it.

The owner holds the writing end of a pipe, whose reading end is the server's standard input. However
the owner ends, the kernel closes its end.
"""

from __future__ import annotations

import os
import stat

import trio

from sandbox_runtime.errors import InvalidArgumentError


def take_owner() -> int:
    """Takes the standard input as the owner's pipe, and leaves an empty one in its place.

    Returns:
        A descriptor of the reading end, which no program inherits.

    Raises:
        InvalidArgumentError: The standard input is nothing that a program holds open.
    """
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        mode = 0
    if not stat.S_ISFIFO(mode) and not stat.S_ISSOCK(mode):
        what = "the standard input is no pipe; give the reading end of one that you hold open"
        raise InvalidArgumentError("--until-stdin-ends", what)
    owner = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return owner


async def wait_owner_end(owner: int) -> None:
    """Waits until nobody holds the writing end any more; what comes before is dropped."""
    async with trio.lowlevel.FdStream(owner) as pipe:
        while await pipe.receive_some():
            pass
