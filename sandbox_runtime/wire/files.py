"""Files of a sandbox."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, UnsetType

from sandbox_runtime.wire.shape import Message, Text

Encoding = Literal["utf-8", "base64"]


class _Located(Message, frozen=True, kw_only=True):
    session_id: Text | None = None


class MakeDirectory(_Located, frozen=True, kw_only=True):
    """Make a directory, with `recursive` also those above it."""

    path: Text
    recursive: bool = False


class WriteFile(_Located, frozen=True, kw_only=True):
    """Write a file; with `encoding` base64 the bytes that `content` stands for."""

    path: Text
    content: str
    encoding: str | None = None


class ReadFile(_Located, frozen=True, kw_only=True):
    """Read a file as the encoding says, or as its content asks for."""

    path: Text
    encoding: str | None = None


class StreamFile(_Located, frozen=True, kw_only=True):
    """Read a file in pieces."""

    path: Text


class DeleteFile(_Located, frozen=True, kw_only=True):
    """Remove a file."""

    path: Text


class RenameFile(_Located, frozen=True, kw_only=True):
    """Give a file another name."""

    old_path: Text
    new_path: Text


class MoveFile(_Located, frozen=True, kw_only=True):
    """Move a file, also into a directory."""

    source_path: Text
    destination_path: Text


class ListOptions(Message, frozen=True, kw_only=True):
    """How to list."""

    recursive: bool | None = None
    include_hidden: bool | None = None


class ListFiles(_Located, frozen=True, kw_only=True):
    """List a directory."""

    path: Text
    options: ListOptions | None = None


class PathExists(_Located, frozen=True, kw_only=True):
    """Ask whether something is there."""

    path: Text


class _Outcome(Message, frozen=True, kw_only=True):
    """What all file replies say; 0.3 reports failures of the operation in them, with status 200.

    `error`, `message` and `code` say why, if it failed.
    """

    success: bool
    exit_code: int
    timestamp: str
    error: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    code: str | UnsetType = UNSET


class DirectoryMade(_Outcome, frozen=True, kw_only=True):
    """The directory is there."""

    path: str
    recursive: bool
    stdout: str = ""
    stderr: str = ""


class FileWritten(_Outcome, frozen=True, kw_only=True):
    """The file is there, whole."""

    path: str


class FileRead(_Outcome, frozen=True, kw_only=True):
    """A file's content: text, or base64 if it is no text."""

    path: str
    content: str
    encoding: Encoding | UnsetType = UNSET
    is_binary: bool | UnsetType = UNSET
    mime_type: str | UnsetType = UNSET
    size: int | UnsetType = UNSET


class FileDeleted(_Outcome, frozen=True, kw_only=True):
    """The file is gone."""

    path: str


class FileRenamed(_Outcome, frozen=True, kw_only=True):
    """The file has its new name."""

    old_path: str
    new_path: str


class FileMoved(_Outcome, frozen=True, kw_only=True):
    """The file is where it shall be."""

    source_path: str
    destination_path: str
    new_path: str


class Permissions(Message, frozen=True, kw_only=True, gc=False):
    """What the owner may do."""

    readable: bool
    writable: bool
    executable: bool


class FileInfo(Message, frozen=True, kw_only=True, gc=False):
    """One entry of a directory; a symlink is not followed."""

    name: str
    absolute_path: str
    relative_path: str
    type: Literal["file", "directory", "symlink", "other"]
    size: int
    modified_at: str
    mode: str
    permissions: Permissions


class FileList(_Outcome, frozen=True, kw_only=True):
    """The entries of a directory, in the order of their paths."""

    path: str
    files: list[FileInfo]
    count: int


class Existence(Message, frozen=True, kw_only=True):
    """Whether something is there."""

    success: bool = True
    path: str
    exists: bool
    timestamp: str


class FileMetadata(Message, frozen=True, kw_only=True, tag_field="type", tag="metadata"):
    """What the file is. The first event."""

    mime_type: str
    size: int
    is_binary: bool
    encoding: Encoding


class FileChunk(Message, frozen=True, kw_only=True, tag_field="type", tag="chunk"):
    """A piece of it, no character cut."""

    data: str


class FileComplete(Message, frozen=True, kw_only=True, tag_field="type", tag="complete"):
    """All of it was sent. The last event."""

    bytes_read: int


class FileError(Message, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """It cannot be read (on). The last event."""

    error: str
    code: str


FileEvent = FileMetadata | FileChunk | FileComplete | FileError
