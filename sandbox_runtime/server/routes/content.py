"""Whole files as plain bytes, streamed both ways, so that their size does not matter."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sandbox_runtime.server.faults import FieldError, RangeError
from sandbox_runtime.server.http import Response
from sandbox_runtime.server.replies import CORS
from sandbox_runtime.server.routes.processes import session_of
from sandbox_runtime.server.routing import Route
from sandbox_runtime.settings import WORKSPACE
from sandbox_runtime.wire import files as wire
from sandbox_runtime.wire.moments import iso_moment

if TYPE_CHECKING:
    from sandbox_runtime.server.http import Write
    from sandbox_runtime.server.routing import Call

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_STEP_BYTES = 1024 * 1024
_QUERY = {"path": "Which file", "session": "Where a relative path starts"}


async def _path(call: Call) -> tuple[str, str]:
    """The path that a query names, and where it starts if it is relative."""
    path = call.query.get("path")
    if not path:
        raise FieldError("path", "Path is required and must be a string")
    if path.startswith("/"):
        return path, WORKSPACE
    return path, (await session_of(call, call.query.get("session"))).session.cwd()


def _part(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """First and last byte of the part that a `Range` asks for; None is the whole file.

    Raises:
        RangeError: The file has no such part.
    """
    found = _RANGE.fullmatch(header or "")
    if found is None or found.group(0) == "bytes=-":
        return None  # also several parts, which nobody has to serve
    first_text, last_text = found.groups()
    if not first_text:
        first, last = max(size_bytes - int(last_text), 0), size_bytes - 1
    else:
        first = int(first_text)
        last = min(int(last_text), size_bytes - 1) if last_text else size_bytes - 1
    if first > last:
        raise RangeError(size_bytes)
    return first, last


async def download(call: Call, _body: None) -> Response:
    path, cwd = await _path(call)
    files = call.sandbox.sandbox.files
    async with files.open_read(path, cwd=cwd) as reader:
        size_bytes, mime_type = reader.size_bytes, reader.mime_type
    part = _part(call.request.headers.get("range"), size_bytes)
    first, last = part or (0, size_bytes - 1)

    async def run(send: Write) -> None:
        left = last + 1 - first
        async with files.open_read(path, cwd=cwd) as reader:
            reader.seek(first)
            while left > 0 and (data := await reader.receive_some(min(left, _STEP_BYTES))):
                left -= len(data)
                await send(data)

    headers = [("Content-Type", mime_type), ("Accept-Ranges", "bytes"), *CORS]
    if part is not None:
        headers.append(("Content-Range", f"bytes {first}-{last}/{size_bytes}"))
    # Chunked, as the file may change its size while it is sent.
    return Response(status=200 if part is None else 206, headers=tuple(headers), stream=run)


async def upload(call: Call, _body: None) -> wire.FileWritten:
    path, cwd = await _path(call)
    async with call.sandbox.sandbox.files.open_write(path, cwd=cwd) as writer:
        while data := await call.request.receive_some():
            await writer.send_all(data)
    return wire.FileWritten(path=path, success=True, exit_code=0, timestamp=iso_moment())


_STATUSES = (400, 403, 404, 409, 413, 507)

ROUTES = (
    Route(
        method="GET",
        path="/api/file",
        handle=download,
        summary="Read a file, or a part of it, as it is",
        failure="Failed to read file",
        query=_QUERY,
        statuses=(*_STATUSES, 416),
        own=True,
    ),
    Route(
        method="PUT",
        path="/api/file",
        handle=upload,
        summary="Write a file as it comes; it is there when all of it has come",
        reply=wire.FileWritten,
        failure="Failed to write file",
        query=_QUERY,
        raw_body=True,
        statuses=_STATUSES,
        own=True,
    ),
)
