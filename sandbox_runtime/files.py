"""Files: reading and writing inside a sandbox, as its own user.

The work is done by the file service in the sandbox (`rust_core/src/files/`). A path means there
what it means to user code, so no path is checked here. Content goes by descriptor, in pieces.
"""

from __future__ import annotations

import errno
import os
import posixpath
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

import msgspec
import trio

from sandbox_runtime import file_service, mime
from sandbox_runtime.arguments import check_flags, check_kind
from sandbox_runtime.blocks import block
from sandbox_runtime.errors import FileAccessError, InvalidArgumentError
from sandbox_runtime.file_content import Content, ContentPipe
from sandbox_runtime.file_service import FileService, Kind
from sandbox_runtime.programs import check_bytes, check_cwd, check_path
from sandbox_runtime.settings import LIST_LIMIT, READ_LIMIT_BYTES, WORKSPACE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from sandbox_runtime.keeper import Keeper

    Path = str | os.PathLike[str]

_INLINE_BYTES = 32 * 1024
_CHUNK_BYTES = 1024 * 1024
_OWN_DIRECTORIES = {b"/workspace", b"/tmp"}  # only told by their names; the kernel decides
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR}


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One entry of a directory, or what was looked at.

    Attributes:
        path: Below the directory that was listed; what is no UTF-8 is surrogate-escaped.
        kind: What it is; a symlink is not followed.
        size_bytes: Its size.
        mode: Its permission bits.
        modified_s: When it was last changed, in seconds since 1970.
    """

    path: str
    kind: Kind
    size_bytes: int
    mode: int
    modified_s: float

    @property
    def name(self) -> str:
        """The last part of its path."""
        return posixpath.basename(self.path)


def _entry(path: str, raw: file_service.RawEntry) -> FileEntry:
    return FileEntry(
        path=path,
        kind=raw.kind,
        size_bytes=raw.size_bytes,
        mode=raw.mode,
        modified_s=raw.modified_ns / 1e9,
    )


class FileReader:
    """A file that is being read, `Files.open_read`.

    Attributes:
        path: As it was given.
        size_bytes: Its size when it was opened.
        mode: Its permission bits.
        modified_s: When it was last changed, in seconds since 1970.
        mime_type: What its content looks like, see `mime.py`.
    """

    def __init__(
        self, path: str, content: Content, opened: file_service.Opened, head: bytes
    ) -> None:
        self._content = content
        self._position = 0
        self.path = path
        self.size_bytes = opened.size_bytes
        self.mode = opened.mode
        self.modified_s = opened.modified_ns / 1e9
        self.mime_type = mime.guess(head, whole=len(head) < mime.SNIFF_BYTES)

    @property
    def is_binary(self) -> bool:
        """Whether its content is no text, by its type."""
        return mime.is_binary(self.mime_type)

    def seek(self, offset: int) -> None:
        """The next piece begins there."""
        self._position = _check_offset("offset", offset)

    async def receive_some(self, most_bytes: int = _CHUNK_BYTES) -> bytes:
        """The next piece; empty at the end."""
        if most_bytes < 1:
            raise InvalidArgumentError("most_bytes", "must be a positive number of bytes")
        chunk = await self._content.read_at(self._position, most_bytes)
        self._position += len(chunk)
        return chunk

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if chunk := await self.receive_some():
            return chunk
        raise StopAsyncIteration


class FileWriter:
    """A file that is being written, `Files.open_write`."""

    def __init__(self, pipe: ContentPipe, call: file_service.PendingCall) -> None:
        self._pipe = pipe
        self._call = call

    async def send_all(self, data: bytes) -> None:
        """Adds content.

        Raises:
            FileAccessError: It cannot be written; nothing has changed.
        """
        if not await self._pipe.send_all(check_bytes("data", data)):
            await self._call.answer()  # which says why nobody reads on


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        character = text[error.start]
        what = f"has {character!r} at {error.start}, which UTF-8 has no bytes for; give bytes"
        raise InvalidArgumentError("content", what) from None


def _check_offset(field: str, value: int) -> int:
    if not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise InvalidArgumentError(field, f"must be a number of bytes, 0 or more, not {value!r}")
    return value


def _check_mode(mode: int) -> int:
    if not isinstance(mode, int) or not 0 <= mode <= 0o777:
        raise InvalidArgumentError("mode", f"{mode!r} is more than permission bits, 0 to 0o777")
    return mode


class Files:
    """The files of one sandbox, `Sandbox.files`.

    Relative paths start at `cwd`, which itself may be relative to `/workspace`, its default.
    """

    def __init__(self, keeper: Keeper, nursery: trio.Nursery) -> None:
        self._service = FileService(keeper, nursery)

    @staticmethod
    def _path(path: Path, cwd: str | None) -> tuple[str, bytes]:
        encoded = check_path(path, check_cwd(cwd, WORKSPACE))
        return os.fspath(path), encoded

    @block
    @asynccontextmanager
    async def open_read(self, path: Path, *, cwd: str | None = None) -> AsyncIterator[FileReader]:
        """Opens a regular file to be read in pieces.

        Raises:
            FileAccessError: It is missing, closed to the sandbox's user, or not a regular file.
        """
        content, opened = await self._open(path, cwd)
        with content:
            head = await content.read_at(0, mime.SNIFF_BYTES)
            yield FileReader(os.fspath(path), content, opened, head)

    async def _open(self, path: Path, cwd: str | None) -> tuple[Content, file_service.Opened]:
        shown, encoded = self._path(path, cwd)
        reply, fds = await self._service.ask(shown, file_service.Read(path=encoded))
        assert isinstance(reply, file_service.Opened)
        return Content(fds[0], in_memory=reply.in_memory), reply

    async def read(
        self,
        path: Path,
        *,
        offset: int = 0,
        length: int | None = None,
        limit_bytes: int = READ_LIMIT_BYTES,
        cwd: str | None = None,
    ) -> bytes:
        """The content of a regular file, or a part of it.

        Args:
            path: Which.
            offset: Where the part begins; behind the end it is empty.
            length: How many bytes, or fewer at the end; None is up to the end.
            limit_bytes: How many there may be.
            cwd: Where a relative path starts.

        Raises:
            FileAccessError: It is missing, closed to the sandbox's user, not a regular file, or
                more than `limit_bytes` (`EFBIG`).
        """
        _check_offset("limit_bytes", limit_bytes)
        position = _check_offset("offset", offset)
        left = None if length is None else _check_offset("length", length)
        file, _ = await self._open(path, cwd)
        content = bytearray()
        with file:
            while left is None or left > 0:
                most = _CHUNK_BYTES if left is None else min(left, _CHUNK_BYTES)
                chunk = await file.read_at(position, most)
                if not chunk:
                    break
                content += chunk
                position += len(chunk)
                left = None if left is None else left - len(chunk)
                if len(content) > limit_bytes:
                    detail = f"larger than {limit_bytes} bytes"
                    raise FileAccessError(os.fspath(path), errno.EFBIG, detail)
        return bytes(content)

    async def read_text(self, path: Path, *, cwd: str | None = None) -> str:
        """The content of a UTF-8 file."""
        return (await self.read(path, cwd=cwd)).decode()

    async def write(
        self,
        path: Path,
        content: bytes | str,
        *,
        mode: int = 0o644,
        make_parents: bool = True,
        cwd: str | None = None,
    ) -> None:
        """Writes a file; whoever reads it sees the old content or the new, never a part.

        Args:
            path: Where. A symlink is written through; a file that exists keeps its mode.
            content: What; text as UTF-8.
            mode: Permission bits of a new file.
            make_parents: Make missing directories above it.
            cwd: Where a relative path starts.

        Raises:
            FileAccessError: It cannot be written, `ENOSPC` when the sandbox is full. What was
                there is unchanged.
        """
        check_flags(make_parents=make_parents)
        check_kind("content", content, str | bytes | bytearray | memoryview, "text or bytes")
        data = check_bytes("content", _encoded(content) if isinstance(content, str) else content)
        shown, encoded = self._path(path, cwd)
        source: file_service.Inline | file_service.Sized
        if len(data) <= _INLINE_BYTES:
            source = file_service.Inline(content=bytes(data))
        else:
            source = file_service.Sized(size_bytes=len(data))
        request = file_service.Write(
            path=encoded, mode=_check_mode(mode), make_parents=make_parents, source=source
        )
        with ContentPipe() as pipe:
            fds = [] if isinstance(source, file_service.Inline) else [pipe.read_fd]
            call = await self._service.begin(shown, request, fds)
            with call:
                try:
                    pipe.close_read_end()
                    if fds:
                        await pipe.send_all(data)
                    pipe.close()
                    await call.answer()
                except trio.Cancelled:
                    pipe.close()
                    with trio.CancelScope(shield=True):
                        await call.settle()
                    raise

    @block
    @asynccontextmanager
    async def open_write(
        self,
        path: Path,
        *,
        mode: int = 0o644,
        make_parents: bool = True,
        cwd: str | None = None,
    ) -> AsyncIterator[FileWriter]:
        """Writes a file in pieces; it is there, whole, when the block has ended without an error.

        Args:
            path: Where, as in `write`.
            mode: Permission bits of a new file.
            make_parents: Make missing directories above it.
            cwd: Where a relative path starts.

        Raises:
            FileAccessError: It cannot be written; what was there is unchanged.
        """
        check_flags(make_parents=make_parents)
        shown, encoded = self._path(path, cwd)
        request = file_service.Write(
            path=encoded,
            mode=_check_mode(mode),
            make_parents=make_parents,
            source=file_service.Streamed(),
        )
        with ContentPipe() as data, ContentPipe() as verdict:
            fds = [data.read_fd, verdict.read_fd]
            with await self._service.begin(shown, request, fds) as call:
                data.close_read_end()
                verdict.close_read_end()
                try:
                    yield FileWriter(data, call)
                    data.close()
                    await verdict.send_all(memoryview(b"1"))
                    verdict.close()
                    await call.answer()
                except BaseException:
                    data.close()
                    verdict.close()
                    with trio.CancelScope(shield=True):
                        await call.settle()
                    raise

    async def stat(self, path: Path, *, follow: bool = True, cwd: str | None = None) -> FileEntry:
        """What something is.

        Args:
            path: Which; the answer has it as it was given.
            follow: If it is a symlink, look at its target.
            cwd: Where a relative path starts.

        Raises:
            FileAccessError: It is missing, or closed to the sandbox's user.
        """
        check_flags(follow=follow)
        shown, encoded = self._path(path, cwd)
        reply, _ = await self._service.ask(shown, file_service.Stat(path=encoded, follow=follow))
        assert isinstance(reply, file_service.Found)
        return _entry(shown, reply.entry)

    async def exists(self, path: Path, *, cwd: str | None = None) -> bool:
        """Whether there is something; a symlink to nothing is nothing.

        Raises:
            FileAccessError: The sandbox's user may not know.
        """
        try:
            await self.stat(path, cwd=cwd)
        except FileAccessError as error:
            if error.errno in _NOT_THERE:
                return False
            raise
        return True

    async def list(
        self,
        path: Path = ".",
        *,
        recursive: bool = False,
        hidden: bool = True,
        limit: int = LIST_LIMIT,
        cwd: str | None = None,
    ) -> list[FileEntry]:
        """The entries of a directory, in the order of their paths; symlinks are not followed.

        Args:
            path: Which directory.
            recursive: And of all directories below it. One that is closed to the sandbox's user
                is listed, what is in it is not.
            hidden: And those whose names begin with a dot.
            limit: How many there may be.
            cwd: Where a relative path starts.

        Raises:
            FileAccessError: It is no directory, is closed to the sandbox's user, or has more than
                `limit` entries (`E2BIG`).
        """
        entries = await self.list_raw(
            path, recursive=recursive, hidden=hidden, limit=limit, cwd=cwd
        )
        return [_entry(os.fsdecode(raw.path), raw) for raw in entries]

    async def list_raw(
        self,
        path: Path = ".",
        *,
        recursive: bool = False,
        hidden: bool = True,
        limit: int = LIST_LIMIT,
        cwd: str | None = None,
    ) -> Sequence[file_service.RawEntry]:
        """As `list`, for whoever shows many of them in another form."""
        check_flags(recursive=recursive, hidden=hidden)
        shown, encoded = self._path(path, cwd)
        request = file_service.List(
            path=encoded, recursive=recursive, hidden=hidden, limit=_check_offset("limit", limit)
        )
        entries: tuple[file_service.RawEntry, ...] = ()
        with await self._service.begin(shown, request) as call:
            more = True
            while more:
                reply, _ = await call.answer()
                assert isinstance(reply, file_service.Listed)
                if reply.truncated:
                    raise FileAccessError(shown, errno.E2BIG, f"more than {limit} entries")
                entries += reply.entries
                more = reply.more
        return entries

    async def make_directory(
        self, path: Path, *, make_parents: bool = True, cwd: str | None = None
    ) -> None:
        """Makes a directory; with `make_parents` also those above it, and it may exist.

        Raises:
            FileAccessError: It cannot be made.
        """
        check_flags(make_parents=make_parents)
        shown, encoded = self._path(path, cwd)
        request = file_service.MakeDirectory(path=encoded, make_parents=make_parents)
        await self._service.ask(shown, request)

    async def remove(self, path: Path, *, recursive: bool = False, cwd: str | None = None) -> None:
        """Removes a file, a symlink, an empty directory, or with `recursive` a whole one.

        Raises:
            FileAccessError: It cannot be removed, or is a directory that is not empty. A
                `recursive` removal has then removed what came before: of `/workspace`, which is the
                sandbox's own and stays, all that was in it.
        """
        check_flags(recursive=recursive)
        shown, encoded = self._path(path, cwd)
        try:
            await self._service.ask(shown, file_service.Remove(path=encoded, recursive=recursive))
        except FileAccessError as error:
            refused = error.errno in {errno.EROFS, errno.EBUSY}
            if not refused or posixpath.normpath(encoded) not in _OWN_DIRECTORIES:
                raise
            what = "is the sandbox's own directory, which stays"
            raise FileAccessError(shown, error.errno, what) from None

    async def move(self, source: Path, target: Path, *, cwd: str | None = None) -> None:
        """Gives something another name, also on another file system of the sandbox.

        What has that name already is replaced at once: a file by a file or link, an empty
        directory by a directory. To move into a directory, name the new path below it.

        Args:
            source: What; a symlink itself.
            target: Its new path.
            cwd: Where relative paths start.

        Raises:
            FileAccessError: It cannot be done; its `path` is the source's.
        """
        shown, encoded = self._path(source, cwd)
        _, encoded_target = self._path(target, cwd)
        request = file_service.Move(source=encoded, target=encoded_target)
        await self._service.ask(shown, request)

    async def aclose(self) -> None:
        """Ends the file service."""
        await self._service.aclose()
