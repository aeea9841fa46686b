"""The OpenAPI document, made from the endpoints and the messages: there is no other source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from sandbox_runtime.wire.errors import ErrorBody

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sandbox_runtime.server.routing import Route

_REFERENCES = "#/components/schemas/{name}"
_MEANINGS = {
    400: "The request cannot mean anything; `error` and `context` name the field",
    401: "The server's token is missing",
    403: "The operator has not allowed it",
    404: "There is nothing by that name",
    405: "The endpoint has other methods; `Allow` lists them",
    409: "It is there already",
    410: "It has ended",
    413: "It is larger than the limit",
    416: "The file has no such part",
    429: "There are as many as there may be",
    500: "It could not be done; `message` says why",
    501: "A program that it needs is missing in the sandbox",
    502: "What listens on the port does not answer",
    503: "Not now; `Retry-After` says when",
    507: "The sandbox is full",
}
_ALWAYS = (401, 403, 410, 503)
_WITH_BODY = (400, 413)
_INTRODUCTION = """\
The same paths stand below `/sandboxes/{id}`, where they are about that sandbox, and below `/v2`,
where file and git failures have the status 4xx and sessions are made by naming them."""


def build_document(routes: Sequence[Route[Any]], version: str) -> dict[str, Any]:
    """The document as JSON would have it.

    Args:
        routes: Every endpoint.
        version: Of the server.
    """
    kinds: list[Any] = [ErrorBody]
    for route in routes:
        kinds += [kind for kind in (route.request, route.reply, route.events) if kind is not None]
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REFERENCES)
    by_kind = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, Any] = {}
    for route in routes:
        method = "get" if route.method == "*" else route.method.lower()
        paths.setdefault(route.path, {})[method] = _operation(route, by_kind)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "sandbox-runtime",
            "version": version,
            "description": _INTRODUCTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(route: Route[Any], schemas: dict[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{route.handle.__module__.rpartition('.')[2]}_{route.handle.__name__}",
        "tags": [route.handle.__module__.rpartition(".")[2]],
        "summary": route.summary,
        "responses": _responses(route, schemas),
    }
    parameters = [
        {
            "name": segment[1:-1],
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
        }
        for segment in route.path.split("/")
        if segment.startswith("{")
    ]
    parameters += [
        {"name": name, "in": "query", "description": meaning, "schema": {"type": "string"}}
        for name, meaning in route.query.items()
    ]
    if parameters:
        operation["parameters"] = parameters
    if route.request is not None:
        operation["requestBody"] = {
            "required": not route.empty_body,
            "content": {"application/json": {"schema": schemas[route.request]}},
        }
    elif route.raw_body:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/octet-stream": {"schema": {}}},
        }
    return operation


def _event(schema: Any) -> dict[str, Any]:
    """An event of a stream, which carries a message as JSON text."""
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    return {"type": "object", "properties": {"data": data}}


def _responses(route: Route[Any], schemas: dict[Any, Any]) -> dict[str, Any]:
    content: dict[str, Any]
    if route.events is not None:
        content = {"text/event-stream": {"schema": _event(schemas[route.events])}}
    elif route.reply is not None:
        content = {"application/json": {"schema": schemas[route.reply]}}
    else:
        content = {route.content_type or "application/octet-stream": {}}
    responses: dict[str, Any] = {
        str(route.success): {"description": route.summary, "content": content}
    }
    statuses = {*route.statuses, *_ALWAYS}
    if route.request is not None or route.raw_body:
        statuses |= set(_WITH_BODY)
    for status in sorted(statuses):
        error = {"application/json": {"schema": schemas[ErrorBody]}}
        responses[str(status)] = {"description": _MEANINGS[status], "content": error}
    return responses
