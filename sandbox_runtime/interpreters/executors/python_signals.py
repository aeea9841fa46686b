"""Signals of a context: which ones its executor holds, and when.

Bound are the C functions: `signal`'s own turn every number into an enum member, which is a third of
a short cell; and user code may replace them.
"""

from __future__ import annotations

import importlib
import signal
import sys
from typing import Any

ALL_SIGNALS = tuple(map(int, signal.valid_signals()))
MUTABLE_SIGNALS = sorted({*ALL_SIGNALS} - {signal.SIGKILL, signal.SIGSTOP, signal.SIGINT})
"""Those whose handlers are the user's, and run in cells only."""

_c_signal: Any = importlib.import_module("_signal")
sigmask, getsignal, set_signal = _c_signal.pthread_sigmask, _c_signal.getsignal, _c_signal.signal
BLOCK, UNBLOCK, SET = map(int, (signal.SIG_BLOCK, signal.SIG_UNBLOCK, signal.SIG_SETMASK))
SIGINT = int(signal.SIGINT)


def hold_signals() -> None:
    """Blocks all signals and ends tracing; what the user's handlers raise meanwhile is dropped.

    The kernel blocks before Python calls the handlers of what has already come, so that nothing
    comes after this, whether or not the call has raised.
    """
    try:  # noqa: SIM105 - `suppress` would be Python code, in which more may happen
        sigmask(BLOCK, ALL_SIGNALS)
    except BaseException:  # noqa: BLE001, S110
        pass
    try:
        sys.settrace(None)
        sys.setprofile(None)
    except BaseException:  # noqa: BLE001 - a profiler has objected to this very call
        sys.setprofile(None)


def ignore_signal(*_: object) -> None:
    """Stands in for a handler of the user's while none of the user's code runs.

    It is not SIG_IGN, which child processes would inherit and which changes SIGCHLD.
    """
