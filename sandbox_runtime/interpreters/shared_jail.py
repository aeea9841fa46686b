"""A jail in which several interpreters live: one and the branches forked from it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from sandbox_runtime import jail as jails
from sandbox_runtime.errors import SandboxClosedError, SandboxLostError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_runtime.jail import Jail


class SharedJail:
    """A jail that ends with the last of its interpreters.

    Attributes:
        jail: The jail.
    """

    def __init__(self, jail: Jail) -> None:
        self.jail = jail
        self._living: set[int] = set()

    def enter(self, pid: int) -> None:
        """Takes note of an interpreter, by its number in the jail."""
        self._living.add(pid)

    def forget(self, pid: int) -> None:
        """Takes back an `enter`: the number may be another's."""
        self._living.discard(pid)

    def __contains__(self, pid: int) -> bool:
        return pid in self._living

    def others(self, pid: int) -> list[int]:
        """The interpreters besides this one."""
        return sorted(self._living - {pid})

    async def end(self, pids: Sequence[int]) -> None:
        """Ends processes and what they started, and nothing else; none is alive afterwards.

        Args:
            pids: Interpreters that were entered and forgotten, of which nobody has had any.
        """
        if not self._living:  # the last one has left since
            await self.jail.aclose()
            return
        # One that has ended of itself may have left its number to one that lives.
        ends = [pid for pid in pids if pid not in self._living]
        if not ends:
            return
        with contextlib.suppress(SandboxLostError, SandboxClosedError):
            await self.jail.sweep(
                spare=(), keep=(), since_ticks=jails.FOR_EVER, trees=sorted(self._living), ends=ends
            )
            for pid in ends:
                if pid not in self._living:
                    self.jail.disown(pid)

    async def leave(self, pid: int) -> None:
        """Ends an interpreter and what it started; nothing of it is alive when this returns.

        A process that has lost its parent may be anybody's, and is ended too.
        """
        # What never came to be known here may be another's number.
        ends = [pid] if pid in self._living else []
        self._living.discard(pid)
        if self._living:
            with contextlib.suppress(SandboxLostError, SandboxClosedError):
                await self.jail.sweep(
                    spare=(), keep=(), since_ticks=0, trees=self.others(pid), ends=ends
                )
                self.jail.disown(pid)  # who wants to know its end has asked before
                return
        await self.jail.aclose()
