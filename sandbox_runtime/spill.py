"""The file behind the logs of a sandbox: blocks, in no more room than it may take."""

from __future__ import annotations

import contextlib
import heapq
import os
import tempfile
import weakref
from typing import TYPE_CHECKING

import msgspec

from sandbox_runtime.budget import Budget, Claim

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox_runtime.logs import Log

BLOCK_BYTES = 64 * 1024
"""How much of a log is in memory; limits are kept in steps of this size."""


class LogSpace(Budget):
    """What the files of several sandboxes may take together.

    Once it is used up, whoever asks for a block gets one of the file that has most, as long as
    that has more: so each can have its share, and one alone can have all.
    """

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self.spills: weakref.WeakSet[Spill] = weakref.WeakSet()

    def make_room(self, asking: Spill) -> None:
        """Has the largest file give up a block, if it has more than the asking one then has."""
        largest = max(self.spills, key=lambda spill: spill.made_blocks, default=asking)
        if largest.made_blocks > asking.made_blocks + 1:
            largest.give_up_block()


class Spill:
    """The file behind all logs of one sandbox. It is made when first needed and has no name.

    Room that is given back is used again, from the beginning of the file on; what lies at its end
    is given back to the disk at once.

    Args:
        limit_bytes: How large it may be.
        space: What the files of several sandboxes may take together.
    """

    def __init__(self, limit_bytes: int, space: Budget | None = None) -> None:
        self._limit_blocks = max(limit_bytes // BLOCK_BYTES, 1)
        self._shared = space if isinstance(space, LogSpace) else None
        if self._shared is not None:
            self._shared.spills.add(self)
        self._space = Claim(
            space if space is not None else Budget(self._limit_blocks * BLOCK_BYTES)
        )
        weakref.finalize(self, self._space.give_back).atexit = False
        self._logs: weakref.WeakSet[Log] = weakref.WeakSet()
        self._stored: dict[int, Block] = {}
        self._made_blocks = 0
        self._free: list[int] = []  # a heap; its numbers are those in the set
        self._is_free: set[int] = set()
        self._fd: int | None = None

    def _open(self) -> int:
        if self._fd is None:
            file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed with this object
            weakref.finalize(self, file.close).atexit = False
            self._fd = file.fileno()
        return self._fd

    @property
    def is_full(self) -> bool:
        """Whether the next block has no room."""
        return not self._is_free and (
            self._made_blocks >= self._limit_blocks or self._space.free_bytes < BLOCK_BYTES
        )

    @property
    def made_blocks(self) -> int:
        """How many blocks the file has."""
        return self._made_blocks

    def add_log(self, log: Log) -> None:
        """One more log has its blocks here."""
        self._logs.add(log)

    def keep(self, block: Block) -> None:
        """Remembers whose number it is to change when what was stored moves."""
        self._stored[block.number] = block

    def give_up_block(self) -> None:
        """Makes the file shorter by a block; if it has no gap, the longest log loses its oldest."""
        before = self._made_blocks
        if not self._is_free:
            longest = max(self._logs, key=lambda log: log.stored_blocks, default=None)
            if longest is None or not longest.stored_blocks:
                return
            longest.give_up_oldest()
        if self._made_blocks < before:
            return
        hole = self._take_number()
        last = self._stored.get(self._made_blocks - 1)
        if hole is None or last is None:
            return
        try:
            content = self.load(last.number, last.size_bytes)
            moved = os.pwrite(self._open(), content, hole * BLOCK_BYTES) == last.size_bytes
        except OSError:
            moved = False
        if not moved:
            self._release(hole)
            return
        old, last.number = last.number, hole
        self._stored[hole] = last
        self._release(old)

    def store(self, block: bytes | bytearray) -> int | None:
        """Writes a block; returns its number, or None when there is no room for it."""
        number = self._take_number()
        if number is None:
            return None
        try:
            written = os.pwrite(self._open(), block, number * BLOCK_BYTES)
        except OSError:
            written = 0
        if written < len(block):
            self._release(number)
            return None
        return number

    def _take_number(self) -> int | None:
        while self._free:
            number = heapq.heappop(self._free)
            if number in self._is_free:
                self._is_free.remove(number)
                return number
        if self._made_blocks < self._limit_blocks and self.is_full and self._shared is not None:
            self._shared.make_room(self)
        if self.is_full:
            return None
        self._space.take(BLOCK_BYTES)
        self._made_blocks += 1
        return self._made_blocks - 1

    def load(self, number: int, size_bytes: int) -> bytes:
        """A block that was stored."""
        return os.pread(self._open(), size_bytes, number * BLOCK_BYTES)

    def release(self, blocks: Iterable[Block]) -> None:
        """Room of blocks that nobody will load again."""
        for block in blocks:
            self._release(block.number)

    def _release(self, number: int) -> None:
        self._stored.pop(number, None)
        self._is_free.add(number)
        heapq.heappush(self._free, number)
        before = self._made_blocks
        while self._made_blocks - 1 in self._is_free:
            self._made_blocks -= 1
            self._is_free.remove(self._made_blocks)
        if self._made_blocks < before:
            self._space.give_back((before - self._made_blocks) * BLOCK_BYTES)
            with contextlib.suppress(OSError):  # it is used again in any case
                os.ftruncate(self._open(), self._made_blocks * BLOCK_BYTES)
        if not self._is_free:
            self._free.clear()


class Block(msgspec.Struct):
    """One block in the file: where (it may move), how long, and what it holds of each stream."""

    number: int
    size_bytes: int
    start: int
    stream_bytes: tuple[int, int]
