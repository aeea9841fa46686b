"""Commands over the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.conftest import Client


def test_a_command_gives_its_output_and_exit_code(api: Client) -> None:
    api.session("first")
    result = api.run("first", "echo hi; echo err >&2; (exit 3)")
    assert result["stdout"] == "hi\n"
    assert result["stderr"] == "err\n"
    assert (result["exitCode"], result["success"]) == (3, False)
    assert result["command"] == "echo hi; echo err >&2; (exit 3)"


def test_a_stream_tells_each_piece_as_it_comes(api: Client) -> None:
    api.session("streams")
    command = "echo a; read -r go < /tmp/fifo; echo b >&2; (exit 4)"
    api.run("streams", "mkfifo /tmp/fifo")
    api.session("other")
    body = {"id": "streams", "command": command}
    with api.events("POST", "/api/execute/stream", body) as events:
        assert next(events)["type"] == "start"
        assert next(events)["data"] == "a\n"  # while the command still waits
        api.run("other", "echo go > /tmp/fifo")
        assert next(events)["data"] == "b\n"
        complete = next(events)
        assert next(events, None) is None
    assert complete["type"] == "complete"
    assert complete["exitCode"] == 4
    assert complete["result"] == {
        "stdout": "a\n",
        "stderr": "b\n",
        "exitCode": 4,
        "success": False,
        "truncated": False,
    }
