"""Untrusted code in a real sandbox: no daemon, no Docker, no KVM.

    async with open_sandbox() as sandbox:
        result = await sandbox.exec("echo hello")
        execution = await sandbox.run_code("import pandas; 1 + 1")

The names below are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox_runtime.background import Processes
    from sandbox_runtime.errors import (
        AlreadyExistsError,
        BranchRefusedError,
        CommandFailedError,
        ContextNotFoundError,
        DeadlineError,
        FileAccessError,
        HostLimitError,
        InterpreterMissingError,
        InterpreterRestingError,
        InterpreterUnavailableError,
        InvalidArgumentError,
        IsolationError,
        ListenError,
        NotFoundError,
        NotOpenedError,
        NotStartedError,
        PoolFullError,
        PortUnreachableError,
        ProcessEndedError,
        SandboxClosedError,
        SandboxError,
        SandboxLostError,
    )
    from sandbox_runtime.interpreters.contexts import Context
    from sandbox_runtime.interpreters.execution import (
        Death,
        Execution,
        ExecutionError,
        Result,
    )
    from sandbox_runtime.interpreters.pool_sizes import PoolSize
    from sandbox_runtime.interpreters.preloads import Preload
    from sandbox_runtime.interpreters.registry import Contexts
    from sandbox_runtime.processes import Process
    from sandbox_runtime.receipts import CommandResult, Receipt
    from sandbox_runtime.report import Protection, SandboxReport
    from sandbox_runtime.runtime import Runtime, open_runtime
    from sandbox_runtime.sandbox import Sandbox, open_sandbox
    from sandbox_runtime.sessions import Session
    from sandbox_runtime.settings import Limits

_HOMES = {
    "background": ("Processes",),
    "errors": (
        "AlreadyExistsError",
        "BranchRefusedError",
        "CommandFailedError",
        "ContextNotFoundError",
        "DeadlineError",
        "FileAccessError",
        "HostLimitError",
        "InterpreterMissingError",
        "InterpreterRestingError",
        "InterpreterUnavailableError",
        "InvalidArgumentError",
        "IsolationError",
        "ListenError",
        "NotFoundError",
        "NotOpenedError",
        "NotStartedError",
        "PortUnreachableError",
        "PoolFullError",
        "ProcessEndedError",
        "SandboxClosedError",
        "SandboxError",
        "SandboxLostError",
    ),
    "interpreters.contexts": ("Context",),
    "interpreters.execution": ("Death", "Execution", "ExecutionError", "Result"),
    "interpreters.pool_sizes": ("PoolSize",),
    "interpreters.preloads": ("Preload",),
    "interpreters.registry": ("Contexts",),
    "processes": ("Process",),
    "receipts": ("CommandResult", "Receipt"),
    "report": ("Protection", "SandboxReport"),
    "runtime": ("Runtime", "open_runtime"),
    "sandbox": ("Sandbox", "open_sandbox"),
    "sessions": ("Session",),
    "settings": ("Limits",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AlreadyExistsError",
    "BranchRefusedError",
    "CommandFailedError",
    "CommandResult",
    "Context",
    "ContextNotFoundError",
    "Contexts",
    "DeadlineError",
    "Death",
    "Execution",
    "ExecutionError",
    "FileAccessError",
    "HostLimitError",
    "InterpreterMissingError",
    "InterpreterRestingError",
    "InterpreterUnavailableError",
    "InvalidArgumentError",
    "IsolationError",
    "Limits",
    "ListenError",
    "NotFoundError",
    "NotOpenedError",
    "NotStartedError",
    "PoolFullError",
    "PoolSize",
    "PortUnreachableError",
    "Preload",
    "Process",
    "ProcessEndedError",
    "Processes",
    "Protection",
    "Receipt",
    "Result",
    "Runtime",
    "Sandbox",
    "SandboxClosedError",
    "SandboxError",
    "SandboxLostError",
    "SandboxReport",
    "Session",
    "open_runtime",
    "open_sandbox",
]


def __getattr__(name: str) -> object:
    if name in _HOME_OF:
        return getattr(importlib.import_module(f"sandbox_runtime.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
