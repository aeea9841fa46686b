"""A program of the operator's that runs beside the server, outside of every sandbox.

In a container that is the image's `CMD`. It has our environment and our output; its end is logged
and changes nothing; when the server ends it is asked to end (SIGTERM), and made to (SIGKILL).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import trio

from sandbox_runtime.control.descriptors import descriptor_limit
from sandbox_runtime.control.journal import record_event
from sandbox_runtime.pidfds import wait_process_end

if TYPE_CHECKING:
    from collections.abc import Sequence

_LOG = logging.getLogger("sandbox_runtime.control")


async def run_companion(
    argv: Sequence[str], own: set[int], grace_s: float, descriptors: int
) -> None:
    """Runs it until it ends, or until this is cancelled and it was ended.

    Args:
        argv: The program and its arguments.
        own: Has its pid while it is there.
        grace_s: How long it may take to end when it is asked to.
        descriptors: Its soft limit of descriptors.
    """
    try:
        # It leads a group of its own: a signal to it is for all that it starts.
        with descriptor_limit(descriptors):
            program = subprocess.Popen(argv, stdin=subprocess.DEVNULL, process_group=0)  # noqa: ASYNC220
    except OSError as error:
        _LOG.error("cannot start %s: %s", argv[0], error.strerror)
        return
    own.add(program.pid)
    pidfd = os.pidfd_open(program.pid)
    try:
        record_event(_LOG, "program started", program=argv[0], pid=program.pid)
        try:
            await wait_process_end(pidfd)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await _end(program.pid, pidfd, grace_s)
            raise
    finally:
        os.close(pidfd)
        status = program.poll()
        if status is None:  # not even SIGKILL ended it: whoever comes after us reaps it
            _LOG.error("%s (pid %d) does not end", argv[0], program.pid)
        else:
            own.discard(program.pid)
            how = {"exit_code": status} if status >= 0 else {"signal": signal_name(-status)}
            record_event(_LOG, "program ended", program=argv[0], **how)


def signal_name(number: int) -> str:
    """What people call a signal; some have a number only."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


async def _end(group: int, pidfd: int, grace_s: float) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
        with trio.move_on_after(grace_s) as waiting:
            await wait_process_end(pidfd)
        if not waiting.cancelled_caught:
            return
