"""The one place where errors become answers.

`TABLE` has a row for each class of error: the status, the stable code, and the text of `error`.
Where the 0.3 wire has a general text for an endpoint, that is `error` and the reason is `message`;
clients of 0.12 choose by `code` and show `message`.
"""

from __future__ import annotations

import errno as errno_names
import logging
import re
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from sandbox_runtime import errors
from sandbox_runtime.server import faults
from sandbox_runtime.server.http import (
    BusyError,
    MalformedBodyError,
    PayloadTooLargeError,
    RequestTimeoutError,
    Response,
)
from sandbox_runtime.wire.errors import ErrorBody
from sandbox_runtime.wire.moments import iso_moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sandbox_runtime.server.routing import Route

_LOG = logging.getLogger("sandbox_runtime.server")

CORS = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "GET, POST, PUT, DELETE, OPTIONS"),
    ("Access-Control-Allow-Headers", "Content-Type, Authorization"),
)
_JSON = ("Content-Type", "application/json")
_JSON_HEADERS = (_JSON, *CORS)

REASON = "{reason}"
"""`error` is the reason itself, not the endpoint's general text."""


class Row(msgspec.Struct, frozen=True):
    """How one class of error is answered.

    Attributes:
        status: Of the answer.
        code: For programs.
        error: The text of `error`; None is the endpoint's own.
        modern_status: Of the answer to clients of 0.12, if that is another.
        status_word: `status` of the body, which interpreter clients look at.
    """

    status: int
    code: str
    error: str | None = None
    modern_status: int | None = None
    status_word: str | None = None


_CIRCUIT_OPEN = "Service temporarily unavailable due to high error rate. Please try again later."

TABLE: Mapping[type[Exception], Row] = {
    faults.BodyError: Row(400, "VALIDATION_FAILED"),
    faults.FieldError: Row(400, "VALIDATION_FAILED"),
    faults.PathRefusedError: Row(400, "PERMISSION_DENIED", REASON),
    faults.UnknownPathError: Row(404, "ENDPOINT_NOT_FOUND", "Not Found"),
    faults.WrongMethodError: Row(405, "METHOD_NOT_ALLOWED", "Method Not Allowed"),
    faults.UnauthorizedError: Row(401, "UNAUTHORIZED", REASON),
    faults.ForbiddenError: Row(403, "FORBIDDEN", REASON),
    faults.SandboxNotFoundError: Row(404, "SANDBOX_NOT_FOUND", REASON),
    faults.SandboxGoneError: Row(410, "SANDBOX_LOST", REASON),
    faults.SandboxExistsError: Row(409, "SANDBOX_ALREADY_EXISTS", REASON),
    faults.TooManyError: Row(429, "TOO_MANY", REASON),
    faults.SessionNotFoundError: Row(404, "SESSION_NOT_FOUND", REASON),
    faults.SessionEndedError: Row(500, "SESSION_TERMINATED", modern_status=410),
    faults.CommandTimeoutError: Row(500, "COMMAND_EXECUTION_ERROR"),
    faults.CommandKilledError: Row(500, "SESSION_DESTROYED", modern_status=410),
    errors.NotFoundError: Row(404, "NOT_FOUND", REASON),
    errors.AlreadyExistsError: Row(409, "ALREADY_EXISTS"),
    errors.ContextNotFoundError: Row(404, "CONTEXT_NOT_FOUND", REASON),
    faults.PortNotExposedError: Row(404, "PORT_NOT_EXPOSED", REASON),
    faults.InvalidPortError: Row(400, "INVALID_PORT", REASON),
    faults.RangeError: Row(416, "RANGE_NOT_SATISFIABLE"),
    faults.PortInUseError: Row(409, "PORT_IN_USE", REASON),
    errors.InvalidArgumentError: Row(400, "VALIDATION_FAILED"),
    errors.NotStartedError: Row(400, "INVALID_COMMAND"),
    errors.InterpreterRestingError: Row(
        503, "INTERPRETER_NOT_READY", _CIRCUIT_OPEN, status_word="circuit_open"
    ),
    errors.InterpreterMissingError: Row(500, "INTERPRETER_MISSING", REASON),
    errors.InterpreterUnavailableError: Row(
        503, "INTERPRETER_NOT_READY", REASON, status_word="initializing"
    ),
    errors.BranchRefusedError: Row(409, "BRANCH_REFUSED", REASON),
    errors.PortUnreachableError: Row(502, "SERVICE_NOT_RESPONDING", REASON),
    errors.PoolFullError: Row(503, "INTERPRETER_NOT_READY", REASON, status_word="initializing"),
    errors.SandboxClosedError: Row(410, "SANDBOX_CLOSED"),
    errors.HostLimitError: Row(503, "BUSY", REASON),
    errors.SandboxLostError: Row(500, "SANDBOX_LOST"),
    errors.IsolationError: Row(503, "ISOLATION_UNAVAILABLE"),
    MalformedBodyError: Row(400, "VALIDATION_FAILED", REASON),
    BusyError: Row(503, "BUSY", REASON),
    RequestTimeoutError: Row(408, "REQUEST_TIMEOUT", REASON),
    PayloadTooLargeError: Row(413, "FILE_TOO_LARGE", REASON),
}

