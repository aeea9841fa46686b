"""What can be wrong with a request, besides what the domain itself refuses.

`replies.TABLE` says which answer each of them becomes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sandbox_runtime.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Sequence


_SHOWN = 200
"""How much of a path an error repeats, in characters."""


class RequestError(SandboxError):
    """Base of what a request asks for and cannot have.

    Attributes:
        context: What it is about, for programs.
    """

    def __init__(self, message: str, *, remedy: str = "", **context: Any) -> None:
        super().__init__(message, remedy=remedy)
        self.message = message
        self.context = context


class BodyError(RequestError):
    """The body is no JSON."""

    code = "invalid_json"


class FieldError(RequestError):
    """A field is missing, has the wrong type, or a value that means nothing.

    Attributes:
        field: Its name on the wire; empty if the body as a whole is wrong.
        said: Whether the message is the wire's own text for this.
    """

    code = "invalid_field"

    def __init__(self, field: str, message: str, *, said: bool = False) -> None:
        super().__init__(message, validationErrors=[{"field": field, "message": message}])
        self.field = field
        self.said = said


class PathRefusedError(RequestError):
    """A system path, which the 0.3 wire refuses."""

    code = "path_refused"

    def __init__(self, path: str) -> None:
        super().__init__("Dangerous path not allowed", path=path)


class UnauthorizedError(RequestError):
    """The bearer token is missing or wrong."""

    code = "unauthorized"


class ForbiddenError(RequestError):
    """The operator has not allowed this."""

    code = "forbidden"


class UnknownPathError(RequestError):
    """There is no such endpoint."""

    code = "unknown_path"

    def __init__(self, path: str, known: str, names: Sequence[str]) -> None:
        """Names what there is.

        Args:
            path: As it was asked for.
            known: How much of it leads to endpoints.
            names: How paths go on from there.
        """
        shown = path if len(path) <= _SHOWN else f"{path[:_SHOWN]}…"
        below = f"Below {known}/: {', '.join(names)}. " if names else ""
        super().__init__(
            f"There is no endpoint {shown!r}",
            remedy=f"{below}GET /openapi.json describes all",
            path=shown,
            known=known,
            names=list(names),
        )


class WrongMethodError(RequestError):
    """The endpoint has other methods.

    Attributes:
        allowed: Which.
    """

    code = "wrong_method"

    def __init__(self, method: str, allowed: Sequence[str]) -> None:
        remedy = f"Use {' or '.join(allowed)}"
        super().__init__(f"{method} is not allowed here", remedy=remedy, allowed=list(allowed))
        self.allowed = tuple(allowed)


class SandboxNotFoundError(RequestError):
    """No sandbox has that id."""

    code = "sandbox_not_found"

    def __init__(self, sandbox_id: str) -> None:
        super().__init__(f"Sandbox '{sandbox_id}' not found", sandboxId=sandbox_id)


class SandboxGoneError(RequestError):
    """The sandbox has died; what was in it is lost."""

    code = "sandbox_lost"

    def __init__(self, sandbox_id: str) -> None:
        remedy = "Delete it and create another"
        super().__init__(f"Sandbox '{sandbox_id}' has died", remedy=remedy, sandboxId=sandbox_id)


class SandboxExistsError(RequestError):
    """A sandbox with that id is there already."""

    code = "sandbox_exists"

    def __init__(self, sandbox_id: str) -> None:
        super().__init__(f"Sandbox '{sandbox_id}' exists already", sandboxId=sandbox_id)


class TooManyError(RequestError):
    """The server holds as many of these as it may."""

    code = "too_many"
    retryable = True


class SessionNotFoundError(RequestError):
    """No session has that id.

    Attributes:
        available: Which there are.
    """

    code = "session_not_found"

    def __init__(self, session_id: str, available: Sequence[str]) -> None:
        super().__init__(f"Session '{session_id}' not found", sessionId=session_id)
        self.available = list(available)


class SessionEndedError(RequestError):
    """The command ended the session's shell; the next command gets a fresh one."""

    code = "session_ended"


class CommandTimeoutError(RequestError):
    """The command's time was up; its whole process tree is gone."""

    code = "command_timeout"


class CommandKilledError(RequestError):
    """The session was deleted while the command ran."""

    code = "command_killed"


class PortNotExposedError(RequestError):
    """The port is not exposed."""

    code = "port_not_exposed"


class InvalidPortError(RequestError):
    """The port cannot be used."""

    code = "invalid_port"


class PortInUseError(RequestError):
    """Something else listens on that port of this machine."""

    code = "port_in_use"


class RangeError(RequestError):
    """The file has no such part."""

    code = "range"

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"The file has {size_bytes} bytes", sizeBytes=size_bytes)
