"""All requests together hold no more memory than the operator wants."""

from __future__ import annotations

import http.client
import select
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

from sandbox_runtime.server.app import AppSettings
from sandbox_runtime.server.hosting import HostSettings
from sandbox_runtime.settings import MIB
from server.conftest import NO_POOLS

if TYPE_CHECKING:
    from server.conftest import Client, Server

SETTINGS = AppSettings(
    host=HostSettings(pools=NO_POOLS, output_limit_bytes=2 * MIB),
    memory_bytes=3 * MIB,
)
MANY = "head -c 4M /dev/zero | tr '\\0' a"


def test_an_answer_keeps_as_much_as_one_may(api: Client) -> None:
    api.session("one")
    result = api.run("one", MANY)
    assert (len(result["stdout"]), result["stdoutBytes"]) == (2 * MIB, 4 * MIB)
    assert result["truncated"]


def test_others_go_on_while_one_client_holds_all_it_can_get(api: Client) -> None:
    """Its commands hold what they wrote, and wait; those of others still keep some."""
    names = [f"hold-{number}" for number in range(4)]
    for name in (*names, "other"):
        api.session(name)
    api.run("other", "mkfifo /tmp/hold; exec 9<>/tmp/hold")
    command = f"{MANY}; echo > /tmp/held-$name; read -r x < /tmp/hold"
    with ThreadPoolExecutor(len(names)) as threads:
        for name in names:
            threads.submit(api.run, name, f"name={name}; {command}")
        wait = "; ".join(f"until [ -e /tmp/held-{name} ]; do sleep 0.05; done" for name in names)
        api.run("other", wait)
        try:
            assert api.run("other", "echo here")["stdout"] == "here\n"
            assert api.run("other", "seq 2000")["stdout"].endswith("\n2000\n")
            assert api.post("/api/write", b" " * (72 * 1024)).status == 400  # it was read
        finally:
            api.run("other", "printf '\\n\\n\\n\\n' > /tmp/hold")


def test_answers_at_once_keep_as_much_as_all_may(api: Client) -> None:
    """Each waits for all others at its end, so that all hold what they have at that time."""
    names = [f"all-{number}" for number in range(3)]
    for name in names:
        api.session(name)
    api.run(names[0], "mkfifo /tmp/gate; exec 9<>/tmp/gate")
    command = f"{MANY}; echo > /tmp/up-$name; read -r x < /tmp/gate"

    def run(name: str) -> Any:
        return api.run(name, f"name={name}; {command}")

    with ThreadPoolExecutor(len(names)) as threads:
        results = [threads.submit(run, name) for name in names]
        api.session("opens")
        wait = "; ".join(f"until [ -e /tmp/up-{name} ]; do sleep 0.05; done" for name in names)
        api.run("opens", f"{wait}; printf '\\n\\n\\n' > /tmp/gate")
        lengths = [len(result.result()["stdout"]) for result in results]
    assert 3 * MIB * 7 // 8 <= sum(lengths) < 3 * MIB  # the rest is for who has little
    assert min(lengths) > 0
    assert api.run("opens", MANY)["stdoutBytes"] == 4 * MIB  # and nothing stays taken
    assert len(api.run("opens", MANY)["stdout"]) == 2 * MIB


def test_a_stream_has_all_of_it_nevertheless(api: Client) -> None:
    api.session("stream")
    events = api.all_events("/api/execute/stream", {"id": "stream", "command": MANY})
    assert sum(len(event["data"]) for event in events if event["type"] == "stdout") == 4 * MIB
    assert events[-1]["result"]["truncated"]


def test_a_body_for_which_there_is_no_room_is_told_to_come_again(
    api: Client, server: Server
) -> None:
    """Of two that have no room beside each other the one that comes later is, if it can be told."""
    body = b" " * (2 * MIB)
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=50)) as slow:
        slow.putrequest("POST", "/api/write")
        slow.putheader("Content-Length", str(len(body) + 1))
        slow.endheaders()
        slow.send(body)
        status, told = 0, api.post("/api/write", body)
        while told.status != 503 and not select.select([slow.sock], [], [], 0)[0]:
            told = api.post("/api/write", body)
        if told.status != 503:
            with slow.getresponse() as response:
                status = response.status
        else:
            status = told.status
            assert told.json["code"] == "BUSY"
            assert told.headers["retry-after"] == "1"
            assert api.post("/api/session/create", {"id": "small"}).status == 200
        assert status == 503
    reply = api.post("/api/write", body)
    while reply.status == 503:  # until it is known that the other has gone
        reply = api.post("/api/write", body)
    assert reply.status == 400


def test_logs_for_which_there_is_no_room_are_read_as_a_stream(api: Client) -> None:
    started = api.post("/api/process/start", {"command": MANY}).json["processId"]
    path = f"/api/process/{started}"
    with api.events("GET", f"{path}/stream") as events:
        assert sum(len(one["data"]) for one in events if one["type"] == "stdout") == 4 * MIB
    assert api.get(f"{path}/logs").status == 503
    assert len(api.get(f"{path}/logs?since={2 * MIB}").json["stdout"]) == 2 * MIB
