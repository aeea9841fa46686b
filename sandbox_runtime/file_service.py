"""The file service as the control process sees it: questions, answers, and who waits for which.

What is asked stands in `rust_core/src/spec.rs`. Answers come in any order and find their callers by
number, so nobody waits for a file of somebody else's.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Literal, Self

import msgspec
import trio

from sandbox_runtime.channel import Channel, close_all, packet_pair
from sandbox_runtime.errors import FileAccessError, SandboxClosedError, SandboxLostError
from sandbox_runtime.messages import ServeFiles
from sandbox_runtime.settings import BREAK_GRACE_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_runtime.jail import Jail
    from sandbox_runtime.keeper import Keeper


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of the messages of the file service."""


class Read(_Message, frozen=True, kw_only=True, tag="read"):
    """Open a regular file."""

    path: bytes


class Inline(_Message, frozen=True, kw_only=True, tag="inline"):
    """Content in the message itself."""

    content: bytes


class Sized(_Message, frozen=True, kw_only=True, tag="sized"):
    """Content in a pipe, so much."""

    size_bytes: int


class Streamed(_Message, frozen=True, kw_only=True, tag="streamed"):
    """Content in a pipe, then a byte in another that says that it was all."""


class Write(_Message, frozen=True, kw_only=True, tag="write"):
    """Write a file."""

    path: bytes
    mode: int
    make_parents: bool
    source: Inline | Sized | Streamed


class Stat(_Message, frozen=True, kw_only=True, tag="stat"):
    """Look at something."""

    path: bytes
    follow: bool


class List(_Message, frozen=True, kw_only=True, tag="list"):
    """List a directory."""

    path: bytes
    recursive: bool
    hidden: bool
    limit: int


class MakeDirectory(_Message, frozen=True, kw_only=True, tag="make_directory"):
    """Make a directory."""

    path: bytes
    make_parents: bool


class Remove(_Message, frozen=True, kw_only=True, tag="remove"):
    """Remove something."""

    path: bytes
    recursive: bool


class Move(_Message, frozen=True, kw_only=True, tag="move"):
    """Give something another name."""

    source: bytes
    target: bytes


Request = Read | Write | Stat | List | MakeDirectory | Remove | Move


