"""Files: what the wire offers, done by the file service inside the sandbox as its user.

The 0.3 wire answers a failed operation with status 200 and `success: false`; here that says why,
too. It also refuses system paths by their text, which protects nothing that the sandbox does not
protect anyway; clients of 0.12 get the kernel's own answer.
"""

from __future__ import annotations

import base64
import binascii
import errno
import posixpath
import stat
from typing import TYPE_CHECKING, Any

import msgspec

from sandbox_runtime.errors import FileAccessError
from sandbox_runtime.server.faults import FieldError, PathRefusedError
from sandbox_runtime.server.http import Response
from sandbox_runtime.server.replies import CORS, error_body
from sandbox_runtime.server.routes.processes import session_of
from sandbox_runtime.server.routing import Route
from sandbox_runtime.server.session_table import DEFAULT_SESSION
from sandbox_runtime.server.streams import TextPieces, stream_events
from sandbox_runtime.settings import WORKSPACE
from sandbox_runtime.wire import files as wire
from sandbox_runtime.wire.moments import iso_moment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from sandbox_runtime.file_service import RawEntry
    from sandbox_runtime.files import FileReader, Files
    from sandbox_runtime.server.http import Write
    from sandbox_runtime.server.routing import Call
    from sandbox_runtime.server.streams import EventStream

_REQUIRED = "Path is required and must be a string"
_REFUSED = frozenset(("etc", "var", "usr", "bin", "sbin", "boot", "dev", "proc", "sys"))
_CHUNK_BYTES = 65_535  # divisible by 3, so that pieces of base64 can be joined
_WHOLE_BYTES = 1024 * 1024
_KIND_BITS = {"file": stat.S_IFREG, "directory": stat.S_IFDIR, "symlink": stat.S_IFLNK, "other": 0}
_ENCODINGS = {"utf-8": "utf-8", "utf8": "utf-8", "base64": "base64"}


def _files(call: Call) -> Files:
    return call.sandbox.sandbox.files


async def _place(call: Call, session_id: str | None, *paths: str, may_be_root: bool = False) -> str:
    """Where relative paths start; looks at all paths as the client's generation wants it.

    Raises:
        PathRefusedError: The 0.3 wire refuses it.
        SessionNotFoundError: There is no such session.
    """
    if not call.modern:
        for path in paths:
            _check_wire_path(path, may_be_root=may_be_root)
        if session_id is not None and session_id != DEFAULT_SESSION:
            call.sandbox.sessions.get(session_id)
    if all(path.startswith("/") for path in paths):
        return WORKSPACE
    return (await session_of(call, session_id)).session.cwd()


