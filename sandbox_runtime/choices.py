"""What people choose from, and within what. It loads nothing: the command line names it at once."""

from __future__ import annotations

from typing import Literal

Network = Literal["loopback", "host"]
"""What the sessions and processes of a sandbox may reach: a loopback device of their own, or the
network of the control process."""

LANGUAGES = {"python": "Python", "javascript": "JavaScript", "typescript": "TypeScript"}
"""What contexts speak, and how people write that."""

RunFailed = Literal["error", "deadline", "interrupted", "killed", "context lost"]
"""Why a run that did not end well is over: it raised; its deadline or an interrupt ended it; its
context was deleted or restarted; or the interpreter died with it."""

RunEnded = Literal["ok", RunFailed]
"""Why a run is over: the code ended, or see `RunFailed`."""

DeathCause = Literal["exit", "signal", "out of memory", "broken protocol"]
"""How an interpreter came to its end: it exited (`os._exit`); a signal ended it (a crash, `kill`);
the kernel did because the sandbox had no memory left; or we did, as user code had spoken in its
name what cannot be understood."""

MOST_BRANCHES = 64
"""How many branches may be made at once."""

PYTHON_MEMORY_BYTES = 16 << 20
"""With less of `Limits.memory_bytes` a Python context may die while it starts."""

PYTHON_MEMORY_REMEDY = "Give it 16 MiB or more (limits.memory_bytes, or --memory 16M)"
"""What to do about less than `PYTHON_MEMORY_BYTES`."""

MINIMUM_MEMORY_BYTES = 1 << 20
"""The least `Limits.memory_bytes`: with less, no process of a sandbox starts."""
