"""Checking out git repositories."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from sandbox_runtime.wire.shape import Message, Milliseconds, Text


class Checkout(Message, frozen=True, kw_only=True):
    """Clone a repository into the sandbox.

    Attributes:
        repo_url: Where it is.
        branch: Which branch or tag; the repository's default by default.
        target_dir: Where it goes, relative to the session's directory.
        session_id: Whose directory that is.
        depth: How many commits of history; all by default.
        timeout_ms: When to give up.
    """

    repo_url: Text
    branch: str | None = None
    target_dir: Text | None = None
    session_id: Text | None = None
    depth: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None = None
    timeout_ms: Milliseconds | None = None


class CheckedOut(Message, frozen=True, kw_only=True):
    """How it went; 0.3 reports failures of git in it, with status 200."""

    success: bool
    exit_code: int
    stdout: str
    stderr: str
    repo_url: str
    branch: str
    target_dir: str
    timestamp: str
    commit: str | UnsetType = UNSET
    error: str | UnsetType = UNSET
    message: str | UnsetType = UNSET
    code: str | UnsetType = UNSET


class CloneProgress(Message, frozen=True, kw_only=True, tag_field="type", tag="progress"):
    """How far git is, in its own words."""

    phase: str
    percent: int
    done: int
    total: int


class CloneComplete(Message, frozen=True, kw_only=True, tag_field="type", tag="complete"):
    """It is there. The last event."""

    result: CheckedOut


class CloneError(Message, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """It could not be cloned. The last event."""

    error: str
    code: str


CloneEvent = CloneProgress | CloneComplete | CloneError
