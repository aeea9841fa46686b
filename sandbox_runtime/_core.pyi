"""The Rust core (`rust_core/src/python.rs`). Only `jail.py` imports it.

Functions raise `OSError` with errno and a message `step: subject`, or `ValueError`. A descriptor
that is returned belongs to the caller; one that is passed in is borrowed.
"""

from collections.abc import Sequence
from typing import Self, final

__all__ = [
    "Command",
    "Neighbour",
    "UnderWay",
    "enter_jail",
    "fork_away",
    "node_addon",
    "own_pages",
    "plain_words",
    "quote_word",
    "read_children",
    "reserve_arenas",
    "seal_arenas",
    "separate_branch",
    "serve_forks",
    "shell_builtin",
    "start_supervisor",
    "version",
    "written_pages",
]

version: str
"""Of the package, whose other parts have the same."""

@final
class Command:
    """A command that was sent to a session's shell, with its pipes. Nothing of it waits.

    A run that was sent to an executor is one too, without standard input.

    Args:
        socket: the shell's.
        epoll: waits for the socket, and from here on for the pipes.
        packet: the request, with its body unless `body` is given.
        stdin: what the command reads.
        body: a memory file that holds the request's body.
        served_by: who reads it, if that is a session's shell.
    """

    def __new__(
        cls,
        socket: int,
        epoll: int,
        packet: bytes,
        stdin: int | None,
        body: int | None,
        served_by: Neighbour | None = None,
    ) -> Self: ...
    def collect(self, most_bytes: int) -> tuple[bytes, bytes, bool, bytes, bool] | None:
        """Receive the answer and read the pipes; None before there is an answer.

        Args:
            most_bytes: of the answer.

        Returns:
            The answer, empty if the shell has closed its socket; what was in standard output, and
            whether it is at its end; likewise standard error.
        """

    def release(self) -> tuple[tuple[int, int | None], tuple[int, int | None]]:
        """The pipes of standard output and error, which epoll forgets.

        Returns:
            Of each the reading end, which does not block, and the writing end; None for one that
            `collect` has let go of.
        """

    def close(self) -> None:
        """Close its pipes; again does nothing."""

@final
class Neighbour:
    """A process that is asked for something, and is to run where this one does meanwhile.

    It stays where it is if its number cannot be told for sure.

    Args:
        pidfd: of it; copied.
    """

    def __new__(cls, pidfd: int) -> Self: ...
    def call_here(self, alone: bool) -> bool:
        """Narrow what it may use to this processor, if it is to be; whether it has to be told.

        Args:
            alone: whether nothing else is under way.
        """

    def keep_here(self, alone: bool) -> bool:
        """The same, until it is to be elsewhere: for who is asked again and again.

        Args:
            alone: whether nothing else is under way.
        """

    def send_back(self) -> None:
        """Let it use all processors again."""

@final
class UnderWay:
    """Something that this process has asked for and that is not over."""

    def __new__(cls) -> Self: ...
    @property
    def alone(self) -> bool:
        """Whether it was the only one when it began."""

    def end(self) -> None:
        """It is over; again does nothing."""

def start_supervisor() -> tuple[int, int]:
    """Start the launcher from a sealed memory file; its pid, and the socket to it.

    Its environment is empty and it holds no descriptor of this process but the socket.
    """

def shell_builtin() -> int:
    """A sealed memory file with the shared object that serves a session inside bash."""

def node_addon() -> int:
    """A sealed memory file with the shared object that serves a context inside Node."""

def read_children(fds: Sequence[int]) -> bytes:
    """What `children` files of /proc say: numbers in decimal, apart by blanks."""

def serve_forks(socket: int, own_pid_namespace: int) -> tuple[bytes, list[int]] | None:
    """Serve as a zygote; the process must have one thread.

    The caller calls what Python does before and after a fork.

    Returns:
        None when nobody is there any more. In each child: its plan for `enter_jail`, and its
        descriptors, which are its socket, the PID namespace, then those of the plan.
    """

def reserve_arenas() -> tuple[int, int]:
    """Addresses of two functions for `PyObject_SetArenaAllocator`: arenas side by side."""

def written_pages() -> bytes:
    """The pages that this process, a fork, has for itself, for `own_pages`."""

def own_pages(pages: bytes) -> None:
    """Takes pages for this process, a fork that waits."""

def seal_arenas() -> None:
    """From here on new arenas come from anywhere; room that nobody has taken is given back."""

def enter_jail(plan: bytes, fds: Sequence[int], kept: int) -> None:
    """Confine this process, a zygote's fresh fork, as a context.

    Args:
        plan: an `EnterPlan` (`rust_core/src/spec.rs`) in MessagePack.
        fds: the descriptors that the plan speaks of, in its order.
        kept: the one descriptor that stays open, besides 0, 1 and 2.
    """

def fork_away() -> bool:
    """Copy this process, a context, into a child of its jail's init; True in the copy.

    Only a process with one thread may do that. The caller calls what Python does before and after.
    """

def separate_branch() -> None:
    """Keep this process, a branch of a context, apart from the others in its jail."""

def quote_word(word: bytes) -> bytes:
    """Escape one word for a POSIX shell; `ValueError` for a NUL."""

def plain_words(text: bytes) -> list[bytes] | None:
    """The program and its arguments that shell text consists of; None if it is anything else."""
