"""What a command gave and what it cost."""

from __future__ import annotations

from typing import Literal

import msgspec

Ended = Literal["exit", "signal", "deadline", "killed", "session lost", "sandbox lost"]
"""Why a command is over: it exited; a signal ended it; its deadline did; `kill()` did; the
session's shell ended with it; or, for a process, its jail or its sandbox did. A call that is
cancelled from outside raises `trio.Cancelled`."""


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What it cost, and where each number comes from.

    Attributes:
        wall_s: From the request to the end.
        user_s: CPU time in user mode, of the program and the descendants that were waited for.
        system_s: CPU time in the kernel, likewise.
        peak_memory_bytes: Largest resident set of one process, or None if nothing measured it.
        sources: For each of the four, what it was read from.
    """

    wall_s: float
    user_s: float | None
    system_s: float | None
    peak_memory_bytes: int | None
    sources: dict[str, str]


class CommandResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a command ended.

    Attributes:
        stdout: What it wrote to standard output, byte for byte, up to the limit.
        stderr: Likewise, standard error.
        exit_code: 0 to 255; None unless it exited.
        signal: The number of the signal that ended it, if one did.
        ended: Why it is over.
        stdout_bytes: How much it wrote in all.
        stderr_bytes: Likewise.
        out_of_memory: Whether the kernel ended it, or a process of it, because the sandbox had no
            memory left. Always False where the sandbox has no control group for its memory.
        number: Of the commands of its session, from 1; what its jobs write later bears it.
        truncated: Whether more was written than is kept.
        receipt: What it cost.
    """

    stdout: bytes
    stderr: bytes
    exit_code: int | None
    signal: int | None
    ended: Ended
    stdout_bytes: int
    stderr_bytes: int
    receipt: Receipt
    number: int = 0
    out_of_memory: bool = False

    @property
    def truncated(self) -> bool:
        """Whether more was written than is kept."""
        return len(self.stdout) < self.stdout_bytes or len(self.stderr) < self.stderr_bytes

    @property
    def ok(self) -> bool:
        """Whether it exited with code 0."""
        return self.exit_code == 0

    @property
    def text(self) -> str:
        """Standard output as UTF-8; what is not is shown as U+FFFD."""
        return self.stdout.decode(errors="replace")
