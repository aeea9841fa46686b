"""The body of every error answer."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, UnsetType

from sandbox_runtime.wire.shape import Message


class ErrorBody(Message, frozen=True, kw_only=True):
    """Why a request failed, in the words of both generations of clients.

    Attributes:
        error: What 0.3 clients show.
        message: What 0.12 clients show; the reason where `error` is general.
        code: Stable name, by which 0.12 clients choose a class.
        context: What the error is about.
        http_status: The status once more.
        timestamp: When.
        operation: What was asked for.
        suggestion: What to do about it.
        status: `initializing` or `circuit_open`, with which interpreter clients try again.
        progress: How far a start is, in per cent.
        retry_after: Seconds after which trying again makes sense; also in `Retry-After`.
        available_sessions: Which sessions there are, where one was not found.
    """

    error: str
    message: str
    code: str
    context: dict[str, Any]
    http_status: int
    timestamp: str
    operation: str | UnsetType = UNSET
    suggestion: str | UnsetType = UNSET
    status: str | UnsetType = UNSET
    progress: int | UnsetType = UNSET
    retry_after: float | UnsetType = UNSET
    available_sessions: list[str] | UnsetType = UNSET
