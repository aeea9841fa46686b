"""A server holds many sandboxes; the same wire stands below each."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import trio

from sandbox_runtime.server.app import AppSettings
from sandbox_runtime.server.hosting import HostSettings
from sandbox_runtime.settings import MIB
from server.conftest import NO_POOLS
from server.victims import descendants, kill, launcher, name_of

if TYPE_CHECKING:
    from pathlib import Path

    from server.conftest import Client, Server

SETTINGS = AppSettings(
    host=HostSettings(
        pools=NO_POOLS,
        most_sandboxes=4,
        most_sessions=3,
        most_processes=2,
        mountable=["/usr/share"],
    )
)


@pytest.fixture
def made(api: Client) -> Any:
    """Makes sandboxes that end with the test."""
    ids: list[str] = []

    def make(**fields: Any) -> Any:
        reply = api.post("/sandboxes", fields)
        if reply.status == 201:
            ids.append(reply.json["sandbox"]["id"])
        return reply

    yield make
    for one in ids:
        api.delete(f"/sandboxes/{one}")


def test_a_sandbox_is_made_shown_listed_and_deleted(api: Client, made: Any) -> None:
    limits = {"processes": 100, "workspaceBytes": 8 * MIB}
    sandbox = made(id="one", name="first", limits=limits).json["sandbox"]
    assert (sandbox["id"], sandbox["name"], sandbox["status"]) == ("one", "first", "running")
    assert sandbox["limits"]["processes"] == 100
    assert sandbox["limits"]["workspaceBytes"] == 8 * MIB
    shown = api.get("/sandboxes/one").json
    assert shown["sandbox"]["id"] == "one"
    assert "pid_namespace" in [one["name"] for one in shown["protections"]]
    assert [one["id"] for one in api.get("/sandboxes").json["sandboxes"]] == ["default", "one"]
    assert api.delete("/sandboxes/one").json["id"] == "one"
    assert api.get("/sandboxes/one").status == 404


def test_sandboxes_share_nothing(api: Client, made: Any) -> None:
    for name in ("a", "b"):
        made(id=name)
        inside = api.below(f"/sandboxes/{name}")
        inside.session("s")
        assert inside.run("s", f"echo {name} > /tmp/x; echo {name}")["stdout"] == f"{name}\n"
    for name in ("a", "b"):
        inside = api.below(f"/sandboxes/{name}")
        assert inside.run("s", "cat /tmp/x; hostname")["stdout"].startswith(f"{name}\n")
        assert inside.get("/api/session/list").json["sessions"] == ["s"]


def test_the_limits_of_a_sandbox_hold(api: Client, made: Any) -> None:
    made(id="small", limits={"workspaceBytes": 1 * MIB})
    inside = api.below("/sandboxes/small")
    inside.session("s")
    result = inside.run("s", "head -c 2M /dev/zero > /workspace/x")
    assert result["exitCode"] == 1
    assert "No space left" in result["stderr"]


def test_both_prefixes_work_in_either_order(api: Client, made: Any) -> None:
    made(id="both")
    for prefix in ("/sandboxes/both/v2", "/v2/sandboxes/both"):
        body = {"sessionId": "new", "command": "true"}
        assert api.below(prefix).post("/api/execute", body).status == 200


def test_a_sandbox_that_is_not_there_is_named(api: Client) -> None:
    for reply in (
        api.get("/sandboxes/none"),
        api.delete("/sandboxes/none"),
        api.get("/sandboxes/none/api/ping"),
        api.post("/sandboxes/a%2Fb/api/execute", {"id": "a", "command": "true"}),
    ):
        assert reply.status == 404
        assert reply.json["code"] == "SANDBOX_NOT_FOUND"


@pytest.mark.parametrize("identity", ["", "-a", "a-", "a/b", "..", "a b", "x" * 64, "ü", 5])
def test_an_id_must_fit_into_a_host_name(made: Any, identity: Any) -> None:
    reply = made(id=identity)
    assert reply.status == 400
    (error,) = reply.json["context"]["validationErrors"]
    assert error["field"] == "id"
    if isinstance(identity, str):
        assert "letters, digits and hyphens" in error["message"]


def test_an_id_is_taken_once(made: Any) -> None:
    assert made(id="taken").status == 201
    assert made(id="taken").status == 409


def test_there_are_no_more_than_the_operator_wants(api: Client, made: Any) -> None:
    assert [made().status for _ in range(4)] == [201, 201, 201, 429]
    for number in range(3):
        api.session(f"s{number}")
    assert api.post("/api/session/create", {"id": "s3"}).status == 429


def test_sessions_made_at_once_are_counted_before_they_are_there(api: Client, made: Any) -> None:
    made(id="crowd")
    inside = api.below("/sandboxes/crowd")

    def create(number: int) -> int:
        return inside.post("/api/session/create", {"id": f"s{number}"}).status

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(create, range(8))) == [200] * 3 + [429] * 5


def test_no_more_processes_run_than_the_operator_wants(api: Client, made: Any) -> None:
    made(id="busy")
    inside = api.below("/sandboxes/busy")

    def start(command: str) -> Any:
        return inside.post("/api/process/start", {"command": command})

    ids = [start("sleep 1000").json["processId"] for _ in range(2)]
    refused = start("true")
    assert (refused.status, refused.json["code"]) == (429, "TOO_MANY")
    assert "2 background processes" in refused.json["message"]
    inside.delete(f"/api/process/{ids[0]}")
    assert start("true").status == 200


def test_a_sandbox_that_died_takes_nobodys_place(api: Client, made: Any, server: Server) -> None:
    for number in range(4):
        before = set(descendants(launcher(server)))
        made(id=f"dies-{number}")
        fresh = set(descendants(launcher(server))) - before
        kill(server, next(pid for pid in fresh if name_of(pid) == "sbx-keeper"))
    assert made(id="next").status == 201
    assert api.get("/sandboxes/dies-3").json["sandbox"]["status"] == "lost"


def test_only_what_the_operator_allows_is_mounted(made: Any, api: Client, tmp_path: Path) -> None:
    refused = made(mounts=[{"path": str(tmp_path)}])
    assert (refused.status, refused.json["code"]) == (403, "FORBIDDEN")
    assert made(mounts=[{"path": "/usr/share/../../etc"}]).status == 400
    assert made(mounts=[{"path": "/usr/share", "readOnly": False}]).status == 400
    assert made(mounts=[{"path": "/usr/shared"}]).status == 403
    assert made(id="mounts", mounts=[{"path": "/usr/share"}]).status == 201
    inside = api.below("/sandboxes/mounts")
    inside.session("s")
    assert inside.run("s", "test -d /usr/share")["exitCode"] == 0
    assert inside.run("s", "touch /usr/share/x")["exitCode"] == 1


def test_a_sandbox_that_is_idle_for_too_long_ends(api: Client, made: Any, server: Server) -> None:
    made(id="idle", idleMs=50)
    hosted = server.app.host._sandboxes.get("idle")
    if hosted is not None:  # else it has ended already

        async def wait() -> None:
            with trio.fail_after(20):
                await hosted.gone.wait()

        server.inside(wait)
    assert api.get("/sandboxes/idle").status == 404


def test_a_sandbox_that_is_busy_is_not_idle(api: Client, made: Any) -> None:
    made(id="busy", idleMs=300)
    inside = api.below("/sandboxes/busy/v2")
    body = {"sessionId": "s", "command": "sleep 1; echo still"}
    assert inside.post("/api/execute", body).json["stdout"] == "still\n"


@pytest.mark.parametrize(
    "wish",
    [
        {"network": "host"},
        {"limits": {"memoryBytes": 1 << 50}},
        {"limits": {"processes": 1_000_000}},
    ],
)
def test_no_client_overrules_the_operator(api: Client, wish: dict[str, Any]) -> None:
    reply = api.post("/sandboxes", wish)
    assert (reply.status, reply.json["code"]) == (403, "FORBIDDEN")


def test_too_little_memory_is_refused_with_the_field_and_the_least(api: Client) -> None:
    reply = api.post("/sandboxes", {"limits": {"memoryBytes": 5}})
    assert (reply.status, reply.json["code"]) == (400, "VALIDATION_FAILED")
    assert "1048576" in str(reply.json)
    assert reply.json["context"]["validationErrors"][0]["field"] == "limits.memoryBytes"


def test_a_limit_that_is_not_known_is_refused_with_those_that_are(api: Client) -> None:
    reply = api.post("/sandboxes", {"limits": {"memory": 5}})
    (error,) = reply.json["context"]["validationErrors"]
    assert error["field"] == "limits.memory"
    assert "known: memoryBytes, processes, cpuPercent" in error["message"]


def test_no_client_listens_on_this_machine_unless_the_operator_lets_it(api: Client) -> None:
    reply = api.post("/api/expose-port", {"port": 8000, "listen": "0.0.0.0"})  # noqa: S104
    assert reply.status == 403
    assert "--listenable" in reply.json["suggestion"]
