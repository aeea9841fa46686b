"""What is wrong with a request is said in the words of both generations of clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from sandbox_runtime.server.app import AppSettings

if TYPE_CHECKING:
    from server.conftest import Client

NO_ID = "Session ID is required"
NO_COMMAND = "Session ID and command are required"
MISSING = {"id": "missing", "command": "true"}

ROWS: list[tuple[str, Any, int, str]] = [
    ("/api/session/create", {}, 400, NO_ID),
    ("/api/session/create", {"id": ""}, 400, NO_ID),
    ("/api/session/create", {"id": None}, 400, NO_ID),
    ("/api/session/create", {"id": "a", "cwd": "foo"}, 400, "Failed to create session"),
    ("/api/session/create", {"id": "a", "cwd": "/no/such"}, 400, "Failed to create session"),
    ("/api/session/create", {"id": "a", "env": {"A": 1}}, 400, "Failed to create session"),
    ("/api/session/create", b"{", 400, "Failed to create session"),
    ("/api/session/create", b"\xff\xfe", 400, "Failed to create session"),
    ("/api/session/create", b"[" * 100_000, 400, "Failed to create session"),
    ("/api/session/delete", {}, 400, NO_ID),
    ("/api/session/delete", {"sessionId": "missing"}, 404, "Session 'missing' not found"),
    ("/api/execute", {"command": "true"}, 400, NO_COMMAND),
    ("/api/execute", {"id": "a"}, 400, NO_COMMAND),
    ("/api/execute", {"id": "a", "command": ""}, 400, NO_COMMAND),
    ("/api/execute", {"id": "a", "command": 5}, 400, NO_COMMAND),
    ("/api/execute", [], 400, "Command execution failed"),
    ("/api/execute", b"no json", 400, "Command execution failed"),
    ("/api/execute", MISSING, 404, "Session 'missing' not found"),
    ("/api/execute/stream", {"id": "a"}, 400, NO_COMMAND),
    ("/api/execute/stream", b"no json", 400, "Stream execution failed"),
    ("/api/execute/stream", MISSING, 404, "Session 'missing' not found"),
    ("/api/contexts", {"language": 5}, 400, "Expected `str`, got `int` - at `$.language`"),
    ("/api/execute/code", {"code": "1"}, 404, "Context undefined not found"),
]


@pytest.mark.parametrize(("path", "body", "status", "error"), ROWS)
def test_an_error_has_the_text_of_the_wire(
    api: Client, path: str, body: Any, status: int, error: str
) -> None:
    reply = api.post(path, body)
    assert (reply.status, reply.json["error"]) == (status, error)


def test_an_error_has_what_newer_clients_read(api: Client) -> None:
    error = api.post("/api/execute", MISSING).json
    assert error["message"] == "Session 'missing' not found"
    assert error["code"] == "SESSION_NOT_FOUND"
    assert error["context"] == {"sessionId": "missing"}
    assert error["httpStatus"] == 404
    assert error["timestamp"].endswith("Z")
    assert isinstance(error["availableSessions"], list)


def test_the_message_names_the_field_and_what_is_wrong(api: Client) -> None:
    error = api.post("/api/execute", {"id": "a", "command": 5}).json
    assert error["message"] == "Expected `str`, got `int` - at `$.command`"
    assert error["context"]["validationErrors"][0]["field"] == "command"


def test_unknown_fields_are_ignored_on_the_wire_and_refused_on_our_own_routes(api: Client) -> None:
    assert api.post("/api/session/create", {"id": "extra", "colour": "red"}).status == 200
    reply = api.post("/sandboxes", {"colour": "red"})
    assert reply.status == 400
    assert "colour" in reply.json["message"]


@pytest.mark.parametrize("path", ["/api/ping/", "//api/ping", "/API/ping", "/api", "/x", "/api/"])
def test_an_unknown_path_is_not_found(api: Client, path: str) -> None:
    """In the shape of every error, with the wire's text."""
    reply = api.get(path)
    assert (reply.status, reply.json["error"], reply.json["httpStatus"]) == (404, "Not Found", 404)
    assert (reply.json["code"], reply.json["context"]["path"]) == ("ENDPOINT_NOT_FOUND", path)
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize(
    ("path", "known", "names"),
    [
        ("/api/contexts/x/branch", "/api/contexts/{context_id}", ["fork", "interrupt", "restart"]),
        ("/api/process/x/log", "/api/process/{process_id}", ["logs", "stream"]),
        ("/sandboxes/default/api/process/x/y/z", "/api/process/{process_id}", ["logs", "stream"]),
        ("/wrong", "", ["api", "openapi.json", "sandboxes"]),
    ],
)
def test_an_unknown_path_is_told_what_there_is(
    api: Client, path: str, known: str, names: list[str]
) -> None:
    told = api.post(path, {}).json
    assert told["context"]["known"] == known
    assert set(names) <= set(told["context"]["names"])
    assert f"Below {known}/: " in told["suggestion"]
    assert "GET /openapi.json" in told["suggestion"]


