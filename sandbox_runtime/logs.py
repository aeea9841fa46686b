"""Logs: what a background program wrote, byte for byte, in bounded memory.

A log is a row of blocks. The last one is in memory; when it is full it goes to a file that all logs
of a sandbox share and that has no name. A log that has reached its limit gives up its oldest block,
and counts what was in it. A block holds runs, each a header and bytes of one stream, so the order
of both streams is kept and no index grows with the number of lines.

Readers hold nothing of a log but a position in it: any number of them cost the program nothing.
"""

from __future__ import annotations

import struct
import weakref
from collections import deque
from typing import TYPE_CHECKING, Self

import msgspec
import trio

from sandbox_runtime.errors import InvalidArgumentError
from sandbox_runtime.log_lines import StreamName
from sandbox_runtime.spill import BLOCK_BYTES, Block

if TYPE_CHECKING:
    from sandbox_runtime.spill import Spill

_STREAMS: tuple[StreamName, StreamName] = ("stdout", "stderr")
_RUN = struct.Struct("<BI")


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


class Log:
    """What one program wrote. It fills a log; anybody reads it, meanwhile and afterwards.

    Attributes:
        ended: Whether nothing more will come.
    """

    def __init__(self, spill: Spill, limit_bytes: int) -> None:
        self._spill = spill
        self._most_blocks = max(limit_bytes // BLOCK_BYTES - 1, 1)
        self._blocks: deque[Block] = deque()
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
        block = Block(
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

    def _lose(self, block: Block) -> None:
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
