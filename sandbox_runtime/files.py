"""Files: reading and writing inside a sandbox, as its own user.

The work is done by the file service in the sandbox (`rust_core/src/files.rs`). A path means there
what it means to user code, so no path is checked here. Content goes by descriptor, in pieces.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Literal

import msgspec
import trio

from sandbox_runtime import jail as jails
from sandbox_runtime.errors import (
    FileAccessError,
    InvalidArgumentError,
    SandboxClosedError,
    SandboxLostError,
)
from sandbox_runtime.nursery import open_serving_nursery
from sandbox_runtime.programs import check_bytes, check_path
from sandbox_runtime.settings import BREAK_GRACE_S, WORKSPACE

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHUNK_BYTES = 1024 * 1024
_LIST_LIMIT = 100_000
_READ_LIMIT_BYTES = 1024**3


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of the messages of the file service."""


class _Read(_Message, frozen=True, kw_only=True, tag="read"):
    path: bytes


class _Write(_Message, frozen=True, kw_only=True, tag="write"):
    path: bytes
    mode: int
    make_parents: bool
    size_bytes: int


class _List(_Message, frozen=True, kw_only=True, tag="list"):
    path: bytes
    recursive: bool
    limit: int


class _MakeDirectory(_Message, frozen=True, kw_only=True, tag="make_directory"):
    path: bytes
    make_parents: bool


class _Remove(_Message, frozen=True, kw_only=True, tag="remove"):
    path: bytes
    recursive: bool


class _Opened(_Message, frozen=True, kw_only=True, tag="opened"):
    size_bytes: int
    mode: int


class _Done(_Message, frozen=True, kw_only=True, tag="done"):
    pass


class _RawEntry(msgspec.Struct, frozen=True, kw_only=True):
    path: bytes
    kind: Literal["file", "directory", "symlink", "other"]
    size_bytes: int
    mode: int
    modified_ns: int


class _Listed(_Message, frozen=True, kw_only=True, tag="listed"):
    entries: tuple[_RawEntry, ...]
    truncated: bool


class _Refused(_Message, frozen=True, kw_only=True, tag="refused"):
    errno: int
    detail: str