def test_a_very_long_path_is_not_repeated(api: Client) -> None:
    assert len(api.get("/" + "x" * 5000).body) < 1500


def test_d47_a_wrong_method_says_which_ones_are_right(api: Client) -> None:
    """In the shape of every error, and in the field that is meant for it."""
    reply = api.get("/api/execute")
    assert (reply.status, reply.json["error"]) == (405, "Method Not Allowed")
    told = reply.json["message"], reply.json["suggestion"]
    assert told == ("GET is not allowed here", "Use POST")
    assert reply.headers["allow"] == "POST, OPTIONS"
    assert api.post("/api/ping", {}).headers["allow"] == "GET, OPTIONS"


def test_options_answers_every_path_with_what_browsers_ask_for(api: Client) -> None:
    for path in ("/api/execute", "/no/such"):
        reply = api.send("OPTIONS", path)
        assert (reply.status, reply.body) == (200, b"")
        assert reply.headers["access-control-allow-methods"] == "GET, POST, PUT, DELETE, OPTIONS"
        assert reply.headers["access-control-allow-headers"] == "Content-Type, Authorization"


def test_d59_every_answer_may_be_read_by_browsers(api: Client) -> None:
    api.session("cors")
    for reply in (
        api.get("/"),
        api.get("/api/ping"),
        api.post("/api/execute", MISSING),
        api.post("/api/execute/code", {"code": "1"}),
        api.post("/api/execute/stream", {"id": "cors", "command": "true"}),
        api.get("/api/execute"),
    ):
        assert reply.headers["access-control-allow-origin"] == "*"


def test_the_root_greets_whatever_the_method(api: Client) -> None:
    for method in ("GET", "POST", "DELETE"):
        reply = api.send(method, "/")
        assert (reply.status, reply.body.decode()) == (200, "Hello from Bun server! 🚀")


def test_head_answers_as_get_without_the_body(api: Client) -> None:
    reply = api.send("HEAD", "/api/ping")
    assert (reply.status, reply.body) == (200, b"")


def test_a_ping_is_read_by_both_generations(api: Client, modern: Client) -> None:
    ping = api.get("/api/ping").json
    assert (ping["message"], ping["status"], ping["progress"]) == ("pong", "ready", 100)
    assert modern.get("/api/ping").json["status"] == "healthy"
    assert api.get("/api/version").json["success"] is True


@pytest.mark.parametrize("name", ["a/b", "..", "../../etc", "with space", "ü", "x" * 1024, "a;b"])
def test_a_session_may_have_any_name(api: Client, name: str) -> None:
    api.session(name)
    assert api.run(name, "echo here")["stdout"] == "here\n"
    assert name in api.get("/api/session/list").json["sessions"]
    assert api.post("/api/session/delete", {"sessionId": name}).status == 200


def test_a_name_that_is_too_long_is_refused(api: Client) -> None:
    reply = api.post("/api/session/create", {"id": "x" * 10_000})
    assert (reply.status, reply.json["error"]) == (400, "Failed to create session")
    assert reply.json["message"] == "session_id: must have 1 to 1024 characters"
    assert api.get("/api/process/" + "x" * 10_000).status == 404


def test_a_body_beyond_the_limit_is_refused(api: Client) -> None:
    reply = api.post("/api/execute", b"x" * (2 * 1024 * 1024))
    assert (reply.status, reply.json["code"]) == (413, "FILE_TOO_LARGE")


SETTINGS = AppSettings(body_limit_bytes=1024 * 1024)


def test_an_encoding_that_takes_for_ever_is_refused(api: Client) -> None:
    body = {"command": "true", "encoding": "punycode"}
    assert api.post("/api/process/start", body).status == 400
