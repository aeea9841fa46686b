"""Logs: what a background program wrote, byte for byte, in bounded memory.

A log is a row of blocks. The last one is in memory; when it is full it goes to a file that all logs
of a sandbox share and that has no name. A log that has reached its limit gives up its oldest block,
and counts what was in it. A block holds runs, each a header and bytes of one stream, so the order
of both streams is kept and no index grows with the number of lines.

Readers hold nothing of a log but a position in it: any number of them cost the program nothing.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import re
import struct
import tempfile
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec
import trio

from sandbox_runtime.budget import Budget, Claim
from sandbox_runtime.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

StreamName = Literal["stdout", "stderr"]

BLOCK_BYTES = 64 * 1024
"""How much of a log is in memory; limits are kept in steps of this size."""

_STREAMS: tuple[StreamName, StreamName] = ("stdout", "stderr")
_RUN = struct.Struct("<BI")
_LINE_LIMIT_BYTES = 64 * 1024


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
        self._stored: dict[int, _Block] = {}
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

    def keep(self, block: _Block) -> None:
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

    def release(self, blocks: Iterable[_Block]) -> None:
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


class _Block(msgspec.Struct):
    """One block in the file: where (it may move), how long, and what it holds of each stream."""

    number: int
    size_bytes: int
    start: int
    stream_bytes: tuple[int, int]


class LogText(msgspec.Struct, frozen=True, kw_only=True):
    """What a log holds at one moment.

    Attributes:
        stdout: What is kept of standard output: the newest.
        stderr: Likewise, standard error.
        stdout_lost_bytes: How much of standard output is gone that came before.
        stderr_lost_bytes: Likewise, standard error.
        position: Where this ends; `follow` goes on from there.
    """

    stdout: bytes
    stderr: bytes
    stdout_lost_bytes: int
    stderr_lost_bytes: int
    position: int


class LogChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of a log.

    Attributes:
        stream: Which stream wrote it.
        data: What was written.
        lost_bytes: How much, of both streams, was gone before this reader came to it.
    """

    stream: StreamName
    data: bytes
    lost_bytes: int = 0


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line that somebody waited for.

    Attributes:
        stream: Which stream wrote it.
        line: The line without its end.
        groups: What the groups of the regular expression matched.
    """

    stream: StreamName
    line: bytes
    groups: tuple[str | bytes | None, ...] = ()


class Log:
    """What one program wrote. It fills a log; anybody reads it, meanwhile and afterwards.

    Attributes:
        ended: Whether nothing more will come.
    """

    def __init__(self, spill: Spill, limit_bytes: int) -> None:
        self._spill = spill
        self._most_blocks = max(limit_bytes // BLOCK_BYTES - 1, 1)
        self._blocks: deque[_Block] = deque()
        self._first = 0  # how many blocks there were before the first that is still there
        self._open = bytearray()
        self._open_start = 0
        self._open_bytes = [0, 0]
        self._run_at = 0
        self._run_stream = -1
        self._total = [0, 0]
        self._lost = [0, 0]
        self._readers = trio.lowlevel.ParkingLot()
        self.ended = False
        spill.add_log(self)
        weakref.finalize(self, spill.release, self._blocks).atexit = False

    @property
    def position(self) -> int:
        """How many bytes of both streams have come so far."""
        return self._total[0] + self._total[1]

    @property
    def total_bytes(self) -> tuple[int, int]:
        """How much came on standard output and on standard error."""
        return (self._total[0], self._total[1])

    def append_stdout(self, data: bytes) -> None:
        """Adds what came on standard output."""
        self._append(0, data)

    def append_stderr(self, data: bytes) -> None:
        """Adds what came on standard error."""
        self._append(1, data)

    def _append(self, stream: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            more = stream == self._run_stream
            room = BLOCK_BYTES - len(self._open) - (0 if more else _RUN.size)
            if room <= 0:
                self._seal()
                continue
            piece = view[:room]
            view = view[room:]
            if more:
                length = len(self._open) - self._run_at - _RUN.size + len(piece)
                _RUN.pack_into(self._open, self._run_at, stream, length)
            else:
                self._run_at, self._run_stream = len(self._open), stream
                self._open += _RUN.pack(stream, len(piece))
            self._open += piece
            self._open_bytes[stream] += len(piece)
            self._total[stream] += len(piece)
        self._readers.unpark_all()

    def _seal(self) -> None:
        """The block in memory is full: it goes to the file, or is lost."""
        while len(self._blocks) >= self._most_blocks:
            self.give_up_oldest()
        stored = self._spill.store(self._open)
        if stored is None and self._blocks:
            self.give_up_oldest()
            stored = self._spill.store(self._open)
        block = _Block(
            -1 if stored is None else stored,
            len(self._open),
            self._open_start,
            (self._open_bytes[0], self._open_bytes[1]),
        )
        if stored is None:
            while self._blocks:  # what is kept has no gap
                self.give_up_oldest()
            self._lose(block)
        else:
            self._blocks.append(block)
            self._spill.keep(block)
        self._open = bytearray()
        self._open_start = self.position
        self._open_bytes = [0, 0]
        self._run_stream = -1

    @property
    def stored_blocks(self) -> int:
        """How many blocks of it are in the file."""
        return len(self._blocks)

    def give_up_oldest(self) -> None:
        """Gives up the oldest block in the file; readers find it lost."""
        block = self._blocks.popleft()
        self._spill.release([block])
        self._lose(block)

    def _lose(self, block: _Block) -> None:
        for stream, lost in enumerate(block.stream_bytes):
            self._lost[stream] += lost
        self._first += 1

    def discard(self) -> None:
        """Gives up all that is on disk, and its room at once; readers find it lost."""
        while self._blocks:
            self.give_up_oldest()

    def end(self) -> None:
        """Nothing more will come; readers see the end once they are there."""
        self.ended = True
        self._readers.unpark_all()

    def follow(self, since: int = 0) -> LogFollower:
        """A reader of what was written and will be; it ends after the program's last byte.

        Args:
            since: A position; what came before it is passed over.
        """
        if not isinstance(since, int) or since < 0:
            raise InvalidArgumentError("since", f"must be a position, 0 or more, not {since!r}")
        return LogFollower(self, since)

    async def read(self, since: int = 0) -> LogText:
        """What is kept at this moment, from a position on.

        Cancellation: nothing is lost.
        """
        follower = self.follow(since)
        parts: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        lost, end = (self._lost[0], self._lost[1]), self.position
        while follower.position < end and (run := follower.take()) is not None:
            stream, data = run
            parts[stream].extend(data)
            if follower.crossed_block:
                await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        return self._text(parts, lost, follower.position)

    def read_now(self) -> LogText:
        """As `read`, without letting others run meanwhile."""
        follower = self.follow()
        parts: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        while (run := follower.take()) is not None:
            stream, data = run
            parts[stream].extend(data)
        return self._text(parts, (self._lost[0], self._lost[1]), follower.position)

    @staticmethod
    def _text(parts: tuple[bytearray, bytearray], lost: tuple[int, int], position: int) -> LogText:
        return LogText(
            stdout=bytes(parts[0]),
            stderr=bytes(parts[1]),
            stdout_lost_bytes=lost[0],
            stderr_lost_bytes=lost[1],
            position=position,
        )

    async def wait_changed(self, position: int) -> None:
        """Waits until there is something behind a position, or the log has ended."""
        while self.position <= position and not self.ended:
            await self._readers.park()

    def block(self, number: int) -> tuple[int, bytes | bytearray, int] | None:
        """The block with that number, or the oldest that is still there.

        Returns:
            Its number, its content and the position of its start; None behind the last one.
        """
        number = max(number, self._first)
        if number - self._first < len(self._blocks):
            block = self._blocks[number - self._first]
            return number, self._spill.load(block.number, block.size_bytes), block.start
        if number == self.open_number:
            return number, self._open, self._open_start
        return None

    @property
    def open_number(self) -> int:
        """The number of the block in memory."""
        return self._first + len(self._blocks)

    def find_block(self, position: int) -> int:
        """The number of the block in which a position lies, or of the oldest after it."""
        low, high = 0, len(self._blocks)
        while low < high:
            middle = (low + high) // 2
            block = self._blocks[middle]
            if block.start + sum(block.stream_bytes) <= position:
                low = middle + 1
            else:
                high = middle
        return self._first + low


class LogFollower:
    """One reader of a log, `Log.follow`: `async for chunk in follower`.

    Attributes:
        position: What it has read up to.
        crossed_block: Whether the last `take` went into another block.
    """

    def __init__(self, log: Log, since: int) -> None:
        self._log = log
        self._number = log.find_block(since)
        self._sealed: tuple[int, bytes | bytearray, int] | None = None
        self._offset = 0  # of the next run's header in its block
        self._consumed = 0  # of that run
        self._skip_to = since
        self._place: int | None = None  # the position at which the next run begins
        self._lost_bytes = 0
        self.position = since
        self.crossed_block = False

    def _content(self) -> bytes | bytearray | None:
        if self._sealed is not None and self._sealed[0] == self._number:
            return self._sealed[1]
        found = self._log.block(self._number)
        if found is None:
            return None
        number, content, start = found
        if number != self._number or self._place is None:
            self._number, self._offset, self._consumed = number, 0, 0
            self._lost_bytes += max(start - self.position, 0)
            self.position = max(start, self.position)
            self._place = start
            self.crossed_block = True
        if number < self._log.open_number:
            self._sealed = found  # the one in memory still grows
        return content

    def take(self) -> tuple[int, bytes] | None:
        """The next run without waiting: 0 or 1 for the stream, and its bytes."""
        self.crossed_block = False
        while True:
            content = self._content()
            if content is None:
                return None
            if self._offset >= len(content):
                if self._number >= self._log.open_number:
                    return None
                self._number += 1
                self._offset = self._consumed = 0
                self._sealed = None
                self.crossed_block = True
                continue
            stream, length = _RUN.unpack_from(content, self._offset)
            begin = self._offset + _RUN.size
            data = bytes(content[begin + self._consumed : begin + length])
            is_last = begin + length >= len(content) and self._number >= self._log.open_number
            if is_last:
                self._consumed = length  # it may still grow
            else:
                self._offset, self._consumed = begin + length, 0
            assert self._place is not None
            self._place += len(data)
            if self._place > self._skip_to and data:
                data = data[max(len(data) - (self._place - self._skip_to), 0) :]
                self._skip_to = self.position = self._place
                return stream, data
            if is_last:
                return None

    async def receive_some(self) -> LogChunk | None:
        """The next piece; None after the last.

        Cancellation: nothing is lost, it can be called again.
        """
        while True:
            if (run := self.take()) is not None:
                await trio.lowlevel.checkpoint()
                lost, self._lost_bytes = self._lost_bytes, 0
                return LogChunk(stream=_STREAMS[run[0]], data=run[1], lost_bytes=lost)
            if self._log.ended:
                await trio.lowlevel.checkpoint()
                return None
            await self._log.wait_changed(self.position)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LogChunk:
        chunk = await self.receive_some()
        if chunk is None:
            raise StopAsyncIteration
        return chunk


class LinePattern:
    """What a line has to hold: text anywhere in it, or a match of a regular expression."""

    def __init__(self, pattern: str | bytes | re.Pattern[Any]) -> None:
        if not isinstance(pattern, (str, bytes, re.Pattern)) or pattern in {"", b""}:
            raise InvalidArgumentError("pattern", f"{pattern!r} is no text and no re.compile(…)")
        self._text = pattern.encode() if isinstance(pattern, str) else pattern

    def search(self, stream: StreamName, line: bytes, *, finished: bool) -> LogLine | None:
        """The line, if it holds what was looked for.

        A regular expression sees finished lines only: half a number matches too.
        """
        if isinstance(self._text, bytes):
            return LogLine(stream=stream, line=line) if self._text in line else None
        if not finished:
            return None
        is_for_text = isinstance(self._text.pattern, str)
        found = self._text.search(line.decode(errors="replace") if is_for_text else line)
        return found and LogLine(stream=stream, line=line, groups=found.groups())


async def find_line(follower: LogFollower, pattern: LinePattern) -> LogLine | None:
    """Reads until a line holds what is looked for; None when the log has ended without it.

    A line longer than 64 KiB is looked at in pieces.
    """
    rest: dict[StreamName, bytes] = {"stdout": b"", "stderr": b""}
    async for chunk in follower:
        lines = (rest[chunk.stream] + chunk.data).split(b"\n")
        last = lines.pop()
        for line in lines:
            if found := pattern.search(chunk.stream, line.removesuffix(b"\r"), finished=True):
                return found
        is_long = len(last) > _LINE_LIMIT_BYTES
        if found := pattern.search(chunk.stream, last, finished=is_long):
            return found
        rest[chunk.stream] = b"" if is_long else last
    for stream, line in rest.items():
        if line and (found := pattern.search(stream, line, finished=True)):
            return found
    return None
