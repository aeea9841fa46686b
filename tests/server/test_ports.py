"""Ports over the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sandbox_runtime.server.app import AppSettings
from sandbox_runtime.server.hosting import HostSettings
from sandbox_runtime.server.previews import PreviewSettings
from server.conftest import NO_POOLS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from server.conftest import Client, Server

NUMBER = "Port is required and must be a number"
SETTINGS = AppSettings(
    host=HostSettings(pools=NO_POOLS),
    previews=PreviewSettings(domain="preview.test"),
)


@pytest.fixture(scope="module")
def web(server: Server) -> Iterator[int]:
    """A web server in the sandbox; nobody has exposed it."""
    api = server.client
    api.post("/api/write", {"path": "/workspace/www/x", "content": "page"})
    body = {"command": "cd www && exec python3 -m http.server 8419 --bind 127.0.0.1"}
    process = api.post("/api/process/start", body).json["processId"]
    events = api.all_events("/api/port-watch", {"port": 8419, "processId": process})
    assert [event["type"] for event in events] == ["watching", "ready"]
    yield 8419
    api.delete(f"/api/process/{process}")


def test_a_port_is_exposed_listed_reached_and_hidden(api: Client, web: int) -> None:
    assert api.get(f"/proxy/{web}/x").status == 404
    exposed = api.post("/api/expose-port", {"port": web, "name": "web"}).json
    assert (exposed["port"], exposed["name"], exposed["success"]) == (web, "web", True)
    listed = api.get("/api/exposed-ports").json
    assert [(one["port"], one["name"]) for one in listed["ports"]] == [(web, "web")]
    assert api.get(f"/proxy/{web}/x").body == b"page"
    host = exposed["url"].removeprefix("http://").rstrip("/")
    assert host.startswith(f"{web}-default-{exposed['token']}.preview.test")
    assert api.get("/x", Host=host).body == b"page"
    assert api.delete("/api/unexpose-port", {"port": web}).json["success"] is True
    assert api.get("/x", Host=host).status == 404
    assert api.get(f"/proxy/{web}/x").json["error"] == f"Port {web} is not exposed"


def test_d44_a_preview_needs_an_exposed_port_and_its_token(api: Client, web: int) -> None:
    exposed = api.post("/api/expose-port", {"port": web}).json
    for host in (f"{web}-default.preview.test", f"{web}-default-{'x' * 16}.preview.test"):
        assert api.get("/x", Host=host).status == 404
    assert "name" not in exposed
    api.delete("/api/unexpose-port", {"port": web})


def test_a_process_that_ends_before_is_told(api: Client) -> None:
    started = api.post("/api/process/start", {"command": "exit 3"}).json["processId"]
    events = api.all_events("/api/port-watch", {"port": 8420, "processId": started})
    assert events[-1] == {"type": "process_exited", "port": 8420, "exitCode": 3}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", "expose-port", {}, 400, NUMBER),
        ("POST", "expose-port", {"port": 0}, 400, NUMBER),
        ("POST", "expose-port", {"port": "80"}, 400, NUMBER),
        ("POST", "expose-port", {"port": 1.5}, 400, NUMBER),
        ("POST", "expose-port", {"port": 70000}, 400, "Port must be between 1 and 65535"),
        ("POST", "expose-port", {"port": -1}, 400, "Port must be between 1 and 65535"),
        ("POST", "expose-port", b"{", 400, "Failed to expose port"),
        ("DELETE", "unexpose-port", {}, 400, NUMBER),
        ("DELETE", "unexpose-port", {"port": 9999}, 404, "Port is not exposed"),
        ("POST", "port-watch", {"port": 0}, 400, "Failed to watch port"),
        ("POST", "port-watch", {"port": 80, "processId": "x"}, 404, "Process not found"),
    ],
)
def test_an_error_has_the_text_of_the_wire(
    api: Client, method: str, path: str, body: Any, status: int, error: str
) -> None:
    reply = api.send(method, f"/api/{path}", body)
    assert (reply.status, reply.json["error"]) == (status, error)
