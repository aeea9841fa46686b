"""Sessions over the wire."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from server.conftest import Client


def test_a_new_session_carries_the_names_of_both_generations(api: Client) -> None:
    made = api.post("/api/session/create", {"id": "s1", "env": {"A": "1"}, "cwd": "/tmp"}).json
    assert made["success"] is True
    assert made["message"] == "Session 's1' created with isolation"
    assert (made["id"], made["sessionId"], made["data"]["id"]) == ("s1", "s1", "s1")
    assert api.run("s1", "pwd; echo $A")["stdout"] == "/tmp\n1\n"


def test_sessions_are_listed_in_the_order_they_were_made(api: Client) -> None:
    api.session("z")
    api.session("y")
    listed = api.get("/api/session/list").json
    assert listed["count"] == len(listed["sessions"]) == len(listed["data"])
    assert [one for one in listed["sessions"] if one in "yz"] == ["z", "y"]


def test_a_session_keeps_its_directory_variables_and_functions(api: Client) -> None:
    api.session("kept")
    api.run("kept", "cd /tmp; x=1; export y=2; f() { echo f; }")
    assert api.run("kept", "pwd; echo $x $y; f")["stdout"] == "/tmp\n1 2\nf\n"


def test_making_a_session_again_reuses_it(api: Client) -> None:
    api.session("again", env={"A": "1"})
    api.run("again", "x=kept")
    again = api.post("/api/session/create", {"id": "again", "env": {"A": "1"}}).json
    assert again["reused"] is True
    assert api.run("again", "echo $x $A")["stdout"] == "kept 1\n"


def test_d50_making_a_session_again_takes_over_what_is_new(api: Client) -> None:
    api.session("changed", env={"A": "1", "B": "b"})
    api.run("changed", "x=kept")
    quoted = "it's $(touch /tmp/pwned)"
    api.session("changed", env={"A": quoted, "B": "b"}, cwd="/tmp")
    assert api.run("changed", 'pwd; echo $x; echo "$A"; echo $B')["stdout"] == (
        f"/tmp\nkept\n{quoted}\nb\n"
    )
    assert api.run("changed", "test -e /tmp/pwned")["exitCode"] == 1


def test_d50_a_session_in_a_missing_directory_is_not_made(api: Client) -> None:
    reply = api.post("/api/session/create", {"id": "nowhere", "cwd": "/no/such"})
    assert reply.status == 400
    assert "/no/such" in reply.json["message"]
    assert "nowhere" not in api.get("/api/session/list").json["sessions"]


def test_d26_requests_for_one_session_at_once_make_one(api: Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        replies = list(
            pool.map(lambda _: api.post("/api/session/create", {"id": "race"}).json, range(8))
        )
    assert sorted(reply["reused"] for reply in replies) == [False] + [True] * 7


def test_d28_a_deleted_session_is_gone_with_its_processes(api: Client) -> None:
    api.session("ends")
    api.run("ends", "mkfifo /tmp/held; (exec 3<>/tmp/held; echo up >&3; exec sleep 1000) &")
    assert api.post("/api/session/delete", {"sessionId": "ends"}).json["sessionId"] == "ends"
    assert "ends" not in api.get("/api/session/list").json["sessions"]
    assert api.post("/api/execute", {"id": "ends", "command": "true"}).status == 404


def test_deleting_a_session_ends_the_command_that_runs(api: Client) -> None:
    api.session("busy")
    answers: list[Any] = []

    def run() -> None:
        answers.append(api.post("/api/execute", {"id": "busy", "command": "sleep 1000"}))

    with api.events("POST", "/api/execute/stream", {"id": "busy", "command": "true"}) as events:
        list(events)
    thread = threading.Thread(target=run)
    thread.start()
    body = {"id": "busy", "command": "sleep 1000"}
    with api.events("POST", "/api/execute/stream", body) as events:
        assert next(events)["type"] == "start"
        assert api.post("/api/session/delete", {"sessionId": "busy"}).status == 200
    thread.join()
    assert answers[0].status in {410, 500}  # it waited, or it ran
    assert answers[0].json["error"] == "Command execution failed"


def test_d14_a_session_whose_shell_exits_starts_afresh(api: Client) -> None:
    api.session("exits", env={"A": "1"}, cwd="/tmp")
    api.run("exits", "x=lost")
    reply = api.post("/api/execute", {"id": "exits", "command": "echo before; exit 3"})
    assert (reply.status, reply.json["error"]) == (500, "Command execution failed")
    assert reply.json["message"] == "Control process exited with code 3"
    assert reply.json["context"]["stdout"] == "before\n"
    assert reply.json["context"]["exitCode"] == 3
    assert api.run("exits", "echo [$x] $A; pwd")["stdout"] == "[] 1\n/tmp\n"


def test_a_session_whose_shell_exits_is_gone_for_new_clients(modern: Client) -> None:
    reply = modern.post("/api/execute", {"sessionId": "new", "command": "exit 3"})
    assert (reply.status, reply.json["code"]) == (410, "SESSION_TERMINATED")
    assert reply.json["context"]["exitCode"] == 3
    assert reply.json["context"]["sessionId"] == "new"
    again = modern.post("/api/execute", {"sessionId": "new", "command": "echo fresh"})
    assert again.json["stdout"] == "fresh\n"


def test_new_clients_make_sessions_by_naming_them(api: Client, modern: Client) -> None:
    assert modern.post("/api/execute", {"sessionId": "m1", "command": "true"}).status == 200
    assert modern.post("/api/execute", {"command": "true"}).json["sessionId"] == "default"
    assert api.post("/api/execute", {"sessionId": "m2", "command": "true"}).status == 200
    by_header = api.post("/api/execute", {"id": "m3", "command": "true"}, X_Sandbox_Id="any")
    assert by_header.status == 200
    assert api.post("/api/execute", {"id": "m4", "command": "true"}).status == 404


def test_d39_a_command_sees_its_own_variables_alone(api: Client) -> None:
    api.session("clean", env={"KEY": "mine"})
    api.session("other")
    names = {line.split("=")[0] for line in api.run("clean", "env")["stdout"].splitlines()}
    assert "KEY" in names
    assert not names & {"PYTHONPATH", "VIRTUAL_ENV", "PYTEST_CURRENT_TEST"}
    assert "KEY" not in api.run("other", "env; cat /proc/*/environ")["stdout"]


def test_d45_isolation_is_there_whatever_is_asked(api: Client) -> None:
    for wanted in (True, False):
        name = f"isolated-{wanted}"
        api.session(name, isolation=wanted)
        assert api.run(name, "readlink /proc/1/exe; ls /proc | grep -c '^[0-9]'")["stdout"] != ""
        assert api.run(name, "id -u")["stdout"] != "0\n"
