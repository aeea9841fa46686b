"""HTTP/1.1 on trio: what arrives as bytes becomes a `Request`, a handler's `Response` goes back.

`messages` has what handlers see, `failures` what can be wrong with a request, `parsing` and
`chunked` turn bytes into values without any I/O, `connection` serves one client, `listening`
accepts them and ends them all.
"""

from sandbox_runtime.server.http.failures import (
    BusyError,
    MalformedBodyError,
    PayloadTooLargeError,
    RequestError,
    RequestTimeoutError,
)
from sandbox_runtime.server.http.limits import HttpLimits
from sandbox_runtime.server.http.listening import open_tcp_listeners, open_unix_listener, serve
from sandbox_runtime.server.http.messages import (
    Handler,
    Headers,
    Peer,
    Request,
    Response,
    Write,
)

__all__ = [
    "BusyError",
    "Handler",
    "Headers",
    "HttpLimits",
    "MalformedBodyError",
    "PayloadTooLargeError",
    "Peer",
    "Request",
    "RequestError",
    "RequestTimeoutError",
    "Response",
    "Write",
    "open_tcp_listeners",
    "open_unix_listener",
    "serve",
]