KIND_TABLE: Mapping[tuple[type[Exception], str], Row] = {
    (errors.NotFoundError, "process"): Row(404, "PROCESS_NOT_FOUND", "Process not found"),
    (errors.AlreadyExistsError, "process"): Row(409, "PROCESS_ERROR"),
    (errors.AlreadyExistsError, "session"): Row(409, "SESSION_ALREADY_EXISTS"),
}
"""Rows for errors that say what they are about."""

FILE_TABLE: Mapping[int, Row] = {
    errno_names.ENOENT: Row(404, "FILE_NOT_FOUND"),
    errno_names.EACCES: Row(403, "PERMISSION_DENIED"),
    errno_names.EPERM: Row(403, "PERMISSION_DENIED"),
    errno_names.EROFS: Row(403, "READ_ONLY"),
    errno_names.EEXIST: Row(409, "FILE_EXISTS"),
    errno_names.ENOTEMPTY: Row(409, "FILE_EXISTS"),
    errno_names.EBUSY: Row(409, "RESOURCE_BUSY"),
    errno_names.EISDIR: Row(400, "IS_DIRECTORY"),
    errno_names.ENOTDIR: Row(400, "NOT_DIRECTORY"),
    errno_names.ENAMETOOLONG: Row(400, "NAME_TOO_LONG"),
    errno_names.ELOOP: Row(400, "TOO_MANY_LINKS"),
    errno_names.EFBIG: Row(413, "FILE_TOO_LARGE"),
    errno_names.E2BIG: Row(413, "FILE_TOO_LARGE"),
    errno_names.ENOSPC: Row(507, "NO_SPACE"),
    errno_names.EDQUOT: Row(507, "NO_SPACE"),
}
GIT_TABLE: Mapping[str, Row] = {
    "git_missing": Row(501, "GIT_OPERATION_FAILED"),
    "not_found": Row(404, "GIT_REPOSITORY_NOT_FOUND"),
    "auth_required": Row(401, "GIT_AUTH_FAILED"),
    "branch_not_found": Row(404, "GIT_BRANCH_NOT_FOUND"),
    "directory_not_empty": Row(409, "GIT_CLONE_FAILED"),
    "transport_refused": Row(400, "INVALID_GIT_URL"),
    "certificate": Row(502, "GIT_NETWORK_ERROR"),
    "network": Row(502, "GIT_NETWORK_ERROR"),
    "no_space": Row(507, "NO_SPACE"),
    "deadline": Row(500, "GIT_CLONE_FAILED"),
    "failed": Row(500, "GIT_CLONE_FAILED"),
}
_OTHER_FILE_ROW = Row(400, "FILESYSTEM_ERROR")
_UNEXPECTED = Row(500, "INTERNAL_ERROR")
_NO_DESCRIPTORS = Row(503, "BUSY", "The server has no descriptors left")


def row_of(error: Exception) -> Row:
    """The row of an error."""
    if isinstance(error, errors.FileAccessError):
        return FILE_TABLE.get(error.errno, _OTHER_FILE_ROW)
    if isinstance(error, errors.GitError):
        return GIT_TABLE[error.reason]
    if isinstance(error, (errors.NotFoundError, errors.AlreadyExistsError)) and (
        row := KIND_TABLE.get((type(error), error.what))
    ):
        return row
    if isinstance(error, OSError) and error.errno in {errno_names.EMFILE, errno_names.ENFILE}:
        return _NO_DESCRIPTORS
    for kind in type(error).__mro__:
        if (found := TABLE.get(kind)) is not None:
            return found
    return _UNEXPECTED


