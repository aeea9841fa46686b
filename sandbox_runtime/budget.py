"""Memory that many share: a number of bytes, and what each has of them."""

from __future__ import annotations

_RESERVE_PARTS = 8


class Budget:
    """A number of bytes that many take from and give back to.

    Args:
        limit_bytes: How many there are.
        reserve_bytes: How many of them are for those who have little: of what is free then, each
            may have an eighth, so that there is always some left for one more.

    Attributes:
        free_bytes: How many nobody has.
    """

    __slots__ = ("free_bytes", "limit_bytes", "reserve_bytes")

    def __init__(self, limit_bytes: int, *, reserve_bytes: int = 0) -> None:
        self.limit_bytes = limit_bytes
        self.reserve_bytes = reserve_bytes
        self.free_bytes = limit_bytes


class Claim:
    """What one has of a budget.

    Attributes:
        taken_bytes: How much.
    """

    __slots__ = ("_budget", "taken_bytes")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.taken_bytes = 0

    @property
    def free_bytes(self) -> int:
        """How much nobody has."""
        return self._budget.free_bytes

    def take(self, wanted_bytes: int) -> int:
        """Takes as much, or what there is.

        Returns:
            How much it is.
        """
        budget = self._budget
        got = min(wanted_bytes, max(budget.free_bytes - budget.reserve_bytes, 0))
        if got < wanted_bytes and budget.reserve_bytes:
            share = (budget.free_bytes - got) // _RESERVE_PARTS - self.taken_bytes - got
            got += min(wanted_bytes - got, max(share, 0))
        budget.free_bytes -= got
        self.taken_bytes += got
        return got

    def give_back(self, size_bytes: int | None = None) -> None:
        """Gives back as much, or all of it."""
        given = self.taken_bytes if size_bytes is None else size_bytes
        self._budget.free_bytes += given
        self.taken_bytes -= given
