"""What a server answers when it cannot do what was asked, as exceptions.

All are `SandboxError`s. The class follows from the status of the answer; `error_code` tells more.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sandbox_runtime import errors
from sandbox_runtime.client.names import named
from sandbox_runtime.errors import SandboxError


class UnreachableError(SandboxError):
    """The server cannot be reached, or broke off. What was asked for may have been done or not."""

    code = "unreachable"
    retryable = True


class ApiError(SandboxError):
    """The server refused, or failed.

    Attributes:
        status: Of the answer.
        error_code: The server's stable name for it.
        context: What it is about.
        retry_after_s: When to try again; None if the server does not say.
    """

    code = "api_error"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        error_code: str,
        context: dict[str, Any],
        remedy: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.status = status
        self.error_code = error_code
        self.context = context
        self.retry_after_s = retry_after_s


class InvalidRequestError(ApiError):
    """The caller's fault: an argument cannot mean anything. Nothing was done."""

    code = "invalid_request"


class RefusedError(ApiError):
    """The token is missing or wrong, or the operator does not allow this."""

    code = "refused"


class NotFoundError(ApiError):
    """There is no such sandbox, session, process, context, file or port."""

    code = "not_found"


class ConflictError(ApiError):
    """There is already one of that name, or it is in use."""

    code = "conflict"


class DeadlineError(ApiError, errors.DeadlineError):
    """The deadline passed; everything that was started is gone. `context` has the output so far."""

    code = "deadline"


class SessionEndedError(ApiError):
    """The session's shell has ended, or its sandbox. A session heals with its next command."""

    code = "session_ended"


class BusyError(ApiError):
    """The server cannot take more just now."""

    code = "busy"
    retryable = True


_CLASSES: dict[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: RefusedError,
    403: RefusedError,
    404: NotFoundError,
    405: InvalidRequestError,
    409: ConflictError,
    410: SessionEndedError,
    413: InvalidRequestError,
    429: BusyError,
    431: InvalidRequestError,
    503: BusyError,
}


class _Body(msgspec.Struct, rename="camel"):
    """What is read of an error answer; a server of another version may leave out anything."""

    error: str = ""
    message: str = ""
    code: str = ""
    context: dict[str, Any] = {}
    suggestion: str = ""


_COMMAND_DEADLINE = "COMMAND_EXECUTION_ERROR"
"""So the wire names that the time of a command was up, and nothing else."""


def _class_of(status: int, code: str, context: dict[str, Any]) -> type[ApiError]:
    if code == _COMMAND_DEADLINE or context.get("reason") == "deadline":
        return DeadlineError
    return _CLASSES.get(status, ApiError)


def error_of(status: int, body: bytes, retry_after: str | None) -> ApiError:
    """The exception for an error answer."""
    try:
        told = msgspec.json.decode(body, type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        told = _Body(error=body[:200].decode(errors="replace"))
    general, reason = told.error, told.message
    message = f"{general}: {reason}" if general and reason not in {"", general} else general
    match told.context.get("validationErrors"):
        case [{"field": str(field), "message": str(why)}]:
            message = named(field, why)
    message = message.removesuffix(f". {told.suggestion}")  # which is said as the remedy
    return _class_of(status, told.code, told.context)(
        message or f"the server answered {status}",
        status=status,
        error_code=told.code,
        context=told.context,
        remedy=told.suggestion.replace("timeoutMs", "deadline_s"),  # as it is called here
        retry_after_s=float(retry_after) if retry_after and retry_after.isdigit() else None,
    )


def stream_error_of(code: str, message: str, context: dict[str, Any]) -> ApiError:
    """The exception for a stream whose last event is an error."""
    kind = _class_of(200, code, context)
    remedy = "Give it more with deadline_s" if kind is DeadlineError else ""
    return kind(message, status=200, error_code=code, context=context, remedy=remedy)