_Reply = _Opened | _Done | _Listed | _Refused


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a directory.

    Attributes:
        path: Below the directory that was listed; what is no UTF-8 is surrogate-escaped.
        kind: What it is; a symlink is not followed.
        size_bytes: Its size.
        mode: Its permission bits.
        modified_s: When it was last changed, in seconds since 1970.
    """

    path: str
    kind: Literal["file", "directory", "symlink", "other"]
    size_bytes: int
    mode: int
    modified_s: float


class Files:
    """The files of one sandbox, `Sandbox.files`. Relative paths start at `/workspace`."""

    def __init__(self, keeper: jails.Keeper) -> None:
        self._keeper = keeper
        self._turn = trio.Lock()
        self._jail: jails.Jail | None = None
        self._channel: jails.Channel[_Reply] | None = None
        self._closed = False

    async def _open(self) -> jails.Channel[_Reply]:
        if self._closed:
            raise SandboxClosedError("the sandbox is closed")
        if self._channel is None:
            ours, theirs = jails.packet_pair()
            try:
                with theirs:
                    jail = await self._keeper.create_jail(jails.FileService(), [theirs.fileno()])
                try:
                    await jail.wait_started()
                except BaseException:
                    await jail.aclose()
                    raise
            except BaseException:
                ours.close()
                raise
            self._jail = jail
            self._channel = jails.Channel(ours, _Reply)
        return self._channel

    async def _drop(self) -> None:
        channel, self._channel = self._channel, None
        jail, self._jail = self._jail, None
        if channel is not None:
            channel.close()
        if jail is not None:
            await jail.aclose()

    async def _settle(self, channel: jails.Channel[_Reply]) -> None:
        """Takes the answer that nobody waits for any more; a service that has none is replaced.

        A file that was being written is removed before that answer, as its pipe ends too early.
        """
        with (
            trio.move_on_after(BREAK_GRACE_S),
            contextlib.suppress(SandboxLostError, SandboxClosedError),
        ):
            _, received = await channel.receive()
            jails.close_all(received)
            return
        await self._drop()

    async def _ask(
        self, path: str, request: msgspec.Struct, fds: Sequence[int] = ()
    ) -> tuple[_Reply, list[int]]:
        """One question, one answer."""
        channel = await self._open()
        try:
            await channel.send(request, fds)
            reply, received = await channel.receive()
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._settle(channel)
            raise
        if isinstance(reply, _Refused):
            raise FileAccessError(path, reply.errno, reply.detail)
        return reply, received

    @staticmethod
    def _path(path: str | os.PathLike[str]) -> tuple[str, bytes]:
        encoded = check_path(path, WORKSPACE)
        return os.fspath(path), encoded

    async def read(
        self, path: str | os.PathLike[str], *, limit_bytes: int = _READ_LIMIT_BYTES
    ) -> bytes:
        """The content of a regular file.

        Raises:
            FileAccessError: It is missing, closed to the sandbox's user, not a regular file, or
                larger than `limit_bytes` (`EFBIG`).
        """
        shown, encoded = self._path(path)
        async with self._turn:
            reply, fds = await self._ask(shown, _Read(path=encoded))
        with open(fds[0], "rb", buffering=0) as file:
            assert isinstance(reply, _Opened)
            content = bytearray()
            while chunk := file.read(_CHUNK_BYTES):
                content += chunk
                if len(content) > limit_bytes:
                    raise FileAccessError(shown, errno.EFBIG, f"larger than {limit_bytes} bytes")
                await trio.lowlevel.checkpoint()
        return bytes(content)

    async def read_text(self, path: str | os.PathLike[str]) -> str:
        """The content of a UTF-8 file."""
        return (await self.read(path)).decode()

    async def write(
        self,
        path: str | os.PathLike[str],
        content: bytes | str,
        *,
        mode: int = 0o644,
        make_parents: bool = True,
    ) -> None:
        """Writes a file; whoever reads it sees the old content or the new, never a part.

        Args:
            path: Where. A symlink is written through; a file that exists keeps its mode.
            content: What; text as UTF-8.
            mode: Permission bits of a new file.
            make_parents: Make missing directories above it.

        Raises:
            FileAccessError: It cannot be written, `ENOSPC` when the sandbox is full. What was
                there is unchanged.
        """
        if not isinstance(mode, int) or not 0 <= mode <= 0o777:
            raise InvalidArgumentError("mode", f"{mode!r} is more than permission bits, 0 to 0o777")
        shown, encoded = self._path(path)
        data = check_bytes("content", content.encode() if isinstance(content, str) else content)
        request = _Write(path=encoded, mode=mode, make_parents=make_parents, size_bytes=len(data))
        async with self._turn, open_serving_nursery() as nursery:
            read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(write_fd, False)
            nursery.start_soon(self._pour, write_fd, data)
            try:
                await self._ask(shown, request, [read_fd])
            finally:
                os.close(read_fd)

    @staticmethod
    async def _pour(fd: int, view: memoryview) -> None:
        try:
            while view:
                try:
                    view = view[os.write(fd, view[:_CHUNK_BYTES]) :]
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(fd)
        except BrokenPipeError:
            pass  # the answer says why nobody reads on
        finally:
            os.close(fd)

    async def list(
        self, path: str | os.PathLike[str] = WORKSPACE, *, recursive: bool = False
    ) -> list[FileEntry]:
        """The entries of a directory, in the order of their paths; symlinks are not followed.

        Raises:
            FileAccessError: It is no directory, is closed to the sandbox's user, or has more than
                100 000 entries (`E2BIG`).
        """
        shown, encoded = self._path(path)
        request = _List(path=encoded, recursive=recursive, limit=_LIST_LIMIT)
        async with self._turn:
            reply, _ = await self._ask(shown, request)
        assert isinstance(reply, _Listed)
        if reply.truncated:
            raise FileAccessError(shown, errno.E2BIG, f"more than {_LIST_LIMIT} entries")
        return [
            FileEntry(
                path=os.fsdecode(entry.path),
                kind=entry.kind,
                size_bytes=entry.size_bytes,
                mode=entry.mode,
                modified_s=entry.modified_ns / 1e9,
            )
            for entry in reply.entries
        ]

    async def make_directory(
        self, path: str | os.PathLike[str], *, make_parents: bool = True
    ) -> None:
        """Makes a directory; with `make_parents` also those above it, and it may exist.

        Raises:
            FileAccessError: It cannot be made.
        """
        shown, encoded = self._path(path)
        async with self._turn:
            await self._ask(shown, _MakeDirectory(path=encoded, make_parents=make_parents))

    async def remove(self, path: str | os.PathLike[str], *, recursive: bool = False) -> None:
        """Removes a file, a symlink, an empty directory, or with `recursive` a whole one.

        Raises:
            FileAccessError: It cannot be removed, or is a directory that is not empty. A
                `recursive` removal has then removed what came before.
        """
        shown, encoded = self._path(path)
        async with self._turn:
            await self._ask(shown, _Remove(path=encoded, recursive=recursive))

    async def aclose(self) -> None:
        """Ends the file service."""
        self._closed = True
        with contextlib.suppress(SandboxLostError):
            await self._drop()