class _Call(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    request: Request


Kind = Literal["file", "directory", "symlink", "other"]


class RawEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One entry of a directory."""

    path: bytes
    kind: Kind
    size_bytes: int
    mode: int
    modified_ns: int


class Opened(_Message, frozen=True, kw_only=True, tag="opened"):
    """The file is open."""

    size_bytes: int
    mode: int
    modified_ns: int
    in_memory: bool


class Done(_Message, frozen=True, kw_only=True, tag="done"):
    """It is done."""


class Found(_Message, frozen=True, kw_only=True, tag="found"):
    """What was looked at."""

    entry: RawEntry


class Listed(_Message, frozen=True, kw_only=True, tag="listed"):
    """Some of what is in a directory."""

    entries: tuple[RawEntry, ...]
    more: bool
    truncated: bool


class Refused(_Message, frozen=True, kw_only=True, tag="refused"):
    """It cannot be done."""

    errno: int
    detail: str


Reply = Opened | Done | Found | Listed | Refused


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    reply: Reply


class PendingCall:
    """A question that was asked, until it is answered. A context manager: it forgets the rest."""

    def __init__(self, connection: _Connection, number: int, path: str) -> None:
        self._connection = connection
        self._number = number
        self._path = path
        self._replies: deque[tuple[Reply, list[int]]] = deque()
        self._news = trio.Event()
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._connection.waiting.pop(self._number, None)
        for _, fds in self._replies:
            close_all(fds)

    def put(self, reply: Reply, fds: list[int]) -> None:
        """An answer has come."""
        self._replies.append((reply, fds))
        self._news.set()

    def wake(self) -> None:
        """No answer will come."""
        self._news.set()

    async def answer(self) -> tuple[Reply, list[int]]:
        """Waits for the next answer; its descriptors are the caller's from then on.

        Raises:
            FileAccessError: It was refused.
            SandboxLostError: The service has died.
        """
        while not self._replies:
            if self._connection.lost is not None:
                raise self._connection.lost
            self._news = trio.Event()
            await self._news.wait()
        reply, fds = self._replies.popleft()
        self._is_over = isinstance(reply, (Done, Refused))
        if isinstance(reply, Refused):
            raise FileAccessError(self._path, reply.errno, reply.detail)
        return reply, fds

    async def settle(self) -> None:
        """Waits a moment for an answer that nobody wants any more, so that its work is over."""
        if self._is_over:
            return
        with (
            trio.move_on_after(BREAK_GRACE_S),
            contextlib.suppress(FileAccessError, SandboxLostError, SandboxClosedError),
        ):
            _, fds = await self.answer()
            close_all(fds)


class _Connection:
    """One running service."""

    def __init__(self, jail: Jail, channel: Channel[_Answer]) -> None:
        self.jail = jail
        self.channel = channel
        self.waiting: dict[int, PendingCall] = {}
        self.lost: SandboxLostError | SandboxClosedError | None = None

    async def receive(self) -> None:
        """Hands out answers until there are no more; the sandbox's nursery owns this task."""
        try:
            while True:
                answer, fds = await self.channel.receive()
                if (call := self.waiting.get(answer.id)) is not None:
                    call.put(answer.reply, fds)
                else:
                    close_all(fds)  # its caller was cancelled
        except SandboxLostError as error:
            self.lost = self.jail.explain_loss(error)
        except SandboxClosedError as error:
            self.lost = error
        finally:
            self.lost = self.lost or SandboxClosedError("the sandbox is closed")
            for call in self.waiting.values():
                call.wake()

    async def aclose(self) -> None:
        """Ends the service."""
        self.channel.close()
        await self.jail.aclose()


class FileService:
    """The file service of a sandbox, started when it is first asked, and again when it has died."""

    def __init__(self, keeper: Keeper, nursery: trio.Nursery) -> None:
        self._keeper = keeper
        self._nursery = nursery
        self._opening = trio.Lock()
        self._connection: _Connection | None = None
        self._count = 0
        self._closed = False

    async def _open(self) -> _Connection:
        if self._closed:
            raise SandboxClosedError("the sandbox is closed")
        connection = self._connection
        if connection is not None and connection.lost is None:
            return connection
        async with self._opening:
            connection, self._connection = self._connection, None
            if connection is not None and connection.lost is None:
                self._connection = connection
                return connection  # somebody else has opened it
            if connection is not None:
                await connection.aclose()
            self._connection = connection = await self._start()
        self._nursery.start_soon(connection.receive)
        return connection

    async def _start(self) -> _Connection:
        ours, theirs = packet_pair()
        try:
            with theirs:
                jail = await self._keeper.create_jail(ServeFiles(), [theirs.fileno()])
            try:
                await jail.wait_started()
            except BaseException:
                await jail.aclose()
                raise
        except BaseException:
            ours.close()
            raise
        return _Connection(jail, Channel(ours, _Answer))

    async def begin(self, path: str, request: Request, fds: Sequence[int] = ()) -> PendingCall:
        """Asks, and returns what waits for the answer. The descriptors stay the caller's.

        Args:
            path: What errors shall name.
            request: What is asked.
            fds: What it needs.
        """
        connection = await self._open()
        self._count += 1
        call = connection.waiting[self._count] = PendingCall(connection, self._count, path)
        try:
            await connection.channel.send(_Call(id=self._count, request=request), fds)
        except SandboxLostError as error:
            call.__exit__()
            connection.lost = connection.jail.explain_loss(error)
            raise connection.lost from error
        except BaseException:
            call.__exit__()
            raise
        return call

    async def ask(self, path: str, request: Request) -> tuple[Reply, list[int]]:
        """One question, one answer."""
        with await self.begin(path, request) as call:
            return await call.answer()

    async def aclose(self) -> None:
        """Ends it."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(SandboxLostError):
                await connection.aclose()
