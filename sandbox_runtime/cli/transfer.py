"""Copies for `--in` and `--out`, between the host and a sandbox."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import trio

from sandbox_runtime.cli.copies import inside
from sandbox_runtime.cli.failures import say
from sandbox_runtime.errors import FileAccessError, SandboxError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox_runtime.cli.copies import CopyIn, CopyOut
    from sandbox_runtime.sandbox import Sandbox


async def copy_in(sandbox: Sandbox, item: CopyIn) -> None:
    """Copies a file or a directory with all that is in it; links in it stay links."""
    for path, target, mode in _walk(item):
        try:
            if stat.S_ISDIR(mode):
                await sandbox.files.make_directory(target)
            elif stat.S_ISREG(mode):
                content = await trio.Path(path).read_bytes()
                await sandbox.files.write(target, content, mode=mode & 0o777)
            elif stat.S_ISLNK(mode):
                command = ["ln", "-sfn", "--", str(path.readlink()), target]
                await sandbox.exec(command, check=True)
            else:
                say(f"--in {path}: neither a file nor a directory; left out")
        except FileAccessError as error:
            hint = ""
            if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
                hint = "; /workspace and /tmp can be written"
            raise OSError(f"--in {path}: {error}{hint}") from error


def _walk(item: CopyIn) -> Iterator[tuple[Path, str, int]]:
    """What a directory holds, itself first: path here, path inside, mode."""

    def unreadable(error: OSError) -> NoReturn:
        raise error

    mode = item.host.stat().st_mode
    yield item.host, item.sandbox, mode
    if not stat.S_ISDIR(mode):
        return
    for directory, names, files in os.walk(item.host, onerror=unreadable):
        parent = inside(f"{item.sandbox}/{os.path.relpath(directory, item.host)}")
        for name in sorted([*names, *files]):
            path = Path(directory) / name
            yield path, f"{parent}/{name}", path.lstat().st_mode


async def copy_out(sandbox: Sandbox, item: CopyOut) -> dict[str, Any]:
    """Copies a file or a directory out; what went wrong is in the record."""
    record: dict[str, Any] = {
        "path": item.sandbox,
        "host_path": str(item.host),
        "files": 0,
        "bytes": 0,
        "skipped": [],
        "error": None,
    }
    try:
        await _copy_out_into(sandbox, item, record)
    except SandboxError as error:
        record["error"] = f"not copied, in the sandbox: {error}"
    except OSError as error:
        record["error"] = f"not copied to {error.filename or item.host}: {error.strerror}"
    return record


async def _copy_out_into(sandbox: Sandbox, item: CopyOut, record: dict[str, Any]) -> None:
    try:
        entries = await sandbox.files.list(item.sandbox, recursive=True)
    except FileAccessError as error:
        if error.errno != errno.ENOTDIR:
            raise
        await _copy_file_out(sandbox, item.sandbox, item.host, await _mode(sandbox, item), record)
        return
    item.host.mkdir(exist_ok=True)
    for entry in entries:
        # The names come from untrusted code: what is no plain name, or no file, stays there.
        if {"", ".", ".."} & set(entry.path.split("/")) or entry.kind in {"symlink", "other"}:
            record["skipped"].append(f"{entry.path} is a {entry.kind}; left out")
        elif entry.kind == "directory":
            (item.host / entry.path).mkdir(exist_ok=True, parents=True)
        else:
            path, target = f"{item.sandbox}/{entry.path}", item.host / entry.path
            target.parent.mkdir(exist_ok=True, parents=True)
            await _copy_file_out(sandbox, path, target, entry.mode, record)


async def _copy_file_out(
    sandbox: Sandbox, path: str, target: Path, mode: int, record: dict[str, Any]
) -> None:
    content = await sandbox.files.read(path)

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, 0o666 | (mode & 0o111))

    async with await trio.open_file(target, "wb", opener=opener) as file:
        await file.write(content)
    record["files"] += 1
    record["bytes"] += len(content)


async def _mode(sandbox: Sandbox, item: CopyOut) -> int:
    """The permission bits of a single file, as its directory lists them."""
    directory, _, name = item.sandbox.rpartition("/")
    with contextlib.suppress(FileAccessError):
        for entry in await sandbox.files.list(directory or "/"):
            if entry.path == name:
                return entry.mode
    return 0o644