def _check_wire_path(path: str, *, may_be_root: bool) -> None:
    parts = [part for part in path.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise PathRefusedError(path)
    if path.startswith("/"):
        if not parts and not may_be_root:
            raise PathRefusedError(path)
        if parts and parts[0] in _REFUSED:
            raise PathRefusedError(path)


def _done() -> dict[str, Any]:
    return {"success": True, "exit_code": 0, "timestamp": iso_moment()}


def _failed(call: Call, error: FileAccessError) -> dict[str, Any]:
    """How 0.3 says that the operation failed; other clients get an error answer."""
    if call.modern:
        raise error
    body = error_body(error, call.route, modern=False)
    return {
        "success": False,
        "exit_code": 1,
        "timestamp": body.timestamp,
        "error": body.message,
        "message": body.message,
        "code": body.code,
    }


async def make_directory(call: Call, body: wire.MakeDirectory) -> wire.DirectoryMade:
    cwd = await _place(call, body.session_id, body.path)
    outcome, stderr = _done(), ""
    try:
        await _files(call).make_directory(body.path, make_parents=body.recursive, cwd=cwd)
    except FileAccessError as error:
        outcome, stderr = _failed(call, error), f"{error}\n"
    return wire.DirectoryMade(path=body.path, recursive=body.recursive, stderr=stderr, **outcome)


def _content(body: wire.WriteFile) -> bytes:
    """The bytes that a request stands for.

    Raises:
        FieldError: They are not what the encoding says, or it is not known.
    """
    encoding = _ENCODINGS.get((body.encoding or "utf-8").lower())
    if encoding is None:
        raise FieldError("encoding", f"{body.encoding!r} is not known; use 'utf-8' or 'base64'")
    try:
        if encoding == "base64":
            return base64.b64decode(body.content, validate=True)
        return body.content.encode()
    except (binascii.Error, ValueError) as error:
        raise FieldError("content", f"is no {encoding}: {error}") from None


async def write(call: Call, body: wire.WriteFile) -> wire.FileWritten:
    cwd = await _place(call, body.session_id, body.path)
    content = _content(body)
    outcome = _done()
    try:
        await _files(call).write(body.path, content, cwd=cwd)
    except FileAccessError as error:
        outcome = _failed(call, error)
    return wire.FileWritten(path=body.path, **outcome)


async def read(call: Call, body: wire.ReadFile) -> wire.FileRead | Response:
    cwd = await _place(call, body.session_id, body.path)
    wanted = _wanted_encoding(call, body.encoding)
    try:
        async with _files(call).open_read(body.path, cwd=cwd) as reader:
            as_base64 = reader.is_binary if wanted is None else wanted == "base64"
            if reader.size_bytes <= _WHOLE_BYTES:
                content = await reader.receive_some(_WHOLE_BYTES + 1)
                return _read_reply(body.path, reader, content, as_base64=as_base64)
    except FileAccessError as error:
        return wire.FileRead(path=body.path, content="", **_failed(call, error))
    return _stream_read_reply(call, body.path, cwd, as_base64=as_base64)


def _wanted_encoding(call: Call, encoding: str | None) -> str | None:
    """How content shall come, or None if its type decides, as it always does for 0.3."""
    if not call.modern or encoding is None:
        return None
    known = _ENCODINGS.get(encoding.lower())
    if known is None:
        raise FieldError("encoding", f"{encoding!r} is not known; use 'utf-8' or 'base64'")
    return known


def _read_reply(path: str, reader: FileReader, content: bytes, *, as_base64: bool) -> wire.FileRead:
    text = base64.b64encode(content).decode() if as_base64 else content.decode(errors="replace")
    return wire.FileRead(
        path=path,
        content=text,
        encoding="base64" if as_base64 else "utf-8",
        is_binary=reader.is_binary,
        mime_type=reader.mime_type,
        size=len(content),
        **_done(),
    )


def _stream_read_reply(call: Call, path: str, cwd: str, *, as_base64: bool) -> Response:
    """The same answer as a stream, so that no large file is ever held whole."""

    async def run(send: Write) -> None:
        async def tell(text: str) -> None:
            await send(msgspec.json.encode(text)[1:-1])

        async with _files(call).open_read(path, cwd=cwd) as reader:
            await send(b'{"content":"')
            size = await _pour(reader, tell, as_base64=as_base64, step_bytes=16 * _CHUNK_BYTES)
            rest = wire.FileRead(
                path=path,
                content="",
                encoding="base64" if as_base64 else "utf-8",
                is_binary=reader.is_binary,
                mime_type=reader.mime_type,
                size=size,
                **_done(),
            )
            fields = msgspec.to_builtins(rest)
            del fields["content"]
            await send(b'",' + msgspec.json.encode(fields)[1:])

    return Response(headers=(("Content-Type", "application/json"), *CORS), stream=run)


async def _pour(
    reader: FileReader,
    tell: Callable[[str], Awaitable[None]],
    *,
    as_base64: bool,
    step_bytes: int,
) -> int:
    """Tells all that is left of a file as text, no character and no base64 group cut.

    Returns:
        How many bytes of the file that was.
    """
    pieces = TextPieces()
    total = 0
    while data := await reader.receive_some(step_bytes):
        while as_base64 and len(data) % 3 and (more := await reader.receive_some(-len(data) % 3)):
            data += more
        total += len(data)
        text = base64.b64encode(data).decode() if as_base64 else pieces.feed(data)
        if text:
            await tell(text)
    if rest := pieces.finish():
        await tell(rest)
    return total


async def read_stream(call: Call, body: wire.StreamFile) -> Response:
    cwd = await _place(call, body.session_id, body.path)
    if call.modern:
        async with _files(call).open_read(body.path, cwd=cwd):
            pass  # so that what is wrong is an error answer and no event

    async def produce(events: EventStream) -> None:
        try:
            await events.send(await _told(events, call, body.path, cwd))
        except FileAccessError as error:
            missing = error.errno == errno.ENOENT
            told = error_body(error, call.route, modern=call.modern)
            reason = f"File not found: {body.path}" if missing else told.message
            await events.send(wire.FileError(error=reason, code=told.code))

    return stream_events(produce, call.pulse)


async def _told(events: EventStream, call: Call, path: str, cwd: str) -> wire.FileComplete:
    """Sends a file; returns the last event."""

    async def tell(text: str) -> None:
        await events.send(wire.FileChunk(data=text))

    async with _files(call).open_read(path, cwd=cwd) as reader:
        await events.send(
            wire.FileMetadata(
                mime_type=reader.mime_type,
                size=reader.size_bytes,
                is_binary=reader.is_binary,
                encoding="base64" if reader.is_binary else "utf-8",
            )
        )
        size = await _pour(reader, tell, as_base64=reader.is_binary, step_bytes=_CHUNK_BYTES)
    return wire.FileComplete(bytes_read=size)


async def delete(call: Call, body: wire.DeleteFile) -> wire.FileDeleted:
    cwd = await _place(call, body.session_id, body.path)
    outcome = _done()
    try:
        found = await _files(call).stat(body.path, follow=False, cwd=cwd)
        if found.kind == "directory":
            raise FileAccessError(body.path, errno.EISDIR, "Is a directory")
        await _files(call).remove(body.path, cwd=cwd)
    except FileAccessError as error:
        outcome = _failed(call, error)
    return wire.FileDeleted(path=body.path, **outcome)


async def _move(call: Call, source: str, target: str, cwd: str) -> str:
    """Gives something another path; into a directory, if the target is one.

    Returns:
        Its new path.
    """
    files = _files(call)
    try:
        if (await files.stat(target, cwd=cwd)).kind == "directory":
            name = posixpath.basename(source.rstrip("/"))
            target = posixpath.join(target, name)
    except FileAccessError:
        pass  # it is not there, or `move` says what is wrong with it
    await files.move(source, target, cwd=cwd)
    return target


async def rename(call: Call, body: wire.RenameFile) -> wire.FileRenamed:
    cwd = await _place(call, body.session_id, body.old_path, body.new_path)
    outcome = _done()
    try:
        await _move(call, body.old_path, body.new_path, cwd)
    except FileAccessError as error:
        outcome = _failed(call, error)
    return wire.FileRenamed(old_path=body.old_path, new_path=body.new_path, **outcome)


async def move(call: Call, body: wire.MoveFile) -> wire.FileMoved:
    cwd = await _place(call, body.session_id, body.source_path, body.destination_path)
    outcome, target = _done(), body.destination_path
    try:
        target = await _move(call, body.source_path, target, cwd)
    except FileAccessError as error:
        outcome = _failed(call, error)
    return wire.FileMoved(
        source_path=body.source_path,
        destination_path=body.destination_path,
        new_path=target,
        **outcome,
    )


async def list_directory(call: Call, body: wire.ListFiles) -> wire.FileList:
    cwd = await _place(call, body.session_id, body.path, may_be_root=True)
    options = body.options or wire.ListOptions()
    outcome: dict[str, Any] = _done()
    entries: Sequence[RawEntry] = ()
    try:
        entries = await _files(call).list_raw(
            body.path,
            recursive=bool(options.recursive),
            hidden=bool(options.include_hidden),
            cwd=cwd,
        )
    except FileAccessError as error:
        outcome = _failed(call, error)
    above = posixpath.join(cwd, body.path).rstrip("/")
    infos = _infos(entries, _readable(above), letter=not call.modern)
    return wire.FileList(path=body.path, files=infos, count=len(infos), **outcome)


def _readable(name: str) -> str:
    """A name as text; what is no UTF-8 becomes U+FFFD."""
    if name.isprintable():  # which nothing surrogate-escaped is
        return name
    return name.encode(errors="surrogateescape").decode(errors="replace")


def _infos(entries: Iterable[RawEntry], place: str, *, letter: bool) -> list[wire.FileInfo]:
    """Entries as the wire shows them; what many have in common is put into words once."""
    modes: dict[tuple[str, int], tuple[str, wire.Permissions]] = {}
    moments: dict[int, str] = {}
    infos = []
    for entry in entries:
        kind, mode = entry.kind, entry.mode
        if (shown := modes.get((kind, mode))) is None:
            shown = modes[kind, mode] = _mode(kind, mode, letter=letter)
        milliseconds = entry.modified_ns // 1_000_000
        if (moment := moments.get(milliseconds)) is None:
            moment = moments[milliseconds] = iso_moment(milliseconds / 1000)
        relative = entry.path.decode(errors="replace")
        infos.append(
            wire.FileInfo(
                name=relative.rpartition("/")[2],
                absolute_path=f"{place}/{relative}",
                relative_path=relative,
                type=kind,
                size=entry.size_bytes,
                modified_at=moment,
                mode=shown[0],
                permissions=shown[1],
            )
        )
    return infos


def _mode(kind: str, mode: int, *, letter: bool) -> tuple[str, wire.Permissions]:
    text = stat.filemode(_KIND_BITS[kind] | mode)
    permissions = wire.Permissions(
        readable=bool(mode & stat.S_IRUSR),
        writable=bool(mode & stat.S_IWUSR),
        executable=bool(mode & stat.S_IXUSR),
    )
    return text if letter else text[1:], permissions


async def exists(call: Call, body: wire.PathExists) -> wire.Existence:
    cwd = await _place(call, body.session_id, body.path)
    there = await _files(call).exists(body.path, cwd=cwd)
    return wire.Existence(path=body.path, exists=there, timestamp=iso_moment())


def _route(
    path: str, handle: Any, summary: str, request: type, reply: type | None, **fields: Any
) -> Route[Any]:
    """An endpoint of the wire; all of them have the same texts and statuses."""
    names = ("path", "oldPath", "newPath", "sourcePath", "destinationPath")
    return Route(
        method="POST",
        path=path,
        handle=handle,
        summary=summary,
        request=request,
        reply=reply,
        required=dict.fromkeys(names, _REQUIRED),
        statuses=(400, 403, 404, 409, 413, 500, 507),
        **fields,
    )


ROUTES = (
    _route(
        "/api/mkdir",
        make_directory,
        "Make a directory",
        wire.MakeDirectory,
        wire.DirectoryMade,
        failure="Failed to mkdir",
    ),
    _route(
        "/api/write",
        write,
        "Write a file",
        wire.WriteFile,
        wire.FileWritten,
        failure="Failed to write file",
    ),
    _route(
        "/api/read",
        read,
        "Read a file",
        wire.ReadFile,
        wire.FileRead,
        failure="Failed to read file",
    ),
    _route(
        "/api/read/stream",
        read_stream,
        "Read a file in pieces",
        wire.StreamFile,
        None,
        events=wire.FileEvent,
        failure="Failed to read filestream",
    ),
    _route(
        "/api/delete",
        delete,
        "Remove a file",
        wire.DeleteFile,
        wire.FileDeleted,
        failure="Failed to delete file",
    ),
    _route(
        "/api/rename",
        rename,
        "Give a file another name",
        wire.RenameFile,
        wire.FileRenamed,
        failure="Failed to rename file",
    ),
    _route(
        "/api/move",
        move,
        "Move a file, also into a directory",
        wire.MoveFile,
        wire.FileMoved,
        failure="Failed to move file",
    ),
    _route(
        "/api/list-files",
        list_directory,
        "List a directory",
        wire.ListFiles,
        wire.FileList,
        failure="Failed to list files",
    ),
    _route(
        "/api/exists",
        exists,
        "Ask whether something is there",
        wire.PathExists,
        wire.Existence,
        failure="Failed to look for file",
    ),
)
