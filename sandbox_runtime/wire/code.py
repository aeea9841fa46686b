"""Contexts of interpreters, and the code that runs in them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from sandbox_runtime.choices import DeathCause, RunFailed  # noqa: TC001 - msgspec reads it
from sandbox_runtime.wire.shape import Env, Message, Milliseconds, OwnMessage, Text


class CreateContext(Message, frozen=True, kw_only=True):
    """Make a context.

    Attributes:
        language: What it speaks.
        cwd: Where it starts.
        env_vars: Variables besides the usual ones.
        ready_branches: How many branches to make ahead, whenever a run has ended.
    """

    language: str = "python"
    cwd: str | None = None
    env_vars: Env | None = msgspec.field(name="env_vars", default=None)
    ready_branches: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0


class ContextInfo(Message, frozen=True, kw_only=True):
    """What a context is.

    Attributes:
        ready_branches: How many branches wait at present, if any are made ahead.
    """

    id: str
    language: str
    cwd: str
    created_at: str
    last_used: str
    ready_branches: int | UnsetType = UNSET


class ContextCreated(Message, frozen=True, kw_only=True):
    """It is there; 0.12 reads `contextId`, 0.3 reads `id`."""

    success: bool = True
    id: str
    context_id: str
    language: str
    cwd: str
    created_at: str
    last_used: str
    timestamp: str


class ContextList(Message, frozen=True, kw_only=True):
    """All contexts, in the order they were made."""

    success: bool = True
    contexts: list[ContextInfo]
    timestamp: str


class ContextFound(Message, frozen=True, kw_only=True):
    """One context."""

    success: bool = True
    context: ContextInfo
    timestamp: str


class ContextDeleted(Message, frozen=True, kw_only=True):
    """It, its processes and its memory are gone."""

    success: bool = True
    context_id: str
    timestamp: str


class ContextChanged(Message, frozen=True, kw_only=True):
    """It was restarted or interrupted; `done` is false if nothing ran that could be."""

    success: bool = True
    context_id: str
    done: bool
    timestamp: str


class ForkContext(OwnMessage, frozen=True, kw_only=True):
    """Branch a context: each branch begins with a copy of its live state."""

    count: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1


class ContextsForked(Message, frozen=True, kw_only=True):
    """The branches are there."""

    success: bool = True
    contexts: list[ContextInfo]
    timestamp: str


class RunCode(Message, frozen=True, kw_only=True):
    """Run code in a context.

    Attributes:
        context_id: Which.
        code: A cell, as in a notebook.
        language: If it is given it must be the context's.
        timeout_ms: When it is interrupted.
    """

    context_id: Text | None = msgspec.field(name="context_id", default=None)
    code: str
    language: str | None = None
    timeout_ms: Milliseconds | None = msgspec.field(name="timeout_ms", default=None)


class CodeStdout(Message, frozen=True, kw_only=True, tag_field="type", tag="stdout"):
    """It wrote to its standard output."""

    text: str
    timestamp: int


class CodeStderr(Message, frozen=True, kw_only=True, tag_field="type", tag="stderr"):
    """It wrote to its standard error."""

    text: str
    timestamp: int


class CodeResult(Message, frozen=True, kw_only=True, tag_field="type", tag="result"):
    """It showed something, in all the formats that it has."""

    text: str | UnsetType = UNSET
    html: str | UnsetType = UNSET
    png: str | UnsetType = UNSET
    jpeg: str | UnsetType = UNSET
    svg: str | UnsetType = UNSET
    latex: str | UnsetType = UNSET
    markdown: str | UnsetType = UNSET
    javascript: str | UnsetType = UNSET
    json: Any | UnsetType = UNSET
    chart: Any | UnsetType = UNSET
    data: Any | UnsetType = UNSET
    metadata: dict[str, Any]
    is_main_result: bool
    display_id: str | UnsetType = UNSET
    is_update: bool | UnsetType = UNSET
    timestamp: int


class InterpreterDeath(Message, frozen=True, kw_only=True):
    """How an interpreter came to its end.

    Attributes:
        cause: What ended it.
        exit_code: 0 to 255, if it exited.
        signal: The number of the signal, if one ended it.
    """

    cause: DeathCause
    exit_code: int | None = None
    signal: int | None = None


class CodeError(Message, frozen=True, kw_only=True, tag_field="type", tag="error"):
    """It raised, or was ended. The last event.

    Attributes:
        ended: Why it is over.
        death: How the interpreter ended, if it did and that is known.
    """

    ename: str
    evalue: str
    traceback: list[str]
    state_survived: bool
    ended: RunFailed | UnsetType = UNSET
    death: InterpreterDeath | UnsetType = UNSET
    timestamp: int


class CodeComplete(Message, frozen=True, kw_only=True, tag_field="type", tag="execution_complete"):
    """It ended well. The last event."""

    execution_count: int | None = msgspec.field(name="execution_count")
    timestamp: int


CodeEvent = CodeStdout | CodeStderr | CodeResult | CodeError | CodeComplete


class InterpreterHealth(Message, frozen=True, kw_only=True):
    """Which languages contexts can be made in."""

    success: bool = True
    status: str
    languages: list[str]
    contexts: int
    timestamp: str