def reason_of(error: Exception) -> str:
    """Why, in one sentence; nothing of our own code."""
    if isinstance(error, faults.RequestError):
        return error.message
    if isinstance(error, errors.AlreadyExistsError) and error.what == "process":
        return f"Process already exists in session: {error.id}"  # so says the wire
    if isinstance(error, errors.SandboxError):
        return str(error)
    return "An error of the server; its log has the details"


def context_of(error: Exception) -> dict[str, Any]:
    """What it is about."""
    context: dict[str, Any] = {}
    match error:
        case faults.RequestError():
            context = error.context
        case errors.FileAccessError():
            context = {"path": error.path, "errno": errno_names.errorcode.get(error.errno, "")}
        case errors.InvalidArgumentError():
            context = {"validationErrors": [{"field": error.field, "message": str(error)}]}
        case errors.NotStartedError():
            context = {"subject": error.subject, "step": error.step}
        case errors.NotFoundError() | errors.AlreadyExistsError():
            context = {f"{error.what}Id": error.id}
        case errors.ContextNotFoundError():
            context = {"contextId": error.context_id}
        case errors.GitError():
            context = {"reason": error.reason}
        case errors.IsolationError():
            context = {"step": error.step}
    return context


def json_reply(body: msgspec.Struct, *, status: int = 200) -> Response:
    """An answer with a JSON body."""
    return Response(status=status, headers=_JSON_HEADERS, body=msgspec.json.encode(body))


def text_reply(status: int, text: str, *headers: tuple[str, str]) -> Response:
    """An answer with a text body."""
    content_type = ("Content-Type", "text/plain; charset=utf-8")
    return Response(status=status, headers=(content_type, *CORS, *headers), body=text.encode())


def error_body(error: Exception, route: Route[Any] | None, *, modern: bool) -> ErrorBody:
    """What the answer to an error says."""
    row = row_of(error)
    reason = reason_of(error)
    general = route.failure if route is not None else "Internal server error"
    if isinstance(error, faults.FieldError) and route is not None:
        whole = re.split(r"[.\[]", error.field)[0]
        text = reason if error.said else route.required.get(whole, general)
    else:
        text = row.error or general
    if text == REASON:
        text = reason
    message = reason
    if isinstance(error, errors.NotFoundError) and error.what == "process" and not modern:
        message = error.id  # so says the wire
    status = row.modern_status if modern and row.modern_status else row.status
    remedy = error.remedy if isinstance(error, errors.SandboxError) else ""
    retry_s = getattr(error, "retry_after_s", None)
    if retry_s is None and (row.status_word is not None or row.code == "BUSY"):
        retry_s = 1
    return ErrorBody(
        error=text,
        message=message,
        code=row.code,
        context=context_of(error),
        http_status=status,
        timestamp=iso_moment(),
        operation=route.summary if route is not None else UNSET,
        suggestion=remedy or UNSET,
        status=row.status_word or UNSET,
        progress=0 if row.status_word == "initializing" else UNSET,
        retry_after=retry_s if retry_s is not None else UNSET,
        available_sessions=error.available
        if isinstance(error, faults.SessionNotFoundError)
        else UNSET,
    )


def error_reply(error: Exception, route: Route[Any] | None, *, modern: bool) -> Response:
    """The answer to an error."""
    body = told_error(error, route, modern=modern)
    headers: list[tuple[str, str]] = [*_JSON_HEADERS]
    if body.retry_after is not UNSET:
        headers.append(("Retry-After", str(int(-(-body.retry_after // 1)))))
    if isinstance(error, faults.WrongMethodError):
        headers.append(("Allow", ", ".join((*error.allowed, "OPTIONS"))))
    if isinstance(error, faults.UnauthorizedError):
        headers.append(("WWW-Authenticate", "Bearer"))
    return Response(status=body.http_status, headers=tuple(headers), body=msgspec.json.encode(body))


def _named(route: Route[Any] | None) -> tuple[str, str]:
    return ("a", "request") if route is None else (route.method, route.path)


def told_error(error: Exception, route: Route[Any] | None, *, modern: bool) -> ErrorBody:
    """What an answer or the last event of a stream says of an error.

    What nobody expected is logged, and told to nobody else.
    """
    body = error_body(error, route, modern=modern)
    if body.code == _UNEXPECTED.code:
        _LOG.error("%s %s failed", *_named(route), exc_info=error)
    return body
