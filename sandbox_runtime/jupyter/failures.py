"""How a cell that did not end well is told to a front end."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sandbox_runtime.interpreters.execution import Execution
    from sandbox_runtime.jupyter.messages import Content

_KEPT = "The variables are kept."
_LOST = "The variables are lost; the next cell begins anew."


def failure_of_execution(execution: Execution, cell_timeout_s: float | None) -> Content | None:
    """The error of a run as Jupyter has it, or None if it ended well.

    Args:
        execution: How it ended.
        cell_timeout_s: What its time was.
    """
    state = _KEPT if execution.state_survived else _LOST
    error = execution.error
    lines = error.traceback.split("\n") if error is not None and error.traceback else []
    match execution.ended:
        case "ok" | "error":
            if error is None:
                return None
            return _failure(error.name, error.value, lines)
        case "interrupted":
            return _failure("KeyboardInterrupt", f"The cell was interrupted. {state}", lines)
        case "deadline":
            why = f"The cell took longer than {cell_timeout_s:g} s (--cell-timeout). {state}"
            return _failure("TimeoutError", why, lines)
        case "killed":
            return _failure("InterpreterLost", f"The interpreter was ended. {_LOST}", [])
    return _failure("InterpreterLost", f"The interpreter {_death(execution)}. {_LOST}", [])


def failure_of_sandbox(error: BaseException) -> Content:
    """Why a cell could not be run at all."""
    return _failure(type(error).__name__, str(error), [])


def _failure(name: str, value: str, lines: list[str]) -> Content:
    return {
        "status": "error",
        "ename": name,
        "evalue": value,
        # What says more than the error itself comes last, where it is read.
        "traceback": [*lines, *([] if _said(lines, value) else [f"{name}: {value}"])],
    }


def _said(lines: list[str], value: str) -> bool:
    return bool(lines) and (not value or value.splitlines()[0] in "\n".join(lines))


def _death(execution: Execution) -> str:
    death = execution.death
    if death is None:
        return "has died"
    if death.cause == "exit":
        return f"has exited with status {death.exit_code}"
    if death.cause == "broken protocol":
        return "was ended because it broke its protocol"
    number = signal.SIGKILL if death.signal is None else death.signal
    try:
        name = signal.Signals(number).name
    except ValueError:  # the real-time signals have no names
        name = f"signal {number}"
    why = " for want of memory" if death.cause == "out of memory" else ""
    return f"was ended by {name}{why}"
