"""What can be wrong with a request before any handler understands it."""

from __future__ import annotations

from typing import ClassVar

from sandbox_runtime.errors import SandboxError


class RequestError(SandboxError):
    """The client's fault: its request cannot be served. The connection ends after the answer.

    Attributes:
        status: The answer.
    """

    code = "bad_request"
    status: ClassVar[int] = 400


class MalformedBodyError(RequestError):
    """The body of a request breaks the rules of its framing."""

    code = "malformed_body"


class PayloadTooLargeError(RequestError):
    """The body of a request is larger than what reads it takes.

    Attributes:
        limit_bytes: What would have been taken.
    """

    code = "payload_too_large"
    status = 413

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body of the request is larger than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


class BusyError(RequestError):
    """There is no room for this now: of memory, unless it says of what."""

    code = "busy"
    status = 503

    def __init__(
        self,
        message: str = "the server's memory for requests is in use",
        *,
        remedy: str = "Send it again in a moment",
    ) -> None:
        super().__init__(message, remedy=remedy)


class RequestTimeoutError(RequestError):
    """The client took too long to send its request."""

    code = "request_timeout"
    status = 408


class ExpectationError(RequestError):
    """The client expects something other than `100-continue`."""

    code = "expectation_failed"
    status = 417


class HeadTooLargeError(RequestError):
    """The request line and the header fields are larger, or more, than the limit."""

    code = "head_too_large"
    status = 431


class UnsupportedError(RequestError):
    """A method or transfer coding that no handler here could serve."""

    code = "not_implemented"
    status = 501


class UnsupportedVersionError(RequestError):
    """Another version of HTTP than 1.0 and 1.1."""

    code = "http_version_not_supported"
    status = 505
