"""Files of a sandbox."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from sandbox_runtime.client.arguments import content_bytes, path_text
from sandbox_runtime.client.models import FileEntry
from sandbox_runtime.wire import files as wire

if TYPE_CHECKING:
    from os import PathLike

    from sandbox_runtime.client._sync.transport import Transport


class Files:
    """The files of one sandbox, `Sandbox.files`. Relative paths start at `/workspace`."""

    def __init__(self, transport: Transport, prefix: str) -> None:
        self._transport = transport
        self._api = f"{prefix}/api"

    def read(self, path: str | PathLike[str]) -> bytes:
        """A file's content, exactly.

        Raises:
            NotFoundError: There is no such file.
            ApiError: It cannot be read.
        """
        body = wire.ReadFile(path=path_text("path", path), encoding="base64")
        found = self._transport.call("POST", f"{self._api}/read", wire.FileRead, body=body)
        if found.encoding == "base64":
            return base64.b64decode(found.content)
        return found.content.encode()

    def read_text(self, path: str | PathLike[str]) -> str:
        """A file's content as UTF-8; UnicodeDecodeError if it is not."""
        return (self.read(path)).decode()

    def write(self, path: str | PathLike[str], content: bytes | str) -> None:
        """Writes a file, whole or not at all; directories above it are made."""
        data = content_bytes(content)
        body = wire.WriteFile(
            path=path_text("path", path), content=base64.b64encode(data).decode(), encoding="base64"
        )
        self._transport.call("POST", f"{self._api}/write", wire.FileWritten, body=body)

    def list(
        self, path: str | PathLike[str], *, recursive: bool = False, hidden: bool = True
    ) -> list[FileEntry]:
        """The entries of a directory."""
        options = wire.ListOptions(recursive=recursive, include_hidden=hidden)
        body = wire.ListFiles(path=path_text("path", path), options=options)
        found = self._transport.call("POST", f"{self._api}/list-files", wire.FileList, body=body)
        return [
            FileEntry(
                path=one.absolute_path,
                relative_path=one.relative_path,
                kind=one.type,
                size_bytes=one.size,
                mode=one.mode,
                modified=one.modified_at,
            )
            for one in found.files
        ]

    def exists(self, path: str | PathLike[str]) -> bool:
        """Whether something is there."""
        body = wire.PathExists(path=path_text("path", path))
        found = self._transport.call("POST", f"{self._api}/exists", wire.Existence, body=body)
        return found.exists

    def make_directory(self, path: str | PathLike[str], *, parents: bool = False) -> None:
        """Makes a directory, with `parents` also those above it."""
        body = wire.MakeDirectory(path=path_text("path", path), recursive=parents)
        self._transport.call("POST", f"{self._api}/mkdir", wire.DirectoryMade, body=body)

    def remove(self, path: str | PathLike[str]) -> None:
        """Removes a file."""
        body = wire.DeleteFile(path=path_text("path", path))
        self._transport.call("POST", f"{self._api}/delete", wire.FileDeleted, body=body)

    def move(self, source: str | PathLike[str], target: str | PathLike[str]) -> None:
        """Moves a file or directory, also into a directory."""
        body = wire.MoveFile(
            source_path=path_text("source", source), destination_path=path_text("target", target)
        )
        self._transport.call("POST", f"{self._api}/move", wire.FileMoved, body=body)
