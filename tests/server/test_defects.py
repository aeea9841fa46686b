"""What went wrong in the original's commands and streams, each tried as it went wrong there."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sandbox_runtime.interpreters.breaker import Breaker
from sandbox_runtime.server.streams import TextPieces

if TYPE_CHECKING:
    import pytest

    from server.conftest import Client, Server


def stream(api: Client, session_id: str, command: str, **fields: Any) -> list[Any]:
    body = {"id": session_id, "command": command, **fields}
    return api.all_events("/api/execute/stream", body)


def test_d01_a_stream_beyond_its_time_ends_with_an_error(api: Client) -> None:
    api.session("d01")
    *_, last = stream(api, "d01", "echo up; sleep 1000", timeoutMs=200)
    assert (last["type"], last["error"]) == ("error", "Command timeout: echo up; sleep 1000")
    assert api.get("/api/ping").status == 200


def test_d02_a_long_command_arrives_whole(api: Client) -> None:
    api.session("d02")
    command = f"echo {'x' * 70_000} | wc -c"
    assert api.run("d02", command)["stdout"] == "70001\n"


def test_d03_a_long_output_arrives_whole(api: Client) -> None:
    api.session("d03")
    expected = "".join(f"{number}\n" for number in range(1, 200_001))
    assert api.run("d03", "seq 1 200000")["stdout"] == expected


def test_d04_cat_does_not_swallow_the_protocol(api: Client) -> None:
    api.session("d04")
    assert api.run("d04", "cat; echo end")["stdout"] == "end\n"
    assert api.run("d04", "read x; echo [$x]")["stdout"] == "[]\n"


def test_d05_a_command_beyond_its_time_is_ended_with_all_it_started(api: Client) -> None:
    api.session("d05")
    body = {"id": "d05", "timeoutMs": 200, "command": "(sleep 1000 &); sleep 1000; touch /tmp/l"}
    reply = api.post("/api/execute", body)
    assert (reply.status, reply.json["error"]) == (500, "Command execution failed")
    assert reply.json["message"].startswith("Command timeout: ")
    assert api.run("d05", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")["stdout"].count("sleep") == 0
    assert api.run("d05", "test -e /tmp/l")["exitCode"] == 1


def test_d15_functions_named_like_builtins_do_no_harm(api: Client) -> None:
    api.session("d15")
    api.run("d15", "echo() { :; }; cd() { :; }; source() { :; }")
    assert api.run("d15", "printf fine")["stdout"] == "fine"
    assert api.run("d15", "pwd", cwd="/tmp")["stdout"] == "/tmp\n"


def test_d16_a_command_in_a_missing_directory_does_not_run(api: Client) -> None:
    api.session("d16")
    body = {"id": "d16", "command": "touch /tmp/ran", "cwd": "/no/such$(touch /tmp/ran)"}
    reply = api.post("/api/execute", body)
    assert (reply.status, reply.json["error"]) == (400, "Command execution failed")
    assert api.run("d16", "test -e /tmp/ran")["exitCode"] == 1


def test_d17_an_exit_code_is_never_made_up(api: Client) -> None:
    api.session("d17")
    for code in (0, 1, 77, 255):
        assert api.run("d17", f"(exit {code})")["exitCode"] == code
    assert api.run("d17", "bash -c 'kill -9 $$'")["exitCode"] == 137
    assert api.run("d17", "no-such-command")["exitCode"] == 127


def test_d18_streams_of_one_session_do_not_mix(api: Client) -> None:
    api.session("d18")
    with ThreadPoolExecutor(3) as pool:
        all_events = list(pool.map(lambda n: stream(api, "d18", f"echo {n}; echo {n}"), range(3)))
    for number, events in enumerate(all_events):
        assert [event["type"] for event in events].count("complete") == 1
        text = "".join(event["data"] for event in events if event["type"] == "stdout")
        assert text == f"{number}\n{number}\n"


def test_d30_a_character_written_in_two_halves_is_one(api: Client) -> None:
    api.session("d30")
    api.run("d30", "mkfifo /tmp/half")
    api.session("d30-other")
    command = r"printf 'a\xe2\x82'; read -r x < /tmp/half; printf '\xac'"
    with api.events("POST", "/api/execute/stream", {"id": "d30", "command": command}) as events:
        next(events)
        assert next(events)["data"] == "a"
        api.run("d30-other", "echo > /tmp/half")
        assert next(events)["data"] == "€"
        assert next(events)["result"]["stdout"] == "a€"


def test_output_that_is_no_text_is_shown_as_such(api: Client) -> None:
    api.session("bytes")
    assert api.run("bytes", r"printf 'a\xff\x00b'")["stdout"] == "a\ufffd\x00b"


def test_d38_a_session_sees_no_process_of_the_host(api: Client) -> None:
    api.session("d38", env={"NODE_OPTIONS": "--require /workspace/evil.js"})
    assert api.run("d38", "umount -l /proc 2>&1; ls /proc | grep -c '^[0-9]'")["stdout"] != ""
    seen = api.run("d38", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")["stdout"]
    assert "pytest" not in seen


def test_d40_code_cannot_end_the_server(api: Client) -> None:
    context = api.post("/api/contexts", {}).json["id"]
    code = "import os\ntry:\n os.kill(1, 15)\nexcept OSError as error:\n print(error)"
    api.all_events("/api/execute/code", {"context_id": context, "code": code})
    assert api.get("/api/ping").status == 200


def test_d41_a_fork_bomb_ends_with_its_command(api: Client) -> None:
    api.session("d41")
    reply = api.post(
        "/api/execute", {"id": "d41", "command": ":(){ :|:& };:; sleep 1000", "timeoutMs": 300}
    )
    assert reply.status == 500
    assert api.run("d41", "echo alive")["stdout"] == "alive\n"


def test_d43_sessions_do_not_see_each_others_commands(api: Client) -> None:
    api.session("d43-a")
    api.session("d43-b")
    api.run("d43-a", "SECRET=hidden; echo $SECRET")
    seen = api.run("d43-b", "ls -a /tmp; cat /tmp/*/cmd_* /proc/*/environ 2>/dev/null")["stdout"]
    assert "hidden" not in seen
    assert "cmd_" not in seen


def test_d46_commands_are_not_logged(api: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    api.session("d46")
    api.run("d46", "echo a-secret-in-a-command")
    api.post("/api/execute", {"id": "d46", "command": "exit 3 # a-secret-in-a-command"})
    assert "a-secret-in-a-command" not in caplog.text
    assert "POST /api/execute 200" in caplog.text


def test_d48_bad_json_is_the_clients_fault(api: Client) -> None:
    reply = api.post("/api/execute", b"{")
    assert (reply.status, reply.json["error"]) == (400, "Command execution failed")
    assert "Failed to parse JSON" in reply.json["message"]


def test_d49_the_options_of_a_command_count(api: Client) -> None:
    api.session("d49")
    result = api.run("d49", "pwd; echo $A", cwd="/tmp", env={"A": "1"})
    assert result["stdout"] == "/tmp\n1\n"
    assert result["duration"] > 0
    assert api.run("d49", "pwd; echo [$A]")["stdout"] == "/workspace\n[]\n"


def test_d58_what_a_job_writes_later_is_not_lost_for_it(api: Client) -> None:
    """The job goes on undisturbed; what it writes is kept beside its session."""
    api.session("d58")
    api.run("d58", "mkfifo /tmp/d58")
    api.run("d58", "(read -r x < /tmp/d58; echo late; echo done > /tmp/d58-done) & echo now")
    api.session("d58-other")
    api.run("d58-other", "echo > /tmp/d58")
    api.run("d58", "wait")
    assert api.run("d58", "cat /tmp/d58-done")["stdout"] == "done\n"


def test_d58_what_a_job_writes_later_is_read_by_the_number_of_its_command(api: Client) -> None:
    api.session("late")
    api.run("late", "true")
    started = api.run(
        "late", "(read -r x; echo late; echo bad >&2) <> <(sleep 0.1; echo) & echo now"
    )
    assert (started["stdout"], started["commandNumber"]) == ("now\n", 2)
    api.run("late", "wait")
    (job,) = api.get("/api/session/background?session=late").json["commands"]
    assert (job["commandNumber"], job["stdout"], job["stderr"]) == (2, "late\n", "bad\n")
    assert (job["stdoutBytes"], job["truncated"], job["ended"]) == (5, False, True)
    assert api.get("/api/session/background?session=none").status == 404


def test_a_client_that_leaves_ends_its_command(api: Client) -> None:
    api.session("leaves")
    api.run("leaves", "mkfifo /tmp/leaves")
    body = {"id": "leaves", "command": "exec 3<>/tmp/leaves; echo up; sleep 1000"}
    with api.events("POST", "/api/execute/stream", body) as events:
        next(events)
        assert next(events)["data"] == "up\n"
    # The next command waits for the end of that one, so this returns because it was ended.
    assert api.run("leaves", "echo free")["stdout"] == "free\n"


def test_pieces_of_text_are_never_cut() -> None:
    pieces = TextPieces()
    assert pieces.feed(b"\xe2\x82") == ""
    assert pieces.feed(b"\xac\xe2") == "€"
    assert pieces.finish() == "\ufffd"


def test_events_are_single_lines_of_json(api: Client) -> None:
    api.session("framed")
    body = {"id": "framed", "command": "printf 'a\\n\\ndata: b\\n'"}
    with api.request("POST", "/api/execute/stream", body) as response:
        assert response.getheader("content-type") == "text/event-stream"
        assert response.getheader("cache-control") == "no-cache"
        blocks = response.read().decode().split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    told = [json.loads(block[6:]) for block in blocks]
    text = "".join(event["data"] for event in told if event["type"] == "stdout")
    assert text == "a\n\ndata: b\n"


def test_d20_an_id_of_a_process_is_no_shell_text(api: Client) -> None:
    api.session("d20")
    identity = "x; touch /tmp/d20; #/../$(touch /tmp/d20)"
    body = {"command": "true", "sessionId": "d20", "options": {"processId": identity}}
    assert api.post("/api/process/start", body).json["process"]["id"] == identity
    path = f"/api/process/{quote(identity, safe='')}"
    assert api.get(path).json["process"]["command"] == "true"
    with api.events("GET", f"{path}/stream") as events:
        assert "complete" in [event["type"] for event in events]
    assert api.run("d20", "test -e /tmp/d20")["exitCode"] == 1


def test_d51_a_silent_stream_shows_that_it_lives(
    api: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sandbox_runtime.server.streams.HEARTBEAT_S", 0.05)
    api.session("d51")
    body = {"id": "d51", "command": "sleep 1000"}
    with api.request("POST", "/api/execute/stream", body) as response:
        lines = iter(response.readline, b"")
        assert b'"start"' in next(lines)
        assert [next(lines) for _ in range(5)] == [b"\n", b": ping\n", b"\n", b": ping\n", b"\n"]


def test_d60_an_interpreter_that_does_not_start_is_503_and_says_when(
    api: Client, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    breaker = Breaker(time.monotonic)
    for _ in range(5):
        breaker.failed()
    contexts = server.app.host.get("default").sandbox.contexts
    monkeypatch.setattr(contexts.pool("typescript"), "_breaker", breaker)
    reply = api.post("/api/contexts", {"language": "typescript", "cwd": "/workspace"})
    assert (reply.status, reply.json["status"]) == (503, "circuit_open")
    assert 0 < int(reply.headers["retry-after"]) <= 30
