"""What we say and how we exit when it is not the program's own doing."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from typing import Any

from sandbox_runtime.errors import InvalidArgumentError, NotStartedError, SandboxError

USAGE, DEADLINE, OWN_FAILURE, NOT_EXECUTABLE, NOT_FOUND, SIGNAL = 2, 124, 125, 126, 127, 128
"""Exit statuses that are ours and not the program's."""

INTERRUPTED = SIGNAL + signal.SIGINT
READER_GONE = SIGNAL + signal.SIGPIPE


def say(message: str) -> None:
    """Tells the user something, in one line."""
    with contextlib.suppress(OSError):
        print(f"sandbox-runtime: {' '.join(message.split())}", file=sys.stderr, flush=True)


def reader_is_gone() -> int:
    """The status of who writes to a pipe that nobody reads; nothing is to be flushed at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return READER_GONE


def failure_status(error: Exception) -> int:
    """The exit status of a run that this ended, or kept from starting."""
    if isinstance(error, InvalidArgumentError):
        return USAGE
    if isinstance(error, NotStartedError) and error.step != "change_directory":
        return NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
    return OWN_FAILURE


def failure_record(error: Exception) -> dict[str, Any]:
    """What `--json` prints then."""
    failure = {"code": "os_error", "message": str(error), "remedy": ""}
    if isinstance(error, SandboxError):
        failure |= {"code": error.code, "remedy": error.remedy}
    return {"ended": "not run", "failure": failure}
