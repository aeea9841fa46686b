"""What makes a copy of an interpreter: a fork that init is given, and what it must not share.

User code may replace all of this, as it runs in the same process. So the control process has init
look at each copy from outside (`InitRequest::Adopt`), and waits for none for ever.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import FrameType

_exit = os._exit


def fork_away() -> bool:
    """Copies this process into a child of init's; True in the copy. `use_native` replaces it."""
    pid = os.fork()
    if pid == 0:
        if os.fork() != 0:
            _exit(0)
        return True
    os.waitpid(pid, 0)
    return False


_forks = {fork_away.__code__}


def is_hook(frame: FrameType) -> bool:
    """Whether this is a function that runs around a fork, by `os.register_at_fork`."""
    return frame.f_back is not None and frame.f_back.f_code in _forks


def separate_branch() -> None:
    """Keeps a branch apart from the others in its jail; `use_native` replaces it."""
    os.setsid()


def own_pages() -> None:
    """Has the pages that a cell will write to before there is one; see `use_native`."""


def expect_pages(pages: bytes) -> None:
    """Takes note of the pages that a cell writes to."""
    global _expected  # noqa: PLW0603 - known once, before any fork
    _expected = pages


_expected = b""


def use_native(native: Any) -> None:
    """Takes from the native module what makes branches, if it has that.

    Its fork copies the page tables once instead of twice, and knows nothing of Python.
    """
    global fork_away, separate_branch, own_pages
    if not hasattr(native, "fork_away"):
        return
    before, after_in_parent, after_in_child = (
        getattr(ctypes.pythonapi, name)
        for name in ("PyOS_BeforeFork", "PyOS_AfterFork_Parent", "PyOS_AfterFork_Child")
    )
    for function in (before, after_in_parent, after_in_child):
        function.argtypes, function.restype = (), None

    def fork() -> bool:
        before()
        is_copy = False
        try:
            is_copy = bool(native.fork_away())
        finally:
            (after_in_child if is_copy else after_in_parent)()
        return is_copy

    def own() -> None:
        native.own_pages(_expected)

    _forks.add(fork.__code__)
    fork_away, separate_branch, own_pages = fork, native.separate_branch, own


def what_cannot_be_copied(own: set[int]) -> dict[str, list[str]]:
    """What a copy of this process would lack or share: threads and sockets but our own."""
    main = str(threading.main_thread().native_id)
    known = {thread.native_id: thread.name for thread in threading.enumerate()}
    threads = [
        known.get(int(number)) or f"a thread of a library ({number})"
        for number in os.listdir("/proc/self/task")  # noqa: PTH208 - touches less memory
        if number != main
    ]
    sockets = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
            if int(name) not in own and target.startswith("socket:"):
                sockets.append(_describe_socket(int(name)))
    return {"threads": threads, "sockets": sockets}


def _describe_socket(fd: int) -> str:
    with socket.socket(fileno=os.dup(fd)) as copy:
        try:
            peer = f" to {copy.getpeername()}"
        except OSError:
            peer = ""
        return f"descriptor {fd}, {copy.family.name} at {copy.getsockname()}{peer}"
