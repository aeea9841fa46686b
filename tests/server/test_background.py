"""Background processes over the wire."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from server.conftest import Client


def start(api: Client, command: str, **fields: Any) -> Any:
    reply = api.post("/api/process/start", {"command": command, **fields})
    assert reply.status == 200, reply
    return reply.json


def follow(api: Client, process_id: str) -> list[Any]:
    with api.events("GET", f"/api/process/{quote(process_id, safe='')}/stream") as events:
        return list(events)


def text(events: list[Any], kind: str = "stdout") -> str:
    return "".join(event["data"] for event in events if event["type"] == kind)


def output(api: Client, command: str, **fields: Any) -> str:
    return text(follow(api, start(api, command, **fields)["processId"]))


def test_a_process_carries_the_names_of_both_generations(api: Client) -> None:
    made = start(api, "sleep 1000")
    info = made["process"]
    assert made["success"] is True
    assert made["processId"] == info["id"]
    assert made["pid"] == info["pid"] > 0
    assert (info["status"], info["endTime"], info["exitCode"]) == ("running", None, None)
    assert info["sessionId"] == "default"
    assert api.get(f"/api/process/{info['id']}").json["process"] == info
    assert info in api.get("/api/process/list").json["processes"]
    killed = api.delete(f"/api/process/{info['id']}").json
    assert (killed["success"], killed["processId"]) == (True, info["id"])
    assert killed["message"] == f"Process {info['id']} killed"
    assert api.get(f"/api/process/{info['id']}").json["process"]["status"] == "killed"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("cd /tmp && pwd", "/tmp\n"),
        ("A=1 bash -c 'echo $A'", "1\n"),
        ("for i in 1 2; do echo $i; done", "1\n2\n"),
        ("echo a; echo b", "a\nb\n"),
        ("echo 'it''s' | tr a-z A-Z", "ITS\n"),
    ],
)
def test_d06_a_process_may_be_any_shell_text(api: Client, command: str, expected: str) -> None:
    assert output(api, command) == expected


def test_d61_the_options_of_both_generations_count(api: Client) -> None:
    options = {"env": {"A": "1"}, "cwd": "/tmp", "processId": "mine/..", "timeout": 5000}
    assert output(api, "pwd; echo $A", options=options) == "/tmp\n1\n"
    assert api.get("/api/process/mine%2F..").json["process"]["id"] == "mine/.."
    flat = output(api, "pwd; echo $A", env={"A": "2"}, cwd="/tmp", processId="flat")
    assert flat == "/tmp\n2\n"
    ended = follow(api, start(api, "sleep 1000", options={"timeout": 50})["processId"])
    assert ended[-2]["status"] == "killed"
    latin = start(api, r"printf '\xe9'", options={"encoding": "latin-1"})
    assert text(follow(api, latin["processId"])) == "é"


def test_d61_a_process_that_cleans_up_is_forgotten_when_it_has_ended(api: Client) -> None:
    api.session("opens")
    api.run("opens", "mkfifo /tmp/tidy")
    command = "read -r x < /tmp/tidy"
    made = start(api, command, options={"autoCleanup": True, "processId": "tidy"})
    with api.events("GET", "/api/process/tidy/stream") as events:
        assert next(events)["type"] == "process_info"
        api.run("opens", "echo > /tmp/tidy")
        assert list(events)[-1]["type"] == "exit"
    assert made["processId"] not in [
        one["id"] for one in api.get("/api/process/list").json["processes"]
    ]


def test_a_stream_tells_what_was_what_comes_and_how_it_ended(api: Client) -> None:
    api.session("helper")
    api.run("helper", "mkfifo /tmp/go")
    made = start(api, "echo was; read -r x < /tmp/go; echo $x; exit 7")
    with api.events("GET", f"/api/process/{made['processId']}/stream") as events:
        assert next(events)["type"] == "process_info"
        assert next(events)["data"] == "was\n"
        api.run("helper", "echo comes > /tmp/go")
        assert next(events)["data"] == "comes\n"
        complete, ended = next(events), next(events)
        assert next(events, None) is None
    assert (complete["type"], complete["status"], complete["exitCode"]) == ("complete", "failed", 7)
    assert (ended["type"], ended["exitCode"]) == ("exit", 7)


def test_a_stream_breaks_off_when_its_time_is_up(api: Client) -> None:
    """With what was written until then; the process goes on."""
    made = start(api, "echo was; sleep 1000")["processId"]
    with api.events("GET", f"/api/process/{made}/stream?timeoutMs=50") as events:
        *_, was, last = events
    assert was["data"] == "was\n"
    assert (last["type"], last["reason"], last["error"]) == (
        "error",
        "deadline",
        "the process has not ended in 0.05 s",
    )
    assert api.get(f"/api/process/{made}").json["process"]["status"] == "running"
    for given in ("0", "-1", "x", "nan", "inf", "1e300"):
        reply = api.get(f"/api/process/{made}/stream?timeoutMs={given}")
        assert (reply.status, "timeoutMs" in str(reply.json["context"])) == (400, True)


def test_d23_logs_are_whole_whenever_they_are_read(api: Client) -> None:
    made = start(api, "seq 1 200000; echo end >&2")["processId"]
    api.get(f"/api/process/{made}/logs")
    events = follow(api, made)
    expected = "".join(f"{number}\n" for number in range(1, 200_001))
    assert text(events) == expected
    logs = api.get(f"/api/process/{made}/logs").json
    assert (logs["stdout"], logs["stderr"], logs["truncated"]) == (expected, "end\n", False)
    rest = api.get(f"/api/process/{made}/logs?since={logs['position'] - 4}").json
    assert len(rest["stdout"] + rest["stderr"]) == 4


def test_d24_killing_ends_the_whole_tree_at_once(api: Client) -> None:
    made = start(api, "(trap '' TERM; echo up; sleep 1000) & setsid sleep 1000 & wait")
    with api.events("GET", f"/api/process/{made['processId']}/stream") as events:
        assert next(events)["type"] == "process_info"
        assert next(events)["data"] == "up\n"
        assert api.delete(f"/api/process/{made['processId']}").status == 200
        assert [event["type"] for event in events] == ["complete", "exit"]
    again = api.delete(f"/api/process/{made['processId']}").json
    assert again["message"] == f"Process {made['processId']} had ended before"


def test_d24_killing_all_counts_those_that_ran_and_ends_them_together(api: Client) -> None:
    api.delete("/api/process/kill-all")
    follow(api, start(api, "true")["processId"])
    for _ in range(8):
        start(api, "sleep 1000")
    began = time.monotonic()
    killed = api.delete("/api/process/kill-all").json
    assert (killed["killedCount"], killed["message"]) == (8, "Killed 8 processes")
    assert time.monotonic() - began < 4.2  # what the original takes
    assert api.delete("/api/process/kill-all").json["killedCount"] == 0


def test_d25_a_busy_session_does_not_keep_logs_waiting(api: Client) -> None:
    api.session("busy")
    made = start(api, "echo there; sleep 1000", sessionId="busy")["processId"]
    body = {"id": "busy", "command": "sleep 1000"}
    with api.events("POST", "/api/execute/stream", body) as running:
        assert next(running)["type"] == "start"
        with api.events("GET", f"/api/process/{made}/stream") as events:
            assert next(events)["type"] == "process_info"
            assert next(events)["data"] == "there\n"
        assert api.get("/api/process/list?session=busy").json["count"] == 1
        api.delete(f"/api/process/{made}")


def test_a_process_starts_where_its_session_is(api: Client) -> None:
    api.session("moved", env={"A": "1"})
    api.run("moved", "cd /tmp")
    assert output(api, "pwd; echo $A", sessionId="moved") == "/tmp\n1\n"


def test_a_signal_may_be_chosen(api: Client) -> None:
    made = start(api, "trap 'echo caught; exit 3' USR1; echo up; while :; do sleep 0.01; done")
    with api.events("GET", f"/api/process/{made['processId']}/stream") as events:
        next(events)
        next(events)
        assert api.delete(f"/api/process/{made['processId']}?signal=USR1").status == 200
        rest = list(events)
    assert text(rest) == "caught\n"
    assert rest[-1]["exitCode"] == 3


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", "start", {}, 400, "Command is required and must be a string"),
        ("POST", "start", {"command": 5}, 400, "Command is required and must be a string"),
        ("POST", "start", {"command": ""}, 400, "Command is required and must be a string"),
        ("POST", "start", b"{", 400, "Failed to start process"),
        ("POST", "start", {"command": "true", "sessionId": "x"}, 404, "Session 'x' not found"),
        ("POST", "start", {"command": "true", "cwd": "foo"}, 400, "Failed to start process"),
        ("POST", "start", {"command": "true", "cwd": "/no"}, 400, "Failed to start process"),
        ("POST", "start", {"command": "true", "encoding": "hex"}, 400, "Failed to start process"),
        ("GET", "list?session=x", None, 404, "Session 'x' not found"),
        ("DELETE", "kill-all?session=x", None, 404, "Session 'x' not found"),
        ("DELETE", "kill-all?signal=x", None, 400, "Failed to kill all processes"),
        ("GET", "nobody", None, 404, "Process not found"),
        ("GET", "nobody/", None, 404, "Process not found"),
        ("DELETE", "nobody", None, 404, "Process not found"),
        ("GET", "nobody/logs", None, 404, "Process not found"),
        ("GET", "nobody/stream", None, 404, "Process not found"),
    ],
)
def test_an_error_has_the_text_of_the_wire(
    api: Client, method: str, path: str, body: Any, status: int, error: str
) -> None:
    reply = api.send(method, f"/api/process/{path}", body)
    assert (reply.status, reply.json["error"]) == (status, error)


def test_a_process_that_is_not_there_is_named(api: Client, modern: Client) -> None:
    old, new = api.get("/api/process/a%2Fb").json, modern.get("/api/process/a%2Fb").json
    assert (old["message"], old["context"]) == ("a/b", {"processId": "a/b"})
    assert (new["message"], new["code"]) == ("there is no process 'a/b'", "PROCESS_NOT_FOUND")


def test_an_id_is_taken_once(api: Client) -> None:
    start(api, "true", processId="p2")
    reply = api.post("/api/process/start", {"command": "true", "processId": "p2"})
    assert (reply.status, reply.json["error"]) == (409, "Failed to start process")
    assert reply.json["message"] == "Process already exists in session: p2"
