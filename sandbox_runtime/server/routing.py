"""Endpoints as values: what each takes, gives and may answer.

The dispatcher and the OpenAPI document both read the same `Route`s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec

from sandbox_runtime.server.faults import BodyError
from sandbox_runtime.server.misfits import misfit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from sandbox_runtime.server.hosting import Host, HostedSandbox
    from sandbox_runtime.server.http import Request, Response
    from sandbox_runtime.server.previews import PreviewSettings
    from sandbox_runtime.server.pulse import Pulse

    Answer = Response | msgspec.Struct

BodyT = TypeVar("BodyT")

Params = dict[str, str]


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One request, with what it is about.

    Attributes:
        request: As it came.
        host: What holds all sandboxes.
        pulse: What looks after all streams.
        modern: Whether the client is one of 0.12, see `app`.
        params: The variable segments of its path, decoded.
        query: Its query; the first value of each name.
        route: The endpoint.
        hosted: The sandbox it is about, if it is about one.
        log_commands: Whether commands may stand in the log.
        previews: How previews are reached, if there are any.
    """

    request: Request
    host: Host
    pulse: Pulse
    modern: bool
    params: Mapping[str, str]
    query: Mapping[str, str]
    route: Route[Any]
    hosted: HostedSandbox | None = None
    log_commands: bool = False
    previews: PreviewSettings | None = None

    @property
    def sandbox(self) -> HostedSandbox:
        """The sandbox it is about."""
        assert self.hosted is not None, "the route asks for no sandbox"
        return self.hosted


class Route(msgspec.Struct, Generic[BodyT], frozen=True, kw_only=True):
    """One endpoint.

    Attributes:
        method: Of HTTP; `*` is any.
        path: With `{name}` for variable segments.
        handle: What answers it.
        summary: One line for the document.
        request: The body it takes, or None.
        reply: The body of its 200 answer, or None if it is described by `content_type` alone.
        events: The events of its stream, if it is one.
        content_type: Of its 200 answer, unless that is JSON or a stream of events.
        failure: The wire's general text for its failures.
        required: The wire's own text, by field, for one that is missing or wrong.
        query: Names of its query, with what they mean.
        body_limit_bytes: How much body it takes; None is the server's limit.
        empty_body: Whether it may have none, which is one without fields.
        raw_body: Whether it reads the body itself.
        needs_sandbox: Whether it is about a sandbox.
        success: Status of its answer.
        statuses: Which errors it may answer, besides those that all do.
        own: Whether it is ours, so that it exists for no other client.
    """

    method: str
    path: str
    handle: Callable[[Call, BodyT], Answer | Awaitable[Answer]]
    summary: str
    request: type[BodyT] | None = None
    reply: type[msgspec.Struct] | None = None
    events: Any = None
    content_type: str | None = None
    failure: str = "Internal server error"
    required: Mapping[str, str] = msgspec.field(default_factory=dict)
    query: Mapping[str, str] = msgspec.field(default_factory=dict)
    body_limit_bytes: int | None = None
    empty_body: bool = False
    raw_body: bool = False
    needs_sandbox: bool = True
    success: int = 200
    statuses: Sequence[int] = ()
    own: bool = False


class _Node:
    """One segment of paths, as a tree."""

    def __init__(self) -> None:
        self.exact: dict[str, _Node] = {}
        self.variable: _Node | None = None
        self.name = ""
        self.methods: dict[str, Route[Any]] = {}


class RouteTable:
    """Finds the endpoint of a path. Exact segments win over variable ones.

    Attributes:
        routes: All endpoints, in the order in which they were added.
    """

    def __init__(self) -> None:
        self.routes: list[Route[Any]] = []
        self._root = _Node()

    def add(self, *routes: Route[Any]) -> None:
        """Adds endpoints, whose paths are no other's."""
        self.routes += routes
        for route in routes:
            node = self._root
            for segment in _segments(route.path):
                if segment.startswith("{"):
                    node.variable = node.variable or _Node()
                    node = node.variable
                    node.name = segment[1:-1]
                else:
                    node = node.exact.setdefault(segment, _Node())
            assert route.method not in node.methods, f"{route.path} stands twice"
            node.methods[route.method] = route

    def find(self, raw_path: str) -> tuple[Mapping[str, Route[Any]], Params]:
        """The endpoint's methods, and the variable segments.

        Args:
            raw_path: As it came, percent-encoded, so that an encoded `/` is part of a segment.

        Returns:
            No methods if there is no such endpoint.
        """
        node = self._root
        values: Params = {}
        segments = _segments(raw_path)
        if len(segments) > 1 and segments[-1] == "" and node.exact:
            head = self._walk(segments[:-1])
            if head is not None and head[1]:  # only paths with a variable end may have a slash more
                return head[0].methods, head[1]
        found = self._walk(segments)
        if found is None:
            return {}, values
        return found[0].methods, found[1]

    def leads_to(self, raw_path: str) -> tuple[str, list[str]]:
        """How much of a path there is, and the segments by which endpoints go on from there."""
        node, known = self._root, ""
        for segment in _segments(raw_path):
            variable = node.variable
            if segment in node.exact:
                node, known = node.exact[segment], f"{known}/{segment}"
            elif variable is not None and segment:
                node, known = variable, f"{known}/{{{variable.name}}}"
            else:
                break
        names = sorted(filter(None, node.exact))
        return known, names + ([f"{{{node.variable.name}}}"] if node.variable is not None else [])

    def _walk(self, segments: Sequence[str]) -> tuple[_Node, Params] | None:
        node = self._root
        values: Params = {}
        for segment in segments:
            if (exact := node.exact.get(segment)) is not None:
                node = exact
            elif node.variable is not None and segment:
                node = node.variable
                values[node.name] = decode_segment(segment)
            else:
                return None
        return node, values


def _segments(path: str) -> list[str]:
    return path.split("/")[1:]


def decode_segment(segment: str) -> str:
    """A segment of a path without its percent-encoding; what is no UTF-8 becomes U+FFFD."""
    if "%" not in segment:
        return segment
    return unquote_to_bytes(segment).decode(errors="replace")


_DECODERS: dict[Any, msgspec.json.Decoder[Any]] = {}


def decode_body(body: bytes, kind: type[BodyT]) -> BodyT:
    """A body as what it shall be.

    Raises:
        BodyError: It is no JSON.
        FieldError: It is not of that shape; it names the field.
    """
    decoder = _DECODERS.get(kind)
    if decoder is None:
        decoder = _DECODERS[kind] = msgspec.json.Decoder(kind)
    try:
        decoded: BodyT = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise misfit(error, kind) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BodyError(f"Failed to parse JSON: {error}") from None
    except RecursionError:
        raise BodyError("Failed to parse JSON: it is nested too deeply") from None
    return decoded
