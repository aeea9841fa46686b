"""Limits and other values that a caller may choose, each with its default."""

from __future__ import annotations

from typing import Literal

import msgspec

from sandbox_runtime.choices import MINIMUM_MEMORY_BYTES
from sandbox_runtime.errors import InvalidArgumentError

MIB = 1024 * 1024
GIB = 1024 * MIB


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one sandbox may use, all its jails together unless said otherwise.

    Attributes:
        memory_bytes: Memory, with what lies in the writable directories, where a control group can
            be had; and in any case the data segment of each process (`RLIMIT_DATA`).
            `MINIMUM_MEMORY_BYTES` or more.
        processes: Processes and threads, `MINIMUM_PROCESSES` or more.
        cpu_percent: Processor time, in hundredths of one processor (150 is one and a half), where
            a control group can be had; None is no bound.
        open_files: Open descriptors of one process (`RLIMIT_NOFILE`), `MINIMUM_OPEN_FILES` or more.
        file_size_bytes: The largest file that may be written (`RLIMIT_FSIZE`).
        workspace_bytes: Size of `/workspace`.
        tmp_bytes: Size of `/tmp`.
        shm_bytes: Size of `/dev/shm`.
    """

    memory_bytes: int = 2 * GIB
    processes: int = 512
    cpu_percent: int | None = None
    open_files: int = 4096
    file_size_bytes: int = 1 * GIB
    workspace_bytes: int = 1 * GIB
    tmp_bytes: int = 512 * MIB
    shm_bytes: int = 64 * MIB

    def check(self, *, shells: bool = True) -> None:
        """Refuses what no sandbox can be made with.

        Args:
            shells: Whether shells are to work with them; a context has none.

        Raises:
            InvalidArgumentError: A limit is none, or too small; it names it.
        """
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if name == "cpu_percent" and value is None:
                continue
            most = 100_000 if name == "cpu_percent" else (1 << 62) - 1
            if not isinstance(value, int) or not 0 < value <= most:
                message = f"must be a positive number, not {value!r}"
                raise InvalidArgumentError(f"limits.{name}", message)
        if self.memory_bytes < MINIMUM_MEMORY_BYTES:
            least = f"must be {MINIMUM_MEMORY_BYTES} or more (1 MiB), not {self.memory_bytes}"
            raise InvalidArgumentError("limits.memory_bytes", least)
        if shells and self.processes < MINIMUM_PROCESSES:
            least = f"must be {MINIMUM_PROCESSES} or more for a shell to work"
            raise InvalidArgumentError("limits.processes", f"{least}, not {self.processes}")
        if shells and self.open_files < MINIMUM_OPEN_FILES:
            least = f"must be {MINIMUM_OPEN_FILES} or more for shells to work"
            raise InvalidArgumentError("limits.open_files", f"{least}, not {self.open_files}")


MINIMUM_PROCESSES = 3
"""The least `Limits.processes`: the sandbox's keeper, a jail's init and a program."""

MINIMUM_OPEN_FILES = 256
"""The least `Limits.open_files`: a session's shell keeps its own descriptors above 200."""

ContextNetwork = Literal["loopback", "sandbox"]
"""What a context may reach: a loopback device, or what the sandbox's sessions may."""

DEFAULT_ENV = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/workspace",
    "USER": "sandbox",
    "LOGNAME": "sandbox",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "TMPDIR": "/tmp",
}
"""The whole environment of a program in a sandbox, unless the caller adds to it."""

HOST_NAME = "sandbox"
"""What `hostname` says inside, by default."""

MOST_READY_SANDBOXES = 64
"""How many sandboxes one runtime may keep ready."""

WORKSPACE = "/workspace"
"""Where programs start."""

OUTPUT_LIMIT_BYTES = 64 * MIB
"""How much of each output stream a result keeps; what is beyond is counted, not kept."""

BREAK_GRACE_S = 2.0
"""How long a shell may take to give up a command before it is ended itself."""

INTERRUPT_GRACE_S = 1.0
"""How long a cell may take to give way to an interrupt before its context is ended."""

BRANCHING_S = 10.0
"""How long a context may take to be branched; it and its copies answer within milliseconds, unless
its code has replaced what they answer with."""

BACKGROUND_LIMIT_BYTES = 1 * MIB
"""How much of a background job's later output is kept, per stream."""

BACKGROUND_TOTAL_BYTES = 16 * MIB
"""Likewise, of all background jobs of the sessions of a sandbox together."""

BACKGROUND_PAUSE_S = 0.05
"""How long nothing is read from a background job after each piece of at most 256 KiB that is not
kept any more: a job that writes without end goes on at some MiB a second, and costs us little."""

LOG_LIMIT_BYTES = 64 * MIB
"""How much of a background process's output is kept: the newest, both streams together."""

LOGS_LIMIT_BYTES = 1 * GIB
"""How much disk the logs of all background processes of one sandbox may take."""

FINISHED_PROCESSES = 1000
"""How many background processes that have ended are remembered: the newest."""

FINISHED_PROCESS_S = 3600.0
"""How long a background process that has ended is remembered."""

KILL_GRACE_S = 5.0
"""How long a process may take to end by a signal that it can handle, before it is ended."""

READ_LIMIT_BYTES = 1 * GIB
"""How much of a file is read at once, unless the caller has room for more."""

LIST_LIMIT = 100_000
"""How many entries one listing of a directory may have, likewise."""

ZYGOTE_START_S = 120.0
"""How long the warmed Python may take to start: it imports large libraries from a cold disk."""

FEW_PROCESSES = 64
"""Where a sandbox may have fewer than these, nothing that waits takes one of them."""
