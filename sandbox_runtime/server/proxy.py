"""The reverse proxy: `/proxy/{port}/…` and previews, into the sandbox's network only.

A client names a port, and nothing else about where it goes: the connection is made inside the
sandbox, to a port that was exposed, never to the control server.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec
import trio

from sandbox_runtime.errors import InvalidArgumentError, PortUnreachableError, SandboxError
from sandbox_runtime.server.http import RequestError, Response
from sandbox_runtime.server.previews import PreviewSettings, find_preview, parse_host
from sandbox_runtime.server.tokens import bears
from sandbox_runtime.server.upstream import Upstream, UpstreamError, write_head

if TYPE_CHECKING:
    from collections.abc import Callable

    from sandbox_runtime.sandbox import Sandbox
    from sandbox_runtime.server.http import Request

_LOG = logging.getLogger(__name__)
_CONNECT_S = 10.0
_PREFIX = b"/proxy"
_FORWARDED = frozenset(
    (b"forwarded", b"x-forwarded-host", b"x-forwarded-proto", b"x-original-url",
     b"x-sandbox-name")
)  # fmt: skip


def _error(status: int, error: str, message: str | None = None) -> Response:
    body = {"error": error} if message is None else {"error": error, "message": message}
    return Response(
        status=status,
        headers=(("Content-Type", "application/json"),),
        body=msgspec.json.encode(body),
    )


def parse_path(raw_path: bytes) -> tuple[int, bytes] | Response:
    """The port and the rest of a path below `/proxy`, or the answer that says what is wrong."""
    parts = raw_path.split(b"/", 3)
    if len(parts) < 3 or parts[0] or b"/" + parts[1] != _PREFIX:
        return _error(400, "Invalid proxy path")
    digits = parts[2]
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and 0 < int(digits) < 65536):
        return _error(400, "Invalid port in proxy path")
    return int(digits), b"/" + (parts[3] if len(parts) == 4 else b"")


async def proxy(
    request: Request,
    sandbox: Sandbox,
    *,
    raw_path: bytes | None = None,
    sandbox_name: str = "default",
    scheme: str = "http",
    api_token: str | None = None,
) -> Response:
    """Answers a request for `/proxy/{port}/{rest}?{query}` with what the program answers.

    Args:
        request: As it came.
        sandbox: Into which it goes.
        raw_path: Its path from `/proxy` on, if something stands before that.
        sandbox_name: What the program finds in `X-Sandbox-Name`.
        scheme: By which clients reach this server.
        api_token: Of this server; it is never passed on to the program.
    """
    parsed = parse_path(request.raw_path if raw_path is None else raw_path)
    if isinstance(parsed, Response):
        return parsed
    port, path = parsed
    if sandbox.ports.get(port) is None:
        return _error(404, f"Port {port} is not exposed")
    return await _forward(
        request,
        sandbox,
        port,
        path,
        sandbox_name=sandbox_name,
        scheme=scheme,
        api_token=api_token,
    )


async def _forward(
    request: Request,
    sandbox: Sandbox,
    port: int,
    path: bytes,
    *,
    sandbox_name: str,
    scheme: str,
    api_token: str | None = None,
    host: bytes | None = None,
) -> Response:
    target = path + (b"?" + request.query.encode("latin-1") if b"?" in request.target else b"")
    own_host = (request.headers.get("host") or "").encode("latin-1")
    original = scheme.encode() + b"://" + own_host + request.target
    replaced = [
        (b"X-Forwarded-Host", own_host),
        (b"X-Forwarded-Proto", scheme.encode()),
        (b"X-Original-URL", original),
        (b"X-Sandbox-Name", sandbox_name.encode("latin-1", "replace")),
    ]
    if host is not None:
        replaced.insert(0, (b"Host", host))
    head, is_chunked = write_head(
        request, target, replaced=replaced, dropped=_secrets(request, api_token)
    )
    try:
        with trio.fail_after(_CONNECT_S):
            stream = await sandbox.connect(port)
        return await Upstream(stream, request.method).ask(head, request, is_chunked=is_chunked)
    except (PortUnreachableError, UpstreamError, InvalidArgumentError, trio.TooSlowError) as error:
        return _error(502, f"Service on port {port} is not responding", str(error))
    except RequestError:
        raise  # the client's own fault, which the server answers
    except (SandboxError, OSError) as error:
        _LOG.warning("proxy to port %d: %s", port, error)
        return _error(500, "Failed to proxy request", str(error))


def _secrets(request: Request, api_token: str | None) -> frozenset[bytes]:
    """The fields that hold this server's own token or what only it may say."""
    if api_token is None:
        return _FORWARDED
    own = any(bears(given, api_token) for given in request.headers.get_all("authorization"))
    return _FORWARDED | {b"authorization"} if own else _FORWARDED


async def route_preview(
    request: Request,
    find_sandbox: Callable[[str], Sandbox | None],
    settings: PreviewSettings | None,
) -> Response | None:
    """Answers a request whose `Host` names a port of a sandbox; None if it is for the API.

    The program sees the request as it came, but for `Host`, which is `localhost:{port}`: servers
    for development refuse names they do not know. The name that was asked for is in
    `X-Forwarded-Host`.

    Args:
        request: As it came.
        find_sandbox: Gives the sandbox with an id.
        settings: The domain of previews; None where there are none.
    """
    if settings is None:
        return None
    label = parse_host(request.headers.get("host"), settings.domain)
    if label is None:
        return None
    found = find_preview(label, find_sandbox, require_token=settings.require_token)
    if found is None:
        return _error(404, "No such preview")
    return await _forward(
        request,
        found.sandbox,
        found.port,
        request.raw_path,
        sandbox_name=found.sandbox_id,
        scheme=settings.scheme,
        host=b"localhost:%d" % found.port,
    )
